"""Processes that end while they score: by what they decode, and by who kills them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest

from agegender.data.synthetic import draw_sample
from tests.support.decoders import decoding_environment

DEADLY = b"this image ends whoever decodes it"

DIE = f"""
if data.endswith({DEADLY!r}):
    os.kill(os.getpid(), signal.SIGSEGV)
"""
"""No image is known that crashes the decoders of today, so this one does what a decoder with such a defect does."""


def run(*arguments: str, trap: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **decoding_environment(trap, DIE), "RAY_ADDRESS": ""}
    command = [sys.executable, "-m", "agegender.cli", "predict", "--faces", "none", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)


def write_some_deadly(folder: Path, count: int, deadly: Sequence[int]) -> None:
    folder.mkdir()
    for index in range(count):
        name, data = draw_sample(index, seed=3, size_px=48)
        (folder / name).write_bytes(data + DEADLY if index in deadly else data)


def rows(output: Path) -> pa.Table:
    return pyarrow.dataset.dataset(output, format="parquet").to_table().sort_by("uri")


@pytest.mark.parametrize(
    ("workers", "deadly"),
    [
        (["--num-workers", "1", "--num-cpus", "1"], [7]),
        (["--num-workers", "2", "--num-cpus", "2"], [3, 12]),
        ([], [3, 12]),
    ],
    ids=["ray-1", "ray-2", "local"],
)
def test_an_image_that_ends_its_process_is_a_row_and_the_rest_of_its_unit_is_scored(
    workers: list[str], deadly: list[int], tiny_model: Path, tmp_path: Path
) -> None:
    faces, output = tmp_path / "faces", tmp_path / "out"
    write_some_deadly(faces, 44, deadly)
    options = ["--input", str(faces), "--model", str(tiny_model), "--output", str(output), "--unit-images", "16"]
    done = run(*options, *workers, trap=tmp_path / "trap")
    assert done.returncode == 0, done.stderr
    table = rows(output)
    assert table.num_rows == 44
    bad = table.filter(pa.compute.not_equal(table["status"], "ok"))
    assert set(bad["uri"].to_pylist()) == {str(p) for p in faces.iterdir() if p.read_bytes().endswith(DEADLY)}
    assert bad["status"].to_pylist() == ["unreadable"] * len(deadly)
    assert all("ended the process" in error for error in bad["error"].to_pylist())
    assert bad["age_years"].null_count == len(deadly)
    assert table["age_years"].null_count == len(deadly)
