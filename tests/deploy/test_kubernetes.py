"""What `k8s/` promises: valid against the schemas, and where schemas do not look."""

from __future__ import annotations

import os
import re
from decimal import Decimal

import kubernetes_validate
import pytest

from llmgine_workers import settings
from tests.deploy.compose_file import ROOT
from tests.deploy.kubernetes import (
    Rendered,
    container,
    name,
    pod,
    pod_labels,
    port_names,
    probes,
    secrets,
    variables,
)

VERSIONS = ("1.30", "1.34", "1.37")
GUIDE = ROOT / "docs" / "kubernetes.md"
_UNITS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    "Ki": Decimal(1024),
    "Mi": Decimal(1024**2),
    "Gi": Decimal(1024**3),
}


@pytest.fixture(scope="module")
def base() -> Rendered:
    return Rendered("base")


@pytest.fixture(scope="module")
def found(base: Rendered, tmp_path_factory: pytest.TempPathFactory) -> settings.Settings:
    """The settings in the ConfigMap, as every process reads them."""
    file = tmp_path_factory.mktemp("k8s") / "llmgine.toml"
    file.write_text(base.settings(), "utf-8")
    return settings.load(file, {})


def quantity(text: object) -> Decimal:
    match = re.fullmatch(r"(\d+)(m|Ki|Mi|Gi|)", str(text))
    assert match, f"{text!r} is no quantity"
    return Decimal(match[1]) * _UNITS[match[2]]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_the_schema(
    base: Rendered, version: str, recwarn: pytest.WarningsRecorder
) -> None:
    for one in base.objects:
        kubernetes_validate.validate(one, version, strict=True)
    assert not recwarn.list


def test_names_are_such_that_the_server_takes_them(base: Rendered) -> None:
    for one in base.objects:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name(one))
    keys = [(one["kind"], name(one)) for one in base.objects]
    assert len(keys) == len(set(keys))


def test_a_selector_means_its_own_pods_and_no_others(base: Rendered) -> None:
    for one in base.of("Deployment"):
        assert base.selected(one["spec"]["selector"]) == [one]
    for budget in base.of("PodDisruptionBudget"):
        (meant,) = base.selected(budget["spec"]["selector"])
        assert name(meant) == name(budget)
        assert budget["spec"]["minAvailable"] < meant["spec"]["replicas"]


def test_what_runs_more_than_once_may_not_be_drained_at_once(base: Rendered) -> None:
    several = {name(d) for d in base.of("Deployment") if d["spec"]["replicas"] > 1}
    assert {name(budget) for budget in base.of("PodDisruptionBudget")} == several


def test_services_and_probes_name_ports_that_are_there(base: Rendered) -> None:
    for service in base.of("Service"):
        (meant,) = base.selected(service["spec"]["selector"])
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in port_names(meant)
    for one in base.workloads.values():
        asked = {probe["httpGet"]["port"] for probe in probes(one) if "httpGet" in probe}
        assert asked <= port_names(one)


def test_what_listens_does_so_where_its_service_expects_it(
    base: Rendered, found: settings.Settings
) -> None:
    listening = {"gateway": found.gateway.listen, "flower": found.flower.listen}
    for which, address in listening.items():
        (port,) = container(base.workloads[which])["ports"]
        assert address == f"0.0.0.0:{port['containerPort']}"


def test_requests_fit_their_limits_and_no_cpu_is_withheld(base: Rendered) -> None:
    for one in base.workloads.values():
        resources = container(one)["resources"]
        requested, allowed = resources["requests"], resources["limits"]
        assert quantity(requested["cpu"]) > 0
        assert 0 < quantity(requested["memory"]) <= quantity(allowed["memory"])
        assert "cpu" not in allowed, "throttled, a heartbeat would be late"


def test_no_pod_is_more_than_the_restricted_standard_allows(base: Rendered) -> None:
    for one in base.workloads.values():
        of_pod, of_container = (
            pod(one)["securityContext"],
            container(one)["securityContext"],
        )
        assert of_pod["runAsNonRoot"] is True
        assert of_pod["runAsUser"] > 0
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert of_container == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod(one).keys()
        assert not any("hostPath" in volume for volume in pod(one)["volumes"])
        assert pod(one)["automountServiceAccountToken"] is False
    (namespace,) = base.of("Namespace")
    label = "pod-security.kubernetes.io/enforce"
    assert namespace["metadata"]["labels"][label] == "restricted"


def test_its_user_is_the_images(base: Rendered) -> None:
    image_user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.M)
    assert image_user
    for one in base.workloads.values():
        of_pod = pod(one)["securityContext"]
        ids = str(of_pod["runAsUser"]), str(of_pod["runAsGroup"])
        assert ids == image_user.groups()


def test_volumes_accounts_and_maps_that_are_named_are_there(base: Rendered) -> None:
    maps = {name(one) for one in base.of("ConfigMap")}
    accounts = {name(one) for one in base.of("ServiceAccount")}
    for one in base.workloads.values():
        volumes = {volume["name"]: volume for volume in pod(one)["volumes"]}
        assert {m["name"] for m in container(one)["volumeMounts"]} == volumes.keys()
        named = {v["configMap"]["name"] for v in volumes.values() if "configMap" in v}
        assert named <= maps
        assert pod(one)["serviceAccountName"] in accounts


def test_every_pool_of_the_settings_has_its_worker(
    base: Rendered, found: settings.Settings
) -> None:
    assert set(found.pools({})) == base.workers.keys()
    for pool, worker in base.workers.items():
        assert name(worker) == f"worker-{pool}"
        assert pod_labels(worker)["llmgine/pool"] == pool


def test_a_key_is_given_to_its_own_pool_only(
    base: Rendered, found: settings.Settings
) -> None:
    for one in base.workloads.values():
        keys = {s for s in secrets(one) if s.startswith("llmgine-provider-")}
        pool = variables(one).get("POOL", {}).get("value")
        of_provider = pool in found.providers
        assert keys == ({f"llmgine-provider-{pool}"} if of_provider else set())


def test_the_guide_makes_every_secret_that_is_read(base: Rendered) -> None:
    read = set().union(*(secrets(one) for one in base.workloads.values()))
    made = set(re.findall(r"create secret generic (\S+)", GUIDE.read_text("utf-8")))
    assert made == read
    for one in base.workloads.values():
        for variable in variables(one).values():
            if "valueFrom" in variable:
                key = variable["valueFrom"]["secretKeyRef"]["key"]
                assert f"--from-literal={key}=" in GUIDE.read_text("utf-8")


def test_a_stopped_worker_has_longer_than_its_grace(
    base: Rendered, found: settings.Settings
) -> None:
    assert found.worker.grace >= found.steps.timeout
    for worker in base.workers.values():
        assert pod(worker)["terminationGracePeriodSeconds"] > found.worker.grace


def test_whoever_works_without_being_asked_proves_that_it_does(base: Rendered) -> None:
    for one in (*base.workers.values(), base.workloads["scheduler"]):
        assert container(one)["livenessProbe"]["exec"]["command"] == ["alive"]
    assert os.access(ROOT / "deploy" / "alive", os.X_OK)


def test_only_workers_and_schedulers_reach_the_internet(base: Rendered) -> None:
    reaching = {
        name(one)
        for policy in base.of("NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        if any(port["port"] == 443 for port in rule["ports"])
        for one in base.selected(policy["spec"]["podSelector"])
    }
    assert reaching == {"scheduler", *(name(worker) for worker in base.workers.values())}


def test_only_gateway_and_flower_are_reached(base: Rendered) -> None:
    entered = {
        name(one)
        for policy in base.of("NetworkPolicy")
        if policy["spec"].get("ingress")
        for one in base.selected(policy["spec"]["podSelector"])
    }
    assert entered == {"gateway", "flower"}
