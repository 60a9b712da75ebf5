"""Without a server, integration tests are skipped loudly at home and fail in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmgine_workers.errors import DependencyDown
from tests import servers
from tests.docker_rabbit import DockerRabbit


@pytest.fixture(autouse=True)
def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "rabbit_available", lambda: False)
    monkeypatch.setattr(servers, "install_rabbit", lambda: None)
    monkeypatch.setattr(servers, "docker_answers", lambda: False)


def start(directory: Path) -> None:
    with servers.running(lambda: servers.Rabbit(servers.rabbit_server(directory))):
        raise AssertionError("started what does not exist")


def test_at_home_they_are_skipped_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="apt-get install rabbitmq-server"):
        start(tmp_path)


def test_in_ci_they_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="RabbitMQ"):
        start(tmp_path)


def test_docker_is_the_last_resort(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(DependencyDown):
        servers.rabbit_server(tmp_path)
    monkeypatch.setattr(servers, "docker_answers", lambda: True)
    assert isinstance(servers.rabbit_server(tmp_path), DockerRabbit)
