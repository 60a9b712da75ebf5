"""The statistics of the benchmarks."""

from __future__ import annotations

import math
from pathlib import Path

from loadtests.bench import client, figures, meter


def test_a_percentile_is_one_of_the_values_and_not_exceeded_by_its_share() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [figures.percentile(values, share) for share in (0, 50, 80, 81, 100)] == [
        1.0,
        3.0,
        4.0,
        5.0,
        5.0,
    ]


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(figures.percentile([], 50))


def test_dispatch_ends_with_the_first_call_of_the_job_and_others_do_not_count() -> None:
    calls = [
        {"job": "a", "started_mono": 12.5},
        {"job": "a", "started_mono": 12.0},
        {"job": "stranger", "started_mono": 1.0},
    ]
    assert figures.dispatch_s({"a": 10.0, "never called": 11.0}, calls) == [2.0]


def test_only_whole_end_lines_behind_the_offset_are_read(tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    log.write_text('{"event": "end", "n": 1}\n')
    offset = log.stat().st_size
    with log.open("a") as file:
        file.write('{"event": "start", "n": 2}\n{"event": "end", "n": 2}\n{"event": "e')
    assert figures.calls_since(log, offset) == [{"event": "end", "n": 2}]


def test_the_span_of_posts_goes_to_the_last_answer() -> None:
    posts = client.Posts({"a": 1.0, "b": 2.0, "c": 3.0}, [5.0, 0.5, 0.5])
    assert posts.span_s == 5.0


def test_prompts_differ_and_have_about_the_size_asked_for() -> None:
    made = client.prompts(20, seed=1, size=10_000)
    assert len(set(made)) == 20
    assert all(9_000 < len(one) < 13_000 for one in made)


def test_cpu_is_what_was_used_in_between() -> None:
    before, after = {"worker": 1.5, "front": 1.0}, {"worker": 4.0, "front": 1.25}
    assert meter.spent(before, after) == {"worker": 2.5, "front": 0.25}
