"""Seeded draws that depend on nothing but their arguments, so runs can be repeated."""

from hashlib import blake2b

_SCALE = float(1 << 64)


def seed_of(*parts: object) -> int:
    """A 64-bit number that is a pure function of `parts`."""
    text = "\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def draw(*parts: object) -> float:
    """A uniform number strictly between 0 and 1, a pure function of `parts`."""
    return (seed_of(*parts) + 0.5) / (_SCALE + 1.0)
