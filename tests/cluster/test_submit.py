"""`ray job submit`, as the README shows it, on a head that `ray start` started."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

from tests.cluster.conftest import COMMAND_TIMEOUT_S, RayJob, job_client, new_ports, started_head
from tests.support.drawn import write_faces
from tests.support.processes import kill_with_all_children


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    write_faces(folder, 24)
    return folder


def flags(source: Path, output: Path, unit_images: int = 8) -> list[str]:
    unit = ["--unit-images", str(unit_images)]
    return ["--input", str(source), "--output", str(output), "--faces", "none", *unit]


def rows(output: Path) -> int:
    parts = output.glob("part-*.parquet")
    return sum(pyarrow.parquet.read_metadata(part).num_rows for part in parts)


@pytest.mark.parametrize(
    ("where", "program"),
    [(["--working-dir", "."], ["python", "jobs/predict.py"]), ([], ["agegender", "predict"])],
    ids=["with the working dir", "installed on the nodes"],
)
def test_a_submitted_job_scores_every_image_and_its_log_tells_how_far_it_is(
    ray_job: RayJob, faces: Path, tmp_path: Path, where: list[str], program: list[str]
) -> None:
    name = f"predict-{len(where)}"
    done = ray_job("submit", "--submission-id", name, *where, "--", *program, *flags(faces, tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(tmp_path / "out") == 24
    log = ray_job("logs", name).stdout
    assert "predict: 24 of 24 images" in log
    assert "by status                   ok 24" in log


def test_a_wrong_command_fails_the_job_with_what_is_wrong(ray_job: RayJob, faces: Path, tmp_path: Path) -> None:
    command = ["agegender", "predict", *flags(faces, tmp_path / "out"), "--max-bad-fraction", "7"]
    done = ray_job("submit", "--submission-id", "wrong", "--", *command)
    assert done.returncode == 1
    assert "failed with exit code 2" in done.stdout
    assert "agegender predict: error: --max-bad-fraction: Input should be less than or equal to 1" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.fixture
def many(faces: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for copy in range(60):
        for face in faces.iterdir():
            shutil.copy(face, folder / f"{face.stem}-{copy}.jpg")
    return folder


def submit_and_wait_for_three_units(ray_job: RayJob, name: str, many: Path, output: Path) -> list[str]:
    """Returns what was submitted."""
    command = ["--", "agegender", "predict", *flags(many, output, unit_images=16)]
    submitted = ray_job("submit", "--submission-id", name, "--no-wait", *command, "--num-workers", "1")
    assert submitted.returncode == 0, submitted.stderr
    wait_until(lambda: len(list(output.glob("_work/scored/*.json"))) >= 3, "three units are scored")
    return command


def assert_a_new_submit_goes_on(ray_job: RayJob, command: list[str], output: Path) -> None:
    assert rows(output) == 0
    again = ray_job("submit", *command)
    assert again.returncode == 0, again.stdout + again.stderr
    result = json.loads((output / "_run.json").read_text())["result"]
    assert rows(output) == result["images"] == 1440
    assert result["images_scored_now"] <= 1440 - 3 * 16


def test_a_stopped_job_ends_cleanly_and_a_new_submit_goes_on(ray_job: RayJob, many: Path, tmp_path: Path) -> None:
    command = submit_and_wait_for_three_units(ray_job, "stopped", many, tmp_path / "out")
    assert "'stopped' was stopped" in ray_job("stop", "stopped").stdout
    log = ray_job("logs", "stopped").stdout
    assert "agegender predict: interrupted. Run the same command again to resume" in log
    assert "SIGTERM" not in log
    assert_a_new_submit_goes_on(ray_job, command, tmp_path / "out")


def test_a_job_whose_driver_was_killed_fails_and_a_new_submit_goes_on(
    ray_job: RayJob, many: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    command = submit_and_wait_for_three_units(ray_job, "killed", many, output)
    os.kill(json.loads((output / "_work" / "driver.json").read_text())["pid"], signal.SIGKILL)
    wait_until(lambda: "failed" in ray_job("status", "killed").stdout, "the job has failed")
    assert_a_new_submit_goes_on(ray_job, command, output)


def test_a_head_that_was_lost_with_its_job_is_replaced_and_a_new_submit_goes_on(
    cluster_env: dict[str, str], many: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with started_head(cluster_env, new_ports()) as (address, head):
        command = submit_and_wait_for_three_units(job_client(address, cluster_env), "lost", many, output)
        kill_with_all_children(head)
    with started_head(cluster_env, new_ports()) as (address, _):
        assert_a_new_submit_goes_on(job_client(address, cluster_env), command, output)


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + COMMAND_TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline_s, f"not within {COMMAND_TIMEOUT_S} s: {what}"
        time.sleep(0.2)
