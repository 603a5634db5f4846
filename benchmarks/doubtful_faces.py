"""Measure when a face that was found is doubtful: hidden faces, cut faces, finds that are no photographed face, directions.

    python benchmarks/doubtful_faces.py hidden     --chips UTKFace/ [--count 300]
    python benchmarks/doubtful_faces.py others     --photographs photos/ [--count 300]
    python benchmarks/doubtful_faces.py directions --chips UTKFace/ [--count 300]
    python benchmarks/doubtful_faces.py columns    --chips UTKFace/ [--count 300]

hidden: face crops pasted into pictures, then covered from one side by a known share of the face, or cut by the picture's edge:
what is found still, and how far its estimates move, by share and by detection score.
others: what is found, with which score, in drawn faces, in drawings of two eyes and a mouth, in photographs as negatives and
in pictures without a face.
directions: crops turned by any angle, whole and half covered: how often the direction is wrong, by how far the score of the
second direction is behind.
columns: what the sharpness of crops is that are blurred or small, and the error by where a face looks (``yaw``).
The model is the released one, and the crops are those that it has not seen. The detector's file is found as `agegender predict`
finds it.
"""

import argparse
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from agegender import released
from agegender.config import PredictConfig
from agegender.data.alignment import align
from agegender.data.corruptions import CORRUPTIONS
from agegender.data.duplicates import content_hash
from agegender.data.face_geometry import Face, rotation
from agegender.data.face_quality import share_outside, sharpness, yaw
from agegender.data.faces import FaceFinder
from agegender.data.images import Pixels, decode, resize
from agegender.data.labels import from_filename
from agegender.data.synthetic import draw_face
from agegender.pipelines.runtime.detector import face_search
from agegender.schema import YAWS
from agegender.scoring.cpu import CpuScorer
from agegender.scoring.load import training_images

PICTURE_PX, CHIP_PX = 480, 200
SIDES = ("left", "right", "top", "bottom")
SCORES = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 1.0)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
BEHIND = (0.0, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 1.0)


@dataclass(frozen=True)
class Sample:
    """A face in a picture, as it was found and scored, and what is true of it."""

    kind: str
    share: float
    """Share of the face that is hidden."""

    face: Face | None
    """None: not found."""

    crop: Pixels
    """uint8[S, S, 3] as scored; of the whole face if it was not found."""

    reference: Pixels
    """The same of the whole, upright face."""

    age_years: float
    turned_degrees: float = 0.0
    outside: float = 0.0
    """Share of the box that was found outside the picture."""


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["hidden", "others", "directions", "columns"])
    parser.add_argument("--chips", type=Path)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--detector-model")
    parser.add_argument("--count", type=int, default=300, help="crops, or pictures of each kind")
    arguments = parser.parse_args()
    measurements = {"hidden": hidden, "others": others, "directions": directions, "columns": columns}
    measurements[arguments.what](arguments)


def finder_of(arguments: argparse.Namespace) -> FaceFinder:
    """The finder with predict's defaults."""
    search = face_search(PredictConfig(input=["-"], output="-", detector_model=arguments.detector_model), 1000)
    assert search is not None
    return search.finder()


def unseen_chips(arguments: argparse.Namespace) -> Iterator[tuple[Pixels, float]]:
    """Random crops that the released model has not seen, 200 x 200, with their ages."""
    seen = training_images(released.FOLDER)
    names = sorted(path for path in arguments.chips.iterdir() if from_filename(path.name).age_years is not None)
    random.Random(0).shuffle(names)
    given = 0
    for path in names:
        data = path.read_bytes()
        pixels = decode(data, 10**8).pixels
        if pixels is None or np.isin(np.frombuffer(content_hash(data)[:8], "<u8"), seen).any():
            continue
        yield resize(pixels, CHIP_PX), float(from_filename(path.name).age_years or 0)
        given += 1
        if given == arguments.count:
            return


def texture(rng: np.random.Generator, width: int = PICTURE_PX, height: int = PICTURE_PX) -> Pixels:
    """Coloured noise of several scales, without faces."""
    noise = np.zeros((height, width, 3), np.float32)
    for grain in (3, 8, 24, 96):
        coarse = rng.normal(0, 22, (grain, grain, 3)).astype(np.float32)
        noise += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(noise + rng.uniform(50, 200, 3), 0, 255), dtype=np.uint8)


def pasted(chip: Pixels, rng: np.random.Generator, degrees: float = 0.0) -> Pixels:
    """A picture with the crop in its middle, turned."""
    picture, start = texture(rng), (PICTURE_PX - CHIP_PX) // 2
    layer, mask = np.zeros_like(picture), np.zeros(picture.shape[:2], np.uint8)
    layer[start : start + CHIP_PX, start : start + CHIP_PX] = chip
    mask[start : start + CHIP_PX, start : start + CHIP_PX] = 255
    if degrees:
        turn = rotation(degrees, np.full(2, (PICTURE_PX - 1) / 2))
        layer, mask = (cv2.warpAffine(image, turn, (PICTURE_PX, PICTURE_PX)) for image in (layer, mask))
    picture[mask > 127] = layer[mask > 127]
    return picture


def line_of(face: Face, side: str, share: float) -> int:
    """Where a share of the face's box ends, counted from a side."""
    start, length = (face.x, face.width) if side in ("left", "right") else (face.y, face.height)
    return round(start + length * (share if side in ("left", "top") else 1 - share))


def covered(picture: Pixels, face: Face, side: str, share: float, rng: np.random.Generator) -> Pixels:
    """The picture with something in front of a share of the face."""
    at, result, cover = line_of(face, side, share), picture.copy(), texture(rng)
    columns = {"left": slice(0, at), "right": slice(at, None)}.get(side, slice(None))
    rows = {"top": slice(0, at), "bottom": slice(at, None)}.get(side, slice(None))
    result[rows, columns] = cover[rows, columns]
    return result


def cut(picture: Pixels, face: Face, side: str, share: float) -> tuple[Pixels, np.ndarray]:
    """The part of the picture that leaves a share of the face outside, and where it begins in the picture."""
    at = line_of(face, side, share)
    x, y = (at if side == "left" else 0), (at if side == "top" else 0)
    columns = slice(x, at if side == "right" else None)
    rows = slice(y, at if side == "bottom" else None)
    return np.ascontiguousarray(picture[rows, columns]), np.array([x, y])


def nearest(faces: Iterable[Face], middle: np.ndarray) -> Face | None:
    """The face that was found around a place."""
    near = [face for face in faces if np.abs(face.centre - middle).max() < 0.5 * face.width + 20]
    return min(near, key=lambda face: float(np.abs(face.centre - middle).sum()), default=None)


def sample(kind: str, share: float, picture: Pixels, faces: list[Face], middle: np.ndarray, known: dict) -> Sample:  # type: ignore[type-arg]
    """The face near a place in a picture."""
    face = nearest(faces, middle)
    crop = known["reference"] if face is None else align(picture, face.landmarks, known["reference"].shape[0])
    outside = 0.0 if face is None else share_outside(face, picture.shape[1], picture.shape[0])
    return Sample(kind, share, face, crop, outside=outside, **known)


def hidden(arguments: argparse.Namespace) -> None:
    """Faces covered from one side, or cut by the picture's edge."""
    finder, scorer, rng = finder_of(arguments), CpuScorer(released.FOLDER), np.random.default_rng(0)
    samples: list[Sample] = []
    for number, (chip, age_years) in enumerate(unseen_chips(arguments)):
        picture = pasted(chip, rng)
        middle = np.full(2, PICTURE_PX / 2)
        whole = nearest(finder.find(picture), middle)
        if whole is None:
            continue
        known = {"reference": align(picture, whole.landmarks, scorer.image_size_px), "age_years": age_years}
        samples.append(Sample("whole", 0.0, whole, known["reference"], **known))  # type: ignore[arg-type]
        for turn in range(3):
            side, share = SIDES[(number + turn) % 4], float(rng.uniform(SHARES[0], SHARES[-1]))
            changed = covered(picture, whole, side, share, rng)
            samples.append(sample("covered", share, changed, finder.find(changed), middle, known))
            outside, start = cut(picture, whole, side, share)
            samples.append(sample("cut", share, outside, finder.find(outside), middle - start, known))
    scored = Scored(samples, scorer)
    print("by share of the face that is hidden")
    for kind in ("covered", "cut"):
        for low, high in pairwise(SHARES):
            scored.line(f"{kind:8} {low:.0%}-{high:.0%}", [s.kind == kind and low <= s.share < high for s in samples])
    print("by the share of the box that was found outside the picture, of faces that the edge cuts")
    for low, high in pairwise(SHARES):
        scored.line(f"outside  {low:.0%}-{high:.0%}", [s.kind == "cut" and low <= s.outside < high for s in samples])
    print("by detection score, hidden faces; then whole ones")
    for kinds in (("covered", "cut"), ("covered",), ("cut",), ("whole",)):
        for low, high in pairwise(SCORES):
            chosen = [s.kind in kinds and s.face is not None and low <= s.face.score < high for s in samples]
            scored.line(f"{'+'.join(kinds):11} score {low:.2f}-{high:.2f}", chosen)


class Scored:
    """The estimates of samples beside those of the whole faces."""

    def __init__(self, samples: list[Sample], scorer: CpuScorer) -> None:
        self.samples = samples
        self.ages = np.array([s.age_years for s in samples])
        self.estimates = scorer.score(np.stack([s.crop for s in samples]))
        self.references = scorer.score(np.stack([s.reference for s in samples]))

    def line(self, name: str, chosen: list[bool]) -> None:
        """Print how the estimates of some samples differ from those of the whole faces."""
        found = np.array([c and s.face is not None for c, s in zip(chosen, self.samples, strict=True)])
        if not found.any():
            return
        now, whole, age = self.estimates, self.references, self.ages[found]
        apart = np.abs(now.age_years - whole.age_years)[found]
        flips = ((now.female_probability >= 0.5) != (whole.female_probability >= 0.5))[found]
        error = np.abs(now.age_years[found] - age)
        inside = (now.age_low_years[found] <= age) & (age <= now.age_high_years[found])
        score = float(np.mean([s.face.score for s, f in zip(self.samples, found, strict=True) if f and s.face]))
        print(
            f"{name:28} found {found.sum():4} of {sum(chosen):4}, mean score {score:.2f}: age {apart.mean():5.2f} years from "
            f"the whole face's, gender changes {flips.mean():6.1%}, age MAE {error.mean():5.2f}, in the interval {inside.mean():6.1%}"
        )


def smiley(rng: np.random.Generator) -> Pixels:
    """Two eyes and a mouth in a circle: face-like, and no face."""
    picture = Image.fromarray(texture(rng))
    draw, unit = ImageDraw.Draw(picture), float(rng.uniform(60, 120))
    x, y = rng.uniform(130, PICTURE_PX - 130, 2).tolist()
    colours = [tuple(rng.integers(0, 256, 3).tolist()) for _ in range(2)]
    draw.ellipse((x - unit, y - unit, x + unit, y + unit), fill=colours[0])
    for side in (-1, 1):
        eye_x, eye_y, eye = x + side * 0.4 * unit, y - 0.3 * unit, unit * float(rng.uniform(0.08, 0.2))
        draw.ellipse((eye_x - eye, eye_y - eye, eye_x + eye, eye_y + eye), fill=colours[1])
    mouth = (x - 0.5 * unit, y - 0.1 * unit, x + 0.5 * unit, y + 0.65 * unit)
    draw.arc(mouth, 20, 160, fill=colours[1], width=max(2, int(unit / 10)))
    return np.asarray(picture)


def others(arguments: argparse.Namespace) -> None:
    """Finds in pictures without a photographed face, and in negatives, by score."""
    finder, rng = finder_of(arguments), np.random.default_rng(0)
    paths = sorted(path for path in arguments.photographs.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    photographs = [pixels for path in paths if (pixels := decode(path.read_bytes(), 10**8).pixels) is not None]
    count = arguments.count
    pictures: dict[str, Iterable[Pixels]] = {
        "drawn faces": (pasted(draw_face(int(rng.integers(1, 90)), i % 2, i, CHIP_PX), rng) for i in range(count)),
        "smileys": (smiley(rng) for _ in range(count)),
        "no face": (texture(rng) for _ in range(count)),
        "photographs": photographs,
        "negatives": (255 - pixels for pixels in photographs),
    }
    for name, some in pictures.items():
        found = [finder.find(np.ascontiguousarray(picture)) for picture in some]
        scores = [face.score for faces in found for face in faces]
        counts, _ = np.histogram(scores, SCORES)
        by_score = ", ".join(f"{low:g}-: {n}" for low, n in zip(SCORES, counts.tolist(), strict=False))
        print(f"{name:12} {len(found)} pictures, {len(scores)} finds; by score {by_score}")


def directions(arguments: argparse.Namespace) -> None:
    """Faces turned by any angle: whether the direction is right, by how far the second one is behind."""
    finder, scorer, rng = finder_of(arguments), CpuScorer(released.FOLDER), np.random.default_rng(0)
    samples: list[Sample] = []
    middle = np.full(2, PICTURE_PX / 2)
    for number, (chip, age_years) in enumerate(unseen_chips(arguments)):
        upright = nearest(finder.find(pasted(chip, rng)), middle)
        if upright is None:
            continue
        known = {"reference": align(pasted(chip, rng), upright.landmarks, scorer.image_size_px), "age_years": age_years}
        start = (PICTURE_PX - CHIP_PX) // 2
        hidden_chip = covered(pasted(chip, rng), upright, SIDES[number % 4], float(rng.uniform(0.2, 0.5)), rng)[
            start : start + CHIP_PX, start : start + CHIP_PX
        ]
        small_px = int(rng.integers(24, 64))
        blurred = resize(resize(chip, small_px), CHIP_PX)
        for kind, face in (("whole", chip), ("hidden", hidden_chip), ("blurred", blurred)):
            degrees = float(rng.uniform(-180, 180))
            picture = pasted(face, rng, degrees)
            turned = known | {"turned_degrees": degrees + upright.roll_degrees}
            samples.append(sample(kind, 0.0, picture, finder.find(picture), middle, turned))
    scored = Scored(samples, scorer)
    for kind in ("whole", "hidden", "blurred"):
        scored.line(kind, [s.kind == kind for s in samples])
    seen = [s for s in samples if s.face is not None]
    alone = [s for s in seen if s.face is not None and s.face.direction_margin is None]
    print(f"no second direction: {len(alone)} faces, {sum(map(wrong_way, alone))} of them turned wrongly")
    for low, high in pairwise(BEHIND):
        chosen = [low <= behind(s) < high for s in samples]
        wrong = sum(wrong_way(s) for s, c in zip(samples, chosen, strict=True) if c)
        scored.line(f"second behind by {low:.2f}-{high:.2f}", chosen)
        print(f"    turned wrongly: {wrong} of {sum(chosen)}")
    for low, high in pairwise(SCORES):
        chosen = [s.face is not None and low <= s.face.score < high for s in samples]
        wrong = sum(wrong_way(s) for s, c in zip(samples, chosen, strict=True) if c)
        near = sum(wrong_way(s) and behind(s) < 0.03 for s, c in zip(samples, chosen, strict=True) if c)
        print(f"score {low:.2f}-{high:.2f}: turned wrongly {wrong} of {sum(chosen)}, {near} with a second near")


def columns(arguments: argparse.Namespace) -> None:
    """The sharpness of worse crops; and how often mirrored faces look the other way, and the error by where a face looks."""
    finder, scorer = finder_of(arguments), CpuScorer(released.FOLDER)
    chips = list(unseen_chips(arguments))
    crops = [resize(chip, 128) for chip, _ in chips]
    changes: dict[str, Callable[[Pixels], Pixels]] = {"as they are": lambda crop: crop}
    changes |= {change.what: change.apply for change in CORRUPTIONS.values()}
    for name, change in changes.items():
        low, middle, high = np.percentile([sharpness(change(crop)) for crop in crops], (5, 50, 95))
        print(f"sharpness, {name:42} median {middle:.2f}, 90 % in {low:.2f}-{high:.2f}")
    samples: list[Sample] = []
    words: list[str] = []
    opposite = {"left": "right", "right": "left"}
    agree = 0
    for chip, age_years in chips:
        faces, mirrored = finder.find(chip), finder.find(np.ascontiguousarray(chip[:, ::-1]))
        if faces and mirrored:
            words.append(yaw(faces[0].landmarks))
            shape, _, side = yaw(mirrored[0].landmarks).partition("_")
            agree += words[-1] == (f"{shape}_{opposite[side]}" if side else shape)
            crop = align(chip, faces[0].landmarks, scorer.image_size_px)
            samples.append(Sample("whole", 0.0, faces[0], crop, crop, age_years))
    print(f"yaw: {agree} of {len(words)} mirrored faces look the other way, or are frontal again")
    scored = Scored(samples, scorer)
    for word in YAWS:
        scored.line(word, [word == other for other in words])


def behind(s: Sample) -> float:
    """How far the second direction is behind the first; infinite if there is none."""
    if s.face is None or s.face.direction_margin is None:
        return float("inf")
    return s.face.direction_margin


def wrong_way(s: Sample) -> bool:
    """Whether the face was found more than 45 degrees from where it stands."""
    return s.face is not None and abs((s.face.roll_degrees - s.turned_degrees + 180) % 360 - 180) > 45


if __name__ == "__main__":
    main()
