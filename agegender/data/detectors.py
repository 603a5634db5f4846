"""Face detectors: one picture at one scale -> faces with five landmarks. ``data/faces.py`` adds scales, tiles and refinement."""

from collections.abc import Sequence
from typing import Any, Protocol

import cv2
import numpy as np

from agegender.data.face_geometry import Face, Floats
from agegender.data.images import Pixels
from agegender.errors import InputError


class Detector(Protocol):
    """Detects faces in one image at one scale; ``FaceFinder`` adds scales, tiles and refinement."""

    name: str
    """Name of the detector: part of a run's identity."""

    def detect(self, pixels: Pixels, min_score: float) -> Sequence[Face]:
        """The faces of uint8[H, W, 3] RGB of at least this score, in any order, in pixels of the picture."""
        ...


class YuNetDetector:
    """OpenCV's YuNet: 76,000 weights, five landmarks, faces of about 10 to 300 pixels.

    Args:
        model: bytes of its ONNX file, with dynamic shapes.

    Raises:
        InputError: not such a file.

    Source: Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector" (2023).
    """

    name = "yunet"

    def __init__(self, model: bytes) -> None:
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(
            cv2.utils.logging.LOG_LEVEL_ERROR
        )  # OpenCV 5 warns at every start that its new engine does not support targets
        try:
            self._network: Any = cv2.FaceDetectorYN.create(
                "onnx", np.frombuffer(model, np.uint8), np.empty(0, np.uint8), (320, 320), 0.1, 0.3, 5000
            )
        except cv2.error as error:
            raise InputError(
                f"the face detector's file ({len(model):,} bytes) cannot be read by OpenCV {cv2.__version__}: "
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
    """From YuNet's x, y, width, height, five landmarks, score; its left and right are the person's."""
    x, y, width, height = (float(value) for value in row[:4])
    return Face(x, y, width, height, float(row[14]), row[4:14].reshape(5, 2).copy())
