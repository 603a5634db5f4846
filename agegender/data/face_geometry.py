"""Boxes, tiles and similarity transforms of faces; no pixels.

Coordinates are continuous: pixel i covers [i, i + 1), x grows to the right and y downwards.
Shapes: N faces or points; a transform is float64[2, 3], applied as ``points @ M[:, :2].T + M[:, 2]``.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SAME_FACE_OVERLAP = 0.4
"""Two boxes are the same face if their intersection over union (IoU) is larger ..."""

SAME_FACE_INSIDE = 0.75
"""... or if the intersection is more than this share of the smaller box, unless it is a small face in front of a large one."""

SAME_FACE_AREA = 0.25
"""A box inside another with less than this share of its area is a separate face."""


TURNED_MIN_SCORE = 0.85
"""A face that is turned by more than 45 degrees against the surest one of its photograph needs this score."""


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face of an image, in pixels of the upright image."""

    x: float
    """Left edge; negative if the face extends beyond the image."""

    y: float
    width: float
    height: float
    score: float
    """Detection score, 0-1."""

    landmarks: Floats
    """float64[5, 2], x and y: left eye, right eye (as seen in the image), nose, left and right mouth corner."""

    direction_margin: float | None = None
    """By how much the look in this direction scored more than the best in another, more than 45 degrees away; None if it was
    seen in no other."""

    @property
    def area(self) -> float:
        """Square pixels."""
        return self.width * self.height

    @property
    def shorter_side_px(self) -> float:
        """Shorter side of the box."""
        return min(self.width, self.height)

    @property
    def centre(self) -> Floats:
        """float64[2]."""
        return np.array([self.x + self.width / 2, self.y + self.height / 2])

    @property
    def roll_degrees(self) -> float:
        """Angle by which the face is turned in the image, clockwise, -180 to 180; 0 is upright."""
        across = self.landmarks[1] - self.landmarks[0]
        return math.degrees(math.atan2(across[1], across[0]))

    def mapped(self, matrix: Floats) -> "Face":
        """The face after a similarity transform; the box stays upright around its centre."""
        scale = scale_of(matrix)
        width, height = self.width * scale, self.height * scale
        x, y = apply(matrix, self.centre[None])[0] - (width / 2, height / 2)
        landmarks = apply(matrix, self.landmarks)
        return replace(self, x=float(x), y=float(y), width=width, height=height, landmarks=landmarks)


def apply(matrix: Floats, points: Floats) -> Floats:
    """Apply a transform to points, float64[N, 2]."""
    transformed: Floats = points @ matrix[:, :2].T + matrix[:, 2]
    return transformed


def scale_of(matrix: Floats) -> float:
    """The scale factor of a similarity transform."""
    return float(math.hypot(matrix[0, 0], matrix[1, 0]))


def inverse(matrix: Floats) -> Floats:
    """The inverse transform."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.hstack([linear, -linear @ matrix[:, 2:]])


def compose(second: Floats, first: Floats) -> Floats:
    """The transform that applies ``first``, then ``second``."""
    return np.hstack([second[:, :2] @ first[:, :2], apply(second, first[:, 2][None]).T])


def rotation(degrees: float, centre: Floats) -> Floats:
    """The transform that rotates clockwise around a point; exact for quarter turns."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if degrees % 90 == 0:
        cosine, sine = round(cosine), round(sine)
    linear = np.array([[cosine, -sine], [sine, cosine]], dtype=np.float64)
    return np.hstack([linear, (centre - linear @ centre)[:, None]])


def common_roll_degrees(faces: Iterable[Face]) -> float:
    """The angle by which most faces are turned: the direction of their mean, weighted by score; 0 without faces."""
    angles = [(math.radians(face.roll_degrees), face.score) for face in faces]
    down = math.fsum(score * math.sin(angle) for angle, score in angles)
    return math.degrees(math.atan2(down, math.fsum(score * math.cos(angle) for angle, score in angles)))


def turned_apart(a: Face, b: Face) -> bool:
    """Whether two finds of one face disagree on which way up it is: by more than 45 degrees."""
    return abs(degrees_between(a.roll_degrees, b.roll_degrees)) > 45


def degrees_between(a: float, b: float) -> float:
    """By how much an angle is larger than another, -180 to 180."""
    return (a - b + 180) % 360 - 180


def scaling(factor: float, x: float = 0.0, y: float = 0.0) -> Floats:
    """The transform that scales by ``factor``, then translates by (x, y)."""
    return np.array([[factor, 0.0, x], [0.0, factor, y]])


def similarity(source: Floats, target: Floats) -> Floats | None:
    """The least-squares similarity transform (rotation, scale, translation) from one set of points to another.

    Args:
        source: float64[N, 2], N >= 2.
        target: float64[N, 2].

    Returns:
        float64[2, 3]; None if the source points coincide.

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
    """Scales of the search, finest first.

    Args:
        long_side_px: of the image.
        finest: scale for the smallest faces, 0-1.
        step: ratio between consecutive scales.
        last_long_side_px: long side at the coarsest scale, at most.
    """
    scales = [min(1.0, finest)]
    while long_side_px * scales[-1] > last_long_side_px:
        scales.append(scales[-1] / step)
    return scales


def tile_spans(length_px: int, largest_px: int, overlap_px: int) -> list[slice]:
    """The fewest tiles that cover one side, as short as possible, so that little is searched twice.

    Args:
        length_px: length of the side.
        largest_px: maximum length of a tile.
        overlap_px: minimum overlap of neighbours.
    """
    count = max(1, math.ceil((length_px - overlap_px) / (largest_px - overlap_px)))
    tile_px = math.ceil((length_px + (count - 1) * overlap_px) / count)
    starts = [index * (length_px - tile_px) // max(1, count - 1) for index in range(count)]
    return [slice(start, start + tile_px) for start in starts]


def tiles(width_px: int, height_px: int, largest_px: int, overlap_px: int) -> Iterator[tuple[slice, slice]]:
    """Columns and rows of each tile of an image, row by row."""
    for rows in tile_spans(height_px, largest_px, overlap_px):
        for columns in tile_spans(width_px, largest_px, overlap_px):
            yield columns, rows


def is_same(a: Face, b: Face) -> bool:
    """Whether two boxes are detections of the same face."""
    across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    if across <= 0 or down <= 0:
        return False
    shared, smaller, larger = across * down, min(a.area, b.area), max(a.area, b.area)
    if shared > SAME_FACE_OVERLAP * (a.area + b.area - shared):
        return True
    return shared > SAME_FACE_INSIDE * smaller and smaller > SAME_FACE_AREA * larger


def distinct(faces: Iterable[Face]) -> list[Face]:
    """Non-maximum suppression: of several detections of one face, the one with the highest score."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: (-face.score, *_position(face))):
        if not any(is_same(face, other) for other in kept):
            kept.append(face)
    return kept


def credible(faces: Sequence[Face]) -> list[Face]:
    """Without those of a low score that are turned otherwise than the surest face of the photograph: most are hands."""
    if not faces:
        return []
    surest = max(faces, key=lambda face: face.score)
    return [face for face in faces if face.score >= TURNED_MIN_SCORE or not turned_apart(face, surest)]


def largest_first(faces: Iterable[Face]) -> list[Face]:
    """Sort by area, largest first, then by score and position: a total order."""
    return sorted(faces, key=lambda face: (-face.area, -face.score, *_position(face)))


def _position(face: Face) -> tuple[float, float, float, float]:
    return face.x, face.y, face.width, face.height
