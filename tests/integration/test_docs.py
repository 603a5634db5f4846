"""The queries of docs/queries.md run as they stand there, on the output of a real run."""

import re
from pathlib import Path

import duckdb
import pytest

from agegender.config import PredictConfig
from agegender.pipelines.predict.run import run_predict
from tests.support.corpus import write_corpus

PAGE = (Path(__file__).parents[2] / "docs" / "queries.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_every_query_answers_of_a_real_output(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus")
    output = str(tmp_path / "out" / "predictions")
    source = [str(tmp_path / "corpus")]
    config = {"input": source, "output": output, "model": str(tiny_model), "faces": "none"}
    run_predict(PredictConfig(**config, max_bad_fraction=1.0))
    monkeypatch.chdir(tmp_path)
    queries, programs = blocks("sql"), blocks("python")
    assert len(queries) > 3
    assert len(programs) > 2
    for query in queries:
        is_of_boxes = "box IS NOT NULL" in query  # face crops are scored whole
        assert bool(duckdb.sql(query).fetchall()) != is_of_boxes, query
    for code in programs:
        exec(code, {})
