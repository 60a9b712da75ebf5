from __future__ import annotations

import hashlib

import pytest

from llmgine_workers import keys


def test_a_new_key_names_its_row_and_carries_256_random_bits() -> None:
    key = keys.new_key()
    mark, key_id, secret = key.text.split("_")
    assert mark == "llmg"
    assert key_id == key.id
    assert len(bytes.fromhex(secret)) == 32


def test_no_two_keys_are_alike() -> None:
    made = [keys.new_key() for _ in range(100)]
    assert len({key.id for key in made}) == len({key.text for key in made}) == 100


def test_what_is_stored_is_a_hash_and_not_the_key() -> None:
    key = keys.new_key()
    assert key.hash == hashlib.sha256(key.text.encode()).digest()


def test_a_key_matches_its_own_hash_only() -> None:
    mine, other = keys.new_key(), keys.new_key()
    presented = keys.parse(mine.text)
    assert presented is not None
    assert presented.id == mine.id
    assert keys.matches(presented, mine.hash)
    assert not keys.matches(presented, other.hash)


def test_the_right_id_with_another_secret_does_not_match() -> None:
    mine, other = keys.new_key(), keys.new_key()
    forged = keys.parse(f"llmg_{mine.id}_{other.text.rpartition('_')[2]}")
    assert forged is not None
    assert not keys.matches(forged, mine.hash)


@pytest.mark.parametrize(
    "text",
    ["", "llmg_", "sk-abc", "llmg_abc_def", "llmg_0123456789ab_" + "0" * 63,
     "llmg_0123456789ab_" + "0" * 64 + "\n", "llmg_0123456789ab_" + "G" * 64,
     "x" * 100_000],
)  # fmt: skip
def test_what_has_not_the_form_of_a_key_is_none(text: str) -> None:
    assert keys.parse(text) is None
