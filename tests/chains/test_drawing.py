"""Chains as drawings, and as a schema for editors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema_rs
import pytest

from chains import InvalidChain, library_path, load_library, parse_yaml, read_chain
from chains.document import read_yaml
from chains.drawing import mermaid
from chains.json_schema import chain_schema
from tests.chains.writing import chain, llm, parallel, tool

LIBRARY = sorted(library_path().glob("*.yaml"))


def test_a_drawing_has_a_box_for_each_step_and_arrows_for_what_it_needs() -> None:
    some = chain(llm("a"), parallel("p", x=[tool("b")]), llm("c", needs=["a"]))
    assert mermaid(some).splitlines() == [
        "flowchart TD",
        '  a["a<br/>llm · fast"]',
        '  subgraph p["p<br/>parallel"]',
        '    subgraph p__x["x"]',
        '      p__x__b["b<br/>tool · look"]',
        "    end",
        "  end",
        "  a --> p",
        '  c["c<br/>llm · fast"]',
        "  a --> c",
    ]


def test_no_text_of_a_chain_breaks_out_of_its_label() -> None:
    drawn = mermaid(chain(llm("a", when='inputs.x < "]"'), inputs={"x": {}}))
    assert 'when inputs.x &lt; &quot;]&quot;"]' in drawn


@pytest.mark.parametrize("name", sorted(load_library()))
def test_every_chain_of_the_library_can_be_drawn(name: str) -> None:
    drawn = mermaid(load_library()[name])
    assert drawn.count("subgraph ") == len(re.findall(r"^ *end$", drawn, re.M))


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_schema_accepts_what_is_a_chain(path: Path) -> None:
    read_chain(path)
    validator = jsonschema_rs.Draft202012Validator(chain_schema())
    assert not list(validator.iter_errors(read_yaml(path.read_text("utf-8")).value))


def test_the_published_schema_is_that_of_the_code() -> None:
    published = Path(__file__).parents[2] / "docs" / "chain.schema.json"
    assert json.loads(published.read_text("utf-8")) == chain_schema()


@pytest.mark.parametrize(
    "text",
    [
        "{name: a, stpes: []}",
        "{name: a, steps: [{name: b, lop: {}}]}",
        "{name: a, steps: [{name: b, map: {over: x, on_error: ignore, steps: []}}]}",
        "{name: a, steps: [{name: b, llm: {model: null, prompt: 3}}]}",
    ],
)
def test_the_schema_refuses_what_has_not_the_shape_of_one(text: str) -> None:
    document = read_yaml(text).value
    assert not jsonschema_rs.Draft202012Validator(chain_schema()).is_valid(document)
    with pytest.raises(InvalidChain):
        parse_yaml(text)
