"""What the demo tells, act by act; each claim is checked before the next one."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import httpx2

from llmgine_workers import dead_letters
from llmgine_workers.broker.topology import dead_queue
from llmgine_workers.cli import api as gateway
from llmgine_workers.cli import stores, terminal, witness
from llmgine_workers.cli.live import Transcript
from llmgine_workers.cli.stack import Stack
from llmgine_workers.cli.witness import Call, Witness
from llmgine_workers.client import StepDelta
from llmgine_workers.engine.replay import replay
from llmgine_workers.errors import LlmgineError
from llmgine_workers.runtime import Runtime

QUESTION = "Should a queue remember its jobs, or should a database?"
TEXT = (
    "RabbitMQ moves the work, PostgreSQL remembers it, Redis keeps the pace. Whatever "
    "single process dies, the job reaches a named end, and nothing is paid for twice."
)
BROKEN_STEP = "summary"
SOON_S = 30.0
"""Letters are mirrored and shown within seconds of the end of their job."""

_STREAMED_OVER_S = 0.2  # tokens that all came at once were not streamed

Result = TypeVar("Result")
Job = Mapping[str, Any]


class CheckFailed(LlmgineError):
    """Something the demo shows is not so."""

    code = "check_failed"


async def tell(stack: Stack) -> None:
    """All three acts on a running stack. CheckFailed says what is not so."""
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        key = stack.key_file.read_text("ascii").strip()
        act = _Stage(
            rt=await enter(stores.opened(stack.settings, stack.child_environ)),
            api=await enter(gateway.connected(gateway.Access(stack.url, key))),
            witness=Witness(await enter(_client(stack.simulator_url))),
            flower=await enter(_client(stack.flower_url, stack.flower_user)),
        )
        await act.a_chain_streams_and_has_its_cost()
        failed = await act.a_failure_becomes_a_dead_letter()
        await act.a_replay_calls_only_the_failed_step(failed)


def _client(url: str, user: tuple[str, str] | None = None) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=url, auth=user, trust_env=False)


@dataclass
class _Seen:
    """A job that was watched to its end."""

    job: Job
    last_event: int
    streamed: dict[str, list[tuple[float, str]]]


@dataclass
class _Stage:
    rt: Runtime
    api: gateway.Api
    witness: Witness
    flower: httpx2.AsyncClient

    async def a_chain_streams_and_has_its_cost(self) -> None:
        """Parallel steps over two providers; text, tokens and money checked."""
        _title("1. A chain, streamed: two sides at once, then a verdict")
        _command(f'llmgine submit debate -i question="{QUESTION}" --watch')
        seen = await self._watch(await self._submit("debate", {"question": QUESTION}))
        _check(seen.job["state"] == "succeeded", "the job succeeded")
        calls = await self._calls(seen.job["id"])
        _check(len(calls) == 3, "three calls, as the simulator counts them")
        for call in calls:
            _check_streamed(call, seen.streamed.get(call["step"], []))
        _done("each text came in pieces, and its hash is the simulator's")
        _check_cost(seen.job, calls)

    async def a_failure_becomes_a_dead_letter(self) -> _Seen:
        """A step that the provider refuses: seen in the ledger, the broker and Flower."""
        _title(f"2. The provider refuses the step {BROKEN_STEP!r}: a dead letter")
        await self.witness.break_step(BROKEN_STEP, "400")
        _command("llmgine submit summarize -i text=... --watch")
        seen = await self._watch(await self._submit("summarize", {"text": TEXT}))
        _check(seen.job["state"] == "failed", "the job failed")
        letters = await dead_letters.listed(self.rt)
        _command("llmgine dlq list")
        for letter in letters:
            error = letter["error"]
            terminal.say(f"  {letter['id']}  {letter['chain']}/{letter['step']}  "
                         f"{error['code']}: {error['message']}")  # fmt: skip
        ids = [letter["id"] for letter in letters]
        _check(ids == [seen.job["dead_letter"]], "exactly one letter, the job's")
        await self._check_depth(1)
        await self._check_flower(letters[0])
        return seen

    async def a_replay_calls_only_the_failed_step(self, failed: _Seen) -> None:
        """The provider is well again; what was paid for is not paid for twice."""
        _title("3. The provider is well again: replay")
        await self.witness.heal()
        job, letter = failed.job["id"], failed.job["dead_letter"]
        before = len(await self.witness.calls(job))
        _command(f"llmgine dlq replay {letter}")
        (done,) = await replay(self.rt, [UUID(letter)], "cli:demo")
        _check_quietly(done.refused is None, f"the replay was refused: {done.refused}")
        seen = await self._watch(job, failed.last_event)
        _check(seen.job["state"] == "succeeded", "the job succeeded")
        calls = await self._calls(job)
        again = {call["step"] for call in calls[before:]}
        _check(
            again == {BROKEN_STEP},
            f"the replay called {', '.join(sorted(again)) or 'nothing'}: "
            "only the step that had failed",
        )
        _check_cost(seen.job, calls)
        left = await dead_letters.listed(self.rt)
        _check(not left, "no open letter is left")
        await dead_letters.reconcile(self.rt)
        await self._check_depth(0)

    async def _submit(self, chain: str, inputs: Mapping[str, Any]) -> str:
        return (await self.api.calls.submit(chain, inputs)).id

    async def _watch(self, job: str, after: int = 0) -> _Seen:
        transcript = Transcript()
        streamed: dict[str, list[tuple[float, str]]] = {}
        async for event in self.api.streams.stream(job, after=after):
            terminal.stream(transcript.add(event.document()))
            after = event.seq
            if isinstance(event, StepDelta) and event.text:
                piece = (time.monotonic(), event.text)
                streamed.setdefault(event.step, []).append(piece)
        return _Seen((await self.api.calls.job(job)).document(), after, streamed)

    async def _calls(self, job: str) -> list[Call]:
        """The simulator's calls; it writes the end of one just after we have read it."""

        async def ended() -> list[Call]:
            calls = await self.witness.calls(job)
            return [] if any(call["ended"] is None for call in calls) else calls

        return await _soon(ended)

    async def _check_depth(self, wanted: int) -> None:
        queue = dead_queue(self.rt.prefix)

        async def is_so() -> bool:
            return await self.rt.broker.depth(queue) == wanted

        _check(await _soon(is_so), f"{queue} holds {wanted}, as the broker counts")

    async def _check_flower(self, letter: Mapping[str, Any]) -> None:
        async def shown() -> dict[str, Any]:
            answer = await self.flower.get(f"/api/task/info/{letter['task_id']}")
            task = answer.json() if answer.is_success else {}
            return task if task.get("state") == "FAILURE" else {}

        task = await _soon(shown)
        exception = str(task.get("exception", ""))
        _check(
            letter["error"]["code"] in exception,
            f"Flower shows the task as {task.get('state')}: {exception}",
        )


async def _soon(question: Callable[[], Awaitable[Result]]) -> Result:
    """Ask until the answer is truthy, for at most SOON_S; the last answer."""
    end = time.monotonic() + SOON_S
    # Another process knows, and nobody tells us.
    while not (answer := await question()) and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return answer


def _check_streamed(call: Call, pieces: list[tuple[float, str]]) -> None:
    step = call["step"]
    times = [when for when, _ in pieces] or [0.0]
    text = "".join(piece for _, piece in pieces)
    digest = hashlib.sha256(text.encode()).hexdigest()
    _check_quietly(
        digest == call["text_sha256"], f"{step}: the text is not what was sent"
    )
    in_time = times[-1] - times[0] > _STREAMED_OVER_S
    _check_quietly(in_time, f"{step}: its text came at once, not as a stream")


def _check_cost(job: Job, calls: list[Call]) -> None:
    billed = Decimal(str(job["cost_usd"]))
    expected = witness.cost_usd(calls)
    whole = witness.completed(calls)
    tokens = sum(call["input_tokens"] + call["output_tokens"] for call in whole)
    _check(
        billed == expected and expected > 0,
        f"cost ${billed:f}; {tokens} tokens in the simulator's log x price book = "
        f"${expected:f}",
    )


def _title(text: str) -> None:
    terminal.say(f"\n{text}\n{'-' * len(text)}")


def _command(text: str) -> None:
    terminal.say(f"$ {text}")


def _done(text: str) -> None:
    terminal.say(f"  ✓ {text}")


def _check(holds: bool, claim: str) -> None:
    _check_quietly(holds, f"not so: {claim}")
    _done(claim)


def _check_quietly(holds: bool, otherwise: str) -> None:
    if not holds:
        raise CheckFailed(otherwise)
