"""Boxes, tiles and similarity transforms of faces: numbers only, no pixels.

Coordinates are continuous: pixel i covers [i, i + 1), x grows to the right and y downwards.
Shapes: N faces or points; a transform is float64[2, 3], applied as ``points @ M[:, :2].T + M[:, 2]``.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SAME_FACE_OVERLAP = 0.4
"""Two boxes are the same face when their intersection is more than this share of their union ..."""

SAME_FACE_INSIDE = 0.75
"""... or more than this share of the smaller one, and the one is no small face before a large one."""

SAME_FACE_AREA = 0.25
"""A box that lies within another and has less than this share of its area is a face of its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face of an image, in pixels of the image as shown."""

    x: float
    """Left edge; a face that the picture's edge cuts may begin before 0."""

    y: float
    width: float
    height: float
    score: float
    """Of the detector, 0-1."""

    landmarks: Floats
    """float64[5, 2], x and y: the eye on the left of the picture, the one on the right, nose, mouth corners left, right."""

    @property
    def area(self) -> float:
        """Square pixels."""
        return self.width * self.height

    @property
    def centre(self) -> Floats:
        """float64[2]."""
        return np.array([self.x + self.width / 2, self.y + self.height / 2])

    def mapped(self, matrix: Floats) -> "Face":
        """The face where a similarity transform takes it; the box stays upright around its centre."""
        scale = scale_of(matrix)
        width, height = self.width * scale, self.height * scale
        x, y = apply(matrix, self.centre[None])[0] - (width / 2, height / 2)
        return Face(float(x), float(y), width, height, self.score, apply(matrix, self.landmarks))


def apply(matrix: Floats, points: Floats) -> Floats:
    """Points float64[N, 2] after a transform."""
    moved: Floats = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def scale_of(matrix: Floats) -> float:
    """How much a similarity transform enlarges lengths."""
    return float(math.hypot(matrix[0, 0], matrix[1, 0]))


def inverse(matrix: Floats) -> Floats:
    """The transform back."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.hstack([linear, -linear @ matrix[:, 2:]])


def scaling(factor: float, x: float = 0.0, y: float = 0.0) -> Floats:
    """The transform that scales by ``factor``, then moves by (x, y)."""
    return np.array([[factor, 0.0, x], [0.0, factor, y]])


def similarity(source: Floats, target: Floats) -> Floats | None:
    """The rotation, scaling and shift that brings points closest to others, by least squares.

    Args:
        source: float64[N, 2], N >= 2.
        target: float64[N, 2].

    Returns:
        float64[2, 3]; None where the source points coincide, so that no transform is defined.

    Source: Umeyama (1991), without reflection.
    """
    from_mean, to_mean = source.mean(axis=0), target.mean(axis=0)
    a, b = source - from_mean, target - to_mean
    spread = float((a * a).sum())
    if not spread > 1e-12:
        return None
    cosine = float((a * b).sum()) / spread
    sine = float((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()) / spread
    linear = np.array([[cosine, -sine], [sine, cosine]])
    if not math.hypot(cosine, sine) > 1e-12:
        return None
    return np.hstack([linear, (to_mean - linear @ from_mean)[:, None]])


def search_scales(long_side_px: int, finest: float, step: float, last_long_side_px: int) -> list[float]:
    """Scales at which an image is searched, finest first.

    Args:
        long_side_px: of the image.
        finest: scale at which the smallest faces are looked for, 0-1.
        step: each scale is the one before divided by it.
        last_long_side_px: the coarsest scale brings the long side to at most this.
    """
    scales = [min(1.0, finest)]
    while long_side_px * scales[-1] > last_long_side_px:
        scales.append(scales[-1] / step)
    return scales


def tile_spans(length_px: int, largest_px: int, overlap_px: int) -> list[slice]:
    """As few tiles along one side as cover it, each no longer than need be, so that little is searched twice.

    Args:
        length_px: of the side.
        largest_px: no tile is longer.
        overlap_px: neighbours share at least so much.
    """
    count = max(1, math.ceil((length_px - overlap_px) / (largest_px - overlap_px)))
    tile_px = math.ceil((length_px + (count - 1) * overlap_px) / count)
    starts = [index * (length_px - tile_px) // max(1, count - 1) for index in range(count)]
    return [slice(start, start + tile_px) for start in starts]


def tiles(width_px: int, height_px: int, largest_px: int, overlap_px: int) -> Iterator[tuple[slice, slice]]:
    """Columns and rows of each tile of a picture, line by line."""
    for rows in tile_spans(height_px, largest_px, overlap_px):
        for columns in tile_spans(width_px, largest_px, overlap_px):
            yield columns, rows


def is_same(a: Face, b: Face) -> bool:
    """Whether two boxes are two finds of one face."""
    across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    if across <= 0 or down <= 0:
        return False
    shared, smaller, larger = across * down, min(a.area, b.area), max(a.area, b.area)
    if shared > SAME_FACE_OVERLAP * (a.area + b.area - shared):
        return True
    return shared > SAME_FACE_INSIDE * smaller and smaller > SAME_FACE_AREA * larger


def distinct(faces: Iterable[Face]) -> list[Face]:
    """The faces, each once: of several finds of one face, the one with the highest score."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: (-face.score, *_place(face))):
        if not any(is_same(face, other) for other in kept):
            kept.append(face)
    return kept


def largest_first(faces: Iterable[Face]) -> list[Face]:
    """By area, largest first, then by score, then from left to right: an order that has no ties."""
    return sorted(faces, key=lambda face: (-face.area, -face.score, *_place(face)))


def _place(face: Face) -> tuple[float, float, float, float]:
    return face.x, face.y, face.width, face.height
