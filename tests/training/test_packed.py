"""Training on a pack: interrupted and resumed, refused where it does not belong, and without Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from agegender.errors import ConfigError, InputError
from agegender.model.checkpoint import load_training_state
from agegender.pipelines.train.packed import FolderListener, run_train_packed
from agegender.pipelines.train.resume import check_same_options
from agegender.training_config import PackConfig, TrainConfig, TrainPackedConfig
from tests.support.packs import write_pack

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 8, "precision": "float32"}
TIMED = {"images_per_s", "data_wait_share", "seconds"}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "pack"
    write_pack(folder, **SETTINGS)
    return folder


@pytest.fixture(scope="module")
def trained(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "out"
    summary = run_train_packed(TrainPackedConfig(pack=str(pack), output=str(output), device="cpu"))
    assert summary["epochs"] == 2
    assert summary["state"] == str(output / "state")
    return output


def command(pack: Path, output: Path) -> list[str]:
    flags = ["--pack", str(pack), "--output", str(output), "--device", "cpu", "--checkpoint-interval-steps", "1"]
    return [sys.executable, str(ROOT / "jobs" / "train_packed.py"), *flags]


def history(output: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def test_killed_and_started_again_it_ends_with_the_same_weights(pack: Path, trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command(pack, output), stdout=log, stderr=log)
        deadline_s = time.monotonic() + 300
        while not (output / "state" / "state.json").exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    run_train_packed(TrainPackedConfig(pack=str(pack), output=str(output), device="cpu"))
    ours, theirs = (load_training_state(folder / "state") for folder in (output, trained))
    assert ours.step == theirs.step == 8
    for name, value in theirs.ema.items():
        assert torch.equal(ours.ema[name], value), name
    assert history(output) == history(trained)


@pytest.mark.parametrize("killed_at", [1, 2])
def test_a_state_is_whole_wherever_its_replacement_stops(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Path, killed_at: int
) -> None:
    state = load_training_state(trained / "state")
    listener = FolderListener(tmp_path)
    listener.checkpoint({}, state)
    renamed, rename = [], Path.rename

    def stop(path: Path, target: Path) -> Path:
        renamed.append(path)
        if len(renamed) == killed_at + 2:  # the first two are of the state's own two files
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stop)
    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        listener.checkpoint({}, state)
    monkeypatch.undo()
    again = run_train_packed(TrainPackedConfig(pack=str(pack), output=str(tmp_path), device="cpu"))
    assert again["epochs"] == 2
    assert (tmp_path / "state" / "state.json").exists()


def test_a_state_of_other_images_or_options_is_refused(pack: Path, trained: Path, tmp_path: Path) -> None:
    write_pack(tmp_path / "other", count=44, **SETTINGS)
    config = TrainPackedConfig(pack=str(tmp_path / "other"), output=str(trained), device="cpu")
    with pytest.raises(
        InputError, match=r"is of split .*, this run's is .*: images, labels, seed or fractions changed"
    ):
        run_train_packed(config)
    write_pack(tmp_path / "longer", **SETTINGS | {"epochs": 3})
    with pytest.raises(ConfigError, match=r"state: a state of another training: epochs was 2, is now 3\."):
        run_train_packed(config.model_copy(update={"pack": str(tmp_path / "longer")}))


def test_options_are_compared_but_not_where_the_images_lie_or_what_auto_became(trained: Path) -> None:
    state = load_training_state(trained / "state")
    config = TrainConfig(output="elsewhere", input=["moved"], image_size_px=32, **SETTINGS | {"precision": "auto"})
    check_same_options(state, config, "state")
    for other in ({"precision": "bfloat16"}, {"age_column": "years"}, {"learning_rate": 1.0}, {"init": "released"}):
        with pytest.raises(ConfigError, match=next(iter(other))):
            check_same_options(state, config.model_copy(update=other), "state")


def test_a_gpu_that_is_not_there_is_named(pack: Path, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match="--device cuda: torch sees no GPU"):
        run_train_packed(TrainPackedConfig(pack=str(pack), output=str(tmp_path), device="cuda"))


def test_it_imports_neither_ray_nor_what_reads_sources(pack: Path, tmp_path: Path) -> None:
    absent = {"ray", "boto3", "botocore", "cv2", "simplejpeg", "onnx", "onnxruntime", "openvino"}
    code = (
        "import runpy, sys\n"
        "try:\n"
        f"    runpy.run_path({str(ROOT / 'jobs' / 'train_packed.py')!r}, run_name='__main__')\n"
        "finally:\n"
        f"    print('imported:', sorted({absent} & set(sys.modules)))"
    )
    arguments = command(pack, tmp_path)[2:]
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "imported: []" in run.stdout.splitlines()
    assert load_training_state(tmp_path / "state").epoch == 2


def test_a_pack_records_the_training_and_takes_no_state() -> None:
    config = PackConfig(input=["faces"], output="out", preset="notebook", epochs=3, image_quality=60)
    again = config.training()
    assert again == TrainConfig(input=["faces"], output="out", preset="notebook", epochs=3)
    with pytest.raises(ValueError, match="resume_from"):
        PackConfig(input=["faces"], output="out", resume_from="state")
