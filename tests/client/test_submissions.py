from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from llmgine_workers.client import calls


def test_only_what_is_given_is_sent() -> None:
    work = {"chain": "a", "inputs": None, "metadata": {"k": "v"}, "priority": None}
    assert calls.submission(work) == {"chain": "a", "metadata": {"k": "v"}}


def test_options_go_where_the_gateway_looks_for_them() -> None:
    work = {
        "tool": "word_count", "arguments": {"text": "x"}, "priority": "batch",
        "max_attempts": 3, "max_cost_usd": 0.05, "stream": False, "timeout": "10m",
    }  # fmt: skip
    assert calls.submission(work) == {
        "tool": "word_count",
        "arguments": {"text": "x"},
        "options": {
            "priority": "batch", "timeout": "10m", "max_attempts": 3,
            "max_cost_usd": 0.05, "stream": False,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "written"), [(30, "30000ms"), (1.5, "1500ms"), (86_400, "86400000ms")]
)
def test_a_timeout_may_be_seconds(seconds: float, written: str) -> None:
    found = calls.submission({"chain": "a", "timeout": seconds})
    assert found["options"] == {"timeout": written}


def test_a_misspelt_name_is_told_before_anything_is_sent() -> None:
    with pytest.raises(TypeError, match="a job has no metdata"):
        calls.submission({"chain": "a", "metdata": {}})


@pytest.mark.parametrize("value", [float("nan"), "\ud800", {1, 2}])
def test_what_json_cannot_say_is_not_sent(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        calls.post("/v1/jobs", calls.submission({"chain": "a", "inputs": {"x": value}}))


def test_filters_are_a_query() -> None:
    wanted: calls.Wanted = {
        "state": "failed",
        "created_after": datetime(2026, 11, 20, 12, tzinfo=UTC),
        "metadata": {"order": "A-17"},
    }
    assert calls.filters(wanted) == {
        "state": "failed",
        "created_after": "2026-11-20T12:00:00.000Z",
        "metadata.order": "A-17",
    }


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        calls.filters({"created_after": datetime(2026, 11, 20)})
