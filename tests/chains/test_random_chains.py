"""Random chains of every kind come to what a plain interpreter says they must."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chains.random_chains import DECIDING, check

RUNS = 400
"""`python -m tests.chains.random_chains 100000` plays more of them."""


@pytest.mark.parametrize("hundred", range(RUNS // 100))
def test_every_schedule_of_a_random_chain_comes_to_the_oracles_output(
    hundred: int,
) -> None:
    authors = [check(seed) for seed in range(hundred * 100, hundred * 100 + 100)]
    written = sum((author.kinds for author in authors), Counter[str]())
    assert written.keys() == {"tool", *DECIDING}, "every kind, in each hundred"
    assert sum(author.depth >= 3 for author in authors) > 20
