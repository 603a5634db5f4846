"""Small jobs without a cluster: the rows of Ray, and no Ray."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from agegender.config import PredictConfig
from agegender.errors import ConfigError, InputError
from agegender.pipelines.engine import local
from agegender.pipelines.engine.actor_pool import WorkerDied
from agegender.pipelines.engine.local import LocalProcesses
from agegender.pipelines.engine.poison import Task
from agegender.pipelines.predict import scoring
from agegender.pipelines.predict.run import run_predict
from tests.support.corpus import MAX_PIXELS, write_corpus
from tests.support.drawn import write_faces
from tests.support.runs import rows_of


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces and every kind of bad file."""
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, 40)
    write_corpus(folder / "corpus")
    return folder


def config(faces: Path, model: Path, output: Path, **options: object) -> PredictConfig:
    given = {"input": [str(faces)], "output": str(output), "model": str(model), "faces": "none", "unit_images": 16}
    given |= {"max_image_pixels": MAX_PIXELS, "max_bad_fraction": 1.0}
    return PredictConfig(**given | options)


def test_the_rows_are_those_of_a_cluster(
    ray_cluster: None, faces: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_ray = run_predict(config(faces, tiny_model, tmp_path / "ray", num_workers=1))
    with monkeypatch.context() as patched:
        patched.setattr(scoring, "_ray_pool", None)
        here = run_predict(config(faces, tiny_model, tmp_path / "local"))
    assert rows_of(tmp_path / "local").equals(rows_of(tmp_path / "ray"))
    assert here["by_status"] == on_ray["by_status"]


def test_a_wrong_source_leaves_output_free_for_the_right_one(faces: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"only 1 \.txt"):
        run_predict(config(tmp_path / "empty", tiny_model, tmp_path / "out"))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    run_predict(config(faces, tiny_model, tmp_path / "out", limit=3))
    assert len(rows_of(tmp_path / "out")) == 3


def test_no_process_imports_ray(faces: Path, tiny_model: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap" / "ray"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text("raise ImportError('trap')\n")
    environment = {**os.environ, "PYTHONPATH": str(trap.parent), "RAY_ADDRESS": ""}
    command = [sys.executable, "-m", "agegender.cli", "predict", "--input", str(faces), "--model", str(tiny_model)]
    command += ["--faces", "none", "--max-bad-fraction", "1", "--output"]
    run = subprocess.run(
        [*command, str(tmp_path / "out")], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert rows_of(tmp_path / "out").num_rows > 40
    asked = [*command, str(tmp_path / "asked"), "--num-workers", "1"]  # the trap works: this one needs Ray
    assert "trap" in subprocess.run(asked, env=environment, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize(
    ("options", "images", "expected"),
    [({}, 40, True), ({}, 41, False), ({"num_workers": 1}, 40, False), ({"address": "auto"}, 40, False)],
)
def test_a_cluster_is_used_where_it_is_asked_for_or_the_source_is_large(
    options: dict[str, object],
    images: int,
    expected: bool,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Chosen(Exception):  # noqa: N818
        pass

    def choose(*_arguments: object, locally: bool, **_options: object) -> None:
        raise Chosen(locally)

    write_faces(tmp_path / "faces", images)
    monkeypatch.setattr(local, "MAX_IMAGES", 40)
    monkeypatch.setattr("agegender.pipelines.predict.run.score_into", choose)
    monkeypatch.setattr("agegender.pipelines.runtime.placement.Placement.check", lambda _self: None)
    with pytest.raises(Chosen) as chosen:
        run_predict(config(tmp_path / "faces", tiny_model, tmp_path / "out", **options))
    assert chosen.value.args == (expected,)


@pytest.mark.parametrize("name", ["gender", "etag", "age_years"])
def test_a_kept_column_that_would_replace_one_of_the_contract_is_refused(
    name: str, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "people.csv").write_text(f"uri,{name}\na.jpg,1\n")
    with pytest.raises(ConfigError, match=f"--keep-columns {name}: .* Rename it in the manifest"):
        run_predict(config(tmp_path / "people.csv", tiny_model, tmp_path / "out", keep_columns=[name]))
    assert not (tmp_path / "out").exists()


class Worker:
    """Does what the unit's name says."""

    def __init__(self, greeting: str) -> None:
        self._greeting = greeting

    def do(self, task: Task) -> str:
        if task.unit == "exit":
            os._exit(7)
        if task.unit == "memory":
            raise MemoryError
        if task.unit == "error":
            raise KeyError("a defect")
        return f"{self._greeting} {task.unit} {os.getpid()}"


def answer(workers: LocalProcesses, worker: Any, name: str) -> object:
    future = workers.submit(worker, Task(name))
    while not workers.wait([future], 0.2):
        pass
    return workers.result(future)


def test_a_process_answers_in_order_and_its_end_is_told_with_its_reason() -> None:
    workers = LocalProcesses(Worker, ("hello",))
    worker = workers.start()
    up = workers.node(worker)
    futures = [workers.submit(worker, Task(name)) for name in ("a", "b")]
    done: list[Any] = []
    while len(done) < 3:
        done = workers.wait([up, *futures], 0.2)
    values = [workers.result(future) for future in futures]
    assert values == [f"hello {name} {worker.child.pid}" for name in ("a", "b")]
    with pytest.raises(KeyError, match="a defect"):
        answer(workers, worker, "error")
    with pytest.raises(WorkerDied, match="MemoryError"):
        answer(workers, worker, "memory")
    with pytest.raises(WorkerDied, match="exit code 7"):
        answer(workers, worker, "exit")
    workers.kill(worker)
    other = workers.start()
    other.child.terminate()
    with pytest.raises(WorkerDied, match="SIGTERM"):
        answer(workers, other, "a")
    workers.kill(other)


def test_a_process_ends_with_its_parent() -> None:
    code = (
        "from agegender.pipelines.engine.local import LocalProcesses; from agegender.pipelines.engine.poison import Task;"
        "workers = LocalProcesses(str, ()); worker = workers.start(); up = workers.node(worker);\n"
        "while not workers.wait([up], 1): pass\n"
        "print(worker.child.pid, flush=True); input()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert child.is_running()
    parent.kill()
    parent.wait()
    child.wait(timeout=30)


def test_it_starts_from_a_script_without_a_main_guard(faces: Path, tiny_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from agegender.config import PredictConfig\n"
        "from agegender.pipelines.predict.run import run_predict\n"
        f"config = PredictConfig(input=[{str(faces)!r}], output={str(tmp_path / 'out')!r}, model={str(tiny_model)!r},\n"
        "    faces='none', max_bad_fraction=1.0)\n"
        "print(run_predict(config)['rows'])\n"
    )
    (tmp_path / "numpy.py").write_text("raise ImportError('a module of the working directory')")
    code = f"import sys; sys.path.remove(''); exec(open({str(script)!r}).read())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == rows_of(tmp_path / "out").num_rows


def test_processes_are_gone_after_the_run(faces: Path, tiny_model: Path, tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    run_predict(config(faces, tiny_model, tmp_path / "out"))
    assert {child for child in psutil.Process().children() if child not in before} == set()
    assert isinstance(rows_of(tmp_path / "out"), pa.Table)
