"""What groups letters: the failure, and not what is different about it each time."""

from __future__ import annotations

import pytest

from llmgine_workers.ledger.fingerprint import fingerprint, normalised

ALIKE = [
    ("no model 4711 for 01a1fa83-447d-7a9c-abd4", "no model 8 for 01b2ce11-447d-ffff"),
    ("no page 'a.html'", "no page 'another one.html'"),
    ('the field "a" is missing', 'the field "b" is missing'),
    ("request req_8f took 12.5 s", "request req_9cd took 3 s"),
    ("at 12:00:01.250", "at 9:07"),
]


@pytest.mark.parametrize(("one", "two"), ALIKE)
def test_numbers_ids_and_quotations_make_no_difference(one: str, two: str) -> None:
    assert normalised(one) == normalised(two)
    assert fingerprint("tool_failed", one) == fingerprint("tool_failed", two)


def test_words_do_also_those_with_an_apostrophe() -> None:
    assert normalised("it can't be and doesn't") == "it can't be and doesn't"
    assert normalised("no such page") != normalised("no such model")


def test_code_chain_and_step_belong_to_it_but_no_item_of_a_map() -> None:
    whole = fingerprint("tool_failed", "no", "report", "notes.3.page")
    assert whole == fingerprint("tool_failed", "no", "report", "notes.17.page")
    assert whole != fingerprint("tool_failed", "no", "report", "notes.3.note")
    assert whole != fingerprint("tool_failed", "no", "other", "notes.3.page")
    assert whole != fingerprint("too_large", "no", "report", "notes.3.page")


@pytest.mark.parametrize("message", ["", "\ud800", "'" * 100_000, "a-" * 100_000])
def test_any_text_has_one(message: str) -> None:
    assert len(fingerprint("tool_failed", message)) == 16
