"""The official SDKs' clients: they find addresses, send keys, keep connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx2

from llmgine_workers.providers.lines import (
    CONNECTIONS,
    KEEP_S,
    DirectLine,
    Line,
    SdkLine,
    timeouts,
)

if TYPE_CHECKING:
    from llmgine_workers.providers.rows import Service

Opener = Callable[["Service", str, str], Line]
"""From a service, its address and the key to a line, found by an SDK's async client.

It imports the SDK and opens no socket; ConfigurationError says what is missing.
"""


def openai_client(service: Service, url: str, key: str) -> Line:
    """`AsyncOpenAI`, without its own retries."""
    import openai

    return DirectLine(
        openai.AsyncOpenAI(api_key=key or "none", base_url=url, **ways(service, openai))
    )


def compatible_client(service: Service, url: str, key: str) -> Line:
    """The same, for anybody but OpenAI."""
    import openai

    return DirectLine(
        openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=url,
            default_headers=_own_headers(f"Bearer {key or 'none'}"),
            **ways(service, openai),
        )
    )


def azure_client(service: Service, url: str, key: str) -> Line:
    """`AsyncAzureOpenAI`: the key in `api-key`, the version of the API in the query."""
    import openai

    return SdkLine(
        openai.AsyncAzureOpenAI(
            api_key=key or "none",
            base_url=url,
            api_version=service.query["api-version"],
            default_headers=_own_headers(openai.Omit()),
            **ways(service, openai),
        )
    )


def _own_headers(authorization: Any) -> dict[str, Any]:
    """Headers that keep back what the environment holds for OpenAI alone.

    The SDK would send OPENAI_ORG_ID and OPENAI_PROJECT_ID to everybody, and prefer an
    authorization in OPENAI_CUSTOM_HEADERS to the key.
    """
    import openai

    return {
        "Authorization": authorization,
        "OpenAI-Organization": openai.Omit(),
        "OpenAI-Project": openai.Omit(),
    }


def anthropic_client(service: Service, url: str, key: str) -> Line:
    """`AsyncAnthropic`, without its own retries and spans."""
    import anthropic

    return DirectLine(
        anthropic.AsyncAnthropic(
            api_key=key or "none",
            base_url=url,
            open_telemetry=False,
            **ways(service, anthropic),
        )
    )


def ways(service: Service, sdk: Any) -> dict[str, Any]:
    """What every client of an SDK is opened with."""
    return {
        "default_query": dict(service.query),
        "max_retries": 0,
        "http_client": _transport(sdk),
    }


def _transport(sdk: Any) -> Any:
    """The SDK's `DefaultAioHttpClient`, sized for thousands of calls at once.

    No redirects: they would carry the key to whatever address they name. No
    compression: answers are small and decompressing has no bound. (aiohttp takes the
    pool's time-out for the whole of finding a connection.)
    """
    return sdk.DefaultAioHttpClient(
        limits=httpx2.Limits(
            max_connections=CONNECTIONS,
            max_keepalive_connections=CONNECTIONS,
            keepalive_expiry=KEEP_S,
        ),
        timeout=timeouts(None),
        follow_redirects=False,
        headers={"Accept-Encoding": "identity"},
    )
