"""Ways in which a face crop can be worse than those a model learnt from: blur, noise, darkness, compression, few pixels.

For asking what a model still knows, and whether its intervals still hold, on images of a lower quality. Each is one fixed
degree, said in relation to the crop, so that models of different input sizes are asked the same.

Source: common corruptions (Hendrycks and Dietterich, 2019), their kinds; the degrees are ours.
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
    # Seeded by the pixels themselves: the same for any number of workers and any order.
    drawn = np.random.default_rng(zlib.crc32(pixels.tobytes())).normal(0.0, NOISE_STD, pixels.shape)
    return np.asarray(np.clip(np.rint(pixels + drawn), 0, 255), dtype=np.uint8)


def _darkness(pixels: Pixels) -> Pixels:
    return np.asarray(np.rint(pixels * DARKNESS_FACTOR), dtype=np.uint8)


def _compression(pixels: Pixels) -> Pixels:
    decoded = decode(encode_jpeg(pixels, JPEG_QUALITY), pixels.size).pixels
    assert decoded is not None  # it was encoded a line above
    return decoded


def _few_pixels(pixels: Pixels) -> Pixels:
    return resize(resize(pixels, SMALL_SIDE_PX), pixels.shape[0])


CORRUPTIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "blur": _blur,
    "noise": _noise,
    "darkness": _darkness,
    "jpeg_quality_20": _compression,
    "source_64_px": _few_pixels,
}
"""Name -> uint8[S, S, 3] RGB crop to a worse one of the same shape; the same pixels always give the same."""

DESCRIPTIONS = {
    "blur": f"Gaussian blur, sigma {BLUR_SIGMA_FRACTION:.0%} of the side",
    "noise": f"Gaussian noise, standard deviation {NOISE_STD:.0f} of 255",
    "darkness": f"{DARKNESS_FACTOR:.0%} of the light",
    "jpeg_quality_20": f"saved as JPEG of quality {JPEG_QUALITY}",
    "source_64_px": f"a source of {SMALL_SIDE_PX} x {SMALL_SIDE_PX} pixels",
}
"""The same names -> what was done, in words."""
