"""What `compose.yaml` promises, read without Docker; and Compose's own word on it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from chains import duration
from llmgine_workers import settings
from llmgine_workers.broker import topology
from tests.deploy.compose_file import ROOT, ComposeFile
from tests.deploy.docker import compose_or_skip

KEYS = {"OPENAI_API_KEY": "key-of-openai", "ANTHROPIC_API_KEY": "key-of-anthropic"}
OURS = ComposeFile({})
NAMES = sorted(OURS.services)
ONCE = {name for name in NAMES if OURS.services[name]["restart"] == "no"}
STORES = {"postgres", "rabbitmq", "valkey"}


@pytest.mark.parametrize("environ", [{}, KEYS], ids=["without keys", "with keys"])
def test_compose_accepts_the_file(environ: dict[str, str]) -> None:
    compose = compose_or_skip()
    done = subprocess.run(
        [*compose, "config", "--quiet"],
        cwd=ROOT,
        env=compose.environ | environ,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_everything_the_installation_consists_of_is_there() -> None:
    commands = {tuple(one["command"][:2]) for one in OURS.ours.values()}
    assert {("gateway",), ("scheduler",), ("flower",), ("migrate",)} <= commands
    images = {one["image"] for one in OURS.services.values()} - {OURS_IMAGE}
    assert {re.split("[:/]", image)[0] for image in images} == STORES


OURS_IMAGE = OURS.services["gateway"]["image"]


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_image_is_pinned_to_a_major_version(name: str) -> None:
    image = OURS.services[name]["image"]
    assert image == OURS_IMAGE or re.search(r":\d+([.-][\w.-]+)?$", image)


def test_one_service_builds_the_image_and_none_would_pull_it() -> None:
    assert [name for name in OURS.ours if "build" in OURS.ours[name]] == ["migrate"]
    assert {one["pull_policy"] for one in OURS.ours.values()} == {"build", "never"}


@pytest.mark.parametrize("name", NAMES)
def test_no_service_is_root_or_can_become_it(name: str) -> None:
    one = OURS.services[name]
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & one.keys()
    # Ours has its user in the Dockerfile: see test_dockerfile.py.
    user = one.get("user", "" if name not in OURS.ours else "1:1")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@pytest.mark.parametrize("name", NAMES)
def test_what_keeps_running_says_whether_it_works(name: str) -> None:
    check = OURS.services[name].get("healthcheck")
    if name in ONCE:
        assert check is None
        return
    assert check is not None
    assert check["test"] not in ("", ["NONE"])
    assert {"interval", "timeout", "retries", "start_period"} <= check.keys()


@pytest.mark.parametrize("name", NAMES)
def test_a_service_waits_for_what_can_get_ready(name: str) -> None:
    for other, wait in OURS.services[name].get("depends_on", {}).items():
        once = "service_completed_successfully"
        assert wait["condition"] == (once if other in ONCE else "service_healthy")
        assert other in OURS.services


@pytest.mark.parametrize("name", NAMES)
def test_what_a_service_names_is_declared(name: str) -> None:
    one = OURS.services[name]
    assert set(one["networks"]) <= OURS.tree["networks"].keys()
    assert {config["source"] for config in one.get("configs", [])} <= (
        OURS.tree["configs"].keys()
    )
    volumes = {volume.split(":")[0] for volume in one.get("volumes", [])}
    assert volumes <= OURS.tree["volumes"].keys()


def test_every_mounted_file_is_there() -> None:
    for config in OURS.tree["configs"].values():
        assert (ROOT / config["file"]).is_file()


def test_stores_have_no_way_out_and_ports_are_this_machines() -> None:
    assert OURS.tree["networks"]["inside"]["internal"] is True
    for name in STORES:
        assert OURS.services[name]["networks"] == ["inside"]
    published = {n: one["ports"] for n, one in OURS.services.items() if "ports" in one}
    assert published.keys() == {"gateway", "flower"}
    assert all(
        port.startswith("127.0.0.1:") for ports in published.values() for port in ports
    )


@pytest.mark.parametrize("environ", [{}, KEYS], ids=["without keys", "with keys"])
def test_every_process_accepts_its_settings_and_every_pool_has_a_worker(
    environ: dict[str, str],
) -> None:
    compose = ComposeFile(environ)
    for name in compose.ours:
        given = compose.environment(name)
        found = settings.load(ROOT / "deploy" / "llmgine.toml", given)
        assert set(found.pools(given)) == compose.workers.keys()
        assert {one.simulated for one in found.providers.values()} == {not environ}


def test_a_provider_with_a_key_is_real_and_the_other_stays_simulated() -> None:
    compose = ComposeFile({"OPENAI_API_KEY": KEYS["OPENAI_API_KEY"]})
    given = compose.environment("worker-openai")
    found = settings.load(ROOT / "deploy" / "llmgine.toml", given)
    assert not found.providers["openai"].simulated
    assert found.providers["openai"].base_url is None
    assert found.providers["anthropic"].simulated


@pytest.mark.parametrize("variable", sorted(KEYS))
def test_only_its_worker_is_given_a_key(variable: str) -> None:
    compose = ComposeFile(KEYS)
    holders = {
        name
        for name in compose.services
        if compose.environment(name).get(variable) == KEYS[variable]
    }
    assert holders == {f"worker-{variable.partition('_')[0].lower()}"}


def test_a_stopped_worker_has_longer_than_its_grace() -> None:
    grace = settings.load(ROOT / "deploy" / "llmgine.toml", {}).worker.grace
    for worker in OURS.workers.values():
        assert duration.seconds(worker["stop_grace_period"]) > grace


def test_a_step_may_last_as_long_as_a_worker_is_given_to_finish() -> None:
    found = settings.load(ROOT / "deploy" / "llmgine.toml", {})
    assert found.worker.grace >= found.steps.timeout


def test_the_policies_are_those_that_doctor_prints() -> None:
    kept = json.loads((ROOT / "deploy" / "rabbitmq-policies.json").read_text("utf-8"))
    assert kept == {
        "policies": [
            {
                "vhost": "/",
                "name": policy.name,
                "pattern": policy.pattern,
                "apply-to": "queues",
                "priority": 0,
                "definition": dict(policy.definition),
            }
            for policy in topology.policies(settings.load(None, {}).broker.prefix, (4, 0))
        ]
    }


def test_every_password_can_be_set() -> None:
    for line in OURS.text.splitlines():
        if re.search(r"(PASS(WORD)?|_KEY|_AUTH): ", line):
            assert re.search(r": (\S*)\$\{\w+:[-+][\w-]*\}", line), line
    assert "llmgine-local" not in re.sub(r"\$\{\w+:-llmgine-local\}", "", OURS.text)


@pytest.mark.parametrize(
    "path",
    [ROOT / "Dockerfile", ROOT / "compose.yaml", *sorted((ROOT / "deploy").iterdir())],
    ids=lambda path: path.name,
)
def test_no_file_holds_a_secret(path: Path) -> None:
    if path.is_file():
        text = path.read_text("utf-8")
        assert not re.search(r"\b(sk-|llmg_[0-9a-f]|AKIA|ghp_|-----BEGIN)", text)
