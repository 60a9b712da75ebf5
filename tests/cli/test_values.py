"""`-i`: texts stay texts, := is JSON, @ reads a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmgine_workers.cli import values
from llmgine_workers.cli.exits import Usage
from llmgine_workers.errors import LlmgineError


def test_an_equals_sign_makes_a_text_whatever_it_looks_like() -> None:
    assert values.inputs(["zip=01234", "yes=true", "url=a=b", "empty="]) == {
        "zip": "01234",
        "yes": "true",
        "url": "a=b",
        "empty": "",
    }


def test_colon_equals_reads_json() -> None:
    assert values.inputs(["n:=3", 'urls:=["a"]', "no:=null"]) == {
        "n": 3,
        "urls": ["a"],
        "no": None,
    }


def test_at_reads_a_file_as_text_or_as_json(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text('{"größe": 5}\n', "utf-8")
    found = values.inputs([f"text=@{file}", f"data:=@{file}"])
    assert found == {"text": '{"größe": 5}\n', "data": {"größe": 5}}


@pytest.mark.parametrize("wrong", ["", "text", "=x", "1=x", "a b=c", ":=3"])
def test_what_is_no_pair_is_a_usage_error(wrong: str) -> None:
    with pytest.raises(Usage, match="name=text"):
        values.inputs([wrong])


def test_the_same_input_twice_is_a_usage_error() -> None:
    with pytest.raises(Usage, match="twice"):
        values.inputs(["a=1", "a:=2"])


def test_bad_content_is_bad_data(tmp_path: Path) -> None:
    latin = tmp_path / "latin1.txt"
    latin.write_bytes("Größe".encode("latin-1"))
    for wrong, code in (
        (f"a=@{tmp_path}/none.txt", "invalid_input"),
        (f"a=@{tmp_path}", "invalid_input"),
        (f"a=@{latin}", "invalid_unicode"),
        ("a:={", "invalid_json"),
    ):
        with pytest.raises(LlmgineError) as caught:
            values.inputs([wrong])
        assert caught.value.code == code
