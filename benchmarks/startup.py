"""Where the time goes between the command `agegender predict` and the first image scored.

    python benchmarks/startup.py --input UTKFace/ [--rounds 3]

The command itself runs, in a process that also tells when each step is done: on a Ray of its own, which it starts, and on
one that is running. Medians over the rounds; prints Markdown.
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
from agegender.pipelines.predict import ledger
from agegender.pipelines.engine import actor_pool as pool
from agegender.pipelines.predict import run
import ray
mark("imports of the driver")
init, welcome, add = ray.init, pool.UnitPool._welcome, ledger.Ledger.add

def timed_init(*given, **options):
    mark("reading the command, checking the model")
    init(*given, **options)
    mark("Ray")

def timed_welcome(self, ready):
    welcome(self, ready)
    if self._workers:
        mark("a process that scores: its start and imports")

def timed_add(self, unit, counts):
    mark("loading the model, scoring one image, staging its row")
    add(self, unit, counts)

ray.init, pool.UnitPool._welcome, ledger.Ledger.add = timed_init, timed_welcome, timed_add
code = cli.main(sys.argv[1:])
print(json.dumps(marks))
sys.exit(code)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of face crops")
    parser.add_argument("--model", type=Path, default=released.FOLDER)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cold = [_marks(given.input, given.model, {}) for _ in range(given.rounds)]
    ray.init(include_dashboard=False, logging_level="ERROR")
    running = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    warm = [_marks(given.input, given.model, running) for _ in range(given.rounds)]
    print("| s, since the command, when it is done | Ray of its own | a running Ray |\n|---|---|---|")
    for name in cold[0]:
        print(f"| {name} |", *(f"{median(marks[name] for marks in runs):.1f} |" for runs in (cold, warm)))


def _marks(source: Path, model: Path, variables: dict[str, str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="agegender-benchmark-") as folder:
        what = ["--input", str(source), "--model", str(model), "--output", f"{folder}/out", "--faces", "none"]
        began = {"BEGAN": str(time.time())}
        done = subprocess.run(
            [sys.executable, "-c", TIMED, "predict", *what, "--limit", "1"],
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
