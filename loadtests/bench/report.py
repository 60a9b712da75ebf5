"""Tables and plots of the last results, and the quote of them in README.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from loadtests.bench import plots, results, tables

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
QUIET = 1.0
"""The load average of a machine that does nothing else, nearly."""

PRELIMINARY = " **Preliminary: the machine was busy with other work.**"
Results = dict[str, dict[str, Any]]


def write(folder: Path) -> None:
    """`README.md` and the plots, beside the JSON they are made from."""
    found = results.read(folder)
    for name, part in found.items():
        for title, drawing in plots.of(name, part["found"]).items():
            (folder / f"{title}.svg").write_text(drawing)
    (folder / "README.md").write_text(whole(found))


def write_readme(folder: Path) -> None:
    """Replace the quote in the project's README."""
    text = README.read_text("utf-8")
    README.write_text(quoted_in(text, quote(results.read(folder))), "utf-8")


def quoted_in(text: str, fresh: str) -> str:
    """The text with this quote between its marks."""
    marks = re.compile(f"{BEGIN}.*?{END}", re.S)
    return marks.sub(lambda _: f"{BEGIN}\n{fresh}{END}", text)


def quote(found: Results) -> str:
    """What the README says: the peers, the ratios, and where that was."""
    peers = found["peers"]
    return (
        f"{_where(peers)}\n"
        f"{tables.peers(peers['found'])}\n"
        f"{tables.aims(peers['found'], _batched(found))}"
    )


def whole(found: Results) -> str:
    """Everything, for `loadtests/results/README.md`."""
    parts = ["# Results\n\nWritten by `make bench`; the figures are in the JSON files.\n"]
    for name, (title, made) in tables.PARTS.items():
        if name in found:
            part = found[name]
            parts += [f"\n## {title}\n\n{_where(part)}\n", made(part["found"])]
            parts += [_besides(found)] if name == "peers" else []
            parts += [f"\n![{one}]({one}.svg)\n" for one in plots.of(name, part["found"])]
    return "".join(parts)


def _besides(found: Results) -> str:
    peers = found["peers"]["found"]
    beside = tables.aims(peers, _batched(found))
    tried = tables.trials(peers)
    return f"\n{beside}\nEach setting that was tried, in a short drain:\n\n{tried}"


def _batched(found: Results) -> float | None:
    if "growth" not in found:
        return None
    return float(found["growth"]["found"]["batches"]["submits_per_s"])


def _where(part: dict[str, Any]) -> str:
    machine, given = part["machine"], part["arguments"]
    busy = machine["load_before"] > QUIET
    return (
        f"{part['at'][:10]}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"Python {machine['python']}, load {machine['load_before']:g} before it began; "
        f"{given['jobs']:,} jobs in a drain, unless said otherwise."
        f"{PRELIMINARY if busy else ''}\n"
    )
