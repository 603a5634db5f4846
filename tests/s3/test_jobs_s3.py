"""Every job with its source, model and output on a real S3 server, run as a user runs them."""

import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agegender.config import PredictConfig
from agegender.data.synthetic import draw_sample
from agegender.errors import InputError, ResourceError
from agegender.pipelines.predict.ledger import staged_units
from agegender.pipelines.predict.run import run_predict
from agegender.pipelines.source.fetch import Fetched, fetch
from agegender.pipelines.source.listing import list_source
from agegender.storage import files
from tests.support.processes import kill_with_all_children
from tests.support.runs import rows_of

FACES = [draw_sample(index, seed=1, size_px=48) for index in range(60)]


def agegender(*arguments: str, timeout_s: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agegender.cli", *arguments]
    env = {**os.environ, "RAY_ADDRESS": "", **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False)


def ok(*arguments: str) -> str:
    run = agegender(*arguments)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def faces(s3_bucket: str) -> str:
    for name, data in FACES:
        files.write_bytes(f"{s3_bucket}/faces/{name}", data)
    return f"{s3_bucket}/faces"


def test_sample_eda_train_evaluate_predict_and_export_all_on_s3(s3_bucket: str) -> None:
    faces, model = f"{s3_bucket}/faces", f"{s3_bucket}/train/model"
    ok("sample", "--output", faces, "--count", "90", "--size-px", "48")
    ok("eda", "--input", faces, "--output", f"{s3_bucket}/eda")
    assert files.read_json(f"{s3_bucket}/eda/summary.json")["images"] == 90
    small = ["--image-size-px", "32", "--batch-size", "32", "--epochs", "1", "--preset", "notebook"]
    ok(
        "train",
        "--input",
        faces,
        "--output",
        f"{s3_bucket}/train",
        *small,
        "--val-fraction",
        "0.2",
        "--test-fraction",
        "0.2",
    )
    assert len(files.read_bytes(f"{s3_bucket}/train/metrics.jsonl").splitlines()) == 1
    split = f"{s3_bucket}/train/split.parquet"
    ok("evaluate", "--input", faces, "--model", model, "--split", split, "--output", f"{s3_bucket}/evaluation")
    metrics = files.read_json(f"{s3_bucket}/evaluation/metrics.json")
    assert 0 < metrics["n"] < 90
    assert metrics["seen_in_training"]["images"] == 0
    shown = ok("predict", "--input", faces, "--model", model, "--output", f"{s3_bucket}/out", "--faces", "none")
    assert "ok 90" in shown
    assert sorted(rows_of(f"{s3_bucket}/out")["uri"].to_pylist()) == sorted(
        info.uri for info in files.list_files(faces)
    )
    assert "90" in ok("status", f"{s3_bucket}/out")
    ok("export", "--model", model, "--output", f"{s3_bucket}/agegender.onnx")
    assert files.stat(f"{s3_bucket}/agegender.onnx") is not None


def fetched(source: str, **options: Any) -> dict[str, Fetched]:
    config = PredictConfig(input=[source], output="unused", model="unused", unit_images=25, **options)
    tables = list(list_source(config))
    return {
        uri: result
        for table in tables
        for uri, result in zip(table["uri"].to_pylist(), fetch(table, config), strict=True)
    }


def test_every_kind_of_source_gives_the_same_bytes(s3_bucket: str, faces: str, tmp_path: Path) -> None:
    expected = sorted(data for _, data in FACES)
    assert sorted(f.data or b"" for f in fetched(faces).values()) == expected

    manifest = "uri\n" + "".join(f"faces/{name}\n" for name, _ in FACES)
    files.write_bytes(f"{s3_bucket}/people.csv", manifest.encode())
    assert sorted(f.data or b"" for f in fetched(f"{s3_bucket}/people.csv").values()) == expected

    sink = io.BytesIO()
    pq.write_table(pa.table({"uri": [n for n, _ in FACES], "bytes": [d for _, d in FACES]}), sink, row_group_size=7)
    files.write_bytes(f"{s3_bucket}/table/faces.parquet", sink.getvalue())
    assert sorted(f.data or b"" for f in fetched(f"{s3_bucket}/table").values()) == expected

    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as archive:
        for name, data in FACES:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    files.write_bytes(f"{s3_bucket}/shards/00.tar", shard.getvalue())
    assert sorted(f.data or b"" for f in fetched(f"{s3_bucket}/shards").values()) == expected


def test_an_object_that_vanished_is_a_row_and_an_outage_is_not(
    s3_bucket: str, faces: str, s3_gateway: Callable[[str], Any], s3_env: Callable[..., None]
) -> None:
    files.write_bytes(f"{s3_bucket}/two.csv", f"uri\nfaces/{FACES[0][0]}\nfaces/gone.jpg\n".encode())
    statuses = [str(f.status) for f in fetched(f"{s3_bucket}/two.csv").values()]
    assert statuses == ["ok", "missing"]
    s3_env(AWS_MAX_ATTEMPTS="2")
    config = PredictConfig(input=[faces], output="unused", model="unused")
    table = next(list_source(config))
    s3_gateway("stop")
    with pytest.raises(ResourceError):
        list(fetch(table, config))


def predict(source: str, model: str, output: str) -> dict[str, Any]:
    return run_predict(PredictConfig(input=[source], output=output, model=model, faces="none"))


def test_what_is_not_there_is_named_before_work_begins(s3_bucket: str, faces: str) -> None:
    with pytest.raises(InputError, match=r"s3://no-such-bucket-here"):
        predict(faces, "s3://no-such-bucket-here/model", f"{s3_bucket}/out")
    with pytest.raises(InputError, match=f"{s3_bucket}/nothing"):
        predict(faces, f"{s3_bucket}/nothing", f"{s3_bucket}/out")
    assert not files.exists(f"{s3_bucket}/out")
    run = agegender("eda", "--input", "s3://no-such-bucket-here/faces", "--output", f"{s3_bucket}/eda")
    assert run.returncode == 3
    assert "no-such-bucket-here" in run.stderr


def test_wrong_keys_end_the_job_with_exit_code_4_and_never_show_a_key(s3_bucket: str, faces: str) -> None:
    secret = "not-the-secret-0123456789"
    arguments = ["eda", "--input", faces, "--output", f"{s3_bucket}/eda"]
    run = agegender(*arguments, AWS_SECRET_ACCESS_KEY=secret, AWS_MAX_ATTEMPTS="2")
    assert run.returncode == 4, run.stderr
    assert secret not in run.stderr + run.stdout
    assert "AWS_" in run.stderr


def test_predict_on_s3_goes_on_after_every_process_was_killed(s3_bucket: str, faces: str, tiny_model: Path) -> None:
    output = f"{s3_bucket}/out"
    common = [
        "predict",
        "--input",
        faces,
        "--model",
        str(tiny_model),
        "--unit-images",
        "2",
        "--num-cpus",
        "1",
        "--faces",
        "none",
    ]
    ok(*common, "--output", f"{s3_bucket}/undisturbed")
    command = [sys.executable, "-m", "agegender.cli", *common, "--output", output]
    run = subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": ""}, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 400
    while len(staged_units(output)) < 3 and run.poll() is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    kill_with_all_children(run)
    ok(*common, "--output", output)
    left, right = (rows_of(uri) for uri in (f"{s3_bucket}/undisturbed", output))
    assert left.num_rows == 60
    assert left.equals(right)
    assert b"testsecret" not in files.read_bytes(f"{output}/_run.json")
