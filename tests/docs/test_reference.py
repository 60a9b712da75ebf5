"""The reference pages say what the code does: every name is on both sides."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
import typer
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from chains import chain as grammar
from chains.checks import NOT_YET_IN_LLM, NOT_YET_IN_WAIT
from chains.filters import FILTERS
from gateway import shapes, submission
from gateway.app import create_app
from gateway.errors import PROBLEMS
from llmgine_workers import settings
from llmgine_workers.cli.app import app as command_line
from llmgine_workers.cli.exits import Exit
from llmgine_workers.engine import outcome, pipeline
from llmgine_workers.errors import FOLLOWS
from llmgine_workers.events import facts
from tests.docs.pages import NAMES, ROOT, blocks, prose, read, section, table, words

HTTP, CLI, SETTINGS = "docs/http.md", "docs/cli.md", "docs/settings.md"
ERRORS, CHAINS, LIFE = "docs/errors.md", "docs/chains.md", "docs/lifecycle.md"


def column(text: str, heading: str) -> list[str]:
    """The code words in one column of a text's tables."""
    return [w for row in table(text) if heading in row for w in words(row[heading])]


# Settings.


def _fields(model: type[BaseModel], at: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _fields(inner, f"{at}{name}.")
        elif name not in ("providers", "models", "limits", "tenants", "prices"):
            yield f"{at}{name}", field.default


def test_every_setting_is_there_with_its_default() -> None:
    rows = [row for row in table(read(SETTINGS)) if "." in row.get("key", "")]
    written = {
        words(row["key"])[0]: words(row["default"])[0] for row in rows if "default" in row
    }
    assert set(written) == dict(_fields(settings.Settings)).keys()
    tree: dict[str, Any] = {}
    for key, default in written.items():
        part, name = key.split(".")
        tree.setdefault(part, {})[name] = tomllib.loads(f"x = {default}")["x"]
    assert settings.Settings.model_validate(tree) == settings.Settings()


def test_every_key_of_a_provider_and_every_known_provider_is_there() -> None:
    text = section(SETTINGS, "Providers")
    assert column(text, "key") == list(settings.ProviderSettings.model_fields)
    known = {
        words(row["known by name"])[0]: {
            name: words(row[name])[0]
            for name in ("wire", "key_env", "base_url")
            if words(row[name])
        }
        for row in table(text)
        if "known by name" in row
    }
    assert known == settings.PROVIDER_ROWS


def test_every_key_of_models_limits_and_prices_is_there() -> None:
    limits = [f"limits.{name}" for name in settings.LimitSettings.model_fields]
    tenants = [f"tenants.NAME.{name}" for name in settings.TenantSettings.model_fields]
    prices = [f"prices.PATTERN.{name}" for name in settings.PriceSettings.model_fields]
    written = column(section(SETTINGS, "Models, limits, prices"), "key")
    assert written == ["models.NAME", *limits, *tenants, *prices]


# Errors.


def test_every_code_of_a_refusal_is_there_with_its_status() -> None:
    rows = table(section(ERRORS, "Refused requests"))
    written = {
        words(row["code"])[0]: (int(row["status"]), row["`Retry-After`"])
        for row in rows
        if "status" in row
    }
    assert written == {
        code: (kind.status, str(kind.retry_after_s or ""))
        for code, kind in PROBLEMS.items()
    }


def test_the_codes_that_are_never_answered_are_named() -> None:
    """Those that no module on the way of a request has in hand."""
    front = _source("gateway") + _source("chains")
    all_of_it = (
        front + _source("llmgine_workers/engine") + _source("llmgine_workers/ledger")
    )
    raised = re.findall(r'(?:Problem|Refusal|_?refus(?:e|al))\(\s*"(\w+)"', all_of_it)
    kinds = re.findall(r'^    code = "(\w+)"', all_of_it, re.M)
    told = [code for code in PROBLEMS if front.count(f'"{code}"') > 1]  # one: the table
    (named,) = re.findall(
        r"never answered by this version: (.+?)\.\n", read(ERRORS), re.S
    )
    assert words(named) == [c for c in PROBLEMS if c not in {*raised, *kinds, *told}]


def _source(room: str) -> str:
    return "".join(path.read_text("utf-8") for path in (ROOT / room).rglob("*.py"))


def test_every_code_of_a_failure_is_there_with_what_follows() -> None:
    rows = table(section(ERRORS, "Failed steps and jobs"))
    written = {words(row["code"])[0]: row["what follows"] for row in rows}
    assert written == {code: follows.value for code, follows in FOLLOWS.items()}


def test_every_code_of_a_finding_stands_in_the_chain_language() -> None:
    rows = table(section(ERRORS, "Refused requests"))
    told = {w for row in rows if "status" not in row for w in words(row["code"])}
    source = "".join(p.read_text("utf-8") for p in (ROOT / "chains").glob("*.py"))
    made = set(re.findall(r'Finding\(\s*[^,()]+(?:\([^()]*\))?,\s*"(\w+)"', source))
    made |= set(re.findall(r'(?:_refusal|TemplateRefused)\(\s*"(\w+)"', source))
    made |= set(re.findall(r'(?:_note|_stop)\(event, "(\w+)"', source))
    of_inputs = {"invalid_input", "more_findings"}
    assert made - of_inputs <= told
    assert all(f'"{code}"' in source for code in told)


def test_every_exit_status_is_there() -> None:
    rows = table(section(ERRORS, "Exit statuses"))
    assert [int(row["status"]) for row in rows] == [int(one) for one in Exit]


# HTTP.


def _routes() -> list[APIRoute]:
    app = create_app(settings.Settings(), {})
    return [route for route in _flat(app.router) if isinstance(route, APIRoute)]


def _flat(router: Any) -> Iterator[Any]:
    for route in router.routes:
        if isinstance(route, APIRoute) or not hasattr(route, "original_router"):
            yield route
        else:
            yield from _flat(route.original_router)


def _scope(route: APIRoute) -> str:
    for dependency in route.dependant.dependencies:
        call = dependency.call
        name = getattr(call, "__qualname__", "")
        if call is not None and name.startswith("with_scope"):
            return str(inspect.getclosurevars(call).nonlocals["scope"])
    return "–"


def test_every_route_is_there_with_its_scope() -> None:
    rows = [row for row in table(read(HTTP)) if "call" in row]
    written = {" ".join(words(row["call"])): row["scope"].strip("`") for row in rows}
    assert written == {
        f"{method} {route.path}": _scope(route)
        for route in _routes()
        for method in route.methods or ()
    }


@pytest.mark.parametrize(
    ("heading", "model"),
    [("field", submission.JobSubmission), ("option", submission.JobOptions)],
)
def test_every_field_of_a_submission_is_there_with_its_default(
    heading: str, model: type[BaseModel]
) -> None:
    rows = [row for row in table(section(HTTP, "Submitting")) if heading in row]
    assert [words(row[heading])[0] for row in rows] == list(model.model_fields)
    for row in rows:
        field = model.model_fields[words(row[heading])[0]]
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, BaseModel):
            default = {}
        assert default is not PydanticUndefined
        told = "null" if row["default"] == "–" else words(row["default"])[0]
        expected = default if isinstance(default, str) else json.dumps(default)
        assert told == expected, row


@pytest.mark.parametrize(
    ("heading", "shape"),
    [("A job", shapes.Job), ("A step", shapes.Step), ("Refusals", shapes.Problem)],
)
def test_the_examples_have_the_shapes_of_answers(
    heading: str, shape: type[BaseModel]
) -> None:
    found = [b for b in blocks(HTTP, "json") if b.text in section(HTTP, heading)]
    (example,) = found
    shape.model_validate_json(example.text, strict=False)


def test_every_reason_to_wait_is_there() -> None:
    reasons = column(section(HTTP, "A step"), "`waiting.reason`")
    assert reasons == list(get_args(shapes.Reason))


# Events.

_DELTA = {"text", "reasoning", "tool_call"}


def _kinds(root: type[facts.Fact]) -> Iterator[type[facts.Fact]]:
    for kind in root.__subclasses__():
        if hasattr(kind, "type"):
            yield kind
        yield from _kinds(kind)


def test_every_public_event_is_there_with_its_fields() -> None:
    rows = [row for row in table(section(HTTP, "Events")) if "event" in row]
    written = {words(row["event"])[0]: set(words(row["its fields"])) for row in rows}
    common = {"job", "at", *facts.INTERNAL}
    assert written == {
        kind.type: {field.name for field in dataclasses.fields(kind)} - common
        for kind in _kinds(facts.JobFact)
    }
    assert written["step.delta"] >= _DELTA


def test_every_inner_fact_is_named() -> None:
    public = {kind.type for kind in _kinds(facts.JobFact)}
    inner = {kind.type for kind in _kinds(facts.Fact)} - public
    (told,) = re.findall(r"Other facts.+?\n\n", section(HTTP, "Events"), re.S)
    assert set(words(told)) == inner


# The chain language.


@pytest.mark.parametrize(
    ("heading", "model"),
    [
        ("The chain", grammar.Chain),
        ("A step", grammar.Step),
        ("`llm`", grammar.LlmCall),
        ("`tool`", grammar.ToolUse),
    ],
)
def test_every_key_of_the_language_is_there(heading: str, model: type[BaseModel]) -> None:
    text = section(CHAINS, heading).split("\n### ")[0]
    keys = {field.alias or name for name, field in model.model_fields.items()}
    assert set(column(text, "key")) == keys


def test_every_filter_is_there() -> None:
    written = column(section(CHAINS, "Text with values in it"), "filter")
    assert {name.partition("(")[0] for name in written} == set(FILTERS)
    for name in written:
        assert ("(" in name) is bool(FILTERS[name.partition("(")[0]].takes)


def test_every_word_that_is_refused_is_there() -> None:
    assert set(column(section(CHAINS, "Not yet"), "word")) == {
        *NOT_YET_IN_WAIT,
        *NOT_YET_IN_LLM,
    }


def test_the_bounds_are_those_of_the_code() -> None:
    told = section(CHAINS, "Bounds")
    for bound in ("64 KiB", f"{grammar.MAX_STEPS} steps", f"{grammar.MAX_NESTING} lists"):
        assert bound in told


# The command line.


def _commands(command: Any, name: str = "llmgine") -> Iterator[tuple[str, Any]]:
    inner: Mapping[str, Any] | None = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, one in inner.items():
        yield from _commands(one, f"{name} {word}")


def _told_commands() -> dict[str, str]:
    """Each command with its arguments as written, and the text below it."""
    return {
        heading: section(CLI, f"`{heading}`")
        for heading in re.findall(r"^### `(.+)`$", prose(CLI), re.M)
    }


def test_every_command_is_there_with_its_arguments() -> None:
    made = [
        " ".join([name, *(_argument(p) for p in command.params if _is_argument(p))])
        for name, command in _commands(typer.main.get_command(command_line))
    ]
    assert sorted(_told_commands()) == sorted(made)


def test_every_option_is_there() -> None:
    told = {
        re.split(r" (?=[A-Z\[])", heading)[0]: set(column(text, "option"))
        for heading, text in _told_commands().items()
    }
    made = {
        name: {
            flag
            for parameter in command.params
            if not _is_argument(parameter) and parameter.name != "help"
            for flag in parameter.opts
        }
        for name, command in _commands(typer.main.get_command(command_line))
    }
    assert told == made


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar)
    return name if parameter.required else f"[{name}]"


# The engine.


def test_the_gates_are_those_of_the_pipeline() -> None:
    rows = [row for row in table(read("docs/internals.md")) if "kind" in row]
    written = {
        words(row["kind"])[0]: [
            *words(row["gates, from outside in"]),
            *words(row["then"]),
        ]
        for row in rows
    }
    assert written == {
        kind: [*(gate.__name__ for gate in gates), call.__name__]
        for kind, (gates, call) in pipeline.GATES.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_file_that_is_named_exists(name: str) -> None:
    for path in re.findall(r"(?<![\w./])\w[\w/]*/\w+\.(?:py|yaml)\b", prose(name)):
        places = (ROOT / path, ROOT / "llmgine_workers" / path)
        assert any(place.exists() for place in places), path


def test_the_files_of_the_pipe_exist() -> None:
    pipe = blocks("docs/internals.md", "text")[1].text
    for path in re.findall(r"\S+\.py", pipe):
        assert (ROOT / "llmgine_workers" / path).exists(), path


def test_every_outcome_is_there() -> None:
    rows = table(section(LIFE, "What a visit ends with"))
    written = {w for row in rows for w in words(row["outcome"])}
    assert written == {kind.__name__ for kind in get_args(outcome.Outcome)}


def test_every_state_of_a_job_is_drawn() -> None:
    (drawn,) = blocks(LIFE, "mermaid")
    for state in get_args(shapes.JobState):
        assert re.search(rf"\b{state}\b", drawn.text), state
