"""Face detectors: one picture at one scale -> faces with five landmarks. ``data/faces.py`` adds scales, tiles and refinement."""

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

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
    """YuNet in ONNX Runtime: 76,000 weights, five landmarks, faces of about 10 to 300 pixels.

    The same faces as ``cv2.FaceDetectorYN``, in 0.6 of its time on tiles.

    Args:
        model: bytes of its ONNX file, with dynamic shapes.

    Raises:
        InputError: not such a file.

    Source: Wu, Peng, Yu, "YuNet: A Tiny Millisecond-level Face Detector" (2023).
    """

    name = "yunet"

    def __init__(self, model: bytes) -> None:
        import onnxruntime  # takes 0.1 s; most that import this module detect nothing

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = (
            1  # as many workers as cores run beside each other
        )
        options.log_severity_level = 3  # a warning for each shape that it has not seen
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            outputs = {each.name for each in self._session.get_outputs()}
        except Exception as error:  # ONNX Runtime has an exception of its own for each way in which a file can be wrong
            raise _no_yunet(model, " ".join(str(error).split())[:200]) from error
        (first, *others) = self._session.get_inputs()
        if others or not outputs.issuperset(_YUNET_OUTPUTS) or not isinstance(first.shape[-1], str):
            raise _no_yunet(model, f"input {first.name} {first.shape}, outputs {', '.join(sorted(outputs))[:100]}")
        self._input = first.name

    def detect(self, pixels: Pixels, min_score: float) -> list[Face]:
        """The faces of uint8[H, W, 3] RGB with at least this score."""
        height, width = pixels.shape[:2]
        columns, rows = (-(-side // _LARGEST_STRIDE) for side in (width, height))
        planes = np.zeros((1, 3, rows * _LARGEST_STRIDE, columns * _LARGEST_STRIDE), np.float32)
        planes[:, :, :height, :width] = cv2.dnn.blobFromImage(pixels, swapRB=True)
        outputs = self._session.run(_YUNET_OUTPUTS, {self._input: planes})
        found = [
            _faces_at(stride, columns * _LARGEST_STRIDE // stride, min_score, *(output[0] for output in outputs[i::3]))
            for i, stride in enumerate(_STRIDES)
        ]
        faces = np.concatenate(found).astype(np.float64)
        if not len(faces):
            return []
        kept = cv2.dnn.NMSBoxes(faces[:, :4].tolist(), faces[:, 14].tolist(), min_score, _SAME_FACE_IOU)
        return [_face(faces[i]) for i in np.asarray(kept).ravel()]


_STRIDES = (8, 16, 32)
_LARGEST_STRIDE = _STRIDES[-1]
_YUNET_OUTPUTS = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in _STRIDES]
_SAME_FACE_IOU = 0.3
"""Of boxes that overlap by more, the one with the highest score is kept; OpenCV's default."""


def _faces_at(
    stride: int,
    columns: int,
    min_score: float,
    of_class: npt.NDArray[np.float32],
    of_object: npt.NDArray[np.float32],
    boxes: npt.NDArray[np.float32],
    landmarks: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """The faces of one of YuNet's three grids.

    Args:
        stride: pixels of a cell's side; N cells, row by row.
        columns: cells of a row.
        min_score: 0-1.
        of_class: float32[N, 1], 0-1.
        of_object: float32[N, 1], 0-1; the score is the geometric mean of both.
        boxes: float32[N, 4], offset of the centre in cells, logarithm of the size in cells.
        landmarks: float32[N, 10], offsets in cells.

    Returns:
        float32[n, 15]: x, y, width, height, five landmarks, score.
    """
    squares = of_class[:, 0] * of_object[:, 0]
    cells = np.flatnonzero(squares >= min_score * min_score)
    if not cells.size:
        return np.empty((0, 15), np.float32)
    corners = np.stack([cells % columns, cells // columns], axis=1).astype(np.float32)
    sizes = np.exp(boxes[cells, 2:]) * stride
    places = (corners + boxes[cells, :2]) * stride - sizes / 2
    points = (landmarks[cells] + np.tile(corners, 5)) * stride
    return np.concatenate([places, sizes, points, np.sqrt(squares[cells, None])], axis=1)


def _no_yunet(model: bytes, reason: str) -> InputError:
    return InputError(
        f"the face detector's file ({len(model):,} bytes) is not YuNet with dynamic shapes: {reason}. Leave out "
        "--detector-model to have the right one downloaded"
    )


def _face(row: Floats) -> Face:
    """From YuNet's x, y, width, height, five landmarks, score; its left and right are the person's."""
    x, y, width, height = (float(value) for value in row[:4])
    return Face(x, y, width, height, float(row[14]), row[4:14].reshape(5, 2).copy())
