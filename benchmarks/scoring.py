"""Speed of `agegender predict` and of alternatives: whole processes, alternating, on the same images.

    python benchmarks/scoring.py --input UTKFace/ [--model out/train/model] [--rounds 3] [--only agegender torch-loop ...]

Each runs on a part, by default a half, and on all of the images. The difference of the two times is the steady state; what
remains is start-up: imports, Ray, loading the model, listing. Values are medians over the rounds; ratios are taken within
each round, so that other load does not favour one side. The peers are in ``scoring_peers.py``; daft
must be installed for its row (pip install daft). Prints Markdown.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from scoring_peers import PEERS

from agegender import released

OURS = "agegender"
PEERS_SCRIPT = Path(__file__).with_name("scoring_peers.py")


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of .jpg face crops")
    parser.add_argument("--model", type=Path, default=released.FOLDER)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, help="images; default: all")
    parser.add_argument("--part", type=int, help="images of the smaller run; default: half")
    parser.add_argument("--only", nargs="+", choices=[OURS, *PEERS], default=[OURS, *PEERS])
    given = parser.parse_args()
    whole = given.count or sum(path.suffix == ".jpg" for path in given.input.iterdir())
    counts = (given.part or whole // 2, whole)
    seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in given.only}
    for _ in range(given.rounds):
        for name in given.only:
            seconds[name].append(tuple(_seconds(name, given.input, given.model, count) for count in counts))
            print(name, [round(each, 1) for each in seconds[name][-1]], "s", file=sys.stderr, flush=True)
    print(_table(seconds, counts))


def _seconds(name: str, source: Path, model: Path, count: int) -> float:
    folder = Path(tempfile.mkdtemp(prefix="agegender-benchmark-"))
    what = ["--input", str(source), "--model", str(model), "--output", str(folder / "out")]
    if name == OURS:
        command = ["-m", "agegender.cli", "predict", *what, "--faces", "none", "--limit", str(count)]
    else:
        command = [str(PEERS_SCRIPT), name, *what, "--count", str(count)]
    started_s = time.monotonic()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    elapsed_s = time.monotonic() - started_s
    shutil.rmtree(folder)
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return elapsed_s


def _table(seconds: dict[str, list[tuple[float, ...]]], counts: tuple[int, int]) -> str:
    half, whole = counts
    steady = {name: [(whole - half) / (full - part) for part, full in runs] for name, runs in seconds.items()}
    lines = [
        f"| {whole} images | steady, images/s | start-up, s | end to end, s | {OURS}: steady | {OURS}: end to end |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in seconds.items():
        startup = median(full - whole / rate for (_, full), rate in zip(runs, steady[name], strict=True))
        cells = [f"{median(steady[name]):.0f}", f"{startup:.1f}", f"{median(full for _, full in runs):.1f}"]
        if OURS in seconds:
            rates = zip(steady[OURS], steady[name], strict=True)
            times = zip(runs, seconds[OURS], strict=True)
            cells.append(f"{median(ours / its for ours, its in rates):.2f}")
            cells.append(f"{median(its[1] / ours[1] for its, ours in times):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if {"decode", "forward"} <= steady.keys():
        limit = 1 / (1 / median(steady["decode"]) + 1 / median(steady["forward"]))
        lines.append(f"\nThe machine's limit, 1 / (1 / decode + 1 / forward): {limit:.0f} images/s")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
