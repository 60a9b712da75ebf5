"""The mark on a function that makes it a tool; the function itself stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from chains import duration

_MARK = "__llmgine_tool__"
Function = TypeVar("Function", bound=Callable[..., Any])


class ToolUnavailable(Exception):
    """Raised by a tool whose work could not be done now: it is tried again later.

    `retry_after_s`: seconds to wait at least, if the tool knows.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Mark:
    """What the decorator was told; the rest is read off the function."""

    name: str
    timeout_s: float | None


@overload
def tool(function: Function, /) -> Function: ...


@overload
def tool(
    *, name: str | None = None, timeout: str | None = None
) -> Callable[[Function], Function]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: str | None = None,
) -> Any:
    """Make a function a tool: `@tool`, or `@tool(name="fetch", timeout="20s")`.

    Its name is the function's, its description the docstring's first paragraph, its
    arguments are checked against the annotations. A function that is not async runs
    in a thread. `timeout` bounds one call; ValueError if it is no duration.
    """
    timeout_s = None if timeout is None else duration.seconds(timeout)

    def marked(function: Callable[..., Any]) -> Callable[..., Any]:
        mark = Mark(name or function.__name__, timeout_s)
        setattr(function, _MARK, mark)
        return function

    return marked if function is None else marked(function)


def mark_of(thing: object) -> Mark | None:
    """The mark of a function, if it is a tool."""
    mark = getattr(thing, _MARK, None) if callable(thing) else None
    return mark if isinstance(mark, Mark) else None
