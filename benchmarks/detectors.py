"""Which detector finds more, at what time: every one of ``--detector``, on the same pictures, in one process.

    python benchmarks/detectors.py --chips UTKFace/ --pictures 14 --min-face-px 16

Pictures of 2000 x 1500 pixels with up to 20 chips each, 12 to 600 pixels, rotated by up to 30 degrees, on noise. Prints the share found
by size, what else was found, and CPU seconds. The detectors' files are found as `agegender predict` finds them.
"""

import argparse
import math
import random
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from faces import background

from agegender.config import PredictConfig
from agegender.data.alignment import warp
from agegender.data.face_geometry import rotation
from agegender.data.faces import DETECTORS, FaceFinder
from agegender.data.images import Pixels, decode
from agegender.pipelines.runtime.detector import face_search

PICTURE_PX = (2000, 1500)
CHIPS_PER_PICTURE = 20
CHIP_PX = (12, 600)
SIZES_PX = (12, 16, 20, 24, 32, 40, 60, 120, 600)
LARGEST_TURN_DEGREES = 30

Place = tuple[float, float, float]
"""Middle of a chip and its side, in pixels of the picture."""


def main() -> None:
    """Measure each detector on the same pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=14)
    parser.add_argument("--min-face-px", type=int, default=24)
    arguments = parser.parse_args()
    chips = sorted(arguments.chips.glob("*.jpg"))
    random.Random(1).shuffle(chips)
    rng = np.random.default_rng(0)
    crowds = [crowd(chips, rng) for _ in range(arguments.pictures)]
    for name in DETECTORS:
        config = PredictConfig.model_validate(
            {"input": ["-"], "output": "-", "detector": name, "min_face_px": arguments.min_face_px}
        )
        search = face_search(config, 1000)
        assert search is not None
        print(name, measured(search.finder(), crowds), flush=True)


def measured(finder: FaceFinder, crowds: list[tuple[Pixels, list[Place]]]) -> str:
    """Found by size, other finds, CPU seconds."""
    bands = list(pairwise(SIZES_PX))
    found = dict.fromkeys(bands, 0)
    pasted = dict.fromkeys(bands, 0)
    others, cpu_s = 0, 0.0
    for picture, places in crowds:
        started_s = time.process_time()
        faces = finder.find(picture)
        cpu_s += time.process_time() - started_s
        others += len(faces)
        for x, y, side in places:
            band = next(band for band in bands if band[0] <= side < band[1])
            pasted[band] += 1
            near = next((face for face in faces if math.hypot(*(face.centre - (x, y))) < 0.35 * side), None)
            if near is not None:
                faces.remove(near)  # by identity: faces do not compare
                found[band] += 1
                others -= 1
    sizes = ", ".join(f"{low}-{high} px {found[low, high]} of {pasted[low, high]}" for low, high in bands)
    return f"{sizes}; {others} others; {cpu_s:.1f} CPU seconds"


def crowd(chips: list[Path], rng: np.random.Generator) -> tuple[Pixels, list[Place]]:
    """A picture of noise of several scales, with chips that do not overlap."""
    picture = background(rng, PICTURE_PX)
    places: list[Place] = []
    for _ in range(20 * CHIPS_PER_PICTURE):
        side = float(np.exp(rng.uniform(*np.log(CHIP_PX))))
        reach = math.ceil(side * 0.75)
        x, y = (float(rng.uniform(reach, extent - reach)) for extent in PICTURE_PX)
        if len(places) < CHIPS_PER_PICTURE and all(
            max(abs(x - a), abs(y - b)) > 0.75 * (side + other) + 2 for a, b, other in places
        ):
            chip = decode(chips[rng.integers(len(chips))].read_bytes(), 10**8).pixels
            assert chip is not None
            paste(picture, chip, (x, y, side), float(rng.uniform(-LARGEST_TURN_DEGREES, LARGEST_TURN_DEGREES)))
            places.append((x, y, side))
    return picture, places


def paste(picture: Pixels, chip: Pixels, place: Place, degrees: float) -> None:
    """Draw a chip turned and scaled around a place of the picture."""
    x, y, side = place
    reach = math.ceil(side * 0.75)
    left, top = math.floor(x) - reach, math.floor(y) - reach
    matrix = rotation(degrees, np.full(2, chip.shape[0] / 2)) * (side / chip.shape[0])
    matrix[:, 2] += np.array([x - left, y - top]) - side / 2
    drawn, inside = (warp(pixels, matrix, 2 * reach) for pixels in (chip, np.full_like(chip, 255)))
    part = picture[max(top, 0) : top + 2 * reach, max(left, 0) : left + 2 * reach]
    cut = (slice(max(-top, 0), max(-top, 0) + part.shape[0]), slice(max(-left, 0), max(-left, 0) + part.shape[1]))
    part[inside[cut] > 127] = drawn[cut][inside[cut] > 127]


if __name__ == "__main__":
    main()
