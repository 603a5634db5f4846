"""Where the time goes between the command `agegender predict` and the first image scored.

    python benchmarks/startup.py --input photos/ [--faces detect] [--limit 16] [--rounds 3]

The command itself runs, in a process that also tells when each step is done: without a cluster, on a Ray of its own, which
it starts, and on one that is running. Files are read once before, so that they come from the cache of the system. Medians
over the rounds; prints Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import ray

from agegender import released

TIMED = """
import json, os, sys, time
began = float(os.environ["BEGAN"])
marks = {"Python": time.time() - began}

def mark(name):
    marks.setdefault(name, time.time() - began)

from agegender import cli
from agegender.pipelines.predict import launch
may_be_local, warm_up = launch.may_be_local, launch.local.warm_up

def install():
    if "imports of the driver" in marks:
        return
    from agegender.pipelines.predict import run
    mark("imports of the driver")
    pool, ledger = run.score_into.__globals__["UnitPool"], run.Ledger
    check, on_ready, add = run.check_run, pool._on_ready, ledger.add

    def timed_check(config):
        checked = check(config)
        mark("reading the command, checking model and detector")
        return checked

    def timed_on_ready(self, ready):
        on_ready(self, ready)
        if self._workers:
            mark("Ray where there is one, and a process that scores")

    def timed_add(self, unit, counts):
        mark("first unit: loading the model, decoding, finding, scoring, staging")
        add(self, unit, counts)

    run.check_run, pool._on_ready, ledger.add = timed_check, timed_on_ready, timed_add

def timed_may_be_local(config):
    local = may_be_local(config)
    if not local:
        install()
    return local

def timed_warm_up(*given):
    warm_up(*given)
    install()

launch.may_be_local, launch.local.warm_up = timed_may_be_local, timed_warm_up
code = cli.main(sys.argv[1:])
mark("the end of the command")
print(json.dumps(marks))
sys.exit(code)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of photographs or face crops")
    parser.add_argument("--model", type=Path, default=released.FOLDER)
    parser.add_argument("--faces", choices=["none", "detect"], default="detect")
    parser.add_argument("--unit-images", type=int, default=512, help="1: the first unit is the first image")
    parser.add_argument("--limit", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    for path in sorted(given.input.rglob("*"))[: 10 * given.limit]:
        if path.is_file():
            path.read_bytes()
    local = [_marks(given, [], {}) for _ in range(given.rounds)]
    own = [_marks(given, ["--num-workers", "1"], {}) for _ in range(given.rounds)]
    ray.init(include_dashboard=False, logging_level="ERROR")
    running = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    warm = [_marks(given, [], running) for _ in range(given.rounds)]
    print("| s since the command, when it is done | no cluster | a Ray of its own | a running Ray |\n|---|---|---|---|")
    for name in local[0]:
        print(f"| {name} |", *(f"{median(marks[name] for marks in runs):.1f} |" for runs in (local, own, warm)))


def _marks(given: argparse.Namespace, more: list[str], variables: dict[str, str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="agegender-benchmark-") as folder:
        what = ["--input", str(given.input), "--model", str(given.model), "--output", f"{folder}/out", *more]
        what += ["--faces", given.faces, "--limit", str(given.limit), "--unit-images", str(given.unit_images)]
        began = {"BEGAN": str(time.time())}
        done = subprocess.run(
            [sys.executable, "-c", TIMED, "predict", *what],
            env=os.environ | variables | began,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"agegender predict ended with {done.returncode}:\n{done.stderr[-2000:]}")
    marks: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return marks


if __name__ == "__main__":
    main()
