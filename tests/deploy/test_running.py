"""`docker compose up` for real, as docs/compose.md tells it. Some minutes, so on demand:

LLMGINE_TEST_COMPOSE=1 pytest tests/deploy/test_running.py

BASE_IMAGE may name another image with Python and pip to build on.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from llmgine_workers.local.server import LOOPBACK, free_port
from tests.deploy.compose_file import ROOT, ComposeFile
from tests.deploy.docker import compose_or_skip
from tests.docs.pages import blocks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        "LLMGINE_TEST_COMPOSE" not in os.environ, reason="set LLMGINE_TEST_COMPOSE=1"
    ),
]

RUNNING = sorted(
    name for name, one in ComposeFile({}).services.items() if one["restart"] != "no"
)
START, FIRST_JOB, LOOK, STOP = (
    block.text for block in blocks("docs/compose.md", "docker")
)
JOB = '{"chain": "summarize", "inputs": {"text": "The river rose."}}'


@dataclass(frozen=True)
class Installation:
    """One that nobody else uses: own containers, networks, volumes and ports."""

    environ: dict[str, str]

    def run(self, script: str) -> str:
        """What the commands say; the first that fails fails the test."""
        port = self.environ["GATEWAY_PORT"]
        done = subprocess.run(
            ["sh", "-ec", script.replace("localhost:8080", f"{LOOPBACK}:{port}")],
            cwd=ROOT,
            env=self.environ,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def post(self, wait_s: int) -> dict[str, Any]:
        """Submit a job of two calls."""
        key = "llmgine keys create --tenant me --scope submit --scope read"
        answer = self.run(
            f"key=$(docker compose exec -T gateway {key})\n"
            f"curl -sf 'localhost:8080/v1/jobs?wait={wait_s}' -H 'Authorization: "
            f"Bearer '$key -H 'Content-Type: application/json' -d '{JOB}'"
        )
        job: dict[str, Any] = json.loads(answer)
        return job


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    found = Installation(
        compose_or_skip().environ
        | {
            "COMPOSE_PROJECT_NAME": f"llmgine-test-{uuid4().hex[:8]}",
            "GATEWAY_PORT": str(free_port()),
            "FLOWER_PORT": str(free_port()),
        }
    )
    try:
        found.run(START)
        yield found
        found.run(STOP)
    finally:
        found.run("docker compose down --volumes --timeout 20")


def test_the_first_job_succeeds_as_the_page_tells_it(installation: Installation) -> None:
    job = json.loads(installation.run(FIRST_JOB))
    assert job["state"] == "succeeded"
    assert job["simulated"] is True
    assert job["usage"]["calls"] == 2


def test_the_commands_of_the_page_find_everything_in_order(
    installation: Installation,
) -> None:
    said = installation.run(LOOK)
    assert "open dead letters: 0" in said
    assert "BAD" not in said


@pytest.mark.parametrize("name", RUNNING)
def test_a_process_is_nobody_and_cannot_write_to_its_image(
    installation: Installation, name: str
) -> None:
    look = "id -u; grep CapEff: /proc/1/status; ! touch /etc/mark 2>/dev/null"
    user, capabilities = installation.run(
        f"docker compose exec -T {name} sh -c '{look}'"
    ).splitlines()
    assert int(user) > 0
    assert int(capabilities.split()[1], 16) == 0


def test_the_policies_are_set(installation: Installation) -> None:
    said = installation.run(
        "docker compose exec -T rabbitmq rabbitmqctl -q list_queues name policy"
    )
    found = dict(line.split("\t") for line in said.splitlines())
    assert found["llmgine.openai"] == "llmgine-work"
    assert found["llmgine.dead"] == "llmgine-dead"


def test_jobs_are_accepted_without_the_broker_and_run_when_it_is_back(
    installation: Installation,
) -> None:
    installation.run("docker compose stop rabbitmq")
    assert installation.post(wait_s=0)["state"] == "queued"
    installation.run("docker compose start rabbitmq")
    assert installation.post(wait_s=60)["state"] == "succeeded"


def test_a_killed_worker_is_missed_and_its_work_is_done_when_it_is_back(
    installation: Installation,
) -> None:
    installation.run("docker compose kill worker-openai")
    assert installation.post(wait_s=1)["state"] == "queued"
    installation.run("docker compose start worker-openai")
    assert installation.post(wait_s=60)["state"] == "succeeded"
