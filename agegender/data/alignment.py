"""Align a face to the framing that models are trained on; warp and reduce pictures.

``CANONICAL_LANDMARKS`` defines the framing; ``FRAMING`` is its name, which is stored in each model. UTKFace crops have this
framing already, so one model serves crops and photographs.
"""

import cv2
import numpy as np

from agegender.data.face_geometry import Floats, apply, inverse, scale_of, scaling, similarity
from agegender.data.images import Pixels

CANONICAL_LANDMARKS: Floats = np.array(
    [[0.2933, 0.2901], [0.6906, 0.2769], [0.4909, 0.5078], [0.328, 0.6786], [0.6678, 0.669]]
)
"""float64[5, 2], as shares of the side, order as in ``Face.landmarks``: median of the refined landmarks in UTKFace crops
(``benchmarks/framing.py``)."""

CROP_ZOOM = 1.04
"""Crops are zoomed in by this factor relative to the median UTKFace crop: landmarks are inexact, and crops that are too wide
cost most accuracy (measured: 5 % wider costs a year of error, 8 % tighter a tenth)."""

BLACK_BORDER = cv2.BORDER_CONSTANT
FRAME_BORDER = cv2.BORDER_REFLECT
"""Beyond the photograph's edge, as augmentation does: black corners, which are rare in UTKFace crops, cost half a year."""

FRAME_LANDMARKS: Floats = (CANONICAL_LANDMARKS - 0.5) * CROP_ZOOM + 0.5
"""float64[5, 2]: target positions of the landmarks in ``align``, as shares of the side."""


def align(pixels: Pixels, landmarks: Floats, side_px: int) -> Pixels:
    """Crop a face, aligned to ``FRAMING``.

    Args:
        pixels: uint8[H, W, 3] of the photograph.
        landmarks: float64[5, 2] of the face, in its pixels.
        side_px: S.

    Returns:
        uint8[S, S, 3]; mirrored beyond the photograph's edge.
    """
    return warp(pixels, frame_transform(landmarks, side_px), side_px, FRAME_BORDER)


def frame_transform(landmarks: Floats, side_px: int) -> Floats:
    """The transform from a photograph to the crop of a face, float64[2, 3]; to a single point if the landmarks coincide."""
    matrix = similarity(landmarks, FRAME_LANDMARKS * side_px)
    return scaling(0.0) if matrix is None else matrix


def warp(pixels: Pixels, matrix: Floats, side_px: int, border: int = BLACK_BORDER) -> Pixels:
    """Warp an image by a similarity transform to a square, with area averaging where it shrinks.

    Args:
        pixels: uint8[H, W, 3].
        matrix: float64[2, 3], from pixels of the image to pixels of the square.
        side_px: S.
        border: OpenCV's border mode; default: black.

    Returns:
        uint8[S, S, 3].
    """
    if scale_of(matrix) >= 1:
        return _warped(*_region(pixels, matrix, side_px), side_px, border)
    finer = np.asarray(matrix) * 2  # supersampled by two, then averaged
    supersampled = _warped(*_region(pixels, finer, 2 * side_px), 2 * side_px, border)
    return np.asarray(cv2.resize(supersampled, (side_px, side_px), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _region(pixels: Pixels, matrix: Floats, side_px: int) -> tuple[Pixels, Floats]:
    """The region of the image that the square covers, downscaled if the square is smaller, and the transform from it."""
    scale = scale_of(matrix)
    if not scale > 0:
        return np.zeros((1, 1, 3), np.uint8), matrix
    height, width = pixels.shape[:2]
    corners = apply(inverse(matrix), np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) * float(side_px))
    margin = max(2.0, 2 / scale)
    left, top = np.clip(np.floor(corners.min(axis=0) - margin), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=0) + margin), (left + 1, top + 1), (width, height)).astype(int)
    region = pixels[top:bottom, left:right]
    shrunk = reduced(region, min(1.0, scale))
    to_image = np.array([[region.shape[1] / shrunk.shape[1], 0.0, left], [0.0, region.shape[0] / shrunk.shape[0], top]])
    return shrunk, np.hstack(
        [matrix[:, :2] @ to_image[:, :2], (matrix[:, :2] @ to_image[:, 2] + matrix[:, 2])[:, None]]
    )


def _warped(pixels: Pixels, matrix: Floats, side_px: int, border: int) -> Pixels:
    """``cv2.warpAffine`` in continuous coordinates: OpenCV's origin is a pixel centre. Its source is limited to 32,767 pixels."""
    centred = matrix.copy()
    centred[:, 2] = apply(matrix, np.array([[0.5, 0.5]]))[0] - 0.5
    warped = cv2.warpAffine(
        pixels,
        centred,
        (side_px, side_px),
        flags=cv2.INTER_LINEAR,
        borderMode=border,
    )
    return np.asarray(warped, dtype=np.uint8)


def reduced(pixels: Pixels, scale: float) -> Pixels:
    """Reduce uint8[H, W, 3]: halved as long as it can be, the rest interpolated; the input itself at scale 1.

    In a fourth of the time of averaging by area at once, which OpenCV does fast for whole ratios only.
    """
    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    while pixels.shape[1] >= 2 * size[0] and pixels.shape[0] >= 2 * size[1]:
        pixels = _resized(pixels, (pixels.shape[1] // 2, pixels.shape[0] // 2))
    return pixels if size == (pixels.shape[1], pixels.shape[0]) else _resized(pixels, size)


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
