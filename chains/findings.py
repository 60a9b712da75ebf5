"""What is wrong with a chain or with inputs: findings, all of them at once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_FINDINGS = 100
"""More are counted, not told: a 64 KiB text could make tens of thousands."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to mend: where (JSON pointer), which rule (code) and a sentence.

    `limit` is the bound that was broken, where there is one; `line` and `column`
    count from 1 and are known when the text was YAML.
    """

    pointer: str
    code: str
    detail: str
    limit: int | float | None = None
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def as_dict(self) -> dict[str, object]:
        """The member of `errors` in a problem document; unknown fields left out."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in fields.items() if value is not None}

    def __str__(self) -> str:
        place = [str(part) for part in (self.file, self.line, self.column) if part]
        told = f"{':'.join(place)}: {self.code}: " if place else ""
        pointer = f"{self.pointer}: " if self.pointer else ""
        return f"{told}{pointer}{self.detail}"


class InvalidChain(ValueError):
    """A chain that cannot run. `findings` holds every reason, in reading order."""

    code = "invalid_chain"

    def __init__(self, findings: Iterable[Finding]) -> None:
        found = tuple(findings)
        more = len(found) - MAX_FINDINGS
        if more > 0:
            rest = Finding("", "more_findings", f"and {more} more", limit=MAX_FINDINGS)
            found = (*found[:MAX_FINDINGS], rest)
        self.findings = found
        super().__init__("\n".join(str(finding) for finding in found))


def pointer(parts: Sequence[str | int]) -> str:
    """The JSON pointer (RFC 6901) of a place."""
    return "".join(
        "/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to a sentence, or nothing."""
    close = difflib.get_close_matches(word[:100], list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def shown(value: object) -> str:
    """A value in a sentence: short, because it may be long or somebody's secret."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
