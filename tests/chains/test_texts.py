"""Chains as YAML and JSON text: places, and what such text may not do."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains import Finding, InvalidChain, parse_json, parse_yaml, read_chain, read_chains
from chains.document import MAX_BYTES, read_yaml

GOOD = """\
name: sample
steps:
  - name: draft
    llm:
      model: fast
      prompt: |
        Hello {{ job.id }}.
"""


def refusals(text: str) -> tuple[Finding, ...]:
    with pytest.raises(InvalidChain) as caught:
        parse_yaml(text, "mine.yaml")
    return caught.value.findings


def test_yaml_and_json_of_the_same_chain_are_the_same_chain() -> None:
    assert parse_yaml(GOOD) == parse_json(json.dumps(read_yaml(GOOD).value))


def test_a_finding_in_yaml_names_file_line_and_column_of_the_key() -> None:
    (finding,) = refusals(GOOD.replace("prompt", "promt: x\n      prompt"))
    assert (finding.file, finding.line, finding.column) == ("mine.yaml", 6, 7)
    assert str(finding).startswith(
        "mine.yaml:6:7: unknown_field: /steps/0/llm/promt: not known here"
    )


def test_a_missing_field_is_placed_at_what_lacks_it() -> None:
    (finding,) = refusals(GOOD.replace("name: draft\n    llm:", "llm:"))
    assert (finding.pointer, finding.line) == ("/steps/0/name", 3)


def test_findings_come_in_reading_order() -> None:
    text = GOOD.replace("fast", "5").replace("sample", "S").replace("draft", "D")
    assert [finding.line for finding in refusals(text)] == [1, 3, 5]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: &x [1]\nb: *x", "yaml_alias_not_allowed"),
        ("a: &a [*a]", "yaml_alias_not_allowed"),
        ("a: &x 1", "yaml_alias_not_allowed"),
        ("? &x k\n: 1", "yaml_alias_not_allowed"),
        ("<<: *x", "yaml_alias_not_allowed"),
        ("a: !!python/object/apply:os.system [ls]", "yaml_tag_not_allowed"),
        ("a: !!binary aGk=", "yaml_tag_not_allowed"),
        ("a: !mine x", "yaml_tag_not_allowed"),
        ("a: !!str 5", "yaml_tag_not_allowed"),
        ("!!set {a: null}", "yaml_tag_not_allowed"),
        ("a: 1\na: 2", "duplicate_key"),
        ("a:\n\t- b", "invalid_yaml"),
        ("a: [1", "invalid_yaml"),
        ("a: b: c", "invalid_yaml"),
        ("a: 1\n---\nb: 2", "invalid_yaml"),
        ("[a]: 1", "invalid_yaml"),
        ("a: \x01", "invalid_yaml"),
        ('a: "\\0"', "nul_not_allowed"),
        ("a: 1" + "0" * 5000, "invalid_number"),
        ("a: 123456789012345678901234567890", "invalid_number"),
        ("a: 1e999", "invalid_number"),
        ("a: \ud800", "invalid_unicode"),
        ("[" * 60000, "too_deep"),
        ("- " * 100, "too_deep"),
        ("x: " + "y" * MAX_BYTES, "too_large"),
        ("x: " + "ä" * (MAX_BYTES // 2), "too_large"),
        ("", "invalid_type"),
        ("# nothing", "invalid_type"),
        ("just words", "invalid_type"),
    ],
)
def test_unsafe_broken_or_ambiguous_yaml_is_refused_at_once(text: str, code: str) -> None:
    started = time.perf_counter()
    assert code in [finding.code for finding in refusals(text)]
    assert time.perf_counter() - started < 0.5


def test_an_alias_bomb_is_refused_without_being_built() -> None:
    lines = ['a0: &a0 ["lol","lol","lol"]']
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    started = time.perf_counter()
    codes = {finding.code for finding in refusals("\n".join(lines))}
    assert codes == {"yaml_alias_not_allowed", "more_findings"}
    assert time.perf_counter() - started < 0.5


def test_every_alias_tag_and_doubled_key_is_told_with_its_line() -> None:
    found = refusals("a: &x 1\nb: *x\nc: !t 1\nc: 2\n")
    assert [(finding.line, finding.code) for finding in found] == [
        (1, "yaml_alias_not_allowed"),
        (2, "yaml_alias_not_allowed"),
        (3, "yaml_tag_not_allowed"),
        (4, "duplicate_key"),
    ]


def test_a_tab_is_called_a_tab() -> None:
    (finding,) = refusals("name: x\nsteps:\n\t- name: a\n")
    assert "tab" in finding.detail
    assert finding.line == 3


def test_plain_words_mean_what_they_mean_in_json() -> None:
    text = (
        "[no, on, yes, 2026-11-20, 12:30, 0x1f, 1_000, .5, -3, 1e3, ~, null, true, '5',"
        " .nan]"
    )
    assert read_yaml(text).value == [
        "no", "on", "yes", "2026-11-20", "12:30", "0x1f", "1_000", 0.5, -3, 1000.0,
        None, None, True, "5", ".nan",
    ]  # fmt: skip


_ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _ASCII,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_ASCII, inner, max_size=3)
    ),
    max_leaves=10,
)


@given(_JSON)
def test_json_text_read_as_yaml_is_the_same_value(value: object) -> None:
    assert read_yaml(json.dumps(value)).value == value


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "invalid_json"),
        ('{"a": 1,}', "invalid_json"),
        ('{"a": 1} {}', "invalid_json"),
        ("", "invalid_json"),
        ('{"a": 1, "a": 2}', "duplicate_key"),
        ('{"a": NaN}', "invalid_number"),
        ('{"a": 1e999}', "invalid_number"),
        ('{"a": ' + "9" * 5000 + "}", "invalid_number"),
        ('{"a": "\\ud800"}', "invalid_unicode"),
        ('{"a": "\\u0000"}', "nul_not_allowed"),
        ('{"\\u0000": 1}', "nul_not_allowed"),
        ("[" * 60000, "too_deep"),
        ("[" * 70 + "]" * 70, "too_deep"),
        (" " * (MAX_BYTES + 1), "too_large"),
    ],
)
def test_broken_or_ambiguous_json_is_refused(text: str, code: str) -> None:
    with pytest.raises(InvalidChain) as caught:
        parse_json(text)
    assert [finding.code for finding in caught.value.findings] == [code]


def test_broken_json_is_placed() -> None:
    with pytest.raises(InvalidChain) as caught:
        parse_json('{\n  "a": 1,\n}', "mine.json")
    (finding,) = caught.value.findings
    assert (finding.file, finding.line) == ("mine.json", 3)


def test_a_file_is_read_by_its_ending(tmp_path: Path) -> None:
    yaml_file, json_file = tmp_path / "a.yaml", tmp_path / "a.json"
    yaml_file.write_text(GOOD)
    json_file.write_text(json.dumps(read_yaml(GOOD).value))
    assert read_chain(yaml_file) == read_chain(json_file)


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert read_chain(path).name == "sample"


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"name: \xff", "invalid_unicode"), (b"x" * 10_000_000, "too_large")],
)
def test_a_file_that_is_no_text_or_too_large_is_refused(
    tmp_path: Path, content: bytes, code: str
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidChain) as caught:
        read_chain(path)
    assert [(f.code, f.file) for f in caught.value.findings] == [(code, str(path))]


def test_a_folder_is_read_whole_or_refused_with_the_findings_of_every_file(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "notes.txt").write_text("not a chain")
    assert list(read_chains(tmp_path)) == ["sample"]
    (tmp_path / "b.yml").write_text("name: 5")
    (tmp_path / "c.json").write_text("{")
    (tmp_path / "d.yaml").write_text(GOOD)
    with pytest.raises(InvalidChain) as caught:
        read_chains(tmp_path)
    files = [Path(finding.file or "").name for finding in caught.value.findings]
    assert files == ["b.yml", "b.yml", "c.json", "d.yaml"]
