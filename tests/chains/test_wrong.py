"""Chains that are wrong, each with the findings that its first lines expect."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chains import InvalidChain, read_chain

FOLDER = Path(__file__).parent / "wrong"
FILES = sorted(FOLDER.glob("*.yaml"))
_EXPECTED = re.compile(r"^# (\d+:\d+ \w+)$", re.M)


def findings(path: Path) -> list[str]:
    with pytest.raises(InvalidChain) as caught:
        read_chain(path)
    return [f"{f.line}:{f.column} {f.code}" for f in caught.value.findings]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_wrong_chain_is_told_with_line_column_and_code(path: Path) -> None:
    assert findings(path) == _EXPECTED.findall(path.read_text("utf-8"))
