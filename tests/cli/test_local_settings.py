"""The derived settings of `up`: who is simulated, and a file that reads back."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from llmgine_workers import settings as room
from llmgine_workers.cli import local_settings, toml
from llmgine_workers.cli.local_settings import Addresses
from llmgine_workers.settings import Settings

AT = Addresses(
    ledger="postgresql://postgres:p@127.0.0.1:1/postgres",
    redis="redis://:p@127.0.0.1:2/0",
    broker="amqp://u:p@127.0.0.1:3/%2F",
    gateway="127.0.0.1:4",
    flower="127.0.0.1:5",
    simulator="http://127.0.0.1:6",
)


def derived(tmp_path: Path, text: str, environ: dict[str, str]) -> Settings:
    """What a child reads, from what the operator wrote."""
    written = tmp_path / "llmgine.toml"
    written.write_text(text, "utf-8")
    settings = room.load(written, environ)
    tree = local_settings.derive(settings, environ, AT)
    file = tmp_path / "derived.toml"
    file.write_text(toml.dumps(tree), "utf-8")
    return room.load(file, local_settings.of_children(environ))


def test_without_keys_every_provider_is_simulated(tmp_path: Path) -> None:
    found = derived(tmp_path, "", {})
    assert {name: p.simulated for name, p in found.providers.items()} == {
        "openai": True,
        "anthropic": True,
    }
    assert found.providers["openai"].base_url == "http://127.0.0.1:6/v1"
    assert found.providers["anthropic"].base_url == "http://127.0.0.1:6"
    assert found.pools({}) == ("openai", "anthropic", "tools")


def test_a_key_makes_a_provider_real_and_first_in_the_aliases(tmp_path: Path) -> None:
    environ = {"ANTHROPIC_API_KEY": "sk-ant"}
    found = derived(tmp_path, "", environ)
    assert not found.providers["anthropic"].simulated
    assert found.providers["anthropic"].base_url is None
    assert found.providers["openai"].simulated
    assert found.models["fast"][0].startswith("anthropic/")
    assert found.models["smart"][0].startswith("anthropic/")


def test_one_that_needs_no_key_is_left_alone(tmp_path: Path) -> None:
    found = derived(tmp_path, "[providers.ollama]\n", {})
    assert list(found.providers) == ["ollama"]
    assert not found.providers["ollama"].simulated
    assert "fast" not in found.models


def test_what_the_operator_wrote_survives(tmp_path: Path) -> None:
    text = """
        chains = {paths = ["mine"]}
        steps = {timeout = "7s", max_attempts = 2}
        worker = {slots = 7, grace = "3s"}
        [models]
        fast = ["openai/gpt-5"]
        [[limits]]
        match = "openai/*"
        requests = "600/1m"
        [prices."openai/*"]
        input = 0.5
        output = 1.5
        [providers.openai]
    """
    found = derived(tmp_path, text, {"LLMGINE_STEPS__TIMEOUT": "9s"})
    assert found.chains.paths == ("mine",)
    assert (found.steps.timeout, found.steps.max_attempts) == (9.0, 2)
    assert (found.worker.slots, found.worker.grace) == (7, 3.0)
    assert found.models["fast"] == ("openai/gpt-5",)
    rate = found.limits[0].requests
    assert rate is not None
    assert (rate.count, rate.window_s) == (600, 60)
    assert found.prices["openai/*"].output == 1.5


def test_the_addresses_are_those_of_this_machine_whatever_the_variables_say(
    tmp_path: Path,
) -> None:
    environ = {"LLMGINE_LEDGER__URL": "postgresql://far/away", "LLMGINE_API_KEY": "k"}
    found = derived(tmp_path, "", environ)
    assert found.ledger.url == AT.ledger
    assert (found.redis.url, found.broker.url) == (AT.redis, AT.broker)
    assert local_settings.of_children(environ)["LLMGINE_API_KEY"] == "k"


def test_ctrl_c_ends_within_seconds_whatever_the_grace(tmp_path: Path) -> None:
    assert derived(tmp_path, "", {}).worker.grace == local_settings.GRACE_S


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
_SCALARS = st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9) | _TEXTS
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3)
    ),
    max_leaves=5,
)
_TREES = st.dictionaries(_TEXTS, _VALUES, max_size=3)


@given(_TREES)
def test_any_tree_reads_back_as_it_was(tree: dict[str, object]) -> None:
    import tomllib

    assert tomllib.loads(toml.dumps(tree)) == tree
