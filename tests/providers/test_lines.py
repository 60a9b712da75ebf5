"""A call beside the SDK is the call that the SDK would have made."""

from __future__ import annotations

import pytest

from llmgine_workers.providers.lines import DirectLine, SdkLine
from tests.providers.conftest import JOB, KEY, Seen, Side, answering, head

OF_ITS_OWN_WAY = (
    *("x-stainless-retry-count", "x-stainless-read-timeout", "x-stainless-timeout"),
    "connection",
)
"""The SDK's words on its own retries and time-outs, and what HTTP/1.1 takes for said."""


def lines_of(request: bytes) -> tuple[str, dict[str, str], bytes]:
    top, _, body = request.partition(b"\r\n\r\n")
    first, *rest = top.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in rest)
    for name in OF_ITS_OWN_WAY:
        headers.pop(name, None)
    return first, headers, body


async def test_it_sends_what_the_sdk_would_send(side: Side) -> None:
    seen = Seen()
    async with answering([head(), b"{}"], seen=seen) as origin:
        client = side.service.client(side.service, origin + side.under, KEY)
        assert isinstance(client, DirectLine)
        for line in (client, SdkLine(client._client)):
            response = await line.post(side.service.path, b'{"a":1}', JOB, 5.0)
            await response.aclose()
        await client.close()
    direct, through_the_sdk = map(lines_of, seen.requests)
    assert direct == through_the_sdk
    assert KEY in str(direct)


async def test_it_goes_through_the_proxy_that_the_environment_names(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen()
    async with answering([head(), b"{}"], seen=seen) as proxy:
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "elsewhere.test")
        url = "http://models.test" + side.under
        line = side.service.client(side.service, url, KEY)
        response = await line.post(side.service.path, b"{}", JOB, 5.0)
        await response.aclose()
        await line.close()
    assert lines_of(seen.requests[0])[0].startswith("POST http://models.test/")
