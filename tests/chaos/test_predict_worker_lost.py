"""A scoring process that is killed from outside."""

import json
import time
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.decoders import slow_and_counted
from tests.support.processes import scoring_workers
from tests.support.runs import predict_flags, rows_of, started


@pytest.mark.parametrize(
    ("workers", "flags"),
    [(1, ["--num-workers", "1", "--num-cpus", "2"]), (2, ["--num-workers", "2", "--num-cpus", "2"]), (2, [])],
    ids=["ray-1", "ray-2", "local"],
)
def test_a_killed_worker_costs_one_unit_and_is_replaced(
    workers: int, flags: list[str], faces: Path, tiny_model: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    variables, counter = slow_and_counted(tmp_path / "slow", 0.1 * workers)
    with started(predict_flags(faces, tiny_model, output, *flags), variables) as run:
        run.wait_for_units(output, 3)
        scoring_workers(run.process.pid)[0].kill()
        killed_s = time.monotonic()
        recovered_s = run.wait_for("a replacement finished its first task") - killed_s
        assert run.end() == 0, run.log
    print(f"a lost worker of {workers}: {recovered_s:.1f} s from the kill to the first unit of its replacement")
    assert rows_of(output).equals(undisturbed)
    result = json.loads((output / "_run.json").read_text())["result"]
    assert (result["workers_lost"], result["units_tried_again"]) == (1, 1)
    # no more than one unit of eight twice; nothing, where it was killed before the first image of its unit
    assert len(undisturbed) <= counter.stat().st_size <= len(undisturbed) + 8
