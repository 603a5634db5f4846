"""Every job, with all that it reads and writes on S3, while the server is away, busy, slow, or will not take a write."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agegender.storage import files, tables
from tests.s3.faults import faulty
from tests.support.decoders import held_up
from tests.support.drawn import write_faces
from tests.support.runs import Run, rows_of, started

IMAGES = 64
OUTAGE_S = 10
EPOCHS = 12
JOBS = ("eda", "train", "evaluate", "predict")


@pytest.fixture(scope="module")
def place(s3_server: str, s3_admin: Any, tiny_model: Path) -> str:
    """Labelled images and a model in a bucket, and beside them what each job writes when nothing disturbs it."""
    s3_admin.create_bucket(Bucket="outages")
    write_faces("s3://outages/faces", IMAGES)
    files.upload_folder(tiny_model, "s3://outages/model", last="model.json")
    for job in JOBS:
        with started(command(job, f"s3://outages/undisturbed/{job}")) as run:
            assert run.end() == 0, run.log
    return "s3://outages"


def command(job: str, output: str) -> list[str]:
    more = {
        "eda": ["--no-images"],
        "train": ["--image-size-px", "32", "--preset", "notebook", "--epochs", str(EPOCHS), "--val-fraction", "0.25"],
        "evaluate": ["--model", "s3://outages/model"],
        "predict": ["--model", "s3://outages/model", "--faces", "none"],
    }[job]
    return [job, "--input", "s3://outages/faces", "--output", output, "--unit-images", "4", "--num-cpus", "1", *more]


def assert_as_undisturbed(job: str, output: str, run: Run) -> None:
    assert run.end() == 0, run.log
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in run.log
    assert results(job, output) == results(job, f"s3://outages/undisturbed/{job}")


def results(job: str, output: str) -> Any:
    """What a job found out, less when and how fast."""
    match job:
        case "eda":
            return files.read_json(f"{output}/summary.json")
        case "train":
            lines = files.read_bytes(f"{output}/metrics.jsonl").decode().splitlines()
            assert len(lines) == EPOCHS
            return tables.read_table(f"{output}/split.parquet")
        case "evaluate":
            return files.read_json(f"{output}/metrics.json")["age_mae_years"]
        case _:
            return rows_of(output)


@pytest.mark.parametrize("job", JOBS)
def test_a_server_that_is_away_for_ten_seconds_costs_nothing_but_time(
    job: str, place: str, s3_gateway: Callable[[str], None], tmp_path: Path
) -> None:
    variables, hold = held_up(tmp_path / "held")
    output = f"{place}/away/{job}"
    if job != "train":
        hold.touch()
    with started(command(job, output), variables) as run:
        if job == "train":
            wait_until(run, lambda: files.exists(f"{output}/metrics.jsonl"))  # amid the epochs
        else:
            wait_until(run, lambda: files.exists(f"{output}/_work"))
            time.sleep(8)  # until it decodes: where the outage finds it matters little
        s3_gateway("stop")
        hold.unlink(missing_ok=True)
        time.sleep(OUTAGE_S)
        assert run.process.poll() is None, run.log
        s3_gateway("start")
        assert_as_undisturbed(job, output, run)


@pytest.mark.parametrize("job", JOBS)
def test_a_busy_and_slow_server_costs_nothing_but_time(job: str, place: str, s3_server: str) -> None:
    output = f"{place}/busy/{job}"
    with (
        faulty(s3_server, busy_every=4, delay_s=0.05) as between,
        started(command(job, output), {"AWS_ENDPOINT_URL": between.endpoint}) as run,
    ):
        assert_as_undisturbed(job, output, run)
    assert between.requests > IMAGES
    assert between.refused > IMAGES / 4


@pytest.mark.parametrize("job", JOBS)
def test_an_output_that_may_not_be_written_is_said_before_any_work(job: str, place: str, s3_admin: Any) -> None:
    policy = """{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject",
                 "Resource": "arn:aws:s3:::outages/denied/*"}]}"""
    s3_admin.put_bucket_policy(Bucket="outages", Policy=policy)
    try:
        with started(command(job, f"{place}/denied/{job}")) as run:
            assert run.end() == 4, run.log
    finally:
        s3_admin.delete_bucket_policy(Bucket="outages")
    assert f"{place}/denied/{job}" in run.log
    assert "Traceback" not in run.log
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in run.log


def wait_until(run: Run, holds: Callable[[], bool]) -> None:
    while not holds():
        assert run.process.poll() is None, run.log
        time.sleep(0.05)
