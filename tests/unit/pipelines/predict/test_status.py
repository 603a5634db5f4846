from pathlib import Path

import pyarrow as pa
import pytest

from agegender.cli import main
from agegender.config import PredictConfig, StatusConfig
from agegender.errors import InputError
from agegender.pipelines.predict.ledger import Ledger, stage_unit
from agegender.pipelines.predict.status import run_status
from agegender.pipelines.runtime.run_record import claim_output, failure_recorded, finish_record
from agegender.schema import prediction_schema
from agegender.storage import files


def stage(output: Path, number: int, statuses: list[str]) -> tuple[str, object]:
    unit = f"{output}/_work/listing/unit-{number:07d}.parquet"
    rows = [
        {"uri": f"{number}-{index}", "face_index": 0, "status": status, "error": None if status == "ok" else "why"}
        for index, status in enumerate(statuses)
    ]
    return unit, stage_unit(str(output), unit, pa.Table.from_pylist(rows, schema=prediction_schema()))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    config = PredictConfig(input=["a"], output=str(tmp_path), model="m")
    claim_output(str(tmp_path), "predict", config, {})
    ledger = Ledger(str(tmp_path), {})
    ledger.add(*stage(tmp_path, 0, ["ok", "missing", "missing", "missing", "missing", "empty", "no_face"]))  # type: ignore[arg-type]
    ledger.publish_rest()
    stage(tmp_path, 1, ["ok", "ok"])
    finish_record(str(tmp_path), "predict", config, {}, {"changed_files": 1, "changed_examples": ["0-0"]})
    return tmp_path


def test_it_tells_how_far_the_run_is_and_a_few_examples_of_what_failed_and_why(output: Path) -> None:
    status = run_status(StatusConfig(output=str(output)))
    assert (status["listed"], status["left"]) == ("not finished", "unknown")
    files.write_json(f"{output}/_work/listing/listing.json", {"images": 12})
    status = run_status(StatusConfig(output=str(output)))
    assert (status["listed"], status["scored"], status["left"], status["readable_in_parts"]) == (12, 9, 3, 7)
    assert status["by_status"] == {"ok": 3, "missing": 4, "empty": 1, "no_face": 1}
    assert status["failed"] == ["empty: 0-5: why", "missing: 0-1: why", "missing: 0-2: why", "missing: 0-3: why"]
    assert (status["changed_files"], status["changed_examples"], status["left_to_score_again"]) == (1, ["0-0"], None)


def test_the_output_is_named_without_a_flag(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "missing: 0-1: why" in shown
    assert "0-0" in shown


def test_where_no_run_is_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no predict run"):
        run_status(StatusConfig(output=str(tmp_path)))


def test_it_tells_that_a_run_failed_and_why(tmp_path: Path) -> None:
    claim_output(str(tmp_path), "predict", PredictConfig(input=["a"], output=str(tmp_path), model="m"), {})
    with pytest.raises(InputError), failure_recorded(str(tmp_path), "predict"):
        raise InputError("a: no images")
    status = run_status(StatusConfig(output=str(tmp_path)))
    assert (status["state"], status["error"]) == ("failed", "a: no images")
