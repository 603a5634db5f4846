"""Throughput of predict on an object store with many small objects.

    python benchmarks/s3_scoring.py --input UTKFace/ --prefix s3://bucket/faces [--count 50000] [--model out/notebook/model]

Server and keys come from the AWS variables (docs/s3.md); `tests/s3/server.sh serve` starts one on this machine, which then shares
its cores. Puts COUNT objects there (the images of INPUT over and over; those that are there stay), reads some one at a time
and as many at once as predict does, in as many processes, and scores them all. Prints Markdown.
"""

import argparse
import itertools
import multiprocessing
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agegender import released
from agegender.pipelines.source.fetch import REMOTE_READS_IN_FLIGHT
from agegender.storage import files

PROCESSES = 2
SECONDS = 15.0
PROGRESS = re.compile(r"predict: ([\d,]+)(?: of ([\d,]+))? images")


def main() -> None:
    """Fill, read, score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of .jpg face crops")
    parser.add_argument("--prefix", required=True, help="where to put them; its bucket must be there")
    parser.add_argument("--output", help="of predict; default: PREFIX-predictions")
    parser.add_argument("--model", type=Path, default=released.FOLDER)
    parser.add_argument("--count", type=int, default=50_000)
    given = parser.parse_args()
    uris = _fill(given.input, given.prefix, given.count)
    serial = _objects_per_s(uris, 1, 1)
    limit = _objects_per_s(uris, PROCESSES, REMOTE_READS_IN_FLIGHT)
    steady, first_s, listed_s, whole_s = _predict(
        given.prefix, given.output or f"{given.prefix}-predictions", given.model
    )
    print(f"{given.count:,} objects, two scoring processes:\n")
    print("| | objects/s |\n|---|---|")
    print(f"| one read at a time | {serial:.0f} |")
    print(f"| {REMOTE_READS_IN_FLIGHT} reads in flight in each of {PROCESSES} processes, nothing else | {limit:.0f} |")
    print(f"| `predict`, steady | {steady:.0f} |")
    print(
        f"\nFirst images scored {first_s:.0f} s after the start, listing seen to end after {listed_s:.0f} s, all in {whole_s:.0f} s."
    )


def _fill(source: Path, prefix: str, count: int) -> list[str]:
    names = sorted(path for path in source.iterdir() if path.suffix == ".jpg")
    wanted = {
        f"{prefix}/{place:07d}.jpg": path for place, path in zip(range(count), itertools.cycle(names), strict=False)
    }
    there = {info.uri for info in files.list_files(prefix, allow_empty=True)}
    with ThreadPoolExecutor(REMOTE_READS_IN_FLIGHT) as pool:
        list(pool.map(lambda uri: files.write_bytes(uri, wanted[uri].read_bytes()), wanted.keys() - there))
    return list(wanted)


def _objects_per_s(uris: list[str], processes: int, in_flight: int) -> float:
    shares = [(uris[first::processes], in_flight) for first in range(processes)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return sum(pool.starmap(_read, shares, chunksize=1))


def _read(uris: list[str], in_flight: int) -> float:
    """Objects/s of one process, reading repeatedly until the time is up."""
    started_s, done = time.monotonic(), 0
    for _ in files.read_many(itertools.cycle(uris), in_flight):
        done += 1
        if time.monotonic() - started_s > SECONDS:
            break
    return done / (time.monotonic() - started_s)


def _predict(source: str, output: str, model: Path) -> tuple[float, float, float, float]:
    """Images/s between the first and the last line of progress; seconds to the first, to the end of the listing, in all."""
    command = [sys.executable, "-m", "agegender.cli", "predict", "--input", source, "--output", output]
    started_s = time.monotonic()
    job = subprocess.Popen([*command, "--model", str(model), "--faces", "none"], stderr=subprocess.PIPE, text=True)
    assert job.stderr is not None
    seen: list[tuple[float, int, bool]] = []
    for line in job.stderr:
        print(line, end="", file=sys.stderr)
        if found := PROGRESS.search(line):
            seen.append((time.monotonic() - started_s, int(found[1].replace(",", "")), found[2] is not None))
    if job.wait() or not seen:
        raise SystemExit("predict failed, or OUTPUT is finished already: see above")
    first, last = seen[0], seen[-1]
    steady = (last[1] - first[1]) / max(last[0] - first[0], 1e-9)
    listed_s = next(seconds for seconds, _, is_listed in seen if is_listed)
    return steady, first[0], listed_s, time.monotonic() - started_s


if __name__ == "__main__":
    main()
