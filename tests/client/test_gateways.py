from __future__ import annotations

import os
import subprocess
import sys

import pytest

from llmgine_workers import Client
from llmgine_workers.client.connection import DEFAULT_URL, QUICK, Gateway


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGINE_URL", "https://llm.example/base/")
    monkeypatch.setenv("LLMGINE_API_KEY", "llmg_environment_key")


def test_without_arguments_the_environment_says_where_and_who() -> None:
    gateway = Gateway.given(None, None)
    assert gateway == Gateway("https://llm.example/base", "llmg_environment_key")
    authorization = gateway.settings(QUICK)["headers"]["Authorization"]
    assert authorization == "Bearer llmg_environment_key"


def test_the_environments_key_goes_to_no_other_address() -> None:
    assert Gateway.given("http://elsewhere:8080", None).key is None
    assert Gateway.given("http://elsewhere:8080", None).settings(QUICK)["headers"] == {}


def test_a_key_of_ones_own_goes_not_to_the_environments_address() -> None:
    assert Gateway.given(None, "llmg_mine").url == DEFAULT_URL


def test_without_anything_it_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGINE_URL", "")
    monkeypatch.delenv("LLMGINE_API_KEY")
    assert Gateway.given(None, None) == Gateway(DEFAULT_URL, None)


@pytest.mark.parametrize(
    "url", ["gateway:8080", "ftp://gateway", "http://", "http://gateway:port"]
)
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=url):
        Client(url)


@pytest.mark.parametrize("key", ["llmg_ö", "llmg_\n"])
def test_what_is_no_key_is_refused_at_once(key: str) -> None:
    with pytest.raises(ValueError, match="ASCII"):
        Client("http://gateway", key)


def test_a_key_is_not_shown() -> None:
    assert "environment_key" not in repr(Gateway.given(None, None))


def test_only_a_foreign_address_is_looked_for_through_a_proxy() -> None:
    assert Gateway.given("http://gateway", None).settings(QUICK)["trust_env"]
    for here in ("http://localhost:8080", "http://127.0.0.1", "http://[::1]:8080"):
        assert not Gateway.given(here, None).settings(QUICK)["trust_env"]


def test_the_client_stands_alone_and_comes_only_when_it_is_asked_for() -> None:
    code = (
        "import sys, llmgine_workers\n"
        "assert 'httpx2' not in sys.modules\n"
        "from llmgine_workers import AsyncClient, Client\n"
        "ours = 'llmgine_workers.', 'gateway', 'chains'\n"
        "print({name for name in sys.modules if name.startswith(ours)\n"
        "       and not name.startswith('llmgine_workers.client')})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=60, check=True, env={**os.environ},
    )  # fmt: skip
    assert found.stdout == "set()\n"
