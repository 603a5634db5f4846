"""Thumbnails of a few faces of a predict run, cropped from the source again."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agegender.data.images import Pixels, decode, encode_jpeg, resize
from agegender.errors import AgegenderError
from agegender.option_groups import SourceOptions
from agegender.pipelines.runtime.layout import OutputLayout, unit_uri
from agegender.pipelines.source.fetch import fetch, read_unit
from agegender.schema import Status
from agegender.storage import files

SIDE_PX = 96
MARGIN = 0.25
"""Margin on each side of the box, as a share of its longer side."""

SEARCHED_UNITS = 16
"""Units of the listing to search: the first rows of a table are of its first units."""


def cut_crops(output: str, source: SourceOptions, rows: Sequence[dict[str, Any]]) -> list[bytes | None]:
    """Crop the faces of some rows.

    Args:
        output: OUTPUT of the predict run, whose listing locates the bytes.
        source: maximum sizes, and the name of the bytes column.
        rows: of the predictions table.

    Returns:
        A JPEG of ``SIDE_PX`` for each row; None for a row without a face, or if its image is not available any more.
    """
    remaining = {row["uri"] for row in rows if row["status"] == Status.OK}
    faces: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        faces[row["uri"]].append(index)
    crops: list[bytes | None] = [None] * len(rows)
    try:
        for uri, pixels in _pictures(output, source, remaining):
            for index in faces[uri]:
                crops[index] = encode_jpeg(_cut(pixels, rows[index]["box"]), quality=80)
    except AgegenderError:
        return crops  # show the values even if storage fails now
    return crops


def _pictures(output: str, source: SourceOptions, remaining: set[str]) -> Iterator[tuple[str, Pixels]]:
    for number in range(SEARCHED_UNITS):
        unit = unit_uri(OutputLayout(output).listing, number)
        if not remaining or files.stat(unit) is None:
            return
        listed: pa.Table = read_unit(unit)
        listed = listed.filter(pc.is_in(listed.column("uri"), pa.array(sorted(remaining))))
        uris = listed.column("uri").to_pylist()
        remaining = remaining.difference(uris)
        for uri, fetched in zip(uris, fetch(listed, source), strict=True):
            if not fetched.data:
                continue
            decoded = decode(fetched.data, source.max_image_pixels, allow_truncated=source.allow_truncated)
            if decoded.pixels is not None:
                yield uri, decoded.pixels


def _cut(pixels: Pixels, box: dict[str, float] | None) -> Pixels:
    """uint8[SIDE_PX, SIDE_PX, 3]: a square around the box, or the whole image; black outside of the image."""
    if box is None:
        return resize(pixels, SIDE_PX)
    side = max(1, round(max(box["width"], box["height"]) * (1 + 2 * MARGIN)))
    left, top = (round(box[a] + box[b] / 2 - side / 2) for a, b in (("x", "width"), ("y", "height")))
    shown = pixels[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    square: Pixels = np.zeros((side, side, 3), np.uint8)
    y, x = max(-top, 0), max(-left, 0)
    square[y : y + shown.shape[0], x : x + shown.shape[1]] = shown
    return resize(square, SIDE_PX)
