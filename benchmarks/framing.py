"""Measure the framing: the median of the refined landmarks in UTKFace crops, and the deviation of single crops.

    python benchmarks/framing.py --chips UTKFace/ --detector-model face_detection_yunet.onnx

Prints the five landmarks that ``agegender/data/alignment.py`` holds as ``CANONICAL_LANDMARKS``, and how far the corners of a
face move when a crop goes through detection instead of being taken whole.
"""

import argparse
import random
from pathlib import Path

import numpy as np
from PIL import Image

from agegender.data.alignment import CANONICAL_LANDMARKS
from agegender.data.detectors import YuNetDetector
from agegender.data.face_geometry import apply, scale_of, similarity
from agegender.data.faces import FaceFinder


def main() -> None:
    """Detect the landmarks in a sample of crops and print their positions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=Path, required=True)
    parser.add_argument("--detector-model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    arguments = parser.parse_args()
    finder = FaceFinder(YuNetDetector(arguments.detector_model.read_bytes()))
    names = sorted(arguments.chips.glob("*.jpg"))
    names = random.Random(0).sample(names, min(arguments.count, len(names)))
    found = []
    for name in names:
        pixels = np.array(Image.open(name).convert("RGB"))
        faces = finder.find(pixels)
        if faces:
            found.append(faces[0].landmarks / pixels.shape[0])
    landmarks = np.array(found)
    print(f"found in {len(found)} of {len(names)} crops; medians:\n{np.median(landmarks, axis=0).round(4).tolist()}")
    corners = np.array([[0.15, 0.15], [0.85, 0.15], [0.15, 0.85], [0.85, 0.85]])
    moves = [similarity(each, CANONICAL_LANDMARKS) for each in landmarks]
    moved = [float(np.hypot(*(apply(move, corners) - corners).T).mean()) for move in moves if move is not None]
    scales = np.array([scale_of(move) for move in moves if move is not None])
    print(
        f"corners of the face move by {np.mean(moved):.3f} of the side on average, 95 % by at most {np.percentile(moved, 95):.3f}"
    )
    print(f"scale: median {np.median(scales):.3f}, standard deviation {np.log(scales).std():.3f}")


if __name__ == "__main__":
    main()
