"""Make large photographs of small face crops, to measure what large sources cost.

    python benchmarks/enlarge.py --input UTKFace/ --output out/large [--count 2000] [--side-px 3464] [--distinct 50]

Each is enlarged (bicubic), gets a sensor's noise, so that its file is as large as a camera's, and is written as JPEG of
quality 90. Only DISTINCT are made; the other names are hard links to them.
"""

import argparse
import os
from pathlib import Path

import cv2
import numpy as np

from agegender.data.images import Pixels, decode, encode_jpeg

NOISE_STD = 4.0  # of 255


def main() -> None:
    """Make those that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of .jpg face crops")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--side-px", type=int, default=3464)
    parser.add_argument("--distinct", type=int, default=50)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    sources = sorted(path for path in given.input.iterdir() if path.suffix == ".jpg")
    chosen = sources[:: max(1, len(sources) // given.distinct)][: given.distinct]
    for place in range(given.count):
        path, first = (given.output / f"{number:05d}.jpg" for number in (place, place % len(chosen)))
        if path.exists():
            continue
        if path != first:
            os.link(first, path)
            continue
        pixels = decode(chosen[place].read_bytes(), 10**8).pixels
        assert pixels is not None, chosen[place]
        path.write_bytes(encode_jpeg(enlarged(pixels, given.side_px, place)))


def enlarged(pixels: Pixels, side_px: int, seed: int) -> Pixels:
    """uint8[H, W, 3] as uint8[side_px, side_px, 3] with noise."""
    large = cv2.resize(pixels, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(seed).normal(0, NOISE_STD, large.shape)
    enlarged: Pixels = np.clip(large + noise, 0, 255).astype(np.uint8)
    return enlarged


if __name__ == "__main__":
    main()
