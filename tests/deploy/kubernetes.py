"""`k8s/` as kustomize renders it, and how its parts refer to each other."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import pytest
import yaml

from tests.deploy.compose_file import ROOT

Object = dict[str, Any]


def renderer_or_skip() -> list[str]:
    """`kustomize build` or `kubectl kustomize`; without either the test is skipped.

    Fails instead where `CI` is set: a skipped proof must not look like one.
    """
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    if os.environ.get("CI"):
        pytest.fail("neither kustomize nor kubectl: k8s/ cannot be rendered")
    pytest.skip("neither kustomize nor kubectl: k8s/ is not rendered")


class Rendered:
    """All objects of one folder under `k8s/`."""

    def __init__(self, folder: str) -> None:
        done = subprocess.run(
            [*renderer_or_skip(), str(ROOT / "k8s" / folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        self.objects: list[Object] = list(yaml.safe_load_all(done.stdout))

    def of(self, *kinds: str) -> list[Object]:
        """The objects of some kinds."""
        return [one for one in self.objects if one["kind"] in kinds]

    @cached_property
    def workloads(self) -> dict[str, Object]:
        """What has pods, by name."""
        return {name(one): one for one in self.of("Deployment", "Job")}

    @cached_property
    def workers(self) -> dict[str, Object]:
        """The Deployments that run `llmgine worker POOL`, by pool."""
        return {
            variables(one)["POOL"]["value"]: one
            for one in self.of("Deployment")
            if container(one)["args"][0] == "worker"
        }

    def selected(self, selector: Object) -> list[Object]:
        """The workloads whose pods a selector means (all, if it is empty)."""
        rules = selector.get("matchExpressions", ())
        plain = {} if rules else selector  # a Service's has no word around its labels
        wanted = selector.get("matchLabels", plain)
        return [
            one
            for one in self.workloads.values()
            if wanted.items() <= pod_labels(one).items()
            and all(pod_labels(one).get(r["key"]) in r["values"] for r in rules)
        ]

    def settings(self) -> str:
        """The mounted `llmgine.toml`."""
        (found,) = self.of("ConfigMap")
        return str(found["data"]["llmgine.toml"])


def name(one: Object) -> str:
    """An object's name."""
    return str(one["metadata"]["name"])


def pod(one: Object) -> Object:
    """The pods' spec of a workload."""
    found: Object = one["spec"]["template"]["spec"]
    return found


def pod_labels(one: Object) -> dict[str, str]:
    """The labels of a workload's pods."""
    found: dict[str, str] = one["spec"]["template"]["metadata"]["labels"]
    return found


def container(one: Object) -> Object:
    """The one container of a workload's pods."""
    (found,) = pod(one)["containers"]
    return dict(found)


def variables(one: Object) -> dict[str, Object]:
    """A container's own variables by name."""
    return {variable["name"]: variable for variable in container(one).get("env", [])}


def port_names(one: Object) -> set[str]:
    """The named ports of a workload's container."""
    return {port["name"] for port in container(one).get("ports", [])}


def probes(one: Object) -> Iterator[Object]:
    """A container's probes."""
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        if kind in container(one):
            yield container(one)[kind]


def secrets(one: Object) -> set[str]:
    """The Secrets a workload's container reads."""
    whole = {source["secretRef"]["name"] for source in container(one).get("envFrom", [])}
    single = {
        variable["valueFrom"]["secretKeyRef"]["name"]
        for variable in variables(one).values()
        if "valueFrom" in variable
    }
    return whole | single
