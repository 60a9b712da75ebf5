"""What is in our Markdown pages: fenced blocks, tables, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = tuple(
    sorted(
        [
            *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
            *DOCS.rglob("*.md"),
        ]
    )
)
NAMES = tuple(str(page.relative_to(ROOT)) for page in PAGES)

_FENCE = re.compile(r"^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.M | re.S)
_FILE = re.compile(r"# (?P<name>\S+\.(ya?ml|toml|py))\n")
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.M)
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block and where it begins."""

    page: str
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file it is meant to be: named by a comment in its first line."""
        named = _FILE.match(self.text)
        return named["name"] if named else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@cache
def read(name: str) -> str:
    """A page by its path from the top."""
    return (ROOT / name).read_text("utf-8")


def blocks(name: str, language: str) -> list[Block]:
    """The fenced blocks of one language, in order."""
    text = read(name)
    return [
        Block(name, text.count("\n", 0, found.start()) + 1, language, found["text"])
        for found in _FENCE.finditer(text)
        if found["language"] == language
    ]


def prose(name: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", read(name))


def links(name: str) -> Iterator[str]:
    """Targets of links, fragments included."""
    for found in _LINK.finditer(prose(name)):
        yield found["target"]


def anchors(name: str) -> set[str]:
    """The fragments that headings can be reached by."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in _HEADING.findall(prose(name))
    }


def section(name: str, heading: str) -> str:
    """The text below a heading, up to the next heading of its level or above."""
    lines = read(name).splitlines(keepends=True)
    depth = next(
        len(line) - len(line.lstrip("#"))
        for line in lines
        if line.startswith("#") and line.lstrip("# ").strip() == heading
    )
    start = lines.index(f"{'#' * depth} {heading}\n") + 1
    end = next(
        (
            at
            for at in range(start, len(lines))
            if re.match(rf"#{{1,{depth}}} ", lines[at]) and not _in_fence(lines, at)
        ),
        len(lines),
    )
    return "".join(lines[start:end])


def _in_fence(lines: list[str], at: int) -> bool:
    return sum(line.startswith("```") for line in lines[:at]) % 2 == 1


def table(text: str) -> list[Mapping[str, str]]:
    """The rows of all tables in a text, cells by column heading."""
    rows: list[Mapping[str, str]] = []
    heads: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            heads = []
            continue
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line.strip()[1:-1])]
        if not heads:
            heads = cells
        elif set(line) - set("|-: "):
            rows.append(dict(zip(heads, cells, strict=True)))
    return rows


def words(cell: str) -> list[str]:
    """What is written in code in a cell; several words in one pair of ticks too."""
    return [word for code in _CODE.findall(cell) for word in code.split()]
