"""The pages themselves: links that lead somewhere, chains that hold, no stray words."""

from __future__ import annotations

import re

import pytest

from chains import InvalidChain, parse_yaml
from llmgine_workers import settings
from tests.docs.pages import DOCS, NAMES, ROOT, Block, anchors, blocks, links, read

LOOKS_RUN = ("bash", "console", "shell", "zsh")
"""Fences that would look like commands and not be run; commands stand in `sh`."""

_REFUSED = re.compile(r"# refused: (?P<code>\w+)\n")
YAML = [block for name in NAMES for block in blocks(name, "yaml")]
TOML = [block for name in NAMES for block in blocks(name, "toml")]


def place(block: Block) -> str:
    return str(block)


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name: str) -> None:
    for link in links(name):
        if "://" in link:
            continue
        target, _, fragment = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), link
        if fragment:
            page = str(path.resolve().relative_to(ROOT))
            assert fragment in anchors(page), link


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_the_readme_leads_to_every_page(page: str) -> None:
    assert f"docs/{page}" in set(links("README.md"))


def test_the_index_of_decisions_is_complete_and_in_order() -> None:
    written = sorted(path.name for path in (DOCS / "decisions").glob("[0-9]*.md"))
    assert [link for link in links("docs/decisions/README.md") if "/" not in link] == (
        written
    )
    assert [int(name[:4]) for name in written] == list(range(1, len(written) + 1))


@pytest.mark.parametrize("path", sorted((DOCS / "decisions").glob("[0-9]*.md")), ids=str)
def test_a_decision_says_why_what_and_at_what_price(path: object) -> None:
    page = str(path).removeprefix(f"{ROOT}/")
    assert re.findall(r"^## (.+)$", read(page), re.M) == [
        "Context",
        "Decision",
        "Consequence",
    ]
    assert len(read(page).split()) < 400


@pytest.mark.parametrize("block", YAML, ids=place)
def test_every_chain_is_accepted_or_refused_as_it_says(block: Block) -> None:
    refused = _REFUSED.match(block.text)
    if refused is None:
        parse_yaml(block.text)
        return
    with pytest.raises(InvalidChain) as caught:
        parse_yaml(block.text)
    assert {finding.code for finding in caught.value.findings} == {refused["code"]}


@pytest.mark.parametrize("block", TOML, ids=place)
def test_every_settings_file_can_be_loaded(
    block: Block, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("settings") / "llmgine.toml"
    path.write_text(block.text, "utf-8")
    settings.load(path, {})


@pytest.mark.parametrize("name", NAMES)
def test_no_command_hides_in_a_block_that_is_not_run(name: str) -> None:
    assert not [block for look in LOOKS_RUN for block in blocks(name, look)]


def test_the_rooms_that_the_readme_shows_are_the_ones_there_are() -> None:
    (tree,) = blocks("README.md", "text")
    shown = set(re.findall(r"\b([a-z_]+)/", tree.text))
    top = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    inner = {p.parent.name for p in (ROOT / "llmgine_workers").glob("*/__init__.py")}
    assert shown == top | inner - {"local"}
