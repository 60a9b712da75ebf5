from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from gateway import auth
from gateway.auth import CACHED_S, Keyring
from gateway.errors import Problem
from llmgine_workers import clock, keys
from llmgine_workers.ledger import api_keys
from llmgine_workers.ledger.api_keys import ApiKey
from llmgine_workers.ledger.connection import Ledger, LedgerDown
from tests.gateway.conftest import StandIn

JOB = "/v1/jobs/0193c1f2-7d1e-7c3a-9b1e-5f0c2a8e4d11"


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A keyring over a table of keys, the number of look-ups, and its clock."""
    table: dict[str, ApiKey] = {}
    about: dict[str, Any] = {"table": table, "asked": 0, "clock": Clock(), "down": False}

    async def found(_: Ledger, key_id: str) -> ApiKey | None:
        about["asked"] += 1
        if about["down"]:
            raise LedgerDown("away")
        return table.get(key_id)

    monkeypatch.setattr(api_keys, "found", found)
    about["keyring"] = Keyring(cast("Ledger", None), about["clock"])
    return about


def add(ring: dict[str, Any], *scopes: str) -> keys.NewKey:
    made = keys.new_key()
    ring["table"][made.id] = ApiKey(
        made.id, "acme", frozenset(scopes), made.hash, clock.now(), None
    )
    return made


async def test_a_key_says_whose_request_it_is(ring: dict[str, Any]) -> None:
    made = add(ring, "submit", "read")
    caller = await ring["keyring"].caller(f"Bearer {made.text}")
    assert (caller.tenant, caller.scopes) == ("acme", {"submit", "read"})


async def test_a_key_is_looked_up_once_in_five_seconds(ring: dict[str, Any]) -> None:
    made = add(ring, "read")
    for _ in range(10):
        await ring["keyring"].caller(f"Bearer {made.text}")
    assert ring["asked"] == 1
    ring["clock"].now += CACHED_S
    await ring["keyring"].caller(f"Bearer {made.text}")
    assert ring["asked"] == 2


async def test_a_revoked_key_stops_within_five_seconds(ring: dict[str, Any]) -> None:
    assert CACHED_S <= 5
    made = add(ring, "read")
    await ring["keyring"].caller(f"Bearer {made.text}")
    ring["table"][made.id] = replace(ring["table"][made.id], revoked_at=clock.now())
    ring["clock"].now += CACHED_S
    with pytest.raises(Problem):
        await ring["keyring"].caller(f"Bearer {made.text}")


async def test_a_cached_key_outlives_the_ledger_for_a_moment(
    ring: dict[str, Any],
) -> None:
    made = add(ring, "read")
    await ring["keyring"].caller(f"Bearer {made.text}")
    ring["down"] = True
    assert (await ring["keyring"].caller(f"Bearer {made.text}")).tenant == "acme"
    ring["clock"].now += CACHED_S
    with pytest.raises(LedgerDown):
        await ring["keyring"].caller(f"Bearer {made.text}")


async def test_guessing_ids_neither_fills_memory_nor_asks_twice(
    ring: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "CACHED_KEYS", 3)
    guesses = [keys.new_key().text for _ in range(10)]
    for guess in (*guesses, guesses[-1]):
        with pytest.raises(Problem):
            await ring["keyring"].caller(f"Bearer {guess}")
    assert ring["asked"] == 10
    assert len(ring["keyring"]._seen) == 3


async def test_every_reason_for_401_reads_the_same(standin: StandIn) -> None:
    good = standin.seat("read")
    revoked = standin.seat("read")
    key_id = revoked.text.split("_")[1]
    standin.keys[key_id] = replace(standin.keys[key_id], revoked_at=clock.now())
    wrong = good.text[:-1] + ("0" if good.text[-1] != "0" else "1")
    answers = []
    for header in (
        None, "", "Bearer", "Bearer ", f"Basic {good.text}", good.text, "Bearer sk-1",
        f"Bearer {keys.new_key().text}", f"Bearer {revoked.text}", f"Bearer {wrong}",
    ):  # fmt: skip
        headers = {} if header is None else {"Authorization": header}
        answer = await standin.client.get(JOB, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        answers.append({**answer.json(), "request_id": None})
    assert all(told == answers[0] for told in answers)
    assert answers[0]["code"] == "unauthenticated"


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", "/v1/jobs", "submit"),
        ("GET", "/v1/jobs", "read"),
        ("GET", JOB, "read"),
        ("GET", f"{JOB}/steps", "read"),
        ("GET", f"{JOB}/steps/draft", "read"),
        ("GET", f"{JOB}/events", "read"),
        ("GET", "/v1/chains", "read"),
    ],
)
async def test_each_address_needs_its_scope(
    standin: StandIn, method: str, path: str, scope: str
) -> None:
    assert (await standin.client.request(method, path)).status_code == 401
    seat = standin.seat(*(set(keys.SCOPES) - {scope}))
    answer = await standin.client.request(method, path, headers=seat.headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
    assert scope in answer.json()["detail"]


async def test_reading_events_at_once_needs_the_scope_to_read(standin: StandIn) -> None:
    headers = {**standin.seat("submit").headers, "Accept": "text/event-stream"}
    answer = await standin.client.post("/v1/jobs", json={"chain": "a"}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")


@pytest.mark.parametrize("path", ["/healthz", "/openapi.json"])
async def test_some_addresses_need_no_key(standin: StandIn, path: str) -> None:
    assert (await standin.client.get(path)).status_code == 200
