"""A disk that is full in the middle of a run: a small file system in memory."""

import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from agegender.errors import ResourceError
from agegender.pipelines.predict.ledger import Ledger, stage_unit
from agegender.schema import prediction_schema
from tests.support.runs import predict_flags, rows_of, started, units_scored


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: a full disk; mounting a small one needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NOT TESTED: a full disk; this machine mounts none: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_ends_the_run_and_with_room_the_same_command_goes_on(
    small_disk: Path, faces: Path, tiny_model: Path, undisturbed: pa.Table
) -> None:
    output = small_disk / "out"
    command = predict_flags(faces, tiny_model, output, "--num-cpus", "2")
    with started(command) as run:
        assert run.end() == 4, run.log
    assert "cannot be written (No space left on device). Free disk space" in run.log
    scored = {path.name: path.read_bytes() for path in units_scored(output)}
    assert scored
    assert not list(output.rglob(".tmp-*"))
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    with started(command) as again:
        assert again.end() == 0, again.log
    assert rows_of(output).equals(undisturbed)
    result = json.loads((output / "_run.json").read_text())["result"]
    assert result["images_scored_now"] == len(undisturbed) - 8 * len(scored)


def test_a_part_that_finds_no_room_in_tmpdir_leaves_what_was_scored(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"uri": secrets.token_hex(32), "face_index": 0, "status": "missing"} for _ in range(20_000)]
    output, unit = str(tmp_path / "out"), "listing/unit-0000000.parquet"
    stage_unit(output, unit, pa.Table.from_pylist(rows, schema=prediction_schema()))
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(ResourceError, match=f"{small_disk}: .*No space left on device.*set TMPDIR"):
        Ledger(output, {}).publish_rest()
    assert not list(small_disk.iterdir())
    monkeypatch.undo()
    Ledger(output, {}).publish_rest()
    assert rows_of(Path(output)).num_rows == len(rows)
