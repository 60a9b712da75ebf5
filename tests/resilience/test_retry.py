"""What follows from a failure, and what is repeated in place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from llmgine_workers.errors import FOLLOWS, Failure, Follows, StepFailed
from llmgine_workers.resilience.retry import (
    GiveUp,
    RetryLater,
    WaitFor,
    back_off_s,
    decide,
    in_place,
)

LONG = 3600.0


def failure(code: str = "provider_overloaded") -> Failure:
    return Failure(code, "it said no")


def of(follows: Follows) -> list[str]:
    return [code for code, then in FOLLOWS.items() if then is follows]


@pytest.mark.parametrize(
    ("tries", "least", "most"), [(1, 1, 2), (3, 1, 8), (8, 1, 256), (9, 1, 300)]
)
def test_the_back_off_is_spread_from_1_s_to_a_ceiling_that_doubles(
    tries: int, least: float, most: float
) -> None:
    assert back_off_s(tries, lambda: 0.0) == least
    assert back_off_s(tries, lambda: 1.0) == most


def test_thousands_of_tries_still_wait_at_most_300_s() -> None:
    assert back_off_s(5000, lambda: 1.0) == 300


@pytest.mark.parametrize("code", [*of(Follows.RETRY), *of(Follows.REPAIR)])
def test_a_passing_trouble_is_tried_again_while_attempts_are_left(code: str) -> None:
    assert isinstance(decide(failure(code), 1, 5, None, LONG), RetryLater)
    assert decide(failure(code), 5, 5, None, LONG) == GiveUp(exhausted=True)


@pytest.mark.parametrize("code", [*of(Follows.DEAD), *of(Follows.NEXT_MODEL)])
def test_a_lasting_trouble_ends_at_once_and_is_not_called_exhausted(code: str) -> None:
    assert decide(failure(code), 1, 5, None, LONG) == GiveUp(exhausted=False)


def test_a_rate_limit_spends_no_attempt_however_often_it_comes() -> None:
    limited = failure("provider_rate_limited")
    assert decide(limited, 99, 5, 7.5, LONG) == WaitFor(7.5, "provider_pause")


@pytest.mark.parametrize(
    ("asked", "delay"), [(0.0, 0.0), (42.0, 42.0), (-5.0, 0.0), (86400.0, 900.0)]
)
def test_the_providers_word_wins_within_bounds(asked: float, delay: float) -> None:
    assert decide(failure(), 1, 5, asked, LONG) == RetryLater(delay)


def test_no_retry_is_planned_past_the_deadline() -> None:
    assert decide(failure(), 1, 5, 30.0, 30.0) == GiveUp(exhausted=True)
    assert decide(failure(), 1, 5, 30.0, 31.0) == RetryLater(30.0)


class Calls:
    """Attempts that fail with what was prepared, then succeed."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.made = 0

    async def __call__(self) -> str:
        self.made += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def failed(
    code: str = "provider_unreachable", wait_s: float | None = 0.0, first: bool = True
) -> StepFailed:
    return StepFailed(failure(code), retry_after_s=wait_s, before_first_byte=first)


async def run(calls: Calls, attempts: int = 5, left: Callable[[], float] | None = None):  # type: ignore[no-untyped-def]
    return await in_place(
        calls, attempts_left=attempts, seconds_left=left or (lambda: LONG)
    )


async def test_in_place_a_call_is_repeated_twice_at_most() -> None:
    calls = Calls(failed(), failed())
    assert await run(calls) == "done"
    assert calls.made == 3
    calls = Calls(*(failed() for _ in range(9)))
    with pytest.raises(StepFailed):
        await run(calls)
    assert calls.made == 3


async def test_in_place_no_attempt_is_made_that_is_not_left() -> None:
    for left in (1, 2):
        calls = Calls(*(failed() for _ in range(9)))
        with pytest.raises(StepFailed):
            await run(calls, attempts=left)
        assert calls.made == left


@pytest.mark.parametrize(
    "error",
    [
        failed(first=False),
        failed(wait_s=5.1),
        failed("provider_rate_limited"),
        failed("provider_timeout"),
        failed("provider_auth"),
        failed("output_invalid"),
        RuntimeError("a bug"),
    ],
    ids=str,
)
async def test_in_place_everything_else_is_raised_as_it_is(error: Exception) -> None:
    calls = Calls(error)
    with pytest.raises(type(error)) as raised:
        await run(calls)
    assert raised.value is error
    assert calls.made == 1


async def test_in_place_nothing_waits_past_the_calls_time() -> None:
    calls = Calls(failed(wait_s=2.0))
    with pytest.raises(StepFailed):
        await run(calls, left=lambda: 1.9)
    assert calls.made == 1


async def test_in_place_a_cancelled_wait_ends_at_once() -> None:
    calls = Calls(failed(wait_s=4.0))
    task = asyncio.create_task(run(calls))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls.made == 1
