"""The parts of a call that need no network."""

from __future__ import annotations

import email.utils
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgine_workers.errors import ConfigurationError
from llmgine_workers.llm import LlmRequest, Message
from llmgine_workers.providers import failures, open_providers, rows, sse
from llmgine_workers.providers.anthropic_wire import AnthropicWire
from llmgine_workers.providers.openai_wire import OpenAIWire
from llmgine_workers.providers.sse import Event, EventParser
from llmgine_workers.settings import ProviderSettings

REQUEST = LlmRequest(
    model="m",
    messages=(Message("user", "Hi"),),
    system="Be brief.",
    max_tokens=50,
    parameters={
        "temperature": 0.2,
        "stop": "END",
        "reasoning_effort": "low",
        "service_tier": "flex",
        "top_k": 4,
    },
)


def test_openai_takes_sampling_and_its_own_word_for_max_tokens() -> None:
    assert OpenAIWire().body(REQUEST, rows.OPENAI, streamed=True) == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
        ],
        "max_completion_tokens": 50,
        "temperature": 0.2,
        "stop": "END",
        "reasoning_effort": "low",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_compatible_services_take_the_old_word() -> None:
    body = OpenAIWire().body(REQUEST, rows.COMPATIBLE, streamed=False)
    assert body["max_tokens"] == 50
    assert body["top_k"] == 4
    assert "stream" not in body


def test_anthropic_takes_no_sampling_and_needs_max_tokens() -> None:
    wire = AnthropicWire()
    assert wire.body(REQUEST, rows.ANTHROPIC, streamed=False) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 50,
        "system": "Be brief.",
        "stop_sequences": ["END"],
        "output_config": {"effort": "low"},
    }
    bare = LlmRequest("m", (Message("user", "Hi"),))
    assert wire.body(bare, rows.ANTHROPIC, streamed=False)["max_tokens"] == 4096


def test_schemas_are_asked_for_natively() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}}
    request = LlmRequest("m", (Message("user", "Hi"),), schema=schema)
    asked = OpenAIWire().body(request, rows.OPENAI, streamed=False)["response_format"]
    assert asked["json_schema"] == {"name": "answer", "schema": schema, "strict": False}
    config = AnthropicWire().body(request, rows.ANTHROPIC, streamed=False)[
        "output_config"
    ]
    assert config["format"]["type"] == "json_schema"
    assert config["format"]["schema"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "86400"}, 900),
        ({"retry-after": "inf"}, 900),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 9999 07:28:00 GMT"}, 900),
    ],
)
def test_retry_after_is_read_and_bounded(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert failures.retry_after_s(headers) == seconds


def test_retry_after_may_be_a_date() -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert failures.retry_after_s({"retry-after": date}) == pytest.approx(30, abs=2)


@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(["", "ping", "delta"]),
            st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])),
        )
    ),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 400)),
)
def test_events_survive_any_cutting(
    events: list[tuple[str, str]], end: str, cuts: list[int]
) -> None:
    text = "".join(
        (f"event: {name}{end}" if name else "") + f"data: {data}{end}: hm{end}{end}"
        for name, data in events
    ).encode()
    at = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    parser = EventParser()
    found = [
        event for start, stop in pairwise(at) for event in parser.feed(text[start:stop])
    ]
    found += parser.end()
    assert found == [Event(name.encode(), data.encode()) for name, data in events]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_survive_one_cut_anywhere(end: str) -> None:
    text = f"event: a{end}data: ü{end}{end}event: b{end}data: 2{end}{end}".encode()
    for at in range(len(text) + 1):
        parser = EventParser()
        found = [*parser.feed(text[:at]), *parser.feed(text[at:]), *parser.end()]
        assert found == [Event(b"a", "ü".encode()), Event(b"b", b"2")]


def test_a_byte_order_mark_is_no_data() -> None:
    assert EventParser().feed(b"\xef\xbb\xbfdata: x\n\n") == [Event(b"", b"x")]


def test_several_data_lines_are_one_event() -> None:
    assert EventParser().feed(b"data: a\ndata: b\nid: 3\n\n") == [Event(b"", b"a\nb")]


@pytest.mark.parametrize("piece", [b"x" * 300, b"data: " + b"x" * 300 + b"\n"])
def test_no_event_grows_without_bound(
    piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 1_000)
    parser = sse.EventParser()
    for _ in range(3):
        assert parser.feed(piece) == []
    with pytest.raises(sse.EventTooLong):
        parser.feed(piece)


async def test_providers_open_by_their_settings() -> None:
    configured = {
        "openai": ProviderSettings(wire="openai", key_env="A_KEY"),
        "anthropic": ProviderSettings(wire="anthropic", key_env="A_KEY"),
        "ollama": ProviderSettings(wire="openai", base_url="http://localhost:11434/v1"),
    }
    opened = open_providers(configured, {"A_KEY": "sk-1\n"})
    assert list(opened) == ["openai", "anthropic", "ollama"]
    for provider in opened.values():
        await provider.close()


@pytest.mark.parametrize(
    ("settings", "key", "complaint"),
    [
        (ProviderSettings(wire="openai"), "", "providers.mine: base_url is missing"),
        (
            ProviderSettings(wire="anthropic", key_env="A_KEY"),
            " ",
            "providers.mine: A_KEY is empty",
        ),
        (
            ProviderSettings(wire="anthropic", key_env="A_KEY"),
            "sk-…",
            "providers.mine: A_KEY holds a character no key has",
        ),
    ],
)
def test_settings_that_cannot_work_are_named(
    settings: ProviderSettings, key: str, complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        open_providers({"mine": settings}, {"A_KEY": key})


def test_importing_the_room_imports_no_sdk() -> None:
    code = (
        "import sys, llmgine_workers.providers, llmgine_workers.prices\n"
        "print([m for m in ('openai', 'anthropic', 'httpx2', 'aiohttp', 'genai_prices')"
        " if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
