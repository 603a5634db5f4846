"""Cost of a unit of work in the driver of `agegender predict`: real Ray, listing and ledger, with idle workers.

    python benchmarks/driver.py [--workers 10 100] [--units 10000] [--output out/driver]

A unit is a line of a manifest, or several; an actor answers it with rows of status ``missing`` and puts them on storage, as it would
a scored unit. All times are CPU time of the driver, which does not depend on other load, except ``wall``, which may include the
workers' time. Each line is measured in its own process:

- list: listing the source and writing the units down, in the driver's second thread;
- pool: handing units to the actors and taking the results, in the main thread;
- ledger: counting, and joining the staged rows into parts of as many units as real parts hold; here in the main thread, so
  that its time is measured separately; a real run uses a separate thread;
- Ray: its threads in the driver's process.

Memory is resident memory of the driver and of Ray's head process (gcs_server), and what the raylet holds of the object store,
when the first tenth of the units is done and when all are. Prints Markdown.
"""

import argparse
import contextlib
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from agegender import released
from agegender.config import PredictConfig
from agegender.pipelines.engine.actor_pool import UnitPool
from agegender.pipelines.engine.poison import Task
from agegender.pipelines.engine.ray_actors import RayActors, pool_size
from agegender.pipelines.predict import ledger as ledger_module
from agegender.pipelines.predict.ledger import Ledger, UnitCounts, stage_unit
from agegender.pipelines.predict.worker import COMMAND, PredictStats, ScoredUnit, images_of, score_units
from agegender.pipelines.runtime.placement import Placement
from agegender.pipelines.runtime.session import ray_session
from agegender.pipelines.source.streaming_listing import StreamingListing
from agegender.schema import prediction_schema

MIB = 2**20


def main() -> None:
    """Measure each combination and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--units", type=int, nargs="+", default=[10_000])
    parser.add_argument("--unit-images", type=int, default=1, help="lines of the manifest in each unit")
    parser.add_argument("--output", help="folder or s3:// prefix, empty; default: a temporary folder")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # in a process of its own
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.workers[0], given.units[0], given.unit_images, given.output)))
        return
    lines = []
    for units, workers in itertools.product(given.units, given.workers):
        with tempfile.TemporaryDirectory(prefix="agegender-driver-") as folder:
            output = f"{given.output or folder}/{workers}-{units}"
            command = [sys.executable, __file__, "--one", "--workers", str(workers), "--units", str(units)]
            command += ["--unit-images", str(given.unit_images)]
            done = subprocess.run([*command, "--output", output], stdout=subprocess.PIPE, text=True, check=True)
        lines.append(json.loads(done.stdout.splitlines()[-1]))
        print(lines[-1], file=sys.stderr, flush=True)
    print("| " + " | ".join(lines[0]) + " |", "|" + "---|" * len(lines[0]), sep="\n")
    for line in lines:
        print("| " + " | ".join(map(str, line.values())) + " |")


class _EmptyWorker:
    """Does nothing, and says so as ``ScoringWorker`` would."""

    def __init__(self, output: str, unit_images: int) -> None:
        self._output = output
        row = {"uri": "nowhere", "face_index": 0, "status": "missing"}
        self._table = pa.Table.from_pylist([row] * unit_images, schema=prediction_schema([], False))

    def do(self, task: Task) -> ScoredUnit:
        return ScoredUnit(
            stage_unit(self._output, task.unit, self._table), {"wait": 0.1, "score": 0.1}, 0, 0, "float32"
        )


def measure(workers: int, units: int, unit_images: int, output: str) -> dict[str, object]:
    """One line of the table.

    Args:
        workers: actors, which share the machine's CPUs.
        units: how many.
        unit_images: images in each.
        output: of the run.
    """
    part_units = ledger_module.PART_ROWS // PredictConfig.model_fields["unit_images"].default
    ledger_module.PART_ROWS = part_units * unit_images
    with tempfile.TemporaryDirectory() as folder:
        manifest = f"{folder}/manifest.parquet"
        pq.write_table(
            pa.table({"uri": [f"/nowhere/{number:09d}.jpg" for number in range(units * unit_images)]}), manifest
        )
        common = {"input": [manifest], "output": output, "model": str(released.FOLDER), "faces": "none"}
        config = PredictConfig(**common, unit_images=unit_images, num_workers=workers)
        listed_s, addresses = _list(config)
        return {"workers": workers, "units": units, **_score(config, addresses, listed_s)}


def _list(config: PredictConfig) -> tuple[float, list[str]]:
    began_s = time.process_time()
    with StreamingListing(config.source(), f"{config.output}/_work/listing") as listing:
        addresses = [listing.address(number) for number in listing.numbers() if number is not None]
    return time.process_time() - began_s, addresses


def _scored(config: PredictConfig, addresses: list[str]) -> Generator[tuple[str, UnitCounts], None, None]:
    """As ``predict`` on Ray, but for what the workers do."""
    placement = Placement(config.cluster(), config.opened_by_workers())
    size, cpus = pool_size(config.num_workers, config.threads_per_worker, placement)
    workers = RayActors(_EmptyWorker, (config.output, config.unit_images), cpus, placement)
    stats = PredictStats()
    yield from score_units(UnitPool(workers, size, images_of, stats, COMMAND), iter(addresses), stats)


def _score(config: PredictConfig, addresses: list[str], listed_s: float) -> dict[str, object]:
    ledger, ledger_s, units = Ledger(config.output, {}), 0.0, len(addresses)
    with ray_session(num_cpus=psutil.cpu_count()), contextlib.closing(_scored(config, addresses)) as done:
        first_unit, counts = next(done)  # from here on the actors start, which is not a unit's cost
        ledger.add(first_unit, counts)
        began_s, main_s, process_s = time.perf_counter(), time.thread_time(), time.process_time()
        early: dict[str, float] = {}
        for number, (unit, counts) in enumerate(done, 2):
            asked_s = time.thread_time()
            ledger.add(unit, counts)
            ledger_s += time.thread_time() - asked_s
            if number == units // 10:
                early = _memory()
        late = _memory()
        asked_s = time.thread_time()
        ledger.publish_rest()
        ledger_s += time.thread_time() - asked_s
        main_s, process_s = time.thread_time() - main_s, time.process_time() - process_s
        wall_s = time.perf_counter() - began_s
    images = units * config.unit_images
    assert ledger.totals.images == images, f"{ledger.totals.images} of {images} images came back"
    spent = {"list": listed_s, "pool": main_s - ledger_s, "ledger": ledger_s, "Ray": process_s - main_s, "wall": wall_s}
    times = {f"{name}, ms per unit": round(1000 * seconds / units, 2) for name, seconds in spent.items()}
    return times | {f"{name}, MiB": f"{early[name] / MIB:.0f}, {late[name] / MIB:.0f}" for name in late}


def _memory() -> dict[str, float]:
    """Bytes at this moment."""
    driver = psutil.Process()
    found = {"driver": float(driver.memory_info().rss), "head": 0.0, "object store": 0.0}
    for process in driver.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, OSError):
            name = Path((process.cmdline() or [""])[0]).name
            if name == "gcs_server":
                found["head"] = float(process.memory_info().rss)
            elif name == "raylet":
                status = Path(f"/proc/{process.pid}/status").read_text()
                shared = re.search(r"RssShmem:\s+(\d+)", status)
                found["object store"] = 1024.0 * int(shared[1]) if shared else 0.0
    return found


if __name__ == "__main__":
    main()
