import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest

from agegender import released
from agegender.config import RELEASED_MODEL, PredictConfig, StatusConfig
from agegender.errors import ConfigError, InputError
from agegender.pipelines.predict.run import run_predict
from agegender.pipelines.predict.status import run_status
from agegender.schema import Status, prediction_schema
from agegender.scoring.load import open_model
from tests.support.corpus import MAX_PIXELS, WITH_WARNING, write_corpus
from tests.support.drawn import write_faces
from tests.support.processes import kill_with_all_children

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, 40)
    return folder


def predict(source: Path, output: Path, model: Path | str, **options: object) -> dict[str, object]:
    given: dict[str, Any] = {"input": [str(source)], "output": str(output), "model": str(model), "faces": "none"}
    given |= {"unit_images": 16, "num_workers": 2}
    return run_predict(PredictConfig(**given | options))


def rows(output: Path) -> pa.Table:
    return (
        pyarrow.dataset.dataset(output, format="parquet")
        .to_table()
        .sort_by([("uri", "ascending"), ("face_index", "ascending")])
    )


def test_without_a_model_the_one_of_the_package_scores(faces: Path, tmp_path: Path) -> None:
    assert PredictConfig(input=["a"], output="b").model == RELEASED_MODEL
    predict(faces, tmp_path / "out", RELEASED_MODEL, limit=3)
    (part,) = (tmp_path / "out").glob("part-*.parquet")
    metadata = pyarrow.parquet.read_metadata(part).metadata
    assert metadata[b"agegender.model_id"].decode() == open_model(released.FOLDER).model_id
    assert rows(tmp_path / "out")["age_years"].null_count == 0


def test_the_output_is_the_contract_and_every_reader_takes_it_as_one_table(
    faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    result = predict(faces, tmp_path / "out", tiny_model)
    table = rows(tmp_path / "out")
    assert table.schema.equals(prediction_schema())
    assert (result["images"], result["by_status"], table.num_rows) == (40, {"ok": 40}, 40)
    assert table["uri"].to_pylist() == sorted(str(path) for path in faces.iterdir())
    assert table["box"].null_count == 40
    ages = table["age_years"].to_numpy()
    assert ((table["age_low_years"].to_numpy() <= ages) & (ages <= table["age_high_years"].to_numpy())).all()
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet('{tmp_path}/out/*.parquet')").fetchall() == [(40,)]
    assert len(pd.read_parquet(tmp_path / "out")) == 40
    record = json.loads((tmp_path / "out" / "_run.json").read_text())
    assert (record["state"], record["result"]["images"]) == ("done", 40)
    assert record["config"]["batch_size"] == 64


def test_one_and_two_workers_and_other_batches_of_work_give_identical_rows(
    faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    predict(faces, tmp_path / "two", tiny_model, num_workers=2, unit_images=7)
    predict(faces, tmp_path / "one", tiny_model, num_workers=1, unit_images=16)
    assert rows(tmp_path / "two").equals(rows(tmp_path / "one"))


def test_bad_files_are_rows_with_their_status_and_leave_the_others_unharmed(tiny_model: Path, tmp_path: Path) -> None:
    expected = write_corpus(tmp_path / "corpus")
    (tmp_path / "corpus" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    expected["gone.jpg"] = Status.MISSING
    output = tmp_path / "out"
    with pytest.raises(InputError, match=r"files are bad .* --max-bad-fraction 5\.0%"):
        predict(tmp_path / "corpus", output, tiny_model, max_image_pixels=MAX_PIXELS)
    table = rows(output)
    found = {
        Path(uri).name: status
        for uri, status in zip(table["uri"].to_pylist(), table["status"].to_pylist(), strict=True)
    }
    assert found == {name: str(status) for name, status in expected.items()}
    for row in table.to_pylist():
        assert (row["error"] is None) == (row["status"] == "ok")
        assert (row["age_years"] is None) == (row["status"] != "ok")
        assert (row["warning"] is None) == (Path(row["uri"]).name not in WITH_WARNING)
    result = json.loads((output / "_run.json").read_text())["result"]
    assert sum(result["by_status"].values()) == result["images"] == len(expected)
    assert result["images_with_warning"] == len(WITH_WARNING)
    assert result["by_status"]["too_small"] == 2


def test_kept_columns_the_distribution_and_abstention_follow_the_contract(
    faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    names = sorted(path.name for path in faces.iterdir())[:5]
    manifest = faces.parent / f"{faces.name}-manifest.csv"
    manifest.write_text("uri,id\n" + "".join(f"{faces}/{name},{i}\n" for i, name in enumerate(names)))
    options = {"keep_columns": ["id"], "age_distribution": True, "abstain_above": 15.0}
    predict(manifest, tmp_path / "out", tiny_model, **options)
    table = rows(tmp_path / "out")
    assert table["id"].to_pylist() == ["0", "1", "2", "3", "4"]
    assert table["abstained"].to_pylist() == [True] * 5
    assert [sum(row) for row in table["age_probabilities"].to_pylist()] == pytest.approx([1.0] * 5, abs=1e-4)


def test_a_finished_run_says_so_and_another_model_is_refused(
    faces: Path, tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = predict(faces, tmp_path / "out", tiny_model, limit=10)
    before = written(tmp_path / "out")
    caplog.set_level("INFO")
    assert predict(faces, tmp_path / "out", tiny_model, limit=10) == first
    assert "finished" in caplog.text
    with pytest.raises(ConfigError, match="limit was 10, is now 20"):
        predict(faces, tmp_path / "out", tiny_model, limit=20)
    assert written(tmp_path / "out") == before


def written(output: Path) -> dict[Path, int]:
    """The files of a run and when each was written."""
    return {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}


def test_a_dry_run_writes_nothing_and_estimates(faces: Path, tiny_model: Path, tmp_path: Path) -> None:
    result = predict(faces, tmp_path / "out", tiny_model, dry_run=True)
    assert result["images"] == 40
    assert result["images_per_s_per_worker"] > 0  # type: ignore[operator]
    assert not (tmp_path / "out").exists()


def damaged(model: Path, to: Path) -> Path:
    shutil.copytree(model, to)
    (to / "model.onnx").write_bytes((to / "model.onnx").read_bytes()[:-1])
    return to


@pytest.mark.parametrize("kind", ["missing", "damaged", "foreign"])
def test_a_model_that_cannot_be_used_ends_the_job_before_anything_is_written(
    kind: str, faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    if kind == "damaged":
        damaged(tiny_model, model)
    elif kind == "foreign":
        model.mkdir()
        (model / "model.json").write_text('{"format": "something else"}')
    with pytest.raises(InputError, match=str(model)):
        predict(faces, tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_a_run_whose_every_process_is_killed_goes_on_and_ends_with_the_same_rows(
    faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    predict(faces, tmp_path / "undisturbed", tiny_model, unit_images=2)
    command = [
        sys.executable,
        "-P",
        "-m",
        "agegender.cli",
        "predict",
        "--input",
        str(faces),
        "--model",
        str(tiny_model),
    ]
    command += ["--output", str(tmp_path / "out"), "--faces", "none"]
    command += ["--unit-images", "2", "--num-workers", "1", "--num-cpus", "1"]
    # Beside that: a folder of temporary files that is too long for Ray's sockets, a module of the user in the working
    # directory that must not become the workers' numpy, and a home folder in which nothing may appear.
    home, here, temporary = tmp_path / "home", tmp_path / "here", tmp_path / ("long" * 20)
    for folder in (home, here, temporary):
        folder.mkdir()
    (here / "numpy.py").write_text("raise ImportError('the user's own module')\n")
    environment = {**os.environ, "RAY_ADDRESS": "", "HOME": str(home), "TMPDIR": str(temporary)}
    run = subprocess.Popen(command, env=environment, cwd=here, stderr=subprocess.DEVNULL)
    staged = tmp_path / "out" / "_work" / "scored"
    deadline_s = time.monotonic() + 400
    while len(list(staged.glob("*.json")) if staged.exists() else []) < 3 and run.poll() is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    kill_with_all_children(run)
    assert list(home.rglob("*")) == []
    half = run_status(StatusConfig(output=str(tmp_path / "out")))
    done_before = half["scored"]
    result = predict(faces, tmp_path / "out", tiny_model, unit_images=2, num_workers=1)
    assert result["images"] == 40
    if done_before < 40:  # a fast machine may have finished before the kill
        assert half["state"] == "running"
        assert result["images_scored_now"] == 40 - done_before
    assert rows(tmp_path / "out").equals(rows(tmp_path / "undisturbed"))


def test_no_process_of_predict_imports_torch(faces: Path, tiny_model: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap" / "torch"
    trap.mkdir(parents=True)
    (trap / "__init__.py").write_text(
        f"open({str(tmp_path / 'imported')!r}, 'a').write('torch')\nraise ImportError('trap')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(trap.parent), "RAY_ADDRESS": ""}
    command = [sys.executable, "-m", "agegender.cli", "predict", "--input", str(faces), "--model", str(tiny_model)]
    command += ["--output", str(tmp_path / "out"), "--faces", "none", "--num-cpus", "1"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert run.returncode == 0, run.stderr
    assert "40" in run.stdout
    assert not (tmp_path / "imported").exists()
