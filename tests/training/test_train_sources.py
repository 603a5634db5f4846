"""One training on two sources that differ in all that a source may: face crops by name, photographs with ranges in a table."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agegender.errors import ConfigError
from agegender.pipelines.runtime.detector import DETECTOR_VARIABLE
from agegender.pipelines.train.run import run_train
from agegender.training_config import TrainConfig
from tests.support.drawn import write_faces
from tests.support.photographs import write_photographs
from tests.support.processes import kill_with_all_children
from tests.support.trained import checkpoint_steps, metrics

DETECTOR = Path(
    os.environ.get(
        DETECTOR_VARIABLE, Path(__file__).parents[2] / "../shared/models/face_detection_yunet_n_dynamic.onnx"
    )
)
pytestmark = pytest.mark.skipif(
    not DETECTOR.is_file(), reason=f"no face detector at {DETECTOR}: set {DETECTOR_VARIABLE}"
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Crops, and photographs of which six are crops of the other source."""
    folder = tmp_path_factory.mktemp("sources")
    write_faces(folder / "crops", 80, size_px=128)
    shared = [path.read_bytes() for path in sorted((folder / "crops").iterdir())[:6]]
    write_photographs(folder / "photographs.parquet", 60, more=shared)
    return [str(folder / "crops"), str(folder / "photographs.parquet")]


def settings(inputs: list[str], output: Path, **more: Any) -> TrainConfig:
    given: dict[str, Any] = {
        "input": inputs,
        "output": str(output),
        "faces": ["none", "detect"],
        "source_weight": [1, 2],
        "age_column": ["", "years"],
        "gender_column": ["", "sex"],
        "race_column": ["", "people"],
        "detector_model": str(DETECTOR),
        "image_size_px": 40,
        "epochs": 2,
        "batch_size": 16,
        "val_fraction": 0.25,
        "test_fraction": 0.1,
        "checkpoint_interval_steps": 2,
        "num_cpus": 2,
        "unit_images": 64,
    }
    return TrainConfig(**given | more)


@pytest.fixture(scope="module")
def trained(inputs: list[str], ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "out"
    run_train(settings(inputs, output))
    return output


def test_each_source_is_read_and_framed_as_it_says(trained: Path) -> None:
    split = pq.read_table(trained / "split.parquet")
    crops, photographs = (split.filter(pc.equal(split["source"], name)) for name in ("crops", "photographs.parquet"))
    assert crops.num_rows == 80, "crops are taken whole, whether a detector would see a face in them or not"
    assert 45 <= photographs.num_rows <= 66, "photographs without a face are left out"
    assert crops["age_years"].null_count == 0
    assert photographs["age_years"].null_count == photographs.num_rows
    ends = (np.array(photographs[f"age_{end}_years"].to_pylist()) for end in ("low", "high"))
    assert set(np.subtract(*reversed(list(ends)))) == {9.0}
    assert set(photographs["race"].to_pylist()) == {"East Asian", "black"}, (
        "a name that UTKFace has, too, is written as there"
    )


def test_an_image_of_two_sources_is_in_one_part(trained: Path) -> None:
    rows = pq.read_table(trained / "split.parquet").to_pylist()
    by_content: dict[bytes, list[dict[str, Any]]] = {}
    for row in rows:
        by_content.setdefault(row["content_hash"], []).append(row)
    shared = [same for same in by_content.values() if len({row["source"] for row in same}) == 2]
    assert len(shared) >= 4
    assert all(len({(row["part"], row["group"]) for row in same}) == 1 for same in shared)


def test_metrics_are_there_by_source_at_each_epoch(trained: Path) -> None:
    split = pq.read_table(trained / "split.parquet").to_pylist()
    for row in metrics(trained):
        crops, photographs = row["by_source"]["crops"], row["by_source"]["photographs.parquet"]
        for name, of_it in row["by_source"].items():
            assert of_it["images"] == sum(each["source"] == name and each["part"] == "val" for each in split)
        assert crops["age_mae_years"] == pytest.approx(row["age_mae_years"]), "only crops have exact ages"
        assert photographs["age_mae_to_range_years"] == pytest.approx(row["age_mae_to_range_years"])
        assert (crops["age_mae_to_range_years"], photographs["age_mae_years"]) == (None, None)
        both = crops["gender_accuracy"] * crops["images"] + photographs["gender_accuracy"] * photographs["images"]
        assert both / row["val_images"] == pytest.approx(row["gender_accuracy"])
    assert "By source" in (trained / "report.html").read_text()
    board = EventAccumulator(str(trained / "tensorboard"))
    board.Reload()
    assert len(board.Scalars("gender_accuracy/photographs.parquet")) == 2


def test_a_wrong_count_is_refused_before_anything_is_written(inputs: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--faces is given 2 times and --input 3 times"):
        run_train(settings([*inputs, inputs[0]], tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_killed_run_resumes_with_the_sources_of_its_split(inputs: list[str], tmp_path: Path) -> None:
    config = settings(inputs, tmp_path / "out", epochs=3)
    flags = [f"--input={address}" for address in inputs]
    for name in ("faces", "source_weight", "age_column", "gender_column", "race_column"):
        flags += [f"--{name.replace('_', '-')}={'' if value is None else value}" for value in getattr(config, name)]
    for name in ("output", "detector_model", "image_size_px", "epochs", "batch_size", "val_fraction", "test_fraction"):
        flags.append(f"--{name.replace('_', '-')}={getattr(config, name)}")
    flags += ["--checkpoint-interval-steps=2", "--num-cpus=2", "--unit-images=64"]
    command = [sys.executable, "-m", "agegender.cli", "train", *flags]
    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=os.environ | {"RAY_ADDRESS": ""})
    deadline_s = time.monotonic() + 600
    try:
        while not checkpoint_steps(tmp_path / "out"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.02)
    finally:
        kill_with_all_children(process)
    before = pq.read_table(tmp_path / "out" / "split.parquet")
    run_train(config)
    assert pq.read_table(tmp_path / "out" / "split.parquet").equals(before)
    assert [row["epoch"] for row in metrics(tmp_path / "out")] == [1, 2, 3]
    assert all(row["used_images"] == row["train_images"] for row in metrics(tmp_path / "out"))
    assert all(len(row["by_source"]) == 2 for row in metrics(tmp_path / "out"))
