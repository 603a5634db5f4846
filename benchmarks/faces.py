"""Measure face detection: chips pasted into large pictures, chips through detection, turned photographs.

    python benchmarks/faces.py pasted     --chips UTKFace/ --model out/train/model --split out/train/split.parquet
    python benchmarks/faces.py chips      --chips UTKFace/ --model out/train/model --split out/train/split.parquet
    python benchmarks/faces.py turned     --photographs photos/ --model out/train/model

pasted: share of the pasted faces found, and the mean absolute error of their ages against that of the same chips scored
whole. chips: the same for chips as they are. With --split, only chips that the model has not been trained on.
turned: photographs turned by several angles, without EXIF: share of the upright faces found again, mean change of their age,
genders that change, and CPU seconds.
The detector's file is found as `agegender predict` finds it.
"""

import argparse
import random
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from agegender.config import PredictConfig
from agegender.data.alignment import align, warp
from agegender.data.duplicates import content_hash
from agegender.data.face_geometry import Face, Floats, apply, inverse, rotation, scale_of
from agegender.data.faces import DETECTORS, FaceFinder
from agegender.data.images import Pixels, decode, encode_jpeg, resize
from agegender.data.labels import from_filename
from agegender.pipelines.runtime.detector import face_search
from agegender.scoring.cpu import CpuScorer

PICTURE_PX = (4000, 3000)
CHIPS_PER_PICTURE = 6
CHIP_PX = (60, 600)
LARGEST_TURN_DEGREES = 30
MAX_PIXELS = 100_000_000


def main() -> None:
    """Run one of the three measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pasted", "chips", "turned"])
    parser.add_argument("--chips", type=Path)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--detector", choices=sorted(DETECTORS), default="yunet")
    parser.add_argument("--detector-model")
    parser.add_argument("--count", type=int, default=600, help="chips")
    arguments = parser.parse_args()
    {"pasted": pasted, "chips": chips, "turned": turned}[arguments.what](arguments)


def finder_of(arguments: argparse.Namespace) -> FaceFinder:
    """The finder with predict's defaults."""
    search = face_search(config_of(arguments), 1000)
    assert search is not None
    return search.finder()


def config_of(arguments: argparse.Namespace) -> PredictConfig:
    """The settings of predict."""
    detector = {"detector": arguments.detector, "detector_model": arguments.detector_model}
    return PredictConfig(input=["-"], output="-", model=str(arguments.model), **detector)


def labelled_chips(arguments: argparse.Namespace) -> list[tuple[Pixels, float]]:
    """A random sample of chips with their ages; of the test part if a split is given."""
    names = sorted(path for path in arguments.chips.iterdir() if from_filename(path.name).age_years is not None)
    random.Random(0).shuffle(names)
    held_out = None
    if arguments.split:
        split = pq.read_table(arguments.split)
        held_out = {row["content_hash"] for row in split.to_pylist() if row["part"] == "test"}
    chosen: list[tuple[Pixels, float]] = []
    for path in names:
        data = path.read_bytes()
        pixels = decode(data, MAX_PIXELS).pixels
        if pixels is not None and (held_out is None or content_hash(data) in held_out):
            chosen.append((pixels, float(from_filename(path.name).age_years or 0)))
        if len(chosen) == arguments.count:
            break
    return chosen


def report(name: str, truth: list[float], whole: list[Pixels], found: list[Pixels | None], scorer: CpuScorer) -> None:
    """Share found, and the age errors of both ways over the faces that were found."""
    hits = [i for i, crop in enumerate(found) if crop is not None]
    ages = np.array([truth[i] for i in hits])
    direct = scorer.score(np.stack([whole[i] for i in hits]))
    through = scorer.score(np.stack([crop for crop in found if crop is not None]))
    error, error_through = np.abs(direct.age_years - ages), np.abs(through.age_years - ages)
    apart = np.abs(direct.age_years - through.age_years)
    gender = np.mean((direct.female_probability >= 0.5) == (through.female_probability >= 0.5))
    difference = error_through - error
    bound = 1.96 * difference.std() / np.sqrt(len(hits))
    print(
        f"{name:<12} found {len(hits)} of {len(truth)} ({len(hits) / len(truth):.1%}); age MAE direct {error.mean():.2f}, "
        f"through detection {error_through.mean():.2f}: {difference.mean():+.2f} +- {bound:.2f} years; "
        f"single ages {apart.mean():.2f} years apart; same gender {gender:.1%}"
    )


def chips(arguments: argparse.Namespace) -> None:
    """Chips as they are, scored whole and through detection."""
    scorer, finder = CpuScorer(arguments.model), finder_of(arguments)
    side = scorer.image_size_px
    sample = labelled_chips(arguments)
    found: list[Pixels | None] = []
    for pixels, _ in sample:
        faces = finder.find(pixels)
        found.append(align(pixels, faces[0].landmarks, side) if faces else None)
    report("chips", [age for _, age in sample], [resize(pixels, side) for pixels, _ in sample], found, scorer)


def background(rng: np.random.Generator, size_px: tuple[int, int] = PICTURE_PX) -> Pixels:
    """Coloured noise of several scales, without faces."""
    width, height = size_px
    small = np.zeros((height // 4, width // 4, 3), np.float32)
    for grain in (4, 8, 16, 48, 192):
        noise = rng.normal(0, 25, (grain, grain, 3)).astype(np.float32)
        small += cv2.resize(noise, (width // 4, height // 4), interpolation=cv2.INTER_CUBIC)
    coloured = np.clip(small + rng.uniform(60, 190, 3), 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(coloured, size_px), dtype=np.uint8)


def paste(picture: Pixels, chip: Pixels, cell: int, rng: np.random.Generator) -> Floats:
    """Paste a chip turned and scaled somewhere in one of the six cells; returns the transform chip -> picture."""
    side = float(np.exp(rng.uniform(*np.log(CHIP_PX))))
    width, height = PICTURE_PX[0] / 3, PICTURE_PX[1] / 2
    middle = [rng.uniform(side * 0.8, extent - side * 0.8) for extent in (width, height)] + np.array(
        [cell % 3 * width, cell // 3 * height]
    )
    angle = np.radians(rng.uniform(-LARGEST_TURN_DEGREES, LARGEST_TURN_DEGREES))
    linear = side / chip.shape[0] * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.hstack([linear, (middle - linear @ np.full(2, chip.shape[0] / 2))[:, None]])
    reach = int(side * 0.75) + 2
    x, y = (middle - reach).astype(int)
    moved = matrix.copy()
    moved[:, 2] -= (x, y)
    drawn, inside = warp(chip, moved, 2 * reach), warp(np.full_like(chip, 255), moved, 2 * reach) > 127
    picture[y : y + 2 * reach, x : x + 2 * reach][inside] = drawn[inside]
    return matrix


def matching(faces: list[Face], place: Floats, side: int) -> Face | None:
    """The face that was found where a chip was pasted."""
    middle = apply(place, np.full((1, 2), side / 2))[0]
    near = [face for face in faces if np.hypot(*(face.centre - middle)) < 0.35 * side * scale_of(place)]
    return near[0] if near else None


def pasted(arguments: argparse.Namespace) -> None:
    """Chips in pictures of 12 megapixels, found and scored."""
    scorer, finder = CpuScorer(arguments.model), finder_of(arguments)
    side, rng = scorer.image_size_px, np.random.default_rng(0)
    sample = labelled_chips(arguments)
    found: list[Pixels | None] = []
    sizes: list[float] = []
    others = 0
    for first in range(0, len(sample), CHIPS_PER_PICTURE):
        picture = background(rng)
        group = sample[first : first + CHIPS_PER_PICTURE]
        places = [paste(picture, chip, cell, rng) for cell, (chip, _) in enumerate(group)]
        decoded = decode(encode_jpeg(picture, 92), MAX_PIXELS).pixels
        assert decoded is not None
        faces = finder.find(decoded)
        hits = [matching(faces, place, chip.shape[0]) for place, (chip, _) in zip(places, group, strict=True)]
        others += len(faces) - sum(face is not None for face in hits)
        found += [None if face is None else align(decoded, face.landmarks, side) for face in hits]
        sizes += [scale_of(place) * chip.shape[0] for place, (chip, _) in zip(places, group, strict=True)]
    ages, whole = [age for _, age in sample], [resize(chip, side) for chip, _ in sample]
    report("pasted", ages, whole, found, scorer)
    for low, high in ((60, 120), (120, 240), (240, 600)):
        rows = [i for i, size in enumerate(sizes) if low <= size < high]
        some = [ages[i] for i in rows], [whole[i] for i in rows], [found[i] for i in rows]
        report(f"{low}-{high} px", *some, scorer)
    print(f"finds that are no pasted chip: {others} in {-(-len(sample) // CHIPS_PER_PICTURE)} pictures")


def turned_by(pixels: Pixels, degrees: float) -> tuple[Pixels, Floats]:
    """A photograph turned clockwise, black in the corners, and the transform to it; quarter turns keep every pixel."""
    height, width = pixels.shape[:2]
    matrix = rotation(degrees, np.zeros(2))
    corners = apply(matrix, np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64))
    matrix[:, 2] -= corners.min(axis=0)
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(pixels, -round(degrees / 90))), matrix
    centred = matrix.copy()
    centred[:, 2] = apply(matrix, np.array([[0.5, 0.5]]))[0] - 0.5
    size = np.ceil(np.ptp(corners, axis=0)).astype(int).tolist()
    return np.asarray(cv2.warpAffine(pixels, centred, size, flags=cv2.INTER_LINEAR), dtype=np.uint8), matrix


def turned(arguments: argparse.Namespace) -> None:
    """Photographs turned by several angles, against themselves upright."""
    scorer, finder = CpuScorer(arguments.model), finder_of(arguments)
    paths = sorted(path for path in arguments.photographs.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    decoded = [decode(path.read_bytes(), MAX_PIXELS).pixels for path in paths]
    upright = [scored_faces(pixels, finder, scorer) for pixels in decoded if pixels is not None]
    faces = sum(len(found) for found, _, _ in upright)
    for degrees in (0, 30, 60, 90, 180, 270):
        changes: list[float] = []
        others = flips = 0
        cpu_s = 0.0
        for pixels, (found, ages, female) in zip(decoded, upright, strict=True):
            assert pixels is not None
            picture, matrix = turned_by(pixels, degrees)
            started_s = time.process_time()
            again, ages_again, female_again = scored_faces(picture, finder, scorer)
            cpu_s += time.process_time() - started_s
            back = [face.mapped(inverse(matrix)) for face in again]
            pairs = [(i, j) for i, face in enumerate(found) if (j := same_place(face, back)) is not None]
            changes += [abs(float(ages[i] - ages_again[j])) for i, j in pairs]
            flips += sum(bool((female[i] > 0.5) != (female_again[j] > 0.5)) for i, j in pairs)
            others += len(again) - len(pairs)
        print(
            f"{degrees:>3} degrees: {len(changes)} of {faces} faces found, {others} others; age changes by "
            f"{np.mean(changes):.2f} years, {flips} genders change; {cpu_s:.1f} CPU seconds"
        )


def scored_faces(pixels: Pixels, finder: FaceFinder, scorer: CpuScorer) -> tuple[list[Face], Floats, Floats]:
    """The faces of a photograph, their ages and their probabilities of being female."""
    found = finder.find(pixels)
    if not found:
        return [], np.zeros(0), np.zeros(0)
    scored = scorer.score(np.stack([align(pixels, face.landmarks, scorer.image_size_px) for face in found]))
    return found, scored.age_years.astype(np.float64), scored.female_probability.astype(np.float64)


def same_place(face: Face, others: list[Face]) -> int | None:
    """Index of the face that is nearest to another one and overlaps its middle."""
    distances = [float(np.hypot(*(other.centre - face.centre))) for other in others]
    nearest = int(np.argmin(distances)) if distances else 0
    return nearest if distances and distances[nearest] < 0.5 * max(face.width, face.height) else None


if __name__ == "__main__":
    main()
