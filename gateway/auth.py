"""Who is asking: an API key becomes a tenant and scopes, looked up at most every 5 s."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, Never

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from gateway.errors import Problem
from llmgine_workers import keys
from llmgine_workers.ledger import api_keys
from llmgine_workers.ledger.api_keys import ApiKey
from llmgine_workers.ledger.connection import Ledger

CACHED_S = 5.0
"""How long a revoked key may go on working (reliability rule J3)."""
CACHED_KEYS = 10_000


@dataclass(frozen=True)
class Caller:
    """Whose request it is and what its key may do."""

    tenant: str
    scopes: frozenset[str]
    key: str = ""

    def need(self, scope: str) -> None:
        """Problem `missing_scope` unless the key has it."""
        if scope not in self.scopes:
            raise Problem("missing_scope", f"this needs a key with the scope {scope!r}")


class Keyring:
    """The keys of the ledger as this process last saw them, unknown ones included."""

    def __init__(
        self, ledger: Ledger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, ApiKey | None]] = OrderedDict()

    async def caller(self, authorization: str | None) -> Caller:
        """Who sent that header; Problem `unauthenticated`, the same for every reason."""
        scheme, _, text = (authorization or "").partition(" ")
        presented = keys.parse(text.strip()) if scheme.lower() == "bearer" else None
        if presented is None:
            refuse()
        stored = await self.stored(presented.id)
        if (
            stored is None
            or stored.revoked_at
            or not keys.matches(presented, stored.hash)
        ):
            refuse()
        return Caller(stored.tenant, stored.scopes, stored.id)

    async def stored(self, key_id: str) -> ApiKey | None:
        """The key's row, at most `CACHED_S` old; None if there is none."""
        seen_at, known = self._seen.get(key_id, (None, None))
        if seen_at is not None and self._clock() - seen_at < CACHED_S:
            return known
        asked_at = self._clock()
        known = await api_keys.found(self._ledger, key_id)
        self._seen[key_id] = (asked_at, known)
        self._seen.move_to_end(key_id)
        if len(self._seen) > CACHED_KEYS:
            self._seen.popitem(last=False)
        return known


def refuse() -> Never:
    """Problem `unauthenticated`."""
    raise Problem(
        "unauthenticated",
        "send Authorization: Bearer with a key that is known and not revoked",
        headers={"WWW-Authenticate": 'Bearer realm="llmgine"'},
    )


SCHEME = HTTPBearer(auto_error=False, description="An API key `llmg_<id>_<secret>`")


async def _caller(request: Request, _: Annotated[Any, Depends(SCHEME)]) -> Caller:
    keyring: Keyring = request.app.state.gateway.keyring
    return await keyring.caller(request.headers.get("authorization"))


def with_scope(scope: str) -> Any:
    """A parameter's default: the caller, refused unless the key has that scope."""

    async def checked(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        caller.need(scope)
        return caller

    dependency: Callable[..., Coroutine[Any, Any, Caller]] = checked
    return Depends(dependency)
