"""A whole node that goes: its raylet and all of its workers at once, killed or silent."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.decoders import held_up, slow_and_counted
from tests.support.nodes import kill_node, raylet, silence_node, started_cluster
from tests.support.processes import processes_below, scoring_workers
from tests.support.runs import predict_flags, rows_of, started

HEALTH_CHECKS = re.findall(r"(RAY_health_check_\w+)=(\d+)", (Path(__file__).parents[2] / "cluster.yaml").read_text())


@pytest.mark.parametrize("lose", [kill_node, silence_node], ids=["killed", "silent"])
def test_predict_goes_on_without_a_lost_node(
    lose: Callable[[Any], None], faces: Path, tiny_model: Path, undisturbed: pa.Table, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    variables, counter = slow_and_counted(tmp_path / "slow", 0.3)
    with started_cluster([0, 2, 2], {**variables, **dict(HEALTH_CHECKS)}) as cluster:
        on = ["--address", cluster.address, "--shared-storage", "--num-workers", "2"]
        with started(predict_flags(faces, tiny_model, output, *on)) as run:
            run.wait_for("scoring in 2 processes on 2 nodes")
            lost = next(node for node in cluster.worker_nodes if scoring_workers(raylet(node).pid))
            lose(lost)
            lost_s = time.monotonic()
            recovered_s = run.wait_for("a replacement finished its first task") - lost_s
            assert run.end() == 0, run.log
        kill_node(lost)
    print(f"a lost node ({lose.__name__}): {recovered_s:.1f} s from its loss to the first unit of a replacement")
    assert rows_of(output).equals(undisturbed)
    result = json.loads((output / "_run.json").read_text())["result"]
    assert (result["workers_lost"], result["units_tried_again"]) == (1, 1)
    assert counter.stat().st_size <= len(undisturbed) + 8


def test_eda_counts_each_image_once_though_a_node_was_lost(faces: Path, tmp_path: Path) -> None:
    variables, hold = held_up(tmp_path / "held")
    flags = ["eda", "--input", str(faces), "--unit-images", "8", "--no-images", "--output"]
    with started([*flags, str(tmp_path / "undisturbed"), "--num-cpus", "2"]) as run:
        assert run.end() == 0, run.log
    output, summaries = tmp_path / "out", tmp_path / "out" / "_work" / "summaries"
    hold.touch()
    with (
        started_cluster([0, 1, 1], {**variables, **dict(HEALTH_CHECKS)}) as cluster,
        started([*flags, str(output), "--address", cluster.address, "--shared-storage"]) as run,
    ):
        # Held up, each node has a unit under way: none of them can end between the look at it and the kill.
        while not all(processes_below(raylet(node).pid, "_unit_facts") for node in cluster.worker_nodes):
            assert run.process.poll() is None, run.log
            time.sleep(0.05)
        kill_node(next(iter(cluster.worker_nodes)))
        hold.unlink()
        killed_s = time.time()
        assert run.end() == 0, run.log
    # Units are given out in order: one of the first two was on the node that was lost.
    both_s = max((summaries / f"unit-{number:07d}.json").stat().st_mtime for number in (0, 1))
    print(f"a lost node: {both_s - killed_s:.1f} s from the kill until eda has finished its unit elsewhere")
    results = [json.loads((folder / "summary.json").read_text()) for folder in (output, tmp_path / "undisturbed")]
    assert results[0] == results[1]
