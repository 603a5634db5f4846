"""One evaluation of two sources: face crops by name, and photographs with ranges in a table."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from agegender.config import EdaConfig, EvaluateConfig
from agegender.pipelines.eda.run import run_eda
from agegender.pipelines.evaluate.run import run_evaluate
from agegender.pipelines.runtime.detector import DETECTOR_VARIABLE
from tests.support.drawn import write_faces
from tests.support.photographs import write_photographs

DETECTOR = Path(
    os.environ.get(
        DETECTOR_VARIABLE, Path(__file__).parents[2] / "../shared/models/face_detection_yunet_n_dynamic.onnx"
    )
)
pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.skipif(not DETECTOR.is_file(), reason=f"no face detector at {DETECTOR}: set {DETECTOR_VARIABLE}"),
]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sources")
    write_faces(folder / "crops", 40, size_px=96)
    write_photographs(folder / "photographs.parquet", 30)
    inputs = [str(folder / "crops"), str(folder / "photographs.parquet")]
    return {
        "input": inputs,
        "faces": ["none", "detect"],
        "age_column": [None, "years"],
        "gender_column": [None, "sex"],
        "race_column": [None, "people"],
        "detector_model": str(DETECTOR),
        "unit_images": 16,
    }


def test_figures_are_there_for_each_source(given: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    config = EvaluateConfig(**given, output=str(output), model=str(tiny_model), bootstrap_rounds=100, num_workers=1)
    metrics = run_evaluate(config)
    rows = pq.read_table(output / "predictions.parquet").to_pylist()
    assert json.loads((output / "metrics.json").read_text()) == metrics
    assert {row["source"] for row in rows} == {"crops", "photographs.parquet"}
    assert all((row["box"] is None) == (row["source"] == "crops") for row in rows if row["status"] == "ok")
    slices = [row for row in pq.read_table(output / "slices.parquet").to_pylist() if row["slice"] == "source"]
    for name, by_slice in zip(("crops", "photographs.parquet"), slices, strict=True):
        mine = [row for row in rows if row["source"] == name and row["status"] == "ok"]
        genders = [(row["female_probability"] >= 0.5) == (row["true_gender"] == 1) for row in mine]
        of_it = metrics["by_source"][name]
        assert (by_slice["source"], by_slice["n"], of_it["n"]) == (name, len(mine), len(mine))
        accuracy = pytest.approx(sum(genders) / len(genders), abs=1e-4)
        assert of_it["gender_accuracy"]["value"] == by_slice["gender_accuracy"] == accuracy
        assert of_it["gender_calibration_error"] == by_slice["gender_calibration_error"] > 0
        assert sum(metrics["images"]["by_status_and_source"][name].values()) == sum(r["source"] == name for r in rows)
    crops, photographs = (metrics["by_source"][name] for name in ("crops", "photographs.parquet"))
    assert (crops["n_age"], crops["n_age_range"], photographs["n_age"]) == (40, 0, 0)
    assert photographs["n_age_range"] == photographs["n"] >= 20
    assert photographs["interval_meets_range"]["value"] is not None
    of_ranges = metrics["interval_by_age_group"]["estimated_of_ranges"]
    assert sum(row["n"] for row in of_ranges) == photographs["n"]
    assert "By source" in (output / "report.html").read_text()


def test_one_source_is_not_sliced_by(given: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    config = EvaluateConfig(
        input=given["input"][:1],
        output=str(tmp_path / "out"),
        model=str(tiny_model),
        bootstrap_rounds=100,
        images=False,
    )
    metrics = run_evaluate(config)
    assert (metrics["by_source"], metrics["images"]["by_status_and_source"]) == (None, None)
    assert set(pq.read_table(tmp_path / "out" / "predictions.parquet")["source"].to_pylist()) == {"crops"}
    assert "source" not in pq.read_table(tmp_path / "out" / "slices.parquet")["slice"].to_pylist()


def test_eda_describes_several_sources(given: dict[str, Any], tmp_path: Path) -> None:
    summary = run_eda(EdaConfig(**given, output=str(tmp_path / "out"), images=False))
    rows = pq.read_table(tmp_path / "out" / "tables" / "images").to_pylist()
    sizes = {(row["source"], row["width"]) for row in rows}
    assert sizes == {("crops", 96), ("photographs.parquet", 280)}
    assert summary["images"] == len(rows) == 70
    assert sum(row["age_years"] is None for row in rows) == 30
