"""The settings: `llmgine.toml`, overridden by `LLMGINE_...` variables, checked whole."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_serializer,
    model_validator,
)

from chains import duration
from llmgine_workers.errors import ConfigurationError

PLACES = (Path("llmgine.toml"), Path("/etc/llmgine/llmgine.toml"))
TOOLS_POOL = "tools"
_SIZES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_POOL_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}")


def _duration(value: Any) -> Any:
    return duration.seconds(value) if isinstance(value, str) else value


def _size(value: Any) -> Any:
    match = re.fullmatch(r"(\d+)(B|KiB|MiB|GiB)", str(value))
    return int(match[1]) * _SIZES[match[2]] if match else value


def _rate(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    count, _, window = value.partition("/")
    if not count.isdigit():
        raise ValueError("a rate is written like 600/1m")
    return {"count": int(count), "window_s": duration.seconds(window)}


Seconds = Annotated[float, BeforeValidator(_duration), Field(gt=0)]
Bytes = Annotated[int, BeforeValidator(_size), Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LedgerSettings(_Section):
    """PostgreSQL, and how long finished jobs are kept (seconds)."""

    url: str = "postgresql://localhost/llmgine"
    keep: Seconds = 30 * 86400.0
    keep_payloads: Seconds = 7 * 86400.0


class BrokerSettings(_Section):
    """RabbitMQ (embedded: a Redis URL). `window` bounds published, unclaimed steps."""

    url: str = "amqp://localhost"
    prefix: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")] = "llmgine"
    window: Annotated[int, Field(ge=100, le=1_000_000)] = 2000


class RedisSettings(_Section):
    """Redis or Valkey; `keep_streams` is how long a stream outlives its job (seconds)."""

    url: str = "redis://localhost"
    keep_streams: Seconds = 900.0


class GatewaySettings(_Section):
    """The HTTP front: `max_body` in bytes."""

    listen: str = "127.0.0.1:8080"
    max_body: Bytes = 1024**2
    max_queued_per_tenant: Annotated[int, Field(ge=1)] = 1_000_000


class WorkerSettings(_Section):
    """Steps at once in one process, and the time SIGTERM gives them (seconds)."""

    slots: Annotated[int, Field(ge=1, le=10_000)] = 200
    grace: Seconds = 60.0


class HealthSettings(_Section):
    """A file that workers and schedulers touch while they work; empty: none."""

    file: str = ""


class StepSettings(_Section):
    """Defaults of every step: the time of one attempt (seconds) and how often.

    `failover_after` is how long a step waits for one model of several (seconds).
    """

    timeout: Seconds = 300.0
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    max_crashes: Annotated[int, Field(ge=1, le=100)] = 3
    failover_after: Seconds = 10.0


class ChainSettings(_Section):
    """Folders whose chains are pushed to the registry at start."""

    paths: tuple[str, ...] = ("chains",)


class ToolSettings(_Section):
    """Python modules with `@tool` functions."""

    modules: tuple[str, ...] = ()


class FlowerSettings(_Section):
    """Flower's address and the variables that hold its user and password."""

    listen: str = "127.0.0.1:5555"
    user_env: str = "FLOWER_USER"
    password_env: str = "FLOWER_PASSWORD"  # noqa: S105 - a variable's name
    url_prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_/-]*$")] = ""


def _network(text: str) -> str:
    ip_network(text)
    return text


def _secrets(secret: SecretStr) -> SecretStr:
    for word in secret.get_secret_value().split():
        if not re.fullmatch(r"whsec_[A-Za-z0-9+/]{32,88}={0,2}", word):
            raise ValueError("a secret is whsec_ and 24 to 64 bytes in base64")
    return secret


class WebhookSettings(_Section):
    """What webhooks are signed with: one secret, or two (the newer first) while
    receivers change; without one none is taken. `allow`: networks that are not public
    and may be called all the same.
    """

    secret: Annotated[SecretStr, AfterValidator(_secrets)] = SecretStr("")
    allow: tuple[Annotated[str, AfterValidator(_network)], ...] = ()

    @field_serializer("secret")
    def _written(self, secret: SecretStr) -> str:
        """As it is: what is dumped is the settings file of a child, never a log."""
        return secret.get_secret_value()

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """`allow`, as networks."""
        return tuple(ip_network(text) for text in self.allow)


def _not_yet(value: str) -> str:
    if value:
        raise ValueError("not supported by this version; leave it empty")
    return value


class TelemetrySettings(_Section):
    """Where traces go, where workers and schedulers show metrics, how logs look."""

    otlp: Annotated[str, AfterValidator(_not_yet)] = ""
    metrics: str = ""
    logs: Literal["json", "console"] = "json"


PROVIDER_ROWS: dict[str, dict[str, str]] = {
    "anthropic": {"wire": "anthropic", "key_env": "ANTHROPIC_API_KEY"},
    "azure": {"wire": "openai", "key_env": "AZURE_OPENAI_API_KEY"},
    "azure-deployments": {"wire": "openai", "key_env": "AZURE_OPENAI_API_KEY"},
    "bedrock": {"wire": "openai", "key_env": "AWS_BEARER_TOKEN_BEDROCK"},
    "bedrock-claude": {"wire": "anthropic", "key_env": "AWS_BEARER_TOKEN_BEDROCK"},
    "deepseek": {"wire": "openai", "key_env": "DEEPSEEK_API_KEY"},
    "gemini": {"wire": "openai", "key_env": "GEMINI_API_KEY"},
    "groq": {"wire": "openai", "key_env": "GROQ_API_KEY"},
    "mistral": {"wire": "openai", "key_env": "MISTRAL_API_KEY"},
    "ollama": {"wire": "openai"},
    "openai": {"wire": "openai", "key_env": "OPENAI_API_KEY"},
    "openrouter": {"wire": "openai", "key_env": "OPENROUTER_API_KEY"},
    "together": {"wire": "openai", "key_env": "TOGETHER_API_KEY"},
    "vertex": {"wire": "openai"},
    "vertex-claude": {"wire": "anthropic"},
    "vllm": {"wire": "openai"},
    "xai": {"wire": "openai", "key_env": "XAI_API_KEY"},
}
"""Services known by name: `[providers.NAME]` may then leave these keys out.

Their addresses and ways are in `providers/rows.py`.
"""


def _known(name: str) -> str:
    if name not in PROVIDER_ROWS:
        raise ValueError(f"{name!r} is none of {', '.join(PROVIDER_ROWS)}")
    return name


class ProviderSettings(_Section):
    """One service: its wire format, address and the variable that holds its key.

    `key_env = ""` says that it needs no key. `enabled` says whether jobs may use it; left
    out, its key decides, so that a gateway would have to hold it. `like` names the known
    service that this one is, under another name (a second account or region). `query`
    goes into the address of every call. `simulated` marks answers as not real.
    """

    wire: Literal["openai", "anthropic"]
    base_url: str | None = None
    key_env: str = ""
    enabled: bool | None = None
    like: Annotated[str, AfterValidator(_known)] | None = None
    query: dict[str, str] = Field(default_factory=dict)
    simulated: bool = False

    def is_enabled(self, environ: Mapping[str, str]) -> bool:
        """Whether jobs may use it."""
        if self.enabled is not None:
            return self.enabled
        return not self.key_env or bool(environ.get(self.key_env))


class Rate(_Section):
    """So many in any window of that length (seconds)."""

    count: Annotated[int, Field(ge=1, le=10**12)]
    window_s: Annotated[float, Field(ge=1, le=86400)]


class Money(_Section):
    """So many micro-dollars in any window of that length (seconds)."""

    micro: Annotated[int, Field(ge=1, le=10**15)]
    window_s: Annotated[float, Field(ge=1, le=31 * 86400)]


def _money(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    usd, _, window = value.partition("/")
    try:
        micro = round(float(usd) * 1_000_000)
    except (ValueError, OverflowError):
        raise ValueError("money is written like 50/1d") from None
    return {"micro": micro, "window_s": duration.seconds(window)}


AMOUNTS = ("requests", "tokens", "input_tokens", "output_tokens", "in_flight")
"""What a limit can count in Redis; a `[[limits]]` names one of them, or `usd`."""

_MATCH = r"^(\*|[a-z][a-z0-9_-]*/(\*|[^\s*]+))$"
_RateOrNone = Annotated[Rate | None, BeforeValidator(_rate)]


class LimitSettings(_Section):
    """A limit over all workers; `match` is `*`, `provider/*` or `provider/model`.

    Each amount is a limit of its own and all must have room. With `per = "tenant"`
    every tenant has the whole of it. `estimate = "learned"` reserves tokens by what
    calls turned out to use, not by what they can use at most: more of the limit is
    used, and at times too much. `usd` is kept in the ledger; `on_exhausted` says what
    becomes of a call that has no room in it.
    """

    match: Annotated[str, Field(pattern=_MATCH)]
    per: Literal["tenant"] | None = None
    requests: _RateOrNone = None
    tokens: _RateOrNone = None
    input_tokens: _RateOrNone = None
    output_tokens: _RateOrNone = None
    in_flight: Annotated[int, Field(ge=1)] | None = None
    usd: Annotated[Money | None, BeforeValidator(_money)] = None
    on_exhausted: Literal["wait", "refuse"] = "wait"
    estimate: Literal["bound", "learned"] = "bound"

    @model_validator(mode="after")
    def _some_amount(self) -> LimitSettings:
        amounts = (*AMOUNTS, "usd")
        if all(getattr(self, amount) is None for amount in amounts):
            raise ValueError(f"{self.match}: names none of {', '.join(amounts)}")
        return self

    @property
    def provider(self) -> str | None:
        """The provider whose calls it bounds; None: everyone's."""
        return None if self.match == "*" else self.match.partition("/")[0]

    def matches(self, model: str) -> bool:
        """Whether it bounds the calls of `provider/model`."""
        return self.match in ("*", model, f"{model.partition('/')[0]}/*")


class TenantSettings(_Section):
    """One tenant's `weight`: its share of a pool that several tenants want."""

    weight: Annotated[float, Field(ge=0.01, le=1000)] = 1.0


class PriceSettings(_Section):
    """Dollars per million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]


def _model_list(value: tuple[str, ...]) -> tuple[str, ...]:
    for model in value:
        if "/" not in model.strip("/"):
            raise ValueError(f"{model!r} is not provider/model")
    return value


ModelList = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_model_list)]


class Settings(_Section):
    """Everything an operator can set; unknown keys are refused."""

    ledger: LedgerSettings = LedgerSettings()
    broker: BrokerSettings = BrokerSettings()
    redis: RedisSettings = RedisSettings()
    gateway: GatewaySettings = GatewaySettings()
    worker: WorkerSettings = WorkerSettings()
    health: HealthSettings = HealthSettings()
    steps: StepSettings = StepSettings()
    chains: ChainSettings = ChainSettings()
    tools: ToolSettings = ToolSettings()
    flower: FlowerSettings = FlowerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    webhooks: WebhookSettings = WebhookSettings()
    providers: dict[str, ProviderSettings] = Field(default_factory=dict)
    models: dict[str, ModelList] = Field(default_factory=dict)
    limits: tuple[LimitSettings, ...] = ()
    tenants: dict[str, TenantSettings] = Field(default_factory=dict)
    prices: dict[str, PriceSettings] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_fit(self) -> Settings:
        for name in self.providers:
            if not _POOL_NAME.fullmatch(name) or name in (TOOLS_POOL, "dead", "unrouted"):
                raise ValueError(f"providers.{name}: not a usable pool name")
        for alias in self.models:
            if "/" in alias:
                raise ValueError(f"models.{alias}: an alias has no slash")
        for limit in self.limits:
            if limit.provider not in (None, *self.providers):
                raise ValueError(f"limits: no [providers.{limit.provider}] to match")
        return self

    def enabled_providers(
        self, environ: Mapping[str, str]
    ) -> dict[str, ProviderSettings]:
        """Those that say so; of the others those whose key is there or that need none."""
        return {
            name: provider
            for name, provider in self.providers.items()
            if provider.is_enabled(environ)
        }

    def pools(self, environ: Mapping[str, str]) -> tuple[str, ...]:
        """Every pool of this installation: the enabled providers and the tools."""
        return (*self.enabled_providers(environ), TOOLS_POOL)


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the file (or the first of `PLACES`), lay the variables over it, check all.

    ConfigurationError names each wrong key and its limit, never a secret's value.
    """
    tree = _read(path)
    _add_provider_rows(tree)
    _lay_over(tree, environ)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigurationError(_sentences(error)) from None


def _read(path: Path | None) -> dict[str, Any]:
    found = path or next((place for place in PLACES if place.is_file()), None)
    if found is None:
        return {}
    try:
        return tomllib.loads(found.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{found}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{found}: {error}") from None


def _add_provider_rows(tree: dict[str, Any]) -> None:
    providers = tree.setdefault("providers", {"openai": {}, "anthropic": {}})
    if not isinstance(providers, dict):
        return
    for name, given in providers.items():
        if isinstance(given, dict):
            row = PROVIDER_ROWS.get(str(given.get("like", name)), {})
            providers[name] = {**row, **given}


def _lay_over(tree: dict[str, Any], environ: Mapping[str, str]) -> None:
    """`LLMGINE_BROKER__URL` is `broker.url`; `..._FILE` reads the value from a file."""
    for name, value in environ.items():
        section, mark, key = name.removeprefix("LLMGINE_").partition("__")
        if not name.startswith("LLMGINE_") or not mark:
            continue
        if key.endswith("_FILE"):
            key, value = key.removesuffix("_FILE"), _secret(name, value)
        _set(tree, [section.lower(), *key.lower().split("__")], value)


def _secret(name: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"{name}: {path}: {error.strerror}") from None


def _set(tree: dict[str, Any], path: list[str], value: str) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigurationError(f"{'.'.join(path)}: {part} is not a section")
    tree[path[-1]] = value


def _sentences(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, found['loc'])) or 'settings'}: {found['msg']}"
        for found in error.errors(include_url=False, include_input=False)
    )
