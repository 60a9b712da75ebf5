"""One whole installation, with real processes, that the tests of this room break."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmgine_workers.errors import DependencyDown
from loadtests.site import Site
from tests.servers import rabbit_server, refuse

LATENCY = "lognormal:0.4,0.6,0.3,0.8"
"""Seconds: median, 95th percentile, least and most."""

WORKERS = ("openai", "openai", "anthropic", "anthropic")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Every test leaves it as it found it: all servers running, a worker for each."""
    folder = tmp_path_factory.mktemp("site")
    simulator = ("--seed", "1", "--latency", LATENCY)
    try:
        rabbit = rabbit_server(folder / "rabbit")
        site = Site(folder, slots=40, simulator=simulator, workers=WORKERS, rabbit=rabbit)
    except DependencyDown as missing:
        refuse(f"the fault tests need a server: {missing}")
    try:
        site.start()
        yield site
    finally:
        site.stop()
