"""What the Python client raises is what the command line says and exits with."""

from __future__ import annotations

import pytest

from llmgine_workers import client
from llmgine_workers.cli import api as room
from llmgine_workers.cli.api import Access, GatewayUnreachable, Refused, connected
from llmgine_workers.cli.exits import Exit
from llmgine_workers.errors import ConfigurationError, LlmgineError

NOBODY = Access("http://127.0.0.1:1", "llmg_key")


async def raised(error: Exception) -> LlmgineError:
    """What comes out of a connection inside of which that was raised."""
    with pytest.raises(LlmgineError) as caught:
        async with connected(NOBODY):
            raise error
    return caught.value


async def test_a_refusal_keeps_its_code_its_findings_and_its_request() -> None:
    finding = client.Finding(pointer="/inputs/text", code="invalid_input", detail="no")
    error = await raised(client.Refused(422, "invalid_input", "not so", [finding], "r-1"))
    assert isinstance(error, Refused)
    assert (error.code, str(error), error.exit) == ("invalid_input", "not so", Exit.DATA)
    assert error.problem["errors"] == [finding.document()]
    assert error.problem["request_id"] == "r-1"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (client.Refused(404, "not_found", "no"), Exit.DATA),
        (client.Unauthenticated(401, "unauthenticated", "no"), Exit.DENIED),
        (client.Refused(403, "http_403", "a proxy's"), Exit.DENIED),
        (client.Unavailable("503", status=503, code="ledger_unavailable"), Exit.DOWN),
        (client.Unavailable("502", status=502, code="http_502"), Exit.DOWN),
        (client.Unavailable("429", status=429, code="tenant_queue_full"), Exit.LATER),
        (client.Unavailable("429", status=429, code="http_429"), Exit.LATER),
    ],
)
async def test_each_has_its_exit_status(error: Exception, status: Exit) -> None:
    found = await raised(error)
    assert isinstance(found, Refused)
    assert found.exit == status


async def test_what_is_no_gateway_is_said_so() -> None:
    found = await raised(client.BadAnswer("the answer is not JSON"))
    assert "http://127.0.0.1:1" in str(found)


async def test_where_nobody_answers_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "CALL_S", 0.0)
    with pytest.raises(GatewayUnreachable, match=r"127\.0\.0\.1:1: .*llmgine up"):
        async with connected(NOBODY) as api:
            await api.calls.job("J")


async def test_a_key_that_cannot_be_sent_is_a_matter_of_configuration() -> None:
    with pytest.raises(ConfigurationError, match="LLMGINE_API_KEY"):
        async with connected(Access("http://127.0.0.1:1", "k\N{SNOWMAN}")):
            pass
