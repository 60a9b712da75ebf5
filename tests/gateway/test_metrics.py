"""What a gateway shows of its own requests."""

from __future__ import annotations

from tests.gateway.conftest import StandIn


async def test_requests_are_measured_by_their_route(standin: StandIn) -> None:
    await standin.client.get("/healthz")
    await standin.client.get("/v1/no/such/thing")
    shown = (await standin.client.get("/metrics")).text
    for line in (
        'http_requests_total{method="GET",route="/healthz",status="200"} 1.0',
        'http_requests_total{method="GET",route="none",status="404"} 1.0',
        'http_request_seconds_count{method="GET",route="/healthz"} 1.0',
    ):
        assert f"llmgine_{line}" in shown
