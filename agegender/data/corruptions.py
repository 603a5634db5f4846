"""Image corruptions for robustness evaluation: blur, noise, darkness, compression, small faces.

They measure accuracy, interval coverage and calibration on images of lower quality. Each has one fixed severity relative to the
crop, or to the face in it, so that models of different input sizes are compared on the same task.

Source: common corruptions (Hendrycks and Dietterich, 2019); the severities are ours.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from agegender.data.face_quality import FACE_SHARE_OF_CROP
from agegender.data.images import Pixels, decode, encode_jpeg, resize

BLUR_SIGMA_FRACTION = 0.02
NOISE_STD = 25.0  # of 255
DARKNESS_FACTOR = 0.3
JPEG_QUALITY = 20
SMALL_FACES_PX = (20, 24, 32, 48)


@dataclass(frozen=True, slots=True)
class Corruption:
    """One way to make a face crop worse."""

    apply: Callable[[Pixels], Pixels]
    """uint8[S, S, 3] RGB -> a corrupted one of the same shape; deterministic."""

    what: str
    """In words."""

    face_px: float = math.inf
    """Size of the face that the corrupted crop has pixels for, if that is less than it had."""


def with_face_px(pixels: Pixels, face_px: float) -> Pixels:
    """Reduce a crop until its face is so small, and enlarge it again.

    Args:
        pixels: uint8[S, S, 3].
        face_px: shorter side of the face's box, which is ``FACE_SHARE_OF_CROP`` of the crop's.

    Returns:
        uint8[S, S, 3]; the input itself if its face is not larger.
    """
    side_px = round(face_px / FACE_SHARE_OF_CROP)
    return resize(resize(pixels, side_px), pixels.shape[0]) if side_px < pixels.shape[0] else pixels


def _blur(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), BLUR_SIGMA_FRACTION * pixels.shape[0]), dtype=np.uint8)


def _noise(pixels: Pixels) -> Pixels:
    # Seeded by the pixels: independent of the number of workers and the order.
    noise = np.random.default_rng(zlib.crc32(pixels.tobytes())).normal(0.0, NOISE_STD, pixels.shape)
    return np.asarray(np.clip(np.rint(pixels + noise), 0, 255), dtype=np.uint8)


def _darkness(pixels: Pixels) -> Pixels:
    return np.asarray(np.rint(pixels * DARKNESS_FACTOR), dtype=np.uint8)


def _compression(pixels: Pixels) -> Pixels:
    decoded = decode(encode_jpeg(pixels, JPEG_QUALITY), pixels.size).pixels
    assert decoded is not None  # encoded in the line above
    return decoded


CORRUPTIONS = {
    "blur": Corruption(_blur, f"Gaussian blur, sigma {BLUR_SIGMA_FRACTION:.0%} of the side"),
    "noise": Corruption(_noise, f"Gaussian noise, standard deviation {NOISE_STD:.0f} of 255"),
    "darkness": Corruption(_darkness, f"{DARKNESS_FACTOR:.0%} of the light"),
    "jpeg_quality_20": Corruption(_compression, f"saved as JPEG of quality {JPEG_QUALITY}"),
    **{
        f"face_{px}_px": Corruption(
            partial(with_face_px, face_px=px), f"reduced to a face of {px} pixels, and enlarged", px
        )
        for px in SMALL_FACES_PX
    },
}
"""Name -> corruption."""
