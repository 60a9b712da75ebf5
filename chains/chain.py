"""The grammar of a chain: inputs, defaults, steps of nine kinds, output.

The models check shapes. What takes more than one field to judge (names that must
exist, one kind to a step) is in `checks.py`; `load.py` asks both, so make chains
from outside with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    StringConstraints,
    Tag,
    TypeAdapter,
)

from chains import duration
from chains.json_value import Json
from chains.template import Expression as Filled
from chains.template import parse

MAX_STEPS = 200
"""Of one chain, containers and their inner steps together."""
MAX_NESTING = 8
"""Lists of steps inside each other."""
MAX_STEP_TIMEOUT_S = 7 * 86400.0
MAX_TOKENS = 1_000_000
"""More than any model writes; a bound for typing errors (reliability (c) 14)."""
MAX_ATTEMPTS = 100
MAX_MODELS = 10
MAX_DIMENSIONS = 65_536
"""Of a vector; far more than any model gives."""
MAX_TEXTS = 2048
"""Of one `embed` step; as many as the services take in one call."""
MAX_ITEMS = 1000
"""Of the list that a map goes over."""
MAX_TURNS = 100
"""Of a loop."""
MAX_WAIT_S = 30 * 86400.0
MAX_EXPRESSION = 1000
"""Characters of a condition."""

Kind = Literal[
    "llm", "embed", "tool", "parallel", "map", "branch", "loop", "chain", "wait"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
CALLING: tuple[Kind, ...] = ("llm", "embed")
"""The kinds that call a model."""
WORKING: tuple[Kind, ...] = (*CALLING, "tool")
"""The kinds that do something; all others decide what is done."""

NAME = r"^[a-z][a-z0-9_]*$"
CHAIN_NAME = r"^[a-z][a-z0-9_-]*$"
INPUT_NAME = r"^[A-Za-z][A-Za-z0-9_]*$"
TOOL_NAME = r"^[A-Za-z_][A-Za-z0-9_-]*$"
MODEL_NAME = r"^[^\s/]+(/\S+)?$"
CHAIN_REFERENCE = r"^[a-z][a-z0-9_-]*(@sha256:[0-9a-f]{8,64})?$"

T = TypeVar("T")
Name = Annotated[str, StringConstraints(pattern=NAME, max_length=64)]
ChainName = Annotated[str, StringConstraints(pattern=CHAIN_NAME, max_length=64)]
InputName = Annotated[str, StringConstraints(pattern=INPUT_NAME, max_length=64)]
ToolName = Annotated[str, StringConstraints(pattern=TOOL_NAME, max_length=64)]
ModelName = Annotated[str, StringConstraints(pattern=MODEL_NAME, max_length=200)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Several = Annotated[tuple[T, ...], Strict(False)]


Expression = Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION)]
Reference = Annotated[str, StringConstraints(pattern=CHAIN_REFERENCE, max_length=200)]


def _one_is_a_list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _is_step_timeout(written: str) -> str:
    if not 0 < duration.seconds(written) <= MAX_STEP_TIMEOUT_S:
        raise ValueError("a timeout is more than nothing and at most 7d")
    return written


def _is_wait(written: str) -> str:
    if not 0 < duration.seconds(written) <= MAX_WAIT_S:
        raise ValueError("a wait is more than nothing and at most 30d")
    return written


def _is_object(value: Any) -> str:
    return "[chain]" if isinstance(value, dict | Chain) else "[name]"


Models = Annotated[
    Several[ModelName],
    BeforeValidator(_one_is_a_list, json_schema_input_type=ModelName | list[ModelName]),
    Field(min_length=1, max_length=MAX_MODELS),
]
StopTexts = Annotated[
    Several[StopText],
    BeforeValidator(_one_is_a_list, json_schema_input_type=StopText | list[StopText]),
    Field(min_length=1, max_length=4),
]
Timeout = Annotated[str, AfterValidator(_is_step_timeout)]
Attempts = Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)]


def _is_one_value(written: str) -> str:
    parts = parse(written).parts
    if len(parts) != 1 or not isinstance(parts[0], Filled):
        raise ValueError("a number, or one {{ }} that gives it and nothing beside")
    return written


def _is_filled_in(value: Any) -> str:
    return "[template]" if isinstance(value, str) and "{{" in value else "[number]"


class _Grammar(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )


Given = Annotated[str, AfterValidator(_is_one_value)]
"""A text of one `{{ }}` that gives a number."""
OrGiven = Annotated[
    Annotated[T, Tag("[number]")] | Annotated[Given, Tag("[template]")],
    Discriminator(_is_filled_in),
]
MaxTokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Dimensions = Annotated[int, Field(ge=1, le=MAX_DIMENSIONS)]
_KINDS_OF_NUMBERS: tuple[tuple[str, Any], ...] = (
    ("max_tokens", MaxTokens),
    ("temperature", Temperature),
    ("top_p", TopP),
    ("seed", Seed),
    ("frequency_penalty", Penalty),
    ("presence_penalty", Penalty),
    ("dimensions", Dimensions),
)
NUMBERS: Mapping[str, TypeAdapter[Any]] = MappingProxyType(
    {
        name: TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))
        for name, kind in _KINDS_OF_NUMBERS
    }
)
"""What a number must be that was filled in, by the name of its option."""


class LlmOptions(_Grammar):
    """What a chain can set for all its llm steps and each step for itself.

    A number may be filled in: then calls that differ in nothing else share a chain.
    """

    model: Models | None = None
    system: str | None = None
    max_tokens: OrGiven[MaxTokens] | None = None
    temperature: OrGiven[Temperature] | None = None
    top_p: OrGiven[TopP] | None = None
    stop: StopTexts | None = None
    seed: OrGiven[Seed] | None = None
    frequency_penalty: OrGiven[Penalty] | None = None
    presence_penalty: OrGiven[Penalty] | None = None
    reasoning_effort: (
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None
    ) = None


class Message(_Grammar):
    """One turn of the conversation a prompt may be written as."""

    role: Literal["system", "user", "assistant"]
    content: str


class LlmCall(LlmOptions):
    """A model call; its output is the object if there is a schema, else the text."""

    prompt: str | None = None
    messages: Annotated[Several[Message], Field(min_length=1, max_length=200)] | None = (
        None
    )
    output_schema: dict[str, Json] | None = Field(default=None, alias="schema")


class EmbedCall(_Grammar):
    """A call of an embedding model; its output is a list with a vector for each text.

    A vector is a list of numbers, or the base64 of little-endian float32.
    """

    model: Models
    input: str | Annotated[Several[str], Field(min_length=1, max_length=MAX_TEXTS)]
    dimensions: OrGiven[Dimensions] | None = None
    encoding: Literal["float", "base64"] = "float"


class ToolUse(_Grammar):
    """A call of a `@tool` function; its output is what the function returned."""

    use: ToolName
    arguments: dict[str, Json] = Field(default_factory=dict)


class Defaults(LlmOptions):
    """Options of every llm step that does not set them itself."""

    timeout: Timeout | None = None
    attempts: Attempts | None = None


class Block(_Grammar):
    """A list of steps that gives one output."""

    steps: Annotated[Several[Step], Field(min_length=1)]
    output: Json = None

    @property
    def has_output(self) -> bool:
        """Whether `output` is written; else the last step's output is the list's."""
        return "output" in self.model_fields_set


class Map(Block):
    """The same steps for each item of a list; its output is a list in order.

    Without `concurrency`, all items may begin at once.
    """

    over: Expression
    concurrency: Annotated[int, Field(ge=1, le=MAX_ITEMS)] = MAX_ITEMS
    on_error: Literal["fail", "skip", "collect"] = "fail"


class Case(Block):
    """One way a branch may go; without `if` it is taken when no other was."""

    condition: Expression | None = Field(default=None, alias="if")
    steps: Several[Step]


class Loop(Block):
    """Steps again and again until a condition holds; its output is the last turn's."""

    until: Expression
    max_iterations: Annotated[int, Field(ge=1, le=MAX_TURNS)]
    max_cost_usd: Annotated[float, Field(gt=0, le=1_000_000)] | None = None


class SubChain(_Grammar):
    """Another chain as a step: its name, `name@sha256:...`, or the chain itself."""

    use: Annotated[
        Annotated[Reference, Tag("[name]")] | Annotated[Chain, Tag("[chain]")],
        Discriminator(_is_object),
    ]
    inputs: dict[InputName, Json] = Field(default_factory=dict)


class Wait(_Grammar):
    """Nothing to do but wait: for a time, for a person, or for an event."""

    pause: Annotated[str, AfterValidator(_is_wait)] | None = Field(
        default=None, alias="for"
    )
    approval: Annotated[str, StringConstraints(min_length=1)] | None = None
    form: dict[str, Json] | None = None
    event: Name | None = None
    key: Annotated[str, StringConstraints(min_length=1)] | None = None


class Step(_Grammar):
    """One named thing to do: exactly one of the nine kinds is set."""

    name: Name
    llm: LlmCall | None = None
    embed: EmbedCall | None = None
    tool: ToolUse | None = None
    parallel: (
        Annotated[
            dict[Name, Annotated[Several[Step], Field(min_length=1)]],
            Field(min_length=1),
        ]
        | None
    ) = None
    map: Map | None = None
    branch: Annotated[Several[Case], Field(min_length=1)] | None = None
    loop: Loop | None = None
    chain: SubChain | None = None
    wait: Wait | None = None
    needs: Several[Name] | None = None
    when: Expression | None = None
    timeout: Timeout | None = None
    attempts: Attempts | None = None
    fallback: Json = None

    @property
    def kind(self) -> Kind:
        """The one kind that is written."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def has_fallback(self) -> bool:
        """Whether the step may fail; `fallback: null` says so too."""
        return "fallback" in self.model_fields_set


class Chain(Block):
    """A whole chain: inputs go in, steps run, one output comes out."""

    name: ChainName
    description: Annotated[str, StringConstraints(max_length=2000)] = ""
    inputs: dict[InputName, dict[str, Json]] = Field(default_factory=dict)
    defaults: Defaults = Field(default_factory=Defaults)
