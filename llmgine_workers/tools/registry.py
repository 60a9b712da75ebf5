"""All tools of a process, by name, and the one way to call them."""

from __future__ import annotations

import asyncio
import difflib
import importlib
import logging
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import orjson
from pydantic import BaseModel, ValidationError

from llmgine_workers.errors import ConfigurationError, Failure, StepFailed
from llmgine_workers.tools.definition import Tool, make_tool
from llmgine_workers.tools.marking import ToolUnavailable, mark_of
from llmgine_workers.tools.threads import Threads

MAX_RESULT = 1024**2
"""Bytes of one result as JSON."""

MAX_THREADS = 64
"""Blocking tools at work at once in one process."""

_MAX_WORDS = 500
_BUILT_IN = "llmgine_workers.tools.built_in"
_log = logging.getLogger("llmgine.tools")


class Tools:
    """The registered tools; it is a collection of their names."""

    def __init__(self, tools: Iterable[Tool], *, threads: int = MAX_THREADS) -> None:
        self._tools: dict[str, Tool] = {}
        self._threads = Threads(threads)
        for tool in tools:
            other = self._tools.setdefault(tool.name, tool)
            if other.function is not tool.function:
                raise ConfigurationError(
                    f"two tools are called {tool.name}: in "
                    f"{other.function.__module__} and in {tool.function.__module__}"
                )

    def __contains__(self, name: object) -> bool:
        return name in self._tools

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    async def call(
        self, name: str, arguments: Mapping[str, Any], *, timeout_s: float
    ) -> Any:
        """The result as plain JSON values, within `timeout_s` seconds.

        StepFailed: `tool_not_granted` if there is no such tool, `tool_failed` for
        wrong arguments, an exception, or a result that is not JSON, `tool_unavailable`
        if the tool asked for another try, `too_large`, `step_timeout`.
        """
        tool = self._tools.get(name)
        if tool is None:
            raise _failed("tool_not_granted", _unknown(name, self._tools))
        try:
            bound = tool.bind(arguments)
        except ValidationError as error:
            raise _failed("tool_failed", _wrong(tool, error)) from None
        limit = min(timeout_s, tool.timeout_s or timeout_s)
        return _plain(name, await self._run(tool, bound, limit))

    async def _run(self, tool: Tool, bound: dict[str, Any], limit: float) -> Any:
        try:
            async with asyncio.timeout(limit) as bounds:
                if tool.is_async:
                    return await tool.function(**bound)
                return await self._threads.run(partial(tool.function, **bound))
        except ToolUnavailable as error:
            failure = Failure("tool_unavailable", f"{tool.name}: {_words(error)}")
            raise StepFailed(failure, retry_after_s=error.retry_after_s) from None
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            _give_up(tool, error)  # not we were cancelled, but something inside
        except TimeoutError as error:
            if bounds.expired():
                sentence = f"{tool.name} took longer than {limit:g} s"
                raise _failed("step_timeout", sentence) from None
            _give_up(tool, error)
        except (Exception, SystemExit) as error:  # whatever a tool raises is its failure
            _give_up(tool, error)


def load_modules(modules: Sequence[str]) -> Tools:
    """Our own tools and those of the named Python modules.

    Modules in the working directory are found too, after all installed ones.
    ConfigurationError names the module that cannot be imported, or has no tool.
    """
    here = str(Path.cwd())
    if modules and here not in sys.path:
        sys.path.append(here)
    found = _tools_in(_BUILT_IN)
    for module in modules:
        tools = _tools_in(module)
        if not tools:
            raise ConfigurationError(f"tools.modules: {module} has no @tool function")
        found += tools
    return Tools(found)


def _tools_in(module: str) -> list[Tool]:
    try:
        things = vars(importlib.import_module(module))
    except Exception as error:  # a module of the user's may fail in any way
        raise ConfigurationError(f"tools.modules: {module}: {_words(error)}") from error
    marked = [(thing, mark_of(thing)) for thing in things.values()]
    return [make_tool(thing, mark) for thing, mark in marked if mark]


def _plain(name: str, result: Any) -> Any:
    try:
        body = orjson.dumps(result, default=_model, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError as error:
        sentence = f"{name} returned what JSON cannot hold: {error}"
        raise _failed("tool_failed", sentence[:_MAX_WORDS]) from None
    if len(body) > MAX_RESULT:
        sentence = f"{name} returned {len(body)} bytes; at most {MAX_RESULT} are kept"
        raise _failed("too_large", sentence)
    return orjson.loads(body)


def _model(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, (set, frozenset)):
        return list(value)
    raise TypeError(f"a {type(value).__name__}")


def _give_up(tool: Tool, error: BaseException) -> NoReturn:
    # A lone surrogate in a message is what no log can write.
    story = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
    _log.warning("tool %s failed\n%s", tool.name, story.decode())
    raise _failed("tool_failed", f"{tool.name}: {_words(error)}") from None


def _failed(code: str, message: str) -> StepFailed:
    return StepFailed(Failure(code, message))


def _words(error: BaseException) -> str:
    """An exception's type and text in one line, no stack trace."""
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= _MAX_WORDS else line[:_MAX_WORDS] + "..."


def _unknown(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    hint = f"; is {close[0]} meant?" if close else ""
    return f"no tool called {name} is registered here{hint}"


def _wrong(tool: Tool, error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False)
    told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found)
    return f"{tool.name} does not take these arguments: {told}"[:_MAX_WORDS]
