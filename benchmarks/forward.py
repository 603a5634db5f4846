"""Faces/s of a model on this machine's cores, without decoding and everything else.

    python benchmarks/forward.py [--model out/train/model] [--processes 2] [--batch-size 64] [--precision auto]

Several processes of one thread each, as predict runs them, on random crops; the sum over them.
"""

import argparse
import multiprocessing
import time
from pathlib import Path

import numpy as np

from agegender import released
from agegender.options import ScoringPrecisionOrAuto
from agegender.scoring.cpu import CpuScorer

SECONDS = 6.0


def main() -> None:
    """Run all processes at once and add their rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=released.FOLDER)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16", "int8"], default="auto")
    given = parser.parse_args()
    with multiprocessing.Pool(given.processes) as pool:
        rates = pool.starmap(
            images_per_s, [(given.model, given.batch_size, given.precision)] * given.processes, chunksize=1
        )
    print(
        f"{sum(rates):.0f} images/s in {given.processes} processes of one thread, batches of {given.batch_size}, {given.precision}"
    )


def images_per_s(model: Path, batch_size: int, precision: ScoringPrecisionOrAuto) -> float:
    """Rate of one process, after a warm-up batch."""
    scorer = CpuScorer(model, threads=1, batch_size=batch_size, precision=precision)
    side = scorer.image_size_px
    crops = np.random.default_rng(0).integers(0, 256, (batch_size, side, side, 3), dtype=np.uint8)
    scorer.score(crops)
    done, started_s = 0, time.monotonic()
    while time.monotonic() - started_s < SECONDS:
        scorer.score(crops)
        done += batch_size
    return done / (time.monotonic() - started_s)


if __name__ == "__main__":
    main()
