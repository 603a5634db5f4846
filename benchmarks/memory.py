"""Memory of `agegender predict` for few and many images, sampled twice a second.

    python benchmarks/memory.py --input UTKFace/ --output out/memory [--counts 20000 200000 1000000] [--model out/notebook/model]

The images are hard links to those of INPUT (copied once to OUTPUT, for links need one disk), a thousand to a folder. Memory is
resident memory: of the driver, of the largest worker, and what of the object store is in use (the shared memory of Ray's
raylet). Writes OUTPUT/samples.parquet, OUTPUT/memory.png and prints Markdown; a size that is there is not run again.
"""

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil

from agegender import released

FOLDER_IMAGES = 1000
SAMPLE_INTERVAL_S = 0.5
PROGRESS = re.compile(r"predict: ([\d,]+)")
MIB = 2**20
WHAT = ("driver", "worker", "object store")


def main() -> None:
    """Run the missing sizes, then plot and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of .jpg face crops")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=released.FOLDER)
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000, 200_000, 1_000_000])
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    stored = given.output / "samples.parquet"
    samples = pd.read_parquet(stored) if stored.exists() else pd.DataFrame({"count": []})
    for count in given.counts:
        if count in set(samples["count"]):
            continue
        tree = _link(given.input, given.output, count)
        samples = pd.concat([samples, _run(tree, given.output / f"predictions-{count}", given.model, count)])
        samples.to_parquet(stored, index=False)
    _draw(samples, given.output / "memory.png")
    print(_table(samples))


def _link(source: Path, output: Path, count: int) -> Path:
    """A tree of ``count`` names for the images of ``source``."""
    originals, tree = output / "images", output / f"links-{count}"
    if not originals.exists():
        shutil.copytree(source, originals)
    names = sorted(path.name for path in originals.iterdir() if path.suffix == ".jpg")
    for place, name in zip(range(count), itertools.cycle(names), strict=False):
        folder = tree / f"{place // FOLDER_IMAGES:04d}"
        if place % FOLDER_IMAGES == 0:
            folder.mkdir(parents=True, exist_ok=True)
        link = folder / f"{place:07d}.jpg"
        if not link.exists():
            os.link(originals / name, link)
    return tree


def _run(tree: Path, output: Path, model: Path, count: int) -> pd.DataFrame:
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "agegender.cli", "predict", "--input", str(tree), "--model", str(model)]
    started_s = time.monotonic()
    job = subprocess.Popen([*command, "--faces", "none", "--output", str(output)], stderr=subprocess.PIPE, text=True)
    seen = [(0.0, 0)]
    reader = threading.Thread(target=_follow, args=(job, seen, started_s))
    reader.start()
    rows: list[dict[str, float]] = []
    while job.poll() is None:
        rows.append({"seconds": time.monotonic() - started_s, **_memory(job.pid)})
        time.sleep(SAMPLE_INTERVAL_S)
    reader.join()
    if job.returncode:
        raise SystemExit(f"predict ended with {job.returncode}: see above")
    frame = pd.DataFrame(rows).assign(count=count)
    seconds, images = zip(*seen, strict=True)
    return frame.assign(images=np.interp(frame["seconds"], seconds, images))


def _follow(job: "subprocess.Popen[str]", seen: list[tuple[float, int]], started_s: float) -> None:
    """Record the image count of each progress line."""
    assert job.stderr is not None
    for line in job.stderr:
        print(line, end="", file=sys.stderr, flush=True)
        if found := PROGRESS.search(line):
            seen.append((time.monotonic() - started_s, int(found[1].replace(",", ""))))


def _memory(driver_pid: int) -> dict[str, float]:
    """Current bytes of each part; a process that has ended counts 0."""
    found = dict.fromkeys(WHAT, 0.0)
    try:
        driver = psutil.Process(driver_pid)
        found["driver"] = driver.memory_info().rss
        below = driver.children(recursive=True)
    except psutil.NoSuchProcess:
        return found
    for process in below:
        try:
            title = " ".join(process.cmdline()[:1])
            if title.startswith("ray::"):
                found["worker"] = max(found["worker"], process.memory_info().rss)
            elif Path(title).name == "raylet":
                status = Path(f"/proc/{process.pid}/status").read_text()
                shared = re.search(r"RssShmem:\s+(\d+)", status)
                assert shared is not None, status
                found["object store"] = 1024.0 * int(shared[1])
        except (psutil.NoSuchProcess, OSError):
            continue
    return found


def _draw(samples: pd.DataFrame, path: Path) -> None:
    """Memory against the images done: the longest run as lines, the peaks of the others as dots."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    longest = samples["count"].max()
    run = samples[samples["count"] == longest]
    for place, name in enumerate(WHAT):
        axes.plot(
            run["images"], run[name] / MIB, color=f"C{place}", label=name if name != "worker" else "largest worker"
        )
        for count, other in samples[samples["count"] != longest].groupby("count"):
            axes.plot(count, other[name].max() / MIB, "o", color=f"C{place}")
    axes.set(xlabel="images scored", ylabel="resident memory, MiB", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"predict on {longest:,.0f} images; dots: peaks of shorter runs", loc="left")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _table(samples: pd.DataFrame) -> str:
    lines = [
        "| images | images/s | second and second-last tenth | driver, MiB | largest worker, MiB | object store, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for count in sorted(samples["count"].unique().tolist()):
        run = samples[samples["count"] == count]
        peaks = " | ".join(f"{run[name].max() / MIB:.0f}" for name in WHAT)
        seconds = np.interp(count * np.array([0.1, 0.2, 0.8, 0.9]), run["images"], run["seconds"])
        early, late = (0.1 * count / (seconds[i + 1] - seconds[i]) for i in (0, 2))
        lines.append(f"| {count:,.0f} | {count / run['seconds'].max():.0f} | {early:.0f}, {late:.0f} | {peaks} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
