"""Kill `agegender predict` at random moments, start it again, and hold its table to that of an undisturbed run.

    python benchmarks/kills.py --input demo/faces --model demo/train/model --kills 20 [--seed 0]

Each kill hits everything at once, the driver alone, or one scoring process; after the first two the same command is started
again. Meanwhile readers (DuckDB, pandas, pyarrow) take OUTPUT as a table. Parts are closed after a few units here, so
that there is something to read. Ends with an error where a row is lost, doubled or different, a reader fails, or finished work is
done again.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.dataset

from agegender import released
from agegender.config import StatusConfig
from agegender.pipelines.predict.status import run_status

PART_ROWS = 100
PROGRAM = f"""
import sys
from agegender.cli import main
from agegender.pipelines.predict import ledger
ledger.PART_ROWS = {PART_ROWS}
sys.exit(main(sys.argv[1:]))
"""
KINDS = ("everything", "driver", "worker")
WORKERS = ("_PoolActor", "agegender.pipelines.engine.local")
"""Words in the command line of a process that scores: an actor of Ray's, or one of a run without Ray."""

TIMEOUT_S = 600


@dataclass
class Report:
    """Counts of kills and of reads."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    runs: int = 0
    reads: int = 0
    images_done_before: int = 0
    """Images that were finished at the start of a run, summed over resumed runs."""


def main() -> None:
    """Run the requested number of kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=released.FOLDER)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unit-images", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agegender-kills-") as folder:
        print(kill_and_compare(given.input, given.model, Path(folder), given.kills, given.seed, given.unit_images))


def kill_and_compare(
    source: Path, model: Path, folder: Path, kills: int, seed: int, unit_images: int = 16, on_ray: bool = True
) -> Report:
    """Kill ``kills`` times, in as many outputs as that takes.

    Args:
        source: face crops.
        model: a trained model's folder.
        folder: for the outputs.
        kills: how often.
        seed: of the moments and kinds.
        unit_images: small, so that there are many units.
        on_ray: whether a Ray of the run's own scores; else processes without one.

    Raises:
        AssertionError: a promise was broken; its message says which.
    """
    draws, report = random.Random(seed), Report()
    ray = ["--num-workers", "2"] if on_ray else []
    command = ["predict", "--input", str(source), "--model", str(model), "--faces", "none"]
    command += ["--unit-images", str(unit_images), "--num-cpus", "2", *ray, "--output"]
    began_s = time.monotonic()
    assert _start(command, folder / "undisturbed").wait(TIMEOUT_S) == 0, "the undisturbed run failed"
    whole_s = time.monotonic() - began_s
    expected = rows_of(folder / "undisturbed")
    outputs = 0
    while sum(report.kills.values()) < kills:
        output = folder / f"killed-{outputs}"
        outputs += 1
        with _readers(output, report):
            _until_done(command, output, draws, report, kills, whole_s, expected.num_rows)
        assert rows_of(output).equals(expected), f"{output}: other rows than those of an undisturbed run"
    return report


def _until_done(
    command: list[str], output: Path, draws: random.Random, report: Report, kills: int, whole_s: float, images: int
) -> None:
    while True:
        before, finished = _images_done(output)
        process = _start(command, output)
        report.runs += 1
        report.images_done_before += before
        while sum(report.kills.values()) < kills and process.poll() is None:
            kind = draws.choice(KINDS)
            try:
                process.wait(draws.uniform(0, whole_s))
                break
            except subprocess.TimeoutExpired:
                if _kill(process, kind):
                    report.kills[kind] += 1
                print(f"killed: {kind}", file=sys.stderr, flush=True)
        code = process.wait(TIMEOUT_S)
        if code == 0:
            # killed right after its end: the record is still that of the previous run
            scored_now = 0 if finished else _result(output)["images_scored_now"]
            # workers briefly outlive their driver, so that less may be left than was observed
            assert scored_now <= images - before, f"{scored_now} images scored where {images - before} were left"
            return
        assert code < 0, f"predict ended by itself with exit code {code}"


def _start(command: list[str], output: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *command, str(output)], stdout=subprocess.DEVNULL)


def _kill(process: subprocess.Popen[bytes], kind: str) -> bool:
    """Whether there was something of that kind to kill."""
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return False
    workers = [each for each in tree if any(words in _name(each) for words in WORKERS)]
    victims = {"everything": [psutil.Process(process.pid), *tree], "driver": [psutil.Process(process.pid)]}
    chosen = victims.get(kind, workers[:1])
    for each in chosen:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    return bool(chosen)


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _images_done(output: Path) -> tuple[int, bool]:
    """Images that are scored, and whether the run says that it is finished."""
    if not (output / "_run.json").exists():
        return 0, False
    status = run_status(StatusConfig(output=str(output)))
    return int(status["scored"]), status["state"] == "done"


def _result(output: Path) -> dict[str, int]:
    return dict(pd.read_json(output / "_run.json", typ="series")["result"])


def rows_of(output: Path) -> pa.Table:
    """The table in OUTPUT, sorted."""
    table = pyarrow.dataset.dataset(output, format="parquet").to_table()
    return table.sort_by([("uri", "ascending"), ("face_index", "ascending")])


@contextmanager
def _readers(output: Path, report: Report) -> Iterator[None]:
    """Read OUTPUT repeatedly while the block runs; raises the readers' errors at its end."""
    ended, failures = threading.Event(), []

    def read() -> None:
        while not ended.wait(0.2):
            if not list(output.glob("part-*.parquet")):
                continue
            try:
                query = f"SELECT count(*) FROM read_parquet('{output}/part-*.parquet')"
                assert duckdb.connect().sql(query).fetchall()[0][0] > 0
                assert len(pd.read_parquet(output)) > 0
                assert pyarrow.dataset.dataset(output, format="parquet").count_rows() > 0
                report.reads += 1
            except Exception as error:  # noqa: BLE001  (any failure of a reader is the finding)
                failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert not failures, f"{len(failures)} reads failed: {failures[0]!r}"


if __name__ == "__main__":
    main()
