"""The image's lock files: what was tested, less what only developers need."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.deploy.compose_file import ROOT

Pins = dict[str, tuple[str, frozenset[str]]]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def pins(name: str) -> Pins:
    """Version and hashes by package."""
    text = (ROOT / name).read_text("utf-8").replace("\\\n", "")
    found = re.findall(r"^([\w.-]+)==(\S+)(.*)$", text, re.M)
    return {
        package: (version, frozenset(re.findall(r"--hash=(\S+)", rest)))
        for package, version, rest in found
    }


def named(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", one)[0] for one in requirements}


ALL, SERVER, BUILD = map(
    pins, ("requirements.lock", "requirements.server.lock", "requirements.build.lock")
)


def test_the_image_has_the_versions_that_are_tested() -> None:
    assert SERVER.items() <= ALL.items()


def test_the_image_has_all_that_a_server_needs_and_no_more() -> None:
    needed = named(PROJECT["project"]["dependencies"]) | named(EXTRAS["server"])
    assert needed <= SERVER.keys()
    assert not (named(EXTRAS["local"]) | named(EXTRAS["dev"])) & SERVER.keys()


def test_the_build_backend_is_locked_too() -> None:
    assert named(PROJECT["build-system"]["requires"]) <= BUILD.keys()


@pytest.mark.parametrize("found", [SERVER, BUILD], ids=["server", "build"])
def test_every_pin_has_hashes(found: Pins) -> None:
    assert found
    assert all(hashes for _, hashes in found.values())


@pytest.mark.parametrize("name", ["requirements.server.lock", "requirements.build.lock"])
def test_a_lock_names_no_registry(name: str) -> None:
    assert not re.search(r"://|--\w*index", (ROOT / name).read_text("utf-8"))
