"""Facts about one image, computed from its bytes: one row of ``schema.FACTS``."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from agegender.data import duplicates, images
from agegender.data.images import Pixels
from agegender.schema import FACTS, LABEL_FIELDS, Status

_LABEL_COLUMNS = (*(field.name for field in LABEL_FIELDS), "label_problem", "source")


def image_facts(
    uri: str,
    data: bytes | None,
    fetched: tuple[Status, str | None],
    label: Mapping[str, Any],
    max_pixels: int,
    cut: Callable[[Pixels], Pixels | None] | None = None,
    *,
    allow_truncated: bool = False,
) -> tuple[dict[str, Any], Pixels | None]:
    """Decode one image and compute its facts.

    Args:
        uri: its address.
        data: the file's bytes; None if they could not be read.
        fetched: status and message if ``data`` is None; else ignored.
        label: the columns of ``schema.LABEL_FIELDS``, ``label_problem`` and ``source``, each optional.
        max_pixels: limit of the decoder.
        cut: crops the labelled face of a photograph; if it returns None, the status is ``no_face``. None: the image is
            the face.
        allow_truncated: see ``images.decode``.

    Returns:
        One row of ``schema.FACTS``, and uint8[H, W, 3] of the face if the status is ok. Size and content hash are the
        file's; facts about pixels are the face's.
    """
    row: dict[str, Any] = dict.fromkeys(FACTS.names)
    row.update(uri=uri, **{name: label.get(name) for name in _LABEL_COLUMNS})
    if data is None:
        row.update(status=fetched[0].value, error=fetched[1])
        return row, None
    decoded = images.decode(data, max_pixels, allow_truncated=allow_truncated)
    row.update(
        status=decoded.status.value,
        error=decoded.error,
        warning=decoded.warning,
        width=decoded.width,
        height=decoded.height,
        format=decoded.format,
        size_bytes=len(data),
        content_hash=duplicates.content_hash(data),
    )
    face = cut(decoded.pixels) if cut is not None and decoded.pixels is not None else decoded.pixels
    if face is not None:
        row.update(_of_pixels(face))
    elif decoded.pixels is not None:
        row.update(status=Status.NO_FACE.value)
    return row, face


def _of_pixels(pixels: Pixels) -> dict[str, Any]:
    perceptual, thumbnail = duplicates.perceptual_fingerprint(pixels)
    values = np.arange(256, dtype=np.float64)
    counts = np.stack([np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)])
    shares = counts / max(pixels.shape[0] * pixels.shape[1], 1)
    return {
        "perceptual_hash": perceptual,
        "thumbnail": thumbnail.tobytes(),
        "channel_mean": (shares @ values).tolist(),
        "channel_mean_square": (shares @ values**2).tolist(),
    }
