"""Tables and plots of the last results, and the quote of them in README.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from loadtests.bench import charts, results, tables

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
Results = dict[str, dict[str, Any]]


def write(folder: Path) -> None:
    """`README.md` and the plots, beside the JSON they are made from."""
    found = results.read(folder)
    for name, drawing in _plots(found).items():
        (folder / f"{name}.svg").write_text(drawing)
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
    batched = found.get("growth", {}).get("found", {}).get("batches", {})
    return (
        f"{_where(peers)}\n"
        f"{tables.peers(peers['found'])}\n"
        f"{tables.aims(peers['found'], batched.get('submits_per_s'))}"
    )


def whole(found: Results) -> str:
    """Everything, for `loadtests/results/README.md`."""
    parts = ["# Results\n\nWritten by `make bench`; the figures are in the JSON files.\n"]
    for name, (title, made) in tables.PARTS.items():
        if name in found:
            parts.append(f"\n## {title}\n\n{_where(found[name])}\n")
            parts.append(made(found[name]["found"]))
            parts.append(_extra(name, found))
    return "".join(parts)


def _extra(name: str, found: Results) -> str:
    if name != "peers":
        return ""
    batched = found.get("growth", {}).get("found", {}).get("batches", {})
    of_peers = found["peers"]["found"]
    drawn = "".join(f"\n![{one}]({one}.svg)\n" for one in _plots(found))
    beside = tables.aims(of_peers, batched.get("submits_per_s"))
    tried = tables.trials(of_peers)
    return f"\n{beside}{drawn}\nEach setting that was tried, in a short drain:\n\n{tried}"


def _plots(found: Results) -> dict[str, str]:
    if "peers" not in found:
        return {}
    rounds = found["peers"]["found"]["rounds"]
    cpu, dispatch = {}, {}
    for name, one in rounds.items():
        cpu[tables.shown(name)] = {
            kind: tables.middle(one, kind, "cpu_ms_per_job")
            for kind in ("plain", "streamed")
        }
        dispatch[tables.shown(name)] = {
            p: tables.middle(one, "steady", 0, "dispatch_ms", p) for p in ("p50", "p99")
        }
    return {
        "cpu": charts.bars("CPU per job, all Python processes", cpu, "ms"),
        "dispatch": charts.bars(
            "Dispatch at 50 jobs/s: POST to the provider's accept", dispatch, "ms"
        ),
    }


def _where(part: dict[str, Any]) -> str:
    machine, given = part["machine"], part["arguments"]
    return (
        f"{part['at'][:10]}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"Python {machine['python']}, load {machine['load_before']:g} before it began; "
        f"{given['jobs']:,} jobs in a drain, unless said otherwise.\n"
    )
