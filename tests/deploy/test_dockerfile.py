"""What the Dockerfile promises, read without Docker."""

from __future__ import annotations

import json
import re

import pytest

from tests.deploy.compose_file import ROOT

TEXT = (ROOT / "Dockerfile").read_text("utf-8")
STEPS = [
    line.split(maxsplit=1)
    for line in re.sub(r"\\\n\s*", "", TEXT).splitlines()
    if line and not line.startswith("#")
]
STAGES = "\n".join(" ".join(step) for step in STEPS).split("\nFROM ")
CONTEXT = (ROOT / ".dockerignore").read_text("utf-8").split()


def of(word: str) -> list[str]:
    return [rest for first, rest in STEPS if first == word]


def test_any_builder_understands_it() -> None:
    assert "# syntax" not in TEXT
    assert "<<" not in TEXT
    assert "--link" not in TEXT
    assert "--mount" not in TEXT


def test_the_base_can_be_chosen_and_all_stages_share_it() -> None:
    assert STEPS[0] == ["ARG", "BASE_IMAGE=python:3.13-slim-trixie"]
    assert of("FROM") == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]


def test_the_image_runs_llmgine_as_a_numbered_user() -> None:
    final = STAGES[-1].splitlines()
    assert [line for line in final if line.startswith("USER")] == ["USER 10001:10001"]
    after = final[final.index("USER 10001:10001") + 1 :]
    assert [line.split()[0] for line in after] == ["ENTRYPOINT", "CMD"]
    assert json.loads(of("ENTRYPOINT")[-1]) == ["llmgine"]


def test_builders_tools_stay_behind() -> None:
    final = STAGES[-1]
    assert "COPY --from=build /opt/llmgine /opt/llmgine" in final
    assert "pip" not in final
    assert len(re.findall("^COPY", final, re.M)) == 1


def test_only_known_files_are_installed() -> None:
    installed = re.findall(r"pip [^&]*install ([^&]*)", " && ".join(of("RUN")))
    assert len(installed) == 3
    for arguments in installed:
        locked = {"--require-hashes", "--only-binary"} <= set(arguments.split())
        assert locked or {"--no-deps", "--no-index"} <= set(arguments.split())
    assert not re.search(r"https?://|index-url|apt-get|curl|wget|^ADD", TEXT, re.M)


def test_health_is_the_business_of_what_runs_it() -> None:
    assert not of("HEALTHCHECK")


@pytest.mark.parametrize(
    "source",
    [
        source
        for words in of("COPY")
        if not words.startswith("--from")
        for source in words.split()[:-1]
    ],
)
def test_what_is_copied_is_there_and_sent(source: str) -> None:
    assert (ROOT / source).exists()
    assert f"!{source}" in CONTEXT


def test_nothing_else_is_sent() -> None:
    assert "*" in CONTEXT
    sent = {line[1:] for line in CONTEXT if line.startswith("!")}
    copied = {source for words in of("COPY") for source in words.split()[:-1]}
    assert sent <= copied
