"""The window in memory keeps the same promise as the one in Redis."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llmgine_workers.ephemeral.rules import Window
from llmgine_workers.resilience.local_window import LOCAL_SHARE, LocalWindow
from tests.ephemeral.test_windows import worst_interval

SCHEDULES = st.lists(
    st.tuples(st.floats(0, 30), st.integers(1, 8)), min_size=1, max_size=120
)


@settings(max_examples=60, deadline=None)
@given(schedule=SCHEDULES, limit=st.integers(1, 60), workers=st.integers(1, 20))
def test_no_interval_sees_more_than_the_share_whatever_the_schedule(
    schedule: list[tuple[float, int]], limit: int, workers: int
) -> None:
    rule = Window("", "b", limit, 60)
    window = LocalWindow(rule)
    now, taken = 1000.0, []
    for pause, units in schedule:
        now += pause
        if window.wait_s(units, workers, now) == 0:
            window.add(units, now)
            taken.append((int(now * 1000), units))
    if not taken:
        return
    share = limit * LOCAL_SHARE / workers
    if share >= 1:
        assert worst_interval(taken, 60_000) <= share
    else:
        assert worst_interval(taken, 60_000 / share) <= 1


@settings(max_examples=60, deadline=None)
@given(schedule=SCHEDULES, limit=st.integers(20, 60))
def test_there_is_room_at_the_moment_it_names(
    schedule: list[tuple[float, int]], limit: int
) -> None:
    window = LocalWindow(Window("", "b", limit, 60))
    now = 1000.0
    for pause, units in schedule:
        now += pause
        wait = window.wait_s(units, 1, now)
        assert wait is not None
        assert wait <= 63
        now += wait + 0.001
        assert window.wait_s(units, 1, now) == 0
        window.add(units, now)


def test_what_never_fits_is_told_apart() -> None:
    assert LocalWindow(Window("", "b", 10, 60)).wait_s(8, 1, 0.0) is None


def test_what_is_taken_back_is_free_again() -> None:
    window = LocalWindow(Window("", "b", 10, 60))
    slot = window.add(7, 5.0)
    assert window.wait_s(1, 1, 6.0) != 0
    window.take_back(slot, 7)
    assert window.wait_s(7, 1, 6.0) == 0
    assert list(window.ages(6.0)) == []
