"""One POST to a stranger: no redirect, little time, little read, no inner address."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from llmgine_workers.webhooks.address import (
    Address,
    Network,
    NotAllowed,
    check_address,
    check_url,
)

ANSWER_S = 10.0
"""For all of it: the look-up, the connection, the answer's head."""
MAX_READ = 1024
"""Bytes of an answer that are read; nothing in it matters but the status."""


@dataclass(frozen=True)
class Sent:
    """How one try went: `status` of the answer, or why there was none."""

    status: int | None
    error: str | None
    ms: int

    @property
    def is_taken(self) -> bool:
        """Any 2xx."""
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """Sends messages; `allowed` are networks that are not public and may be called."""

    def __init__(self, allowed: Sequence[Network] = (), answer_s: float = ANSWER_S):
        self._allowed = tuple(allowed)
        self._answer_s = answer_s

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Sent:
        """One try; never raises for what the receiver does."""
        began = time.monotonic()
        status, error = None, None
        try:
            check_url(url, self._allowed)
            async with asyncio.timeout(self._answer_s):
                status = await self._post(url, body, headers)
            if status >= 300:
                error = f"answered {status}"
        except TimeoutError:
            error = f"no answer in {self._answer_s:g} s"
        except NotAllowed as refused:
            error = str(refused)
        except (aiohttp.ClientError, OSError, ValueError) as failed:
            refused_by = failed.__cause__ or failed
            error = (
                str(refused_by) if isinstance(refused_by, NotAllowed) else _name(failed)
            )
        return Sent(status, error, round((time.monotonic() - began) * 1000))

    async def _post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        connector = aiohttp.TCPConnector(
            resolver=_Public(self._allowed),
            socket_factory=self._socket,
            use_dns_cache=False,
            force_close=True,
        )
        async with (
            aiohttp.ClientSession(
                connector=connector, trust_env=False, auto_decompress=False
            ) as session,
            session.post(
                url, data=body, headers=dict(headers), allow_redirects=False
            ) as response,
        ):
            with suppress(aiohttp.ClientError):
                await response.content.read(MAX_READ)
            return response.status

    def _socket(self, found: aiohttp.AddrInfoType) -> socket.socket:
        """For an address about to be connected to; literal ones come only here."""
        kind, of_stream, proto, _, address = found
        check_address(_address_of(address), self._allowed)
        return socket.socket(kind, of_stream, proto)


class _Public(AbstractResolver):
    """Answers the addresses that are connected to, and only if all of them may be."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Look a name up; NotAllowed if any address of it is not public."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        for *_, address in found:
            check_address(_address_of(address), self._allowed)
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=int(address[1]),
                family=kind, proto=proto, flags=socket.AI_NUMERICHOST,
            )
            for kind, _, proto, _, address in found
        ]  # fmt: skip

    async def close(self) -> None:
        """Nothing is held."""


def _address_of(socket_address: Sequence[Any]) -> Address:
    return ipaddress.ip_address(str(socket_address[0]).partition("%")[0])


def _name(error: Any) -> str:
    return f"not reached: {type(error).__name__}"
