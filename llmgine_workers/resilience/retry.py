"""What follows from a failed attempt: back-off with full jitter, and when it is over."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from llmgine_workers.errors import Failure, Follows, StepFailed

BACK_OFF_MIN_S = 1.0
BACK_OFF_MAX_S = 300.0
RETRY_AFTER_MAX_S = 900.0
"""A provider may ask for hours; it is asked again after a quarter of one."""
IN_PLACE_RETRIES = 2
IN_PLACE_MAX_S = 5.0
"""A slot is too dear to wait longer in: the ledger waits for free."""
IN_PLACE_CODES = frozenset(
    {
        "provider_unreachable",
        "provider_unavailable",
        "provider_overloaded",
        "provider_bad_response",
    }
)
"""Time-outs are not among them: the time of the claim is gone."""

Answer = TypeVar("Answer")
Random = Callable[[], float]


@dataclass(frozen=True)
class RetryLater:
    """Another attempt of the same step after that many seconds."""

    delay_s: float


@dataclass(frozen=True)
class WaitFor:
    """The same, but no attempt was spent. `reason` is one of the waiting reasons."""

    delay_s: float
    reason: str


@dataclass(frozen=True)
class GiveUp:
    """The attempt's error is the step's. `exhausted`: more tries might have helped."""

    exhausted: bool


Decision = RetryLater | WaitFor | GiveUp


def back_off_s(tries: int, rng: Random = random.random) -> float:
    """Seconds before the next try after `tries` failed ones: full jitter.

    Spread evenly over 1 s .. 2^tries, at most 300 s, so that those who failed
    together do not come back together.
    """
    ceiling = min(BACK_OFF_MAX_S, 2.0 ** min(tries, 30))
    return BACK_OFF_MIN_S + rng() * max(0.0, ceiling - BACK_OFF_MIN_S)


def decide(
    failure: Failure,
    tries: int,
    max_attempts: int,
    retry_after_s: float | None,
    seconds_left: float,
    *,
    rng: Random = random.random,
) -> Decision:
    """What the engine does after `tries` attempts, this one included.

    `retry_after_s` is the provider's word and wins over the back-off;
    `seconds_left` is the time until the job's deadline.
    """
    delay = _delay_s(tries, retry_after_s, rng)
    if failure.follows is Follows.WAIT:
        return WaitFor(delay, "provider_pause")
    if failure.follows not in (Follows.RETRY, Follows.REPAIR):
        return GiveUp(exhausted=False)
    if tries >= max_attempts or delay >= seconds_left:
        return GiveUp(exhausted=True)
    return RetryLater(delay)


def _delay_s(tries: int, retry_after_s: float | None, rng: Random) -> float:
    if retry_after_s is None:
        return back_off_s(tries, rng)
    return min(max(retry_after_s, 0.0), RETRY_AFTER_MAX_S)


async def in_place(
    attempt: Callable[[], Awaitable[Answer]],
    *,
    attempts_left: int,
    seconds_left: Callable[[], float],
    rng: Random = random.random,
) -> Answer:
    """Call `attempt`, and again at most twice if nothing of an answer had arrived.

    For short troubles only: the wait is at most 5 s and ends before the call's time
    does. Each call is an attempt of its own (at most `attempts_left`) and asks for
    admission itself. The last failure is raised as it is.
    """

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after_s if isinstance(error, StepFailed) else None
        if asked is not None:
            return max(0.0, asked)
        return rng() * min(IN_PLACE_MAX_S, 2.0 ** (state.attempt_number - 1))

    def stop(state: RetryCallState) -> bool:
        return state.attempt_number >= min(
            IN_PLACE_RETRIES + 1, attempts_left
        ) or state.upcoming_sleep > min(IN_PLACE_MAX_S, seconds_left())

    retrying = AsyncRetrying(
        retry=retry_if_exception(_may_repeat),
        stop=stop,
        wait=wait,
        reraise=True,
    )
    return await retrying(attempt)


def _may_repeat(error: BaseException) -> bool:
    return (
        isinstance(error, StepFailed)
        and error.before_first_byte
        and error.failure.code in IN_PLACE_CODES
    )
