import json
from pathlib import Path
from typing import Any

import pytest

from agegender.config import EdaConfig
from agegender.errors import ConfigError, InputError, ResourceError
from agegender.pipelines.runtime.run_record import claim_output, failure_recorded, finish_record, read_record


def claim(output: Path, job: str = "eda") -> dict[str, Any] | None:
    return claim_output(str(output), job, EdaConfig(input=["a"], output=str(output)), {"limit": None})


def record(output: Path) -> dict[str, Any]:
    found = read_record(str(output), "eda")
    assert found is not None
    return found


@pytest.mark.parametrize("job", ["eda", "predict", "train", "evaluate", "sample", "preview"])
def test_files_of_something_else_are_refused_before_anything_is_written(job: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("deep/old.parquet", "notes.txt", "a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=r"has other files, e\.g\. a\.jpg, b\.jpg, deep/old\.parquet, and no record"):
        claim(tmp_path, job)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("names", [[], [".DS_Store"], ["_input/1.parquet", "_work/listing/unit-0.parquet"], ["empty/"]])
def test_a_folder_without_visible_files_is_free(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_bytes(b"")
    assert claim(tmp_path) is None
    assert record(tmp_path)["state"] == "running"


def test_what_an_interrupted_run_left_is_beside_its_record(tmp_path: Path) -> None:
    claim(tmp_path)
    (tmp_path / "part-0.parquet").write_bytes(b"")
    assert claim(tmp_path) is not None


def test_a_file_that_only_has_the_name_of_a_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('["mine"]')
    with pytest.raises(ConfigError, match=r"holds a run\.json that is no record of a run"):
        claim(tmp_path)


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [
        (InputError("no images"), "failed", "no images"),
        (ZeroDivisionError(), "failed", "ZeroDivisionError"),
        (KeyboardInterrupt(), "interrupted", None),
    ],
)
def test_a_run_that_ended_is_not_running_and_is_resumed(
    error: BaseException, state: str, message: str | None, tmp_path: Path
) -> None:
    claim(tmp_path)
    with pytest.raises(type(error)), failure_recorded(str(tmp_path), "eda"):
        raise error
    assert (record(tmp_path)["state"], record(tmp_path)["error"]) == (state, message)
    assert claim(tmp_path) is not None
    assert (record(tmp_path)["state"], record(tmp_path)["error"]) == ("running", None)


def test_a_finished_run_stays_done_whatever_is_raised_after_it(tmp_path: Path) -> None:
    claim(tmp_path)
    with pytest.raises(InputError), failure_recorded(str(tmp_path), "eda"):
        finish_record(str(tmp_path), "eda", EdaConfig(input=["a"], output="o"), {"limit": None}, {"images": 1})
        raise InputError("too many bad files")
    assert (record(tmp_path)["state"], record(tmp_path)["result"]) == ("done", {"images": 1})


def test_the_record_of_whoever_took_over_is_left_alone(tmp_path: Path) -> None:
    def check() -> None:
        raise ResourceError("taken over")

    claim(tmp_path)
    with pytest.raises(ZeroDivisionError), failure_recorded(str(tmp_path), "eda", check):
        raise ZeroDivisionError
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "running"


def test_an_output_that_was_given_up_gets_no_record_back(tmp_path: Path) -> None:
    claim(tmp_path)
    with pytest.raises(InputError), failure_recorded(str(tmp_path), "eda"):
        (tmp_path / "run.json").unlink()  # as evaluate does, whose corrected command may use the same OUTPUT
        raise InputError("no labels")
    assert list(tmp_path.iterdir()) == []
