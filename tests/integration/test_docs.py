"""The queries of the documentation run as they stand there."""

import re
from pathlib import Path

import duckdb
import pytest

from agegender.config import PredictConfig
from agegender.pipelines.predict.run import run_predict
from tests.support.corpus import write_corpus

PAGE = (Path(__file__).parents[2] / "docs" / "predictions.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


@pytest.mark.usefixtures("ray_cluster")
def test_every_query_of_the_predictions_page_runs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus")
    output = str(tmp_path / "out" / "predictions")
    source = [str(tmp_path / "corpus")]
    config = {"input": source, "output": output, "model": str(tiny_model), "faces": "none"}
    run_predict(PredictConfig(**config, max_bad_fraction=1.0))
    monkeypatch.chdir(tmp_path)
    for query in blocks("sql"):
        assert duckdb.sql(query).fetchall()
    for code in blocks("python"):
        exec(code, {})
