"""Measure faces in given boxes: boxes of several conventions on photographs, and what a box alone is worth on chips.

    python benchmarks/boxes.py photographs --photographs photos/ --model agegender/released/fast/model
    python benchmarks/boxes.py chips       --chips UTKFace/ --model out/train/model --split out/train/split.parquet

photographs: the boxes that the search found, as they are, smaller, larger and shifted, as other detectors draw them: faces
found again in them, other faces found instead, the change of their ages against the search's, genders that change, and CPU
time. The line `second look` is the noise: the faces of the search looked at once more.
chips: mean absolute error of the ages of chips that are cut by the landmarks found in a given box, against cutting by the box
alone, at the place where it lies in the median chip; with boxes as they are, and 20 % larger.
The detector's file is found as `agegender predict` finds it.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from faces import MAX_PIXELS, finder_of, labelled_chips, same_place, scored_faces

from agegender.config import PredictConfig
from agegender.data.alignment import CROP_ZOOM, align, warp
from agegender.data.face_geometry import Face, Floats, scaling
from agegender.data.images import Pixels, decode
from agegender.data.photograph import Photograph
from agegender.scoring.cpu import CpuScorer

Box = tuple[float, ...]

CONVENTIONS = {
    "as found": (1.0, 1.0, 0.0, 0.0),
    "0.7 of its sides": (0.7, 0.7, 0.0, 0.0),
    "1.3 of its sides": (1.3, 1.3, 0.0, 0.0),
    "2 of its sides": (2.0, 2.0, 0.0, 0.0),
    "3 of its sides": (3.0, 3.0, 0.0, 0.0),
    "a fifth to the right": (1.0, 1.0, 0.2, 0.0),
    "a quarter up": (1.0, 1.0, 0.0, -0.25),
    "head and body": (3.0, 7.0, 0.0, 2.9),
}
"""Width and height, and how far the centre moves, in widths and heights of the box that was found."""


def main() -> None:
    """Run one of the two measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["photographs", "chips"])
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--chips", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--detector", default=PredictConfig.model_fields["detector"].default)
    parser.add_argument("--detector-model")
    parser.add_argument("--count", type=int, default=400, help="chips")
    arguments = parser.parse_args()
    {"photographs": on_photographs, "chips": on_chips}[arguments.what](arguments)


def drawn(face: Face, width: float, height: float, right: float, down: float) -> Box:
    """The box of a face as another convention draws it."""
    x, y = face.x + (0.5 + right) * face.width, face.y + (0.5 + down) * face.height
    return x - width * face.width / 2, y - height * face.height / 2, width * face.width, height * face.height


def on_photographs(arguments: argparse.Namespace) -> None:
    """Boxes of several conventions, against the search of the whole photograph."""
    scorer, finder = CpuScorer(arguments.model), finder_of(arguments)
    paths = sorted(path for path in arguments.photographs.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    decoded = [decode(path.read_bytes(), MAX_PIXELS).pixels for path in paths]
    searched = [(pixels, *scored_faces(pixels, finder, scorer)) for pixels in decoded if pixels is not None]

    def compare(name: str, look: Callable[[Pixels, list[Face]], list[Face | None]]) -> None:
        crops: list[Pixels] = []
        before: list[tuple[float, float]] = []
        faces = others = 0
        cpu_s = 0.0
        for pixels, found, ages, female in searched:
            started_s = time.process_time()
            again = look(pixels, found)
            cpu_s += time.process_time() - started_s
            faces += len(found)
            for index, face in enumerate(again):
                if face is not None and same_place(found[index], [face]) is not None:
                    crops.append(align(pixels, face.landmarks, scorer.image_size_px))
                    before.append((ages[index], female[index]))
                others += face is not None and same_place(found[index], [face]) is None
        scored, (ages_before, female_before) = scorer.score(np.stack(crops)), np.array(before).T
        changes = np.abs(scored.age_years - ages_before)
        flips = int(((scored.female_probability > 0.5) != (female_before > 0.5)).sum())
        print(
            f"{name:<22} {len(crops)} of {faces} faces found, {others} others; age changes by {changes.mean():.2f} years "
            f"(median {np.median(changes):.2f}), {flips} genders change; {1000 * cpu_s / faces:.1f} CPU ms a face"
        )

    for name, convention in CONVENTIONS.items():

        def in_boxes(pixels: Pixels, found: list[Face], how: tuple[float, ...] = convention) -> list[Face | None]:
            return finder.find_in(pixels, [drawn(face, *how) for face in found])

        compare(name, in_boxes)
    compare("second look", lambda pixels, found: [finder._refine(Photograph(pixels), face) for face in found])


def on_chips(arguments: argparse.Namespace) -> None:
    """Cut by the landmarks in the box, against cut by the box alone."""
    scorer, finder = CpuScorer(arguments.model), finder_of(arguments)
    chips = [(pixels, age, faces[0]) for pixels, age in labelled_chips(arguments) if (faces := finder.find(pixels))]
    places = [np.array([*face.centre, face.width, face.height]) / pixels.shape[0] for pixels, _, face in chips]
    middle = np.median(places, axis=0)
    ages = np.array([age for _, age, _ in chips])
    print(
        f"{len(chips)} chips; the median box has its centre at {middle[:2].round(3)} and is {middle[2:].round(3)} large"
    )
    for name, larger in (("as found", 1.0), ("20 % larger", 1.2)):
        boxes = [drawn(face, larger, larger, 0, 0) for _, _, face in chips]
        found = [finder.find_in(pixels, [box])[0] for (pixels, _, _), box in zip(chips, boxes, strict=True)]
        by_landmarks = [
            face and align(pixels, face.landmarks, scorer.image_size_px)
            for (pixels, _, _), face in zip(chips, found, strict=True)
        ]
        by_box = [
            by_box_alone(pixels, box, middle, scorer.image_size_px)
            for (pixels, _, _), box in zip(chips, boxes, strict=True)
        ]
        hits = [index for index, crop in enumerate(by_landmarks) if crop is not None]
        errors = [
            np.abs(scorer.score(np.stack([crops[i] for i in hits])).age_years - ages[hits]).mean()  # type: ignore[misc]
            for crops in (by_landmarks, by_box)
        ]
        print(
            f"{name:<12} {len(hits)} found; age MAE by landmarks {errors[0]:.2f}, by the box alone {errors[1]:.2f} years"
        )


def by_box_alone(pixels: Pixels, box: Box, middle: Floats, side_px: int) -> Pixels:
    """The crop in which the box lies as the median box does in a chip."""
    scale = side_px * CROP_ZOOM * float(middle[3]) / box[3]
    centre = np.array([box[0] + box[2] / 2, box[1] + box[3] / 2])
    target = ((middle[:2] - 0.5) * CROP_ZOOM + 0.5) * side_px
    return warp(pixels, scaling(scale, *(target - scale * centre)), side_px, 2)


if __name__ == "__main__":
    main()
