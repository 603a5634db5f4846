"""A process of eda that is killed more often than Ray tries its unit again."""

import json
import time
from pathlib import Path

from tests.support.decoders import held_up
from tests.support.processes import processes_below
from tests.support.runs import started


def test_eda_ends_with_its_exit_code_and_the_same_command_goes_on(faces: Path, tmp_path: Path) -> None:
    variables, hold = held_up(tmp_path / "held")
    hold.touch()
    command = ["eda", "--input", str(faces), "--unit-images", "8", "--no-images", "--output", str(tmp_path / "out")]
    never_again = "from agegender.pipelines.source import image_facts; image_facts._MAX_RETRIES = 0"
    with started([*command, "--num-cpus", "2"], variables, never_again) as run:
        while not (workers := processes_below(run.process.pid, "_unit_facts")):
            assert run.process.poll() is None, run.log
            time.sleep(0.05)
        workers[0].kill()
        assert run.end() == 4, run.log
    assert "the cluster failed: " in run.log
    assert "Run the same command again to resume" in run.log
    hold.unlink()
    with started(command, variables) as again:
        assert again.end() == 0, again.log
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["images"] == summary["by_status"]["ok"] == len(list(faces.iterdir()))
