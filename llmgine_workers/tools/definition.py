"""One tool: what it is called, what it takes, and how its function is run."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.tools.marking import Mark

_BY_KEYWORD = (
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)
_OUT_OF_RANGE = ("greater_than", "less_than", "too_long", "too_short", "multiple_of")


@dataclass(frozen=True)
class Tool:
    """A registered function; `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    timeout_s: float | None
    function: Callable[..., Any]
    arguments: type[BaseModel]

    @property
    def is_async(self) -> bool:
        """Whether it runs on the loop; else it needs a thread."""
        return inspect.iscoroutinefunction(self.function)

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as the function takes them; pydantic's error has all findings."""
        bound = self.arguments.model_validate(dict(given))
        return {
            field.alias or name: getattr(bound, name)
            for name, field in self.arguments.model_fields.items()
        }

    def findings(self, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Everything wrong with the arguments: pointer, code and detail of each."""
        try:
            self.bind(given)
        except ValidationError as error:
            return [
                {
                    "pointer": "/arguments/" + "/".join(map(_escaped, found["loc"])),
                    "code": _code(found["type"]),
                    "detail": found["msg"],
                }
                for found in error.errors(include_url=False, include_input=False)
            ]
        return []


def make_tool(function: Callable[..., Any], mark: Mark) -> Tool:
    """Read a marked function; ConfigurationError if its arguments have no schema."""
    try:
        arguments = _arguments(function)
        parameters = arguments.model_json_schema()
    except (PydanticUserError, NameError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"tool {mark.name}: {reason}") from None
    parameters.pop("title", None)
    return Tool(
        name=mark.name,
        description=(inspect.getdoc(function) or "").partition("\n\n")[0],
        parameters=parameters,
        timeout_s=mark.timeout_s,
        function=function,
        arguments=arguments,
    )


def _arguments(function: Callable[..., Any]) -> type[BaseModel]:
    """A model of the keyword arguments; numbered fields, so any name will do."""
    hints = typing.get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for number, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind not in _BY_KEYWORD:
            raise TypeError(f"{parameter} cannot be given by name")
        required = parameter.default is inspect.Parameter.empty
        fields[f"argument_{number}"] = (
            hints.get(parameter.name, Any),
            Field(
                default=... if required else parameter.default,
                alias=parameter.name,
                title=parameter.name,
            ),
        )
    forbid = ConfigDict(extra="forbid")
    return create_model("Arguments", __config__=forbid, **fields)


def _escaped(part: str | int) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")


def _code(kind: str) -> str:
    if kind == "extra_forbidden":
        return "unknown_field"
    return "out_of_range" if kind.startswith(_OUT_OF_RANGE) else "invalid_input"
