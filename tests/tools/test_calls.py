"""Calling tools: what comes back, and every way it can fail."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from llmgine_workers.tools import Tools, ToolUnavailable
from llmgine_workers.tools.registry import MAX_RESULT
from tests.tools.conftest import failing, made, only

SOON = 5.0


class Page(BaseModel):
    url: str
    size: int


@dataclass
class Point:
    x: float


@pytest.mark.parametrize(
    ("result", "plain"),
    [
        (None, None),
        ("text", "text"),
        ({"a": (1, 2.5)}, {"a": [1, 2.5]}),
        ({1: True}, {"1": True}),
        ({"only"}, ["only"]),
        (Page(url="u", size=3), {"url": "u", "size": 3}),
        ([Point(0.5)], [{"x": 0.5}]),
        (datetime(2026, 11, 20, tzinfo=UTC), "2026-11-20T00:00:00+00:00"),
    ],
)
@pytest.mark.parametrize("in_thread", [False, True])
async def test_results_become_plain_json(
    result: object, plain: object, in_thread: bool
) -> None:
    async def on_loop() -> object:
        return result

    def blocking() -> object:
        return result

    tools = only(blocking if in_thread else on_loop, name="give")
    assert await tools.call("give", {}, timeout_s=SOON) == plain


async def test_arguments_are_converted_and_defaults_filled() -> None:
    async def add(a: int, b: Annotated[int, Field(le=9)] = 2, *, json: str = "") -> Any:
        return [a + b, json]

    tools = only(add)
    assert await tools.call("add", {"a": "40"}, timeout_s=SOON) == [42, ""]
    assert await tools.call("add", {"a": 1, "json": "x"}, timeout_s=SOON) == [3, "x"]


async def test_wrong_arguments_are_all_named_and_nothing_runs() -> None:
    ran = False

    async def page(url: str, size: Annotated[int, Field(le=9)], page: Page) -> None:
        nonlocal ran
        ran = True

    tools = only(page)
    given = {"size": 10, "page": {"url": 3, "size": 1}, "extra/one": 1}
    failed = await failing(tools.call("page", given, timeout_s=SOON))
    assert failed.failure.code == "tool_failed"
    for word in ("url:", "size:", "page.url:", "extra/one:"):
        assert word in failed.failure.message
    assert not ran
    findings = tools["page"].findings(given)
    assert {(f["pointer"], f["code"]) for f in findings} == {
        ("/arguments/url", "invalid_input"),
        ("/arguments/size", "out_of_range"),
        ("/arguments/page/url", "invalid_input"),
        ("/arguments/extra~1one", "unknown_field"),
    }
    good = {"url": "u", "size": 1, "page": {"url": "u", "size": 1}}
    assert tools["page"].findings(good) == []


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("error", [ValueError("no\n such page"), SystemExit(3)])
async def test_an_exception_is_a_failure_with_its_type_and_text(
    in_thread: bool, error: BaseException
) -> None:
    async def on_loop() -> None:
        raise error

    def blocking() -> None:
        raise error

    tools = only(blocking if in_thread else on_loop, name="fetch")
    failure = (await failing(tools.call("fetch", {}, timeout_s=SOON))).failure
    assert failure.code == "tool_failed"
    text = " ".join(str(error).split())
    assert failure.message == f"fetch: {type(error).__name__}: {text}"


async def test_a_tool_can_ask_to_be_tried_again() -> None:
    def fetch() -> None:
        raise ToolUnavailable("the site is down", retry_after_s=30)

    failed = await failing(only(fetch).call("fetch", {}, timeout_s=SOON))
    assert failed.failure.code == "tool_unavailable"
    assert "the site is down" in failed.failure.message
    assert failed.retry_after_s == 30


async def test_an_unknown_tool_is_named_with_a_suggestion() -> None:
    async def fetch_page() -> None: ...

    failed = await failing(only(fetch_page).call("fetchpage", {}, timeout_s=SOON))
    assert failed.failure.code == "tool_not_granted"
    assert "fetch_page" in failed.failure.message


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize("own", [False, True])
async def test_a_call_is_bounded_by_its_own_and_by_the_callers_time(
    in_thread: bool, own: bool
) -> None:
    released = threading.Event()

    async def on_loop() -> None:
        await asyncio.Event().wait()

    def blocking() -> None:
        released.wait(5)

    told = {"timeout": "50ms"} if own else {}
    tools = only(blocking if in_thread else on_loop, name="slow", **told)
    failed = await failing(tools.call("slow", {}, timeout_s=SOON if own else 0.05))
    released.set()
    assert failed.failure.code == "step_timeout"


async def test_the_tools_own_time_outs_are_its_failures() -> None:
    async def impatient() -> None:
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)

    async def cancelled_inside() -> None:
        raise asyncio.CancelledError

    for function in (impatient, cancelled_inside):
        call = only(function, name="it").call("it", {}, timeout_s=SOON)
        assert (await failing(call)).failure.code == "tool_failed"


async def test_being_cancelled_is_not_a_failure() -> None:
    started = asyncio.Event()

    async def slow() -> None:
        started.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(only(slow).call("slow", {}, timeout_s=SOON))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_json_cannot_hold_and_what_is_too_large_are_refused() -> None:
    def odd() -> object:
        return {"a": object()}

    def large() -> str:
        return "x" * MAX_RESULT

    def fitting() -> str:
        return "x" * (MAX_RESULT - 2)

    tools = Tools([made(odd), made(large), made(fitting)])
    failed = await failing(tools.call("odd", {}, timeout_s=SOON))
    assert failed.failure.code == "tool_failed"
    assert "object" in failed.failure.message
    failed = await failing(tools.call("large", {}, timeout_s=SOON))
    assert failed.failure.code == "too_large"
    assert len(await tools.call("fitting", {}, timeout_s=SOON)) == MAX_RESULT - 2


async def test_threads_are_bounded_and_carry_the_context() -> None:
    tenant: ContextVar[str] = ContextVar("tenant")
    lock = threading.Lock()
    at_once, most = 0, 0
    both = threading.Barrier(2, timeout=5)

    def blocking() -> str:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        both.wait()
        with lock:
            at_once -= 1
        return tenant.get()

    tools = Tools([made(blocking)], threads=2)
    tenant.set("acme")
    calls = (tools.call("blocking", {}, timeout_s=SOON) for _ in range(6))
    assert await asyncio.gather(*calls) == ["acme"] * 6
    assert most == 2


async def test_a_thread_that_was_given_up_keeps_its_place_until_it_ends() -> None:
    released = threading.Event()

    def stuck() -> None:
        released.wait(5)

    async def quick() -> str:
        return "not in a thread"

    tools = Tools([made(stuck), made(quick)], threads=1)
    for _ in range(2):
        failed = await failing(tools.call("stuck", {}, timeout_s=0.03))
        assert failed.failure.code == "step_timeout"
    assert await tools.call("quick", {}, timeout_s=SOON) == "not in a thread"
    released.set()
    assert await tools.call("stuck", {}, timeout_s=SOON) is None
