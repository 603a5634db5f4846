"""Image corruptions for robustness evaluation: blur, noise, darkness, compression, low resolution.

They measure accuracy and interval coverage on images of lower quality. Each has one fixed severity relative to the crop, so
that models of different input sizes are compared on the same task.

Source: common corruptions (Hendrycks and Dietterich, 2019); the severities are ours.
"""

import zlib
from collections.abc import Callable

import cv2
import numpy as np

from agegender.data.images import Pixels, decode, encode_jpeg, resize

BLUR_SIGMA_FRACTION = 0.02
NOISE_STD = 25.0  # of 255
DARKNESS_FACTOR = 0.3
JPEG_QUALITY = 20
SMALL_SIDE_PX = 64


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


def _low_resolution(pixels: Pixels) -> Pixels:
    return resize(resize(pixels, SMALL_SIDE_PX), pixels.shape[0])


CORRUPTIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "blur": _blur,
    "noise": _noise,
    "darkness": _darkness,
    "jpeg_quality_20": _compression,
    "source_64_px": _low_resolution,
}
"""Name -> function of a uint8[S, S, 3] RGB crop that returns a corrupted one of the same shape; deterministic."""

DESCRIPTIONS = {
    "blur": f"Gaussian blur, sigma {BLUR_SIGMA_FRACTION:.0%} of the side",
    "noise": f"Gaussian noise, standard deviation {NOISE_STD:.0f} of 255",
    "darkness": f"{DARKNESS_FACTOR:.0%} of the light",
    "jpeg_quality_20": f"saved as JPEG of quality {JPEG_QUALITY}",
    "source_64_px": f"a source of {SMALL_SIDE_PX} x {SMALL_SIDE_PX} pixels",
}
"""Name -> description."""
