"""What the pages say of speed is what was measured."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from loadtests.bench import charts, report, results, tables

FOUND = results.read(results.FOLDER)


def test_the_readme_quotes_the_last_results() -> None:
    text = report.README.read_text("utf-8")
    assert report.quoted_in(text, report.quote(FOUND)) == text


def test_the_page_of_results_is_made_from_them() -> None:
    page = (results.FOLDER / "README.md").read_text("utf-8")
    assert page == report.whole(FOUND)


def test_every_part_that_can_be_run_has_a_table() -> None:
    from loadtests.bench.__main__ import PARTS

    assert set(PARTS) == set(tables.PARTS)


def test_figures_are_medians_of_the_rounds_and_ratios_are_of_them() -> None:
    found = {
        "rounds": {
            tables.OURS: [_round(cpu) for cpu in (1.0, 9.0, 2.0)],
            tables.BASELINE: [_round(cpu) for cpu in (8.0, 2.0, 8.0)],
        }
    }
    assert "| CPU per plain job | 0.25 x | <= 0.4 x |" in tables.aims(found, None)
    assert "batches" not in tables.aims(found, None)
    assert "| 5 x | >= 10 x |" in tables.aims(found, 500.0)


def test_a_quote_replaces_the_last_one_and_nothing_else() -> None:
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    fresh = report.quoted_in(page, "new\n")
    assert fresh == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"


@pytest.mark.parametrize("name", ["plain", "<b> & co"])
def test_a_plot_is_well_formed_and_its_longest_bar_is_the_largest(name: str) -> None:
    drawn = charts.bars("Title", {name: {"a": 2.0, "b": 8.0}, "else": {"a": 4.0}}, "ms")
    root = ElementTree.fromstring(drawn)  # noqa: S314 - our own
    rectangles = root.iter("{http://www.w3.org/2000/svg}rect")
    widths = [float(one.attrib["width"]) for one in rectangles][2:]  # without the legend
    assert widths[1] == max(widths) == 4 * widths[0] == 2 * widths[2]


def _round(cpu: float) -> dict[str, Any]:
    load = {"cpu_ms_per_job": cpu, "submits_per_s": 100.0}
    late = {"dispatch_ms": {"p50": cpu, "p99": cpu}}
    return {"plain": load, "streamed": load, "steady": [late, late]}
