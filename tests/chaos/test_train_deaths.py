"""Training that loses a worker, a node or its driver: it resumes, uses each image once per epoch, and ends with the same quality.

The runs write a checkpoint after each step and wait until Ray polls them, which takes the same time on any machine and leaves
time for a kill. The time to resume is printed (`pytest -s`).
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.support.drawn import write_faces
from tests.support.nodes import add_node, kill_node, raylet, started_cluster
from tests.support.processes import kill_with_all_children
from tests.support.trained import bounds, checkpoint_steps, metrics

TIMEOUT_S = 600
EPOCHS = 12
ENVIRONMENT = {**os.environ, "RAY_ADDRESS": "", "RAY_AUTH_MODE": "disabled", "NO_COLOR": "1"}
RECIPE = ["--image-size-px=64", f"--epochs={EPOCHS}", "--batch-size=32", "--val-fraction=0.2", "--ema-decay=0.9"]
PROGRAM = """
import sys
from agegender.cli import main
from agegender.pipelines.train import fit as train_fit
train_fit.RESIZE_INTERVAL_S = 5.0
sys.exit(main(["train", *sys.argv[1:]]))
"""
"""The command, but it checks more often whether it can grow: 30 s would be half of the test."""

RESUMED = re.compile(r"resuming from step (\d+) with (\d+) workers")


@dataclass
class Run:
    """A training run under way."""

    process: "subprocess.Popen[bytes]"
    output: Path
    log: Path

    def wait_until(self, happened: Callable[[], bool], since_s: float | None = None) -> float:
        """Wait; returns the seconds since ``since_s`` or since the call."""
        since_s = since_s or time.monotonic()
        while not happened():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log.read_text()}"
            assert time.monotonic() - since_s < TIMEOUT_S, self.log.read_text()
            time.sleep(0.1)
        return time.monotonic() - since_s

    def wait_until_step(self, step: int) -> None:
        """Wait until the step's checkpoint exists and Ray has registered it, which it does at its next poll."""
        self.wait_until(lambda: max(checkpoint_steps(self.output).values(), default=0) >= step + 2)

    def restarts(self) -> list[tuple[int, int]]:
        """Step and number of workers of each restart."""
        return [(int(step), int(workers)) for step, workers in RESUMED.findall(self.log.read_text())]

    def finish(self) -> None:
        assert self.process.wait(TIMEOUT_S) == 0, self.log.read_text()


def restarted_more_than(run: Run, times: int) -> bool:
    return len(run.restarts()) > times


def start(faces: Path, output: Path, *flags: str, poll_interval_s: float = 0.2) -> Run:
    command = [sys.executable, "-c", PROGRAM, f"--input={faces}", f"--output={output}", *RECIPE, *flags]
    log = output.with_suffix(f".{time.monotonic_ns()}.log")
    with log.open("wb") as sink:
        environment = ENVIRONMENT | {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(poll_interval_s)}
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment)
    return Run(process, output, log)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, 300)
    return folder


@pytest.fixture(scope="module")
def undisturbed(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed run with two workers."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    start(faces, output, "--num-cpus=2", "--num-workers=2").finish()
    return output


@pytest.fixture
def running() -> Iterator[list[Run]]:
    """Runs to end if the test fails."""
    runs: list[Run] = []
    yield runs
    for run in runs:
        kill_with_all_children(run.process)


def workers_under(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """Ray Train's workers among the descendants of a process."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def assert_complete(output: Path) -> None:
    """All epochs are complete and used each image once."""
    history = metrics(output)
    assert [row["epoch"] for row in history] == list(range(1, EPOCHS + 1))
    assert {row["used_images"] for row in history} == {history[0]["train_images"]}


def assert_as_good(output: Path, undisturbed: Path) -> None:
    assert_complete(output)
    last = metrics(output)[-1]
    for name, (low, high) in bounds(undisturbed).items():
        assert low <= last[name] <= high, f"{name} is {last[name]}, undisturbed it is in {low}-{high}"


def assert_same(output: Path, undisturbed: Path) -> None:
    """The same number of workers does the same steps, regardless of restarts."""
    assert_as_good(output, undisturbed)
    for disturbed, smooth in zip(metrics(output), metrics(undisturbed), strict=True):
        for name in ("step", "learning_rate", "train_loss", "age_mae_years"):
            assert disturbed[name] == pytest.approx(smooth[name], rel=2e-2), (name, disturbed["epoch"])


def test_a_worker_is_lost_twice(faces: Path, undisturbed: Path, running: list[Run], tmp_path: Path) -> None:
    run = start(faces, tmp_path / "out", "--num-cpus=2", "--num-workers=2", "--checkpoint-interval-steps=1")
    running.append(run)
    for number, step in enumerate((8, 30)):
        run.wait_until_step(step)
        victim = sorted(workers_under(run.process), key=lambda worker: worker.pid)[number]
        victim.kill()
        took_s = run.wait_until(partial(restarted_more_than, run, number))
        print(f"worker lost: resumed after {took_s:.0f} s")
        assert run.restarts()[-1][0] >= step
    run.finish()
    assert [workers for _, workers in run.restarts()] == [2, 2]
    assert_same(run.output, undisturbed)


def test_a_node_is_lost_and_another_comes(faces: Path, undisturbed: Path, running: list[Run], tmp_path: Path) -> None:
    flags = ["--num-workers=2", "--min-workers=1", "--checkpoint-interval-steps=1", "--shared-storage"]
    with started_cluster([1]) as cluster:
        node = add_node(cluster, 1)
        # Slower polls: the loss, its detection and a new node must all happen before the run ends.
        run = start(faces, tmp_path / "out", f"--address={cluster.address}", *flags, poll_interval_s=1.0)
        running.append(run)
        run.wait_until_step(8)
        assert len(workers_under(raylet(node))) == 1
        lost_s = time.monotonic()
        kill_node(node)
        took_s = run.wait_until(lambda: len(run.restarts()) == 1, lost_s)
        print(f"node lost: resumed after {took_s:.0f} s")
        assert run.restarts()[0][0] >= 8
        add_node(cluster, 1)
        took_s = run.wait_until(lambda: len(run.restarts()) == 2)
        print(f"node joined: resized after {took_s:.0f} s")
        run.finish()
    assert [workers for _, workers in run.restarts()] == [1, 2]
    assert metrics(run.output)[-1]["workers"] == 2
    assert_as_good(run.output, undisturbed)


def test_the_driver_is_lost_and_the_same_command_goes_on(
    faces: Path, undisturbed: Path, running: list[Run], tmp_path: Path
) -> None:
    with started_cluster([2]) as cluster:
        flags = [f"--address={cluster.address}", "--num-workers=2", "--checkpoint-interval-steps=1"]
        first = start(faces, tmp_path / "out", *flags)
        running.append(first)
        first.wait_until_step(8)
        first.process.kill()  # only the driver: its workers must not continue beside those of the next driver
        killed_s = time.monotonic()
        again = start(faces, tmp_path / "out", *flags)
        running.append(again)
        again.wait_until(lambda: "000001" in {folder.parent.name for folder in checkpoint_steps(again.output)})
        print(f"driver lost: the same command resumed after {time.monotonic() - killed_s:.0f} s, its start included")
        again.finish()
    log = again.log.read_text()
    resumed = re.search(r"resuming from step (\d+), epoch", log)
    assert resumed and int(resumed[1]) >= 8, log
    assert_same(again.output, undisturbed)
