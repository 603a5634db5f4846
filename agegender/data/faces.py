"""Find the faces of a photograph and bring each to the framing that models learn: pixels in, faces and crops out.

    pixels -> search at several scales -> a second look at each candidate, straightened -> faces, largest first -> crops

The framing is said here and nowhere else: ``CANONICAL_LANDMARKS`` is where it puts a face; ``FRAMING`` is its name, which
a model carries. A crop of UTKFace has this framing as it comes, so one model serves crops and photographs.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from agegender.data.face_geometry import (
    Face,
    Floats,
    apply,
    distinct,
    inverse,
    largest_first,
    scale_of,
    scaling,
    search_scales,
    similarity,
    tiles,
)
from agegender.data.images import Pixels
from agegender.errors import InputError

CANONICAL_LANDMARKS: Floats = np.array(
    [[0.2933, 0.2901], [0.6906, 0.2769], [0.4909, 0.5078], [0.328, 0.6786], [0.6678, 0.669]]
)
"""float64[5, 2], in shares of the side, order as in ``Face.landmarks``: the median of what a second look finds in the
crops of UTKFace (``benchmarks/framing.py``)."""

TIGHTER = 1.04
"""A face is cut out so much larger than the median crop shows it: landmarks err, and a crop wider than the model has seen
costs most (measured: 5 % wider costs a year of error, 8 % tighter a tenth)."""

FRAME_LANDMARKS: Floats = (CANONICAL_LANDMARKS - 0.5) * TIGHTER + 0.5
"""float64[5, 2]: where ``align`` puts the landmarks, in shares of the side."""

SEARCHED_FACE_PX = 16.0
"""The finest scale shows a face of ``min_face_px`` this large: the detector finds it, and costs no more than needed."""

SCALE_STEP = 3.0
LARGEST_TILE_PX = 960
"""Bounds the detector's memory, whatever the photograph's size."""

TILE_OVERLAP_PX = 128
"""A face larger than the overlap may be cut by every tile, and is found at the next scale."""

COARSEST_LONG_SIDE_PX = 320
"""The detector misses faces that fill an image much larger than this."""

CANDIDATE_SCORE = 0.2
"""Of a first look: low, because a small face scores low until it is looked at from near."""

SECOND_LOOK_PX = 160
SECOND_LOOK_MARGIN = 1.5
"""Side of the straightened picture of one candidate, and how much wider than ``FRAMING`` it is."""

WORST_OFFSET = 0.35
"""A second look must find its face within this share of its side from the middle: others are their own candidates."""


class Detector(Protocol):
    """Finds faces in a picture as it is; scales, tiles and the second look are ``FaceFinder``'s."""

    name: str
    """What ran, with its version: part of a run's identity."""

    def detect(self, pixels: Pixels, min_score: float) -> Sequence[Face]:
        """The faces of uint8[H, W, 3] RGB of at least this score, in any order, in pixels of the picture."""
        ...


class YuNetDetector:
    """OpenCV's YuNet: 76,000 weights, five landmarks, faces of about 10 to 300 pixels.

    Args:
        model: bytes of its ONNX file, with dynamic shapes.

    Raises:
        InputError: these bytes are no such file.

    Source: Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector" (2023).
    """

    name = "yunet"

    def __init__(self, model: bytes) -> None:
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(
            cv2.utils.logging.LOG_LEVEL_ERROR
        )  # OpenCV 5 warns, at every start, that targets are not supported by its new engine
        try:
            self._network: Any = cv2.FaceDetectorYN.create(
                "onnx", np.frombuffer(model, np.uint8), np.empty(0, np.uint8), (320, 320), 0.1, 0.3, 5000
            )
        except cv2.error as error:
            raise InputError(
                f"the face detector's file ({len(model):,} bytes) is not one that OpenCV {cv2.__version__} reads: "
                f"{' '.join(str(error).split())[:200]}. Give --detector-model the dynamic-shape YuNet of OpenCV's model zoo"
            ) from error
        finally:
            cv2.utils.logging.setLogLevel(level)

    def detect(self, pixels: Pixels, min_score: float) -> list[Face]:
        """The faces of uint8[H, W, 3] RGB with at least this score."""
        height, width = pixels.shape[:2]
        self._network.setInputSize((width, height))
        self._network.setScoreThreshold(min_score)
        _, rows = self._network.detect(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        return [] if rows is None else [_face(row) for row in np.asarray(rows, dtype=np.float64)]


def _face(row: Floats) -> Face:
    """YuNet's x, y, width, height, five landmarks, score; its names for left and right are the person's."""
    x, y, width, height = (float(value) for value in row[:4])
    return Face(x, y, width, height, float(row[14]), row[4:14].reshape(5, 2).copy())


@dataclass(frozen=True)
class FaceFinder:
    """Finds the faces of a photograph of any size with any ``Detector``."""

    detector: Detector
    min_score: float = 0.6
    """Least detection score."""

    min_face_px: int = 40
    """Least shorter side of a box, in pixels of the shown image; decides how finely a large image is searched."""

    max_faces: int | None = None
    """Keep so many, the largest; None: all."""

    def find(self, pixels: Pixels) -> list[Face]:
        """The faces of a photograph.

        Args:
            pixels: uint8[H, W, 3], RGB, as shown.

        Returns:
            Each face once, largest first; the same for the same pixels.
        """
        candidates = distinct(self._candidates(pixels))
        seen = [face for candidate in candidates if (face := self._second_look(pixels, candidate)) is not None]
        large = [face for face in distinct(seen) if min(face.width, face.height) >= self.min_face_px]
        return largest_first(large)[: self.max_faces]

    def _candidates(self, pixels: Pixels) -> Iterator[Face]:
        height, width = pixels.shape[:2]
        finest = SEARCHED_FACE_PX / self.min_face_px
        for scale in search_scales(max(width, height), finest, SCALE_STEP, COARSEST_LONG_SIDE_PX):
            shown = _reduced(pixels, scale)
            back = scaling(1 / scale)
            for columns, rows in tiles(shown.shape[1], shown.shape[0], LARGEST_TILE_PX, TILE_OVERLAP_PX):
                tile = np.ascontiguousarray(shown[rows, columns])
                for face in self.detector.detect(tile, CANDIDATE_SCORE):
                    in_image = face.mapped(scaling(1.0, columns.start, rows.start))
                    if not _is_cut(in_image, (columns.start, rows.start), tile, shown):
                        yield in_image.mapped(back)

    def _second_look(self, pixels: Pixels, candidate: Face) -> Face | None:
        """The candidate found again in a straightened picture of it, whose size does not depend on the photograph's."""
        matrix = _look_transform(candidate.landmarks)
        if matrix is None:
            return None
        look = warp(pixels, matrix, SECOND_LOOK_PX)
        middle = np.full(2, SECOND_LOOK_PX / 2)
        near = [
            face
            for face in self.detector.detect(look, self.min_score)
            if np.abs(face.centre - middle).max() < WORST_OFFSET * SECOND_LOOK_PX
        ]
        if not near:
            return None
        best = min(near, key=lambda face: float(np.abs(face.centre - middle).sum()))
        return best.mapped(inverse(matrix))


@dataclass(frozen=True)
class FaceSearch:
    """What a process needs to find faces; goes to the workers of a cluster as it is."""

    model: bytes
    """The detector's file."""

    min_score: float
    min_face_px: int
    max_faces: int | None

    def finder(self, max_faces: int | None = None) -> FaceFinder:
        """A finder for one thread.

        Args:
            max_faces: in place of the search's own.

        Raises:
            InputError: the detector's file is not one.
        """
        return FaceFinder(YuNetDetector(self.model), self.min_score, self.min_face_px, max_faces or self.max_faces)

    @property
    def nothing_found(self) -> str:
        """What the row of an image without a face says."""
        return f"no face of at least {self.min_face_px} pixels and score {self.min_score:g}"


def largest_face(search: FaceSearch, side_px: int) -> Callable[[Pixels], Pixels | None]:
    """What cuts the largest face out of a photograph, as uint8[S, S, 3], or None where there is none; any thread may call it."""
    of_thread = threading.local()

    def cut(pixels: Pixels) -> Pixels | None:
        if not hasattr(of_thread, "finder"):
            of_thread.finder = search.finder(max_faces=1)
        faces = of_thread.finder.find(pixels)
        return align(pixels, faces[0].landmarks, side_px) if faces else None

    return cut


def align(pixels: Pixels, landmarks: Floats, side_px: int) -> Pixels:
    """Cut a face out so that it stands as in ``FRAMING``.

    Args:
        pixels: uint8[H, W, 3] of the photograph.
        landmarks: float64[5, 2] of the face, in its pixels.
        side_px: S.

    Returns:
        uint8[S, S, 3]; mirrored where the photograph ends, as where training moves a crop: black wedges, which hardly any
        crop of UTKFace has, cost half a year of error.
    """
    matrix = similarity(landmarks, FRAME_LANDMARKS * side_px)
    return warp(pixels, scaling(0.0) if matrix is None else matrix, side_px, cv2.BORDER_REFLECT)


def _is_cut(face: Face, corner: tuple[int, int], tile: Pixels, image: Pixels) -> bool:
    """Whether a tile ends where a face goes on: the next tile has it whole, or the next scale."""
    (x, y), (height, width) = corner, tile.shape[:2]
    return (
        (x > 0 and face.x <= x + 1)
        or (y > 0 and face.y <= y + 1)
        or (x + width < image.shape[1] and face.x + face.width >= x + width - 1)
        or (y + height < image.shape[0] and face.y + face.height >= y + height - 1)
    )


def _look_transform(landmarks: Floats) -> Floats | None:
    margin = (SECOND_LOOK_MARGIN - 1) / 2
    return similarity(landmarks, (CANONICAL_LANDMARKS + margin) / SECOND_LOOK_MARGIN * SECOND_LOOK_PX)


def warp(pixels: Pixels, matrix: Floats, side_px: int, border: int = cv2.BORDER_CONSTANT) -> Pixels:
    """A square of a picture after a similarity transform, averaged over areas where it shrinks.

    Args:
        pixels: uint8[H, W, 3].
        matrix: float64[2, 3], from pixels of the picture to pixels of the square.
        side_px: S.
        border: OpenCV's name of what is shown outside of the picture; default: black.

    Returns:
        uint8[S, S, 3].
    """
    if scale_of(matrix) >= 1:
        return _warped(*_region(pixels, matrix, side_px), side_px, border)
    finer = np.asarray(matrix) * 2  # drawn twice as large, then averaged two by two
    drawn = _warped(*_region(pixels, finer, 2 * side_px), 2 * side_px, border)
    return np.asarray(cv2.resize(drawn, (side_px, side_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _region(pixels: Pixels, matrix: Floats, side_px: int) -> tuple[Pixels, Floats]:
    """The part of a picture that a square shows, reduced where the square is smaller, and the transform from there."""
    scale = scale_of(matrix)
    if not scale > 0:
        return np.zeros((1, 1, 3), np.uint8), matrix
    height, width = pixels.shape[:2]
    corners = apply(inverse(matrix), np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * float(side_px))
    around = max(2.0, 2 / scale)
    left, top = np.clip(np.floor(corners.min(axis=0) - around), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=0) + around), (left + 1, top + 1), (width, height)).astype(int)
    region = pixels[top:bottom, left:right]
    reduced = _reduced(region, min(1.0, scale))
    real = np.array([[region.shape[1] / reduced.shape[1], 0.0, left], [0.0, region.shape[0] / reduced.shape[0], top]])
    return reduced, np.hstack([matrix[:, :2] @ real[:, :2], (matrix[:, :2] @ real[:, 2] + matrix[:, 2])[:, None]])


def _warped(pixels: Pixels, matrix: Floats, side_px: int, border: int) -> Pixels:
    """OpenCV counts from the centres of pixels; its warp reaches no further than 32,767 of them."""
    centred = matrix.copy()
    centred[:, 2] = apply(matrix, np.array([[0.5, 0.5]]))[0] - 0.5
    drawn = cv2.warpAffine(
        pixels,
        centred,
        (side_px, side_px),
        flags=cv2.INTER_LINEAR,
        borderMode=border,
    )
    return np.asarray(drawn, dtype=np.uint8)


def _reduced(pixels: Pixels, scale: float) -> Pixels:
    """Averaged over areas; as it is where the scale is 1."""
    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return pixels
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
