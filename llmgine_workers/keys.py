"""API keys: 32 random bytes in a text that names its row; only a hash is stored."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

SCOPES = ("submit", "read", "payloads", "operate", "admin")
"""What a key may do; none of them includes another."""

_KEY = re.compile(r"llmg_([a-z0-9]{12})_([0-9a-f]{64})")


@dataclass(frozen=True)
class NewKey:
    """A key at the one moment its text exists; afterwards `hash` is all there is."""

    id: str
    text: str
    hash: bytes


@dataclass(frozen=True)
class PresentedKey:
    """A well-formed key as somebody sent it: the row it names and what must match."""

    id: str
    hash: bytes


def new_key() -> NewKey:
    """A fresh key `llmg_<id>_<secret>` of 256 random bits."""
    key_id = secrets.token_hex(6)
    text = f"llmg_{key_id}_{secrets.token_hex(32)}"
    return NewKey(key_id, text, _hash(text))


def parse(text: str) -> PresentedKey | None:
    """None unless the text has the form of a key."""
    match = _KEY.fullmatch(text)
    return PresentedKey(match[1], _hash(text)) if match else None


def matches(presented: PresentedKey, stored: bytes) -> bool:
    """Compare with the stored hash; the time it takes says nothing about either."""
    return hmac.compare_digest(presented.hash, stored)


def _hash(text: str) -> bytes:
    # One round of SHA-256: 256 random bits leave nothing to guess, so a slow hash
    # would only slow the gateway down.
    return hashlib.sha256(text.encode()).digest()
