"""What an analyst filters faces by: size, where a face looks, sharpness; and why a face is doubtful. No model is needed.

The limits are measured by ``benchmarks/doubtful_faces.py`` (docs/faces.md has the tables).
"""

from collections.abc import Iterator

import cv2
import numpy as np

from agegender.data.face_geometry import Face, Floats
from agegender.data.images import Pixels, resize

FACE_SHARE_OF_CROP = 0.84
"""Width of YuNet's box as a share of the side of UTKFace's crops (median of 400; its height is 0.96 of it): what makes
``face_px`` of a crop comparable with that of a face that was found."""

HALF_PROFILE_OFFSET, PROFILE_OFFSET = 0.15, 0.4
"""How far the nose is from the middle, as a share of the distance of the eyes, in half profiles and in profiles."""

SHARPNESS_SIDE_PX = 128
"""Side of the crop that ``sharpness`` is measured on."""

_LOW_PASS_PX = 9
_INNER = slice(SHARPNESS_SIDE_PX // 8, -SHARPNESS_SIDE_PX // 8)
"""The face without hair and background."""

DOUBTFUL_SCORE = 0.8
"""A face of a lower detection score is doubtful."""

DOUBTFUL_SHARE_OUTSIDE = 0.3
"""A face of which the edge of the picture cuts more than this share of the box is doubtful."""

DOUBTFUL_DIRECTION_MARGIN = 0.02
"""Which way up a face is is doubtful if it was seen in another direction with a score that is lower by less than this; by less
than half of it if it stands upright in its photograph, as most do."""


def face_px_of_crop(width_px: int, height_px: int) -> float:
    """Shorter side of the box that the detector would draw around the face of a crop.

    Args:
        width_px: of the crop as it is shown.
        height_px: the same.
    """
    return FACE_SHARE_OF_CROP * min(width_px, height_px)


def yaw(landmarks: Floats) -> str:
    """Where a face looks, one of ``schema.YAWS``, as seen in the straightened image.

    A nose stands out of the face: turned to a side, it leaves the line between the middles of the eyes and of the mouth, while
    the eyes come together.

    Args:
        landmarks: float64[5, 2] of the face, in any direction.
    """
    left_eye, right_eye, nose, left_mouth, right_mouth = landmarks
    eyes = (left_eye + right_eye) / 2
    down = (left_mouth + right_mouth) / 2 - eyes
    across = np.array([down[1], -down[0]])  # to the right of a face that stands upright
    offset, between_eyes = float((nose - eyes) @ across), float((right_eye - left_eye) @ across)
    side = "right" if offset > 0 else "left"
    if abs(offset) >= PROFILE_OFFSET * between_eyes:  # eyes that have changed places, too
        return f"profile_{side}"
    return f"half_{side}" if abs(offset) >= HALF_PROFILE_OFFSET * between_eyes else "frontal"


def sharpness(crop: Pixels) -> float:
    """How sharp a face is: 1 minus the blur effect, 0-1; independent of light and contrast.

    The share of the differences between neighbouring pixels that a mean over nine of them takes away, across or down, whichever
    is less: of a sharp picture much, of a blurred one little.

    Args:
        crop: uint8[S, S, 3], aligned.

    Source: Crete et al., "The blur effect: perception and estimation with a new no-reference perceptual blur metric" (2007).
    """
    grey = cv2.cvtColor(resize(crop, SHARPNESS_SIDE_PX)[_INNER, _INNER], cv2.COLOR_RGB2GRAY)
    across, down = cv2.blur(grey, (_LOW_PASS_PX, 1)), cv2.blur(grey, (1, _LOW_PASS_PX))
    return min(
        _lost(cv2.absdiff(grey[:, 1:], grey[:, :-1]), cv2.absdiff(across[:, 1:], across[:, :-1])),
        _lost(cv2.absdiff(grey[1:], grey[:-1]), cv2.absdiff(down[1:], down[:-1])),
    )


def _lost(before: cv2.typing.MatLike, after: cv2.typing.MatLike) -> float:
    """Share of the differences before a filter that is not there after it."""
    total = cv2.sumElems(before)[0]
    return cv2.sumElems(cv2.subtract(before, after))[0] / total if total else 0.0  # subtract stops at 0


def share_outside(face: Face, width_px: int, height_px: int) -> float:
    """Share of a face's box that lies beyond the edges of its picture, 0-1."""
    across = max(0.0, min(face.x + face.width, width_px) - max(face.x, 0.0))
    down = max(0.0, min(face.y + face.height, height_px) - max(face.y, 0.0))
    return max(0.0, 1 - across * down / face.area) if face.area else 1.0


def doubt(face: Face, width_px: int, height_px: int) -> str | None:
    """Why the estimates of a face are not to be relied on; None if nothing is known against them.

    Args:
        face: as it was found.
        width_px: of the picture.
        height_px: the same.
    """
    return "; ".join(_doubts(face, width_px, height_px)) or None


def _doubts(face: Face, width_px: int, height_px: int) -> Iterator[str]:
    if face.score < DOUBTFUL_SCORE:
        yield f"the face is doubtful: detection score {face.score:.2f}, under {DOUBTFUL_SCORE:g}"
    least = DOUBTFUL_DIRECTION_MARGIN / 2 if abs(face.roll_degrees) <= 45 else DOUBTFUL_DIRECTION_MARGIN
    if face.direction_margin is not None and face.direction_margin < least:
        yield f"it is doubtful which way up the face is: in another direction the score is only {face.direction_margin:.3f} less"
    outside = share_outside(face, width_px, height_px)
    if outside > DOUBTFUL_SHARE_OUTSIDE:
        yield f"the edge of the picture cuts the face: {outside:.0%} of its box lies outside"
