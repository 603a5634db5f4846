"""Training on Ray, end to end, on drawn faces: small, but with real workers, real checkpoints and a real SIGKILL."""

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from agegender.artifact import INT8_GRAPH_FILE, image_keys
from agegender.data.duplicates import content_hash
from agegender.data.synthetic import draw_sample
from agegender.errors import ConfigError, InputError
from agegender.model import trainer
from agegender.model.checkpoint import load_network, load_training_state
from agegender.pipelines.runtime import metrics as counters
from agegender.pipelines.train import fit as train_fit
from agegender.pipelines.train.fit import check_gpus
from agegender.pipelines.train.run import claim_training, run_train
from agegender.recipe import Recipe
from agegender.scoring.cpu import CpuScorer
from agegender.scoring.load import open_model, training_images, weight_training_images
from agegender.training_config import TrainConfig
from tests.support.drawn import write_faces
from tests.support.processes import kill_with_all_children
from tests.support.trained import in_val, measured_again, metrics

SIDE_PX = 64
SETTINGS: dict[str, Any] = {
    "image_size_px": SIDE_PX,
    "epochs": 2,
    "batch_size": 16,
    "val_fraction": 0.2,
    "checkpoint_interval_steps": 3,
    # in fourteen steps a batch with more noise or darkness than another would hide that the loss falls
    "augment": {"darkness_probability": 0.0, "noise_probability": 0.0, "low_resolution_probability": 0.0},
    "num_cpus": 2,
}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, 150, seed=0, size_px=40)
    return folder


@pytest.fixture(scope="module")
def trained(
    ray_cluster: None, faces: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainConfig, dict[str, Any]]:
    """One run with one worker that nothing disturbed."""
    config = TrainConfig(input=[str(faces)], output=str(tmp_path_factory.mktemp("undisturbed") / "out"), **SETTINGS)
    return config, run_train(config)


def _assert_metrics_are_of_each_val_image_once(output: str) -> None:
    last, again = metrics(output)[-1], measured_again(output)[2].means()
    # weights are kept as float16, which these metrics were measured before
    assert last["age_mae_years"] == pytest.approx(again["age_error_years"], rel=2e-3)
    assert last["gender_accuracy"] == pytest.approx(again["gender_correct"])
    assert last["val_loss"] == pytest.approx(trainer.weighted_loss(again, Recipe()), rel=2e-3)


def test_writes_what_the_other_jobs_and_people_need(trained: tuple[TrainConfig, dict[str, Any]], faces: Path) -> None:
    config, result = trained
    output = Path(config.output)
    split = pq.read_table(output / "split.parquet").to_pylist()
    parts = {part: [row for row in split if row["part"] == part] for part in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == result["images"] == len(list(faces.iterdir()))
    history = metrics(config.output)
    assert [row["epoch"] for row in history] == [1, 2]
    assert history[0]["train_images"] == len(parts["train"])
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    info = open_model(output / "model")
    assert info.metrics["age_mae_years"] == history[-1]["age_mae_years"] == result["age_mae_years"]
    assert info.config["precision"] == result["precision"]
    assert any(factor > 0 for factor in info.calibration.age_high_factors)
    assert info.int8 is not None and info.int8.images == len(parts["val"])
    assert info.int8.age_mae_years == pytest.approx(info.metrics["age_mae_years"], rel=0.05), "another way to resize"
    assert INT8_GRAPH_FILE in info.files and CpuScorer(output / "model", precision="int8").precision == "int8"
    assert list((output / "tensorboard").iterdir())
    page = (output / "report.html").read_text()
    assert "data:image/jpeg" in page
    assert "data:image/png" in page
    record = json.loads((output / "run.json").read_text())
    assert record["state"] == "done"
    assert not (output / "_work").exists() or not [p for p in (output / "_work").rglob("*") if p.is_file()]


def test_the_model_knows_the_images_it_has_seen(trained: tuple[TrainConfig, dict[str, Any]]) -> None:
    config, _ = trained
    model = Path(config.output) / "model"
    seen, learnt = (set(images(model).tolist()) for images in (training_images, weight_training_images))
    for row in pq.read_table(Path(config.output) / "split.parquet").to_pylist():
        [key] = image_keys([content_hash(Path(row["uri"]).read_bytes())])
        assert (int(key) in seen) == (row["part"] != "test")
        assert (int(key) in learnt) == (row["part"] == "train")


def test_metrics_with_one_worker(trained: tuple[TrainConfig, dict[str, Any]]) -> None:
    val = int(in_val(trained[0].output).sum())
    assert val % 2, "choose another number of images: the tests of two and three workers need an uneven one"
    assert val % 3
    _assert_metrics_are_of_each_val_image_once(trained[0].output)


@pytest.fixture(scope="module")
def with_three_workers(
    trained: tuple[TrainConfig, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainConfig, dict[str, Any], Counter[str]]:
    """The same run with three workers, whose driver looks at them when training has ended and not before; what it counted."""
    counted: Counter[str] = Counter()
    config = trained[0].model_copy(update={"output": str(tmp_path_factory.mktemp("three") / "out"), "num_workers": 3})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_fit, "POLL_INTERVAL_S", 600)
        patch.setattr(counters, "count", lambda name, value, _, **_tags: counted.update({name: value}))
        return config, run_train(config), counted


def test_metrics_with_three_workers(
    trained: tuple[TrainConfig, dict[str, Any]], with_three_workers: tuple[TrainConfig, dict[str, Any], Counter[str]]
) -> None:
    config, result, _ = with_three_workers
    _assert_metrics_are_of_each_val_image_once(config.output)
    assert [row["step"] for row in metrics(config.output)] == [row["step"] for row in metrics(trained[0].output)]
    assert result["age_mae_years"] == pytest.approx(trained[1]["age_mae_years"], abs=5)


def test_images_are_counted_from_the_first_however_late_the_driver_looks(
    with_three_workers: tuple[TrainConfig, dict[str, Any], Counter[str]],
) -> None:
    config, _, counted = with_three_workers
    used = sum(epoch["train_images"] for epoch in metrics(config.output))
    assert counted["agegender_train_images_total"] == used


def test_micro_batches_learn_what_workers_would_and_are_as_many_steps(
    ray_cluster: None, trained: tuple[TrainConfig, dict[str, Any]], tmp_path: Path
) -> None:
    """Four shares of each batch are four shares, on one worker or on two; norms aside, nothing can tell them apart."""
    histories = []
    for workers, parts in ((1, 4), (2, 2)):
        output = str(tmp_path / f"{workers}-{parts}")
        update = {"output": output, "num_workers": workers, "accumulate": parts}
        run_train(trained[0].model_copy(update=update))
        histories.append(metrics(output))
    for alone, together in zip(*histories, strict=True):
        assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=2e-3)
        assert alone["used_images"] == together["used_images"] == alone["train_images"]
        assert (alone["workers"], together["workers"]) == (1, 2)
    assert [row["step"] for row in histories[0]] == [row["step"] for row in metrics(trained[0].output)]


def test_fine_tuning_with_two_workers(
    ray_cluster: None, trained: tuple[TrainConfig, dict[str, Any]], tmp_path: Path, faces: Path
) -> None:
    config = TrainConfig(
        input=[str(faces)],
        output=str(tmp_path / "tuned"),
        **SETTINGS | {"epochs": 1, "image_size_px": 32, "seed": 5},
        init=f"{trained[0].output}/model",
        learning_rate=1e-9,
        ema_decay=0,
        num_workers=2,
    )
    result = run_train(config)
    networks = [
        open_model(folder).network for folder in (tmp_path / "tuned" / "model", Path(trained[0].output) / "model")
    ]
    assert networks[0] == networks[1]  # the network is taken over
    _assert_metrics_are_of_each_val_image_once(config.output)
    before, _ = load_network(Path(trained[0].output) / "model")
    after, _ = load_network(tmp_path / "tuned" / "model")
    assert torch.allclose(before.age_head.weight, after.age_head.weight, atol=1e-5)
    # Another seed gives another split: images that the first model was trained on are counted and recorded.
    assert result["val_images_seen_by_init"] > 0
    known, before_known = (set(training_images(Path(f) / "model").tolist()) for f in (config.output, trained[0].output))
    assert before_known <= known
    assert "metrics on them are optimistic (data leakage)" in (tmp_path / "tuned" / "report.html").read_text()


def test_weights_of_a_model_folder_bring_along_what_they_have_seen(
    ray_cluster: None, trained: tuple[TrainConfig, dict[str, Any]], tmp_path: Path, faces: Path
) -> None:
    before = Path(trained[0].output) / "model"
    given: dict[str, Any] = SETTINGS | {"epochs": 1, "seed": 5, "weights": str(before / "weights.safetensors")}
    result = run_train(TrainConfig(input=[str(faces)], output=str(tmp_path / "tuned"), **given))
    assert result["val_images_seen_by_init"] > 0
    assert set(weight_training_images(before).tolist()) <= set(training_images(tmp_path / "tuned/model").tolist())


def test_a_student_learns_from_a_teacher_that_has_not_seen_what_it_is_judged_on(
    ray_cluster: None, trained: tuple[TrainConfig, dict[str, Any]], tmp_path: Path, faces: Path
) -> None:
    given = {"input": [str(faces)], **SETTINGS, "teacher": [f"{trained[0].output}/model"], "teacher_weight": 1.0}
    given["epochs"] = 1
    with pytest.raises(InputError, match=r"--teacher .*was trained on \d+ images of this run's val part"):
        run_train(TrainConfig(output=str(tmp_path / "other"), **given | {"seed": 5}))
    assert not [path for path in (tmp_path / "other").rglob("*") if path.is_file()]
    result = run_train(TrainConfig(output=str(tmp_path / "student"), **given))
    assert result["train_images"] == trained[1]["train_images"]
    first, first_alone = (metrics(output)[0] for output in (str(tmp_path / "student"), trained[0].output))
    assert first["train_age_distribution"] < 0.8 * first_alone["train_age_distribution"], "a softer target"
    assert not [path for path in (tmp_path / "student" / "_work").rglob("*") if path.is_file()]


def test_a_finished_run_does_nothing_again(
    ray_cluster: None, trained: tuple[TrainConfig, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    config, result = trained
    before = {path: path.stat().st_mtime_ns for path in Path(config.output).rglob("*")}
    with caplog.at_level(logging.INFO):
        again = run_train(config.model_copy(update={"num_workers": 2, "cache_limit_gb": 3.0}))
    assert again == result
    assert "finished" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in Path(config.output).rglob("*")}


def test_another_run_does_not_mix_into_an_output(trained: tuple[TrainConfig, dict[str, Any]]) -> None:
    config, _ = trained
    before = (Path(config.output) / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="epochs was 2, is now 3; learning_rate was"):
        run_train(config.model_copy(update={"epochs": 3, "learning_rate": 1.0}))
    assert (Path(config.output) / "run.json").read_bytes() == before


def test_too_few_images_say_so_and_leave_the_output_free(ray_cluster: None, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for index in range(4):
        (tmp_path / "faces" / f"{index}.jpg").write_bytes(draw_sample(index, 0, 32)[1])
    config = TrainConfig(input=[str(tmp_path / "faces")], output=str(tmp_path / "out"), **SETTINGS)
    with pytest.raises(InputError, match="no labelled image"):
        run_train(config)
    write_faces(tmp_path / "faces", 4, seed=0, size_px=32)
    with pytest.raises(InputError, match=r"too few labelled images.*4 of 8"):
        run_train(config)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_cache_over_its_bound_is_refused(ray_cluster: None, faces: Path, tmp_path: Path) -> None:
    config = TrainConfig(input=[str(faces)], output=str(tmp_path / "out"), **SETTINGS | {"cache_limit_gb": 1e-4})
    with pytest.raises(ConfigError, match="--cache-limit-gb"):
        run_train(config)


def test_first_weights_come_from_one_place(faces: Path, tmp_path: Path) -> None:
    config = TrainConfig(input=[str(faces)], output=str(tmp_path / "out"), init="model", weights="w.pth", **SETTINGS)
    with pytest.raises(ConfigError, match="--init"):
        run_train(config)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_there_are_missed_before_an_image_is_read(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(input=[str(faces)], output="out", weights="w.safetensors", **SETTINGS)
    with pytest.raises(InputError, match=f"{tmp_path}/w.safetensors: no such weights file"):
        run_train(config)
    assert not (tmp_path / "out").exists()
    (tmp_path / "w.safetensors").touch()
    assert claim_training(config, "train").config.weights == f"{tmp_path}/w.safetensors", (
        "workers have another working directory"
    )
    (tmp_path / "w.safetensors").unlink()
    assert claim_training(config, "train"), "a run that resumes has its weights in a checkpoint"


def test_gpus_are_waited_for_where_a_cluster_may_start_them(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(input=["faces"], output="out", use_gpu=True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match="needs a GPU for each of 1 workers, Ray sees 0"):
        check_gpus(config)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")  # as inside a submitted job
    check_gpus(config)


def _command(faces: Path, output: Path) -> list[str]:
    plain = {name: value for name, value in SETTINGS.items() if name != "augment"}
    plain |= {f"augment.{name}": value for name, value in SETTINGS["augment"].items()}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in plain.items()]
    return [sys.executable, "-m", "agegender.cli", "train", f"--input={faces}", f"--output={output}", *flags]


def _steps_of_whole_checkpoints(output: Path) -> dict[Path, int]:
    found = {}
    for state in output.glob("_work/attempts/*/checkpoint_*/state.json"):
        with contextlib.suppress(InputError):  # still being written, or already being removed
            found[state.parent] = load_training_state(state.parent).step
    return found


def _kill_inside_an_epoch(command: list[str], output: Path, log: Path) -> None:
    """SIGKILL the driver, Ray and its workers; what is left are whole checkpoints that are not an epoch's last."""
    steps_per_epoch = 7  # 107 images in batches of 16
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=os.environ | {"RAY_ADDRESS": ""})
    deadline_s = time.monotonic() + 600
    try:
        while all(step % steps_per_epoch == 0 for step in _steps_of_whole_checkpoints(output).values()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.01)
    finally:
        kill_with_all_children(process)
    for folder, step in _steps_of_whole_checkpoints(output).items():
        if step % steps_per_epoch == 0:  # the run continued until the kill
            shutil.rmtree(folder)


def test_killed_and_started_again_ends_as_if_undisturbed(
    trained: tuple[TrainConfig, dict[str, Any]], faces: Path, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    _kill_inside_an_epoch(_command(faces, output), output, tmp_path / "first.log")
    assert not (output / "model").exists()
    again = subprocess.run(
        _command(faces, output),
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"RAY_ADDRESS": ""},
        check=False,
    )
    assert again.returncode == 0, again.stderr
    resumed = re.search(r"resuming from step (\d+)", again.stderr)
    assert resumed
    assert int(resumed[1]) % 7
    for killed, undisturbed in zip(metrics(str(output)), metrics(trained[0].output), strict=True):
        for name in undisturbed.keys() - {"images_per_s", "data_wait_share", "seconds"}:
            expected = undisturbed[name]  # None: no image has such a label
            assert killed[name] == (expected and pytest.approx(expected, rel=2e-3)), name
