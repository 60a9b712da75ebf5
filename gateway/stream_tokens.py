"""Tokens for the events of one job: for browsers, which send no header with them.

A token names the API key that asked for it and is signed with that key's stored hash:
any gateway can check it, none has to keep it, and it ends with its key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query
from starlette.requests import HTTPConnection

from gateway.answers import JobId
from gateway.auth import Caller, Keyring, refuse
from llmgine_workers import clock
from llmgine_workers.ledger.api_keys import ApiKey

LIFE = timedelta(minutes=5)
"""How long a token opens streams; one that is open goes on."""

_TOKEN = re.compile(r"llms_([a-z0-9]{12})_([0-9]{1,12})_([0-9a-f]{64})")


async def issue(keyring: Keyring, caller: Caller, job: UUID) -> tuple[str, datetime]:
    """A token for that job, and when it ends."""
    key = await keyring.stored(caller.key)
    if key is None:
        refuse()
    ends = int((clock.now() + LIFE).timestamp())
    token = f"llms_{key.id}_{ends}_{_signature(key, job, ends)}"
    return token, datetime.fromtimestamp(ends, tz=clock.now().tzinfo)


async def caller_of(keyring: Keyring, token: str, job: UUID) -> Caller:
    """Whose token it is; Problem `unauthenticated`, the same for every reason."""
    match = _TOKEN.fullmatch(token)
    key = await keyring.stored(match[1]) if match else None
    if match is None or key is None or key.revoked_at or "read" not in key.scopes:
        refuse()
    ends = int(match[2])
    signed = hmac.compare_digest(match[3], _signature(key, job, ends))
    if not signed or ends <= clock.now().timestamp():
        refuse()
    return Caller(key.tenant, frozenset({"read"}), key.id)


def with_scope_or_token(scope: str) -> Any:
    """A parameter's default: who may follow the job, by a key or by a token."""

    async def checked(
        connection: HTTPConnection,
        job: JobId,
        token: Annotated[str | None, Query(description="From stream-token")] = None,
    ) -> Caller:
        keyring: Keyring = connection.app.state.gateway.keyring
        if token is not None:
            return await caller_of(keyring, token, job)
        caller = await keyring.caller(connection.headers.get("authorization"))
        caller.need(scope)
        return caller

    dependency: Callable[..., Coroutine[Any, Any, Caller]] = checked
    return Depends(dependency)


def _signature(key: ApiKey, job: UUID, ends: int) -> str:
    said = f"llmgine stream token {job} {ends}".encode()
    return hmac.new(key.hash, said, hashlib.sha256).hexdigest()
