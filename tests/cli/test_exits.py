"""Exit statuses: one table, and no failure without its sentence."""

from __future__ import annotations

import asyncio

import pytest

from chains import Finding, InvalidChain
from llmgine_workers.cli.api import Refused
from llmgine_workers.cli.endings import conclude
from llmgine_workers.cli.exits import Exit, JobFailed, PartlyDone, Usage, exit_of
from llmgine_workers.errors import ConfigurationError, DependencyDown, Refusal


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (JobFailed("it failed"), 1),
        (Usage("what?"), 2),
        (PartlyDone("1 of 2"), 3),
        (Refusal("invalid_input", "too many sentences"), 65),
        (InvalidChain([Finding("/steps", "missing", "no steps")]), 65),
        (DependencyDown("the ledger is away"), 69),
        (Refused(503, {"code": "ledger_unavailable"}), 69),
        (Refused(502, {}), 69),
        (Refused(429, {"code": "tenant_queue_full"}), 75),
        (Refused(429, {}), 75),
        (Refused(401, {"code": "unauthenticated"}), 77),
        (Refused(403, {"code": "missing_scope"}), 77),
        (Refused(404, {"code": "not_found"}), 65),
        (Refused(422, {"code": "invalid_chain"}), 65),
        (ConfigurationError("no such section"), 78),
        (KeyboardInterrupt(), 130),
        (asyncio.CancelledError(), 130),
        (ExceptionGroup("many", [DependencyDown("away")]), 69),
    ],
)
def test_every_failure_has_the_status_of_the_interface(
    error: BaseException, status: int
) -> None:
    assert conclude(error) == status


def test_a_code_that_is_not_listed_is_bad_data() -> None:
    assert exit_of("exceeds_limit") is Exit.DATA


def test_all_findings_are_told_one_to_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    problem = {
        "code": "invalid_input",
        "detail": "two things are wrong",
        "request_id": "0193",
        "errors": [
            {"pointer": "/inputs/a", "code": "out_of_range", "detail": "at most 20"},
            {"pointer": "/inputs/b", "code": "missing", "detail": "b is missing"},
        ],
    }
    conclude(Refused(422, problem))
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "llmgine: two things are wrong"
    assert "/inputs/a: at most 20" in told[1]
    assert "/inputs/b: b is missing" in told[2]
    assert any("request 0193" in line for line in told)


def test_a_finding_in_a_file_names_line_and_column(
    capsys: pytest.CaptureFixture[str],
) -> None:
    finding = Finding("/steps/0", "missing", "no kind", file="a.yaml", line=3, column=5)
    conclude(InvalidChain([finding]))
    assert capsys.readouterr().err == "llmgine: a.yaml:3:5: missing: /steps/0: no kind\n"


def test_a_defect_shows_no_stack_trace_but_keeps_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("postgresql://me:secret@db/x")

    with pytest.raises(ZeroDivisionError) as caught:
        broken()
    assert conclude(caught.value) == Exit.DEFECT
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert "secret" not in told
    path = told.partition("details: ")[2].partition(")")[0]
    with open(path) as kept:
        trace = kept.read()
    assert "in broken" in trace
    assert "secret" not in trace
