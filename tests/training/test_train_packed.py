"""One GPU without Ray, end to end on drawn faces: pack, train-packed, train --resume-from, predict; on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from agegender.config import PredictConfig
from agegender.data.pack import open_pack, read_info
from agegender.errors import ConfigError, InputError
from agegender.model.checkpoint import load_network
from agegender.pipelines.predict.launch import launch_predict
from agegender.pipelines.train.pack import run_pack
from agegender.pipelines.train.run import run_train
from agegender.scoring.load import open_model, training_images
from agegender.training_config import PackConfig, TrainConfig, TrainPackedConfig
from tests.support.drawn import write_faces
from tests.support.trained import in_val, metrics

SETTINGS: dict[str, Any] = {
    "image_size_px": 64,
    "epochs": 2,
    "batch_size": 16,
    "val_fraction": 0.2,
    "precision": "float32",
    "num_cpus": 2,
}
TIMED = {"images_per_s", "data_wait_share", "seconds"}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, 120, seed=0, size_px=40)
    return folder


@pytest.fixture(scope="module")
def packed(ray_cluster: None, faces: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    output = tmp_path_factory.mktemp("packed") / "out"
    given: dict[str, Any] = {"image_format": "lossless", "pack_file_mb": 0.25, **SETTINGS}
    return output, run_pack(PackConfig(input=[str(faces)], output=str(output), **given))


@pytest.fixture(scope="module")
def state(packed: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a process that knows only the pack left."""
    output = tmp_path_factory.mktemp("state") / "out"
    flags = ["--pack", str(packed[0] / "pack"), "--output", str(output), "--device", "cpu"]
    # as many threads as the worker of Ray has
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    run = subprocess.run(
        [sys.executable, "-m", "agegender.cli", "train-packed", *flags],
        capture_output=True,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "2"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return output / "state"


def test_a_pack_holds_what_a_training_needs_in_files_of_bounded_size(packed: tuple[Path, dict[str, Any]]) -> None:
    output, summary = packed
    folder = output / "pack"
    images = sorted(folder.glob("images-*.parquet"))
    assert len(images) == summary["image_files"] > 1
    assert max(file.stat().st_size for file in images) <= 250_000
    pack, split = open_pack(folder), pq.read_table(output / "split.parquet")
    assert pack.info.split_hash == summary["split_hash"]
    expected = [row for row in split.to_pylist() if row["part"] != "test"]
    assert len(expected) < split.num_rows
    assert pack.rows["content_hash"].to_pylist() == [row["content_hash"] for row in expected]
    assert pack.rows["age_years"].to_pylist() == [row["age_years"] for row in expected]
    assert "uri" not in pack.rows.column_names
    assert not list(output.glob("_work/**/*.parquet"))


def test_a_finished_state_becomes_a_model_that_predicts_and_has_the_weights_of_a_training_with_ray(
    ray_cluster: None, faces: Path, state: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"input": [str(faces)], **SETTINGS}
    with_ray = run_train(TrainConfig(output=str(tmp_path / "ray"), **given))
    finished = run_train(TrainConfig(output=str(tmp_path / "finished"), resume_from=str(state), **given))
    assert finished["epochs"] == with_ray["epochs"] == 2
    ours, theirs = (metrics(tmp_path / name) for name in ("finished", "ray"))
    assert ours == metrics(state.parent)
    for row, other in zip(ours, theirs, strict=True):
        for name in row.keys() - TIMED:
            assert row[name] == (other[name] and pytest.approx(other[name], rel=1e-4)), name
    models = [tmp_path / name / "model" for name in ("finished", "ray")]
    assert open_model(models[0]).split_hash == open_model(models[1]).split_hash
    assert training_images(models[0]).tolist() == training_images(models[1]).tolist()
    networks = [load_network(model)[0].state_dict() for model in models]
    for name, value in networks[0].items():
        assert torch.allclose(value, networks[1][name], rtol=2e-3, atol=2e-3), name
    for written in ("report.html", "split.parquet", "tensorboard", "run.json"):
        assert (tmp_path / "finished" / written).exists()
    assert int(in_val(tmp_path / "finished").sum()) == ours[-1]["val_images"]
    scored = launch_predict(
        PredictConfig(
            input=[str(faces)], model=str(models[0]), output=str(tmp_path / "scored"), faces="none", num_workers=None
        )
    )
    assert scored["images"] == 120
    rows = pq.read_table(tmp_path / "scored").to_pylist()
    assert all(row["age_low_years"] <= row["age_years"] <= row["age_high_years"] for row in rows)


def test_an_unfinished_state_is_trained_on(ray_cluster: None, faces: Path, tmp_path: Path, state: Path) -> None:
    """The state of the first epoch: Ray trains the second, and ends where a training on one device does."""
    content = json.loads((state / "state.json").read_text())
    output, given = tmp_path / "out", {"input": [str(faces)], **SETTINGS}
    first = _after_one_epoch(tmp_path, faces)
    run_train(TrainConfig(output=str(output), resume_from=str(first), **given))
    for row, other in zip(metrics(output), content["history"], strict=True):
        for name in row.keys() - TIMED:
            assert row[name] == (other[name] and pytest.approx(other[name], rel=1e-4)), name


def _after_one_epoch(tmp_path: Path, faces: Path) -> Path:
    from agegender.pipelines.train import packed as module

    class Stop(module.FolderListener):
        def end_epoch(self, history: list[dict[str, Any]]) -> None:
            super().end_epoch(history)
            raise KeyboardInterrupt

    run_pack(PackConfig(input=[str(faces)], output=str(tmp_path / "packed"), image_format="lossless", **SETTINGS))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "FolderListener", Stop)
        torch.set_num_threads(2)
        module.run_train_packed(
            TrainPackedConfig(pack=str(tmp_path / "packed" / "pack"), output=str(tmp_path / "one"), device="cpu")
        )
    torch.set_num_threads(threads)
    return tmp_path / "one" / "state"


def test_a_state_of_another_split_or_other_options_is_refused_and_leaves_the_output_free(
    ray_cluster: None, faces: Path, state: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"input": [str(faces)], "output": str(tmp_path / "out"), "resume_from": str(state)}
    with pytest.raises(InputError, match=r"is of split .*, this run's is .*seed or fractions changed"):
        run_train(TrainConfig(**given | SETTINGS | {"seed": 5}))
    with pytest.raises(ConfigError, match=r"--resume-from .*epochs was 2, is now 4"):
        run_train(TrainConfig(**given | SETTINGS | {"epochs": 4}))
    with pytest.raises(InputError, match=r"state\.json: cannot be read as a training state"):
        run_train(TrainConfig(**given | SETTINGS | {"resume_from": str(tmp_path)}))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_weights_and_teachers_travel_with_the_pack(
    ray_cluster: None, faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    given: dict[str, Any] = {"init": str(tiny_model), "teacher": [str(tiny_model)], **SETTINGS, "epochs": 1}
    run_pack(PackConfig(input=[str(faces)], output=str(output), **given))
    info = read_info(output / "pack")
    assert info.config["init"] == str(tiny_model)
    assert info.teachers == ["teachers/0"]
    assert {"initial.safetensors", "teachers/0/weights.safetensors", "teachers/0/model.json"} <= set(info.files)
    assert (info.network.image_size_px, info.config["image_size_px"]) == (32, 32)
    run = subprocess.run(
        [sys.executable, "-m", "agegender.cli", "train-packed", f"--pack={output}/pack", f"--output={tmp_path}/state"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    result = run_train(
        TrainConfig(input=[str(faces)], output=str(tmp_path / "done"), resume_from=f"{tmp_path}/state/state", **given)
    )
    assert result["epochs"] == 1
