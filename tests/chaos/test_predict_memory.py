"""A scoring process that runs out of memory: killed by Ray's memory monitor, or refused by the system."""

import json
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from tests.support.decoders import decoding_environment
from tests.support.runs import predict_flags, rows_of, started

MEGABYTE = 1_000_000
ROOM_BYTES = 3000 * MEGABYTE
"""What may be taken beside that which is in use at the start, by the run or by anything else on the machine, before Ray's
monitor kills processes of the run."""

ONCE = """
try:
    os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
except FileExistsError:
    return
"""

TAKE_UNTIL_KILLED = """
held = []
while len(held) < 160:
    held.append(b"1" * 50_000_000)
    time.sleep(0.05)
raise SystemError("8 GB were taken, and nobody minded")
"""

TAKE_MORE_THAN_ALLOWED = """
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (100_000_000, hard))
b"1" * 4_000_000_000
"""


def test_a_worker_killed_by_the_memory_monitor_is_replaced(
    faces: Path, tiny_model: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + ROOM_BYTES) / memory.total
    if memory.available < 2 * ROOM_BYTES:
        pytest.skip("NOT TESTED: a worker killed for memory; this machine has too little that is free")
    variables = decoding_environment(tmp_path / "greedy", ONCE.format(flag=str(tmp_path / "once")) + TAKE_UNTIL_KILLED)
    variables |= {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    log = run_to_its_end(faces, tiny_model, undisturbed, tmp_path / "out", variables)
    assert "killed due to the node running low on memory" in log


def test_a_worker_that_gets_no_memory_is_replaced(
    faces: Path, tiny_model: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    first = ONCE.format(flag=str(tmp_path / "once")) + TAKE_MORE_THAN_ALLOWED
    log = run_to_its_end(
        faces, tiny_model, undisturbed, tmp_path / "out", decoding_environment(tmp_path / "greedy", first)
    )
    assert "MemoryError" in log


def run_to_its_end(faces: Path, model: Path, undisturbed: pa.Table, output: Path, variables: dict[str, str]) -> str:
    with started(predict_flags(faces, model, output, "--num-cpus", "2", "--num-workers", "1"), variables) as run:
        noticed_s = run.wait_for("a scoring process ended at")
        recovered_s = run.wait_for("a replacement finished its first task") - noticed_s
        assert run.end() == 0, run.log
    print(f"a worker without memory: {recovered_s:.1f} s from its end to the first unit of its replacement")
    assert rows_of(output).equals(undisturbed)
    result = json.loads((output / "_run.json").read_text())["result"]
    assert result["workers_lost"] >= 1
    assert result["units_tried_again"] <= result["workers_lost"]
    return run.log
