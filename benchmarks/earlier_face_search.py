"""The face search as it was before photographs were searched coarsely first: what ``benchmarks/face_search.py`` compares with.

Every photograph is decoded whole and searched at the scale at which the smallest face has 16 pixels, and at thirds of it, by OpenCV's
own YuNet; each candidate is looked at once more, straightened. Upright photographs only.
"""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from agegender.data.alignment import CANONICAL_LANDMARKS, warp
from agegender.data.face_geometry import (
    Face,
    distinct,
    inverse,
    largest_first,
    scaling,
    search_scales,
    similarity,
    tiles,
)
from agegender.data.images import Pixels

LOOK_PX = 160
LOOK_MARGIN = 1.5


class OpenCvYuNet:
    """``cv2.FaceDetectorYN``."""

    def __init__(self, model: bytes) -> None:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        nothing = np.empty(0, np.uint8)
        self._network: Any = cv2.FaceDetectorYN.create(
            "onnx", np.frombuffer(model, np.uint8), nothing, (320, 320), 0.1, 0.3, 5000
        )

    def detect(self, pixels: Pixels, min_score: float) -> list[Face]:
        """The faces of uint8[H, W, 3] RGB."""
        height, width = pixels.shape[:2]
        self._network.setInputSize((width, height))
        self._network.setScoreThreshold(min_score)
        _, rows = self._network.detect(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        found = np.empty((0, 15)) if rows is None else np.asarray(rows, dtype=np.float64)
        return [
            Face(float(x), float(y), float(w), float(h), float(points[-1]), np.array(points[:10]).reshape(5, 2))
            for x, y, w, h, *points in found
        ]


class EarlierSearch:
    """The faces of a photograph, as before."""

    def __init__(self, model: bytes, min_score: float, min_face_px: int) -> None:
        self._detector, self._min_score, self._min_face_px = OpenCvYuNet(model), min_score, min_face_px

    def find(self, pixels: Pixels) -> list[Face]:
        """Each face once, largest first."""
        looks = (self._look(pixels, candidate) for candidate in distinct(self._candidates(pixels)))
        faces = distinct(face for face in looks if face is not None)
        return largest_first(face for face in faces if face.shorter_side_px >= self._min_face_px)

    def _candidates(self, pixels: Pixels) -> Iterator[Face]:
        height, width = pixels.shape[:2]
        for scale in search_scales(max(height, width), 16 / self._min_face_px, 3.0, 320):
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            scaled = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
            for columns, rows in tiles(*size, 960, 128):
                tile = np.ascontiguousarray(scaled[rows, columns])
                for face in self._detector.detect(tile, 0.2):
                    inner = (
                        (columns.start == 0 or face.x > 1)
                        and (rows.start == 0 or face.y > 1)
                        and (columns.stop >= size[0] or face.x + face.width < tile.shape[1] - 1)
                        and (rows.stop >= size[1] or face.y + face.height < tile.shape[0] - 1)
                    )
                    if inner:
                        back = scaling(width / size[0], columns.start * width / size[0], rows.start * width / size[0])
                        yield face.mapped(back)

    def _look(self, pixels: Pixels, candidate: Face) -> Face | None:
        margin = (LOOK_MARGIN - 1) / 2
        matrix = similarity(candidate.landmarks, (CANONICAL_LANDMARKS + margin) / LOOK_MARGIN * LOOK_PX)
        if matrix is None:
            return None
        found = self._detector.detect(warp(pixels, matrix, LOOK_PX), self._min_score)
        middle = np.full(2, LOOK_PX / 2)
        near = [face for face in found if np.abs(face.centre - middle).max() < 0.35 * LOOK_PX]
        if not near:
            return None
        return min(near, key=lambda face: float(np.abs(face.centre - middle).sum())).mapped(inverse(matrix))
