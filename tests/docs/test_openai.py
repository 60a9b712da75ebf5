"""The page about OpenAI's interface says what the front does."""

from __future__ import annotations

from gateway.front import embeddings, envelope, options, parameters
from llmgine_workers.errors import FOLLOWS
from tests.docs.pages import read, section, table, words

PAGE = "docs/openai.md"


def test_every_parameter_is_there_in_its_row() -> None:
    rows = {
        row["here"].split(":")[0].split(",")[0]: set(words(row["parameter"]))
        for row in table(section(PAGE, "Parameters"))
    }
    assert set.union(*rows.values()) == {
        *parameters.ChatCompletionRequest.model_fields,
        *parameters.LEFT_OUT,
        *parameters.ONLY,
    }
    assert rows["left out"] == set(parameters.LEFT_OUT)
    assert rows["refused"] == set(parameters.ONLY)


def test_every_parameter_of_embeddings_is_there() -> None:
    text = section(PAGE, "Embeddings")
    for name in (*embeddings.EmbeddingsRequest.model_fields, *embeddings.LEFT_OUT):
        assert f"`{name}`" in text


def test_every_status_of_a_failed_job_is_there() -> None:
    rows = [row for row in table(section(PAGE, "Errors")) if "status" in row]
    written = {code: int(row["status"]) for row in rows for code in words(row["codes"])}
    assert written.keys() <= {*FOLLOWS, "cancelled"}
    for code in (*FOLLOWS, "cancelled"):
        status, _ = envelope.failure_of({"code": code, "message": ""})
        assert status == written.get(code, envelope.FAILED_OTHERWISE), code


def test_every_header_is_there() -> None:
    for name in options.OPTIONS:
        header = "-".join(part.capitalize() for part in f"llmgine_{name}".split("_"))
        assert f"`{header}`" in read(PAGE)
