"""Time and ids as the interface writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from llmgine_workers import clock

SECONDS = st.floats(min_value=0, max_value=4_000_000_000, allow_nan=False)


def test_a_moment_is_utc_with_milliseconds_and_a_z() -> None:
    berlin = timezone(timedelta(hours=1))
    moment = datetime(2026, 11, 20, 13, 0, 0, 1500, berlin)
    assert clock.rfc3339(moment) == "2026-11-20T12:00:00.001Z"
    assert clock.rfc3339(None) is None


def test_now_has_a_time_zone() -> None:
    assert clock.now().tzinfo is UTC


@given(SECONDS)
def test_an_id_is_a_uuid_of_version_seven(at: float) -> None:
    found = clock.uuid7(at)
    assert found.version == 7
    assert found.variant == "specified in RFC 4122"
    assert abs(clock.moment_of(found).timestamp() - at) <= 0.001


@given(SECONDS, SECONDS)
def test_ids_are_in_the_order_of_their_milliseconds(a: float, b: float) -> None:
    earlier, later = sorted((int(a * 1000), int(b * 1000)))
    if earlier < later:
        assert clock.uuid7((earlier + 0.5) / 1000) < clock.uuid7((later + 0.5) / 1000)


def test_ids_of_one_moment_differ() -> None:
    assert len({clock.uuid7(1.0) for _ in range(1000)}) == 1000


def test_a_task_has_one_id_over_all_waits_and_a_new_one_per_replay() -> None:
    job = UUID("01a1fa83-447d-7a9c-abd4-d2e718f7f41e")
    assert clock.task_id(job, "draft", 0) == clock.task_id(job, "draft", 0)
    ids = {clock.task_id(job, path, n) for path in ("draft", "final") for n in range(3)}
    assert len(ids) == 6


def test_what_is_before_now_is_below_every_id_that_comes() -> None:
    for _ in range(200):
        before = clock.before_now()
        assert before < clock.uuid7()
    assert clock.uuid7(clock.now().timestamp() - 1) < clock.before_now()
