"""Draw the estimates of faces on a photograph, readable at the photograph's size."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agegender.data.images import Pixels

LINE_COLOURS = ("#ffd400", "#00d5ff", "#ff7a45", "#8cff66", "#ff8ad8", "#b9a5ff")
"""Assigned by face_index, without meaning; distinguishable on photographs."""

TEXT_FRACTION = 1 / 45
"""Height of the text as a share of the photograph's longer side ..."""

MIN_TEXT_PX = 11
"""... but at least this, to stay readable."""

Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Annotation:
    """One face to draw."""

    box: Rectangle | None
    """In pixels of the photograph; None: the text is about the whole image."""

    lines: Sequence[str]


def draw_annotations(pixels: Pixels, annotations: Iterable[Annotation]) -> Pixels:
    """A copy of uint8[H, W, 3] with a box and text for each face; texts do not overlap if there is room."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    size_px = max(MIN_TEXT_PX, round(max(image.size) * TEXT_FRACTION))
    font = ImageFont.load_default(size_px)
    faces = list(annotations)
    boxes = [face.box for face in faces if face.box is not None]
    placed: list[Rectangle] = []
    for index, face in enumerate(faces):
        if face.box is not None:
            draw.rectangle(face.box, outline=_colour(index), width=max(2, size_px // 8))
    for index, face in enumerate(faces):
        text = "\n".join(face.lines)
        left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font=font)
        margin = size_px / 4
        place = _place(face.box, (right - left + 2 * margin, bottom - top + 2 * margin), image.size, placed, boxes)
        placed.append(place)
        draw.rectangle(place, fill="black", outline=_colour(index))
        draw.multiline_text((place[0] + margin - left, place[1] + margin - top), text, font=font, fill="white")
    return np.asarray(image)


def _colour(index: int) -> str:
    return LINE_COLOURS[index % len(LINE_COLOURS)]


def _place(
    box: Rectangle | None,
    size: tuple[float, float],
    image_size: tuple[int, int],
    texts: Sequence[Rectangle],
    boxes: Sequence[Rectangle],
) -> Rectangle:
    """Position of a text: the first that covers neither texts nor faces, else no text, else the first of all."""
    places = [_inside(corner, size, image_size) for corner in _corners(box, size)]
    readable = [place for place in places if not any(_overlap(place, other) for other in texts)]
    free = [place for place in readable if not any(_overlap(place, other) for other in boxes)]
    return (free or readable or places)[0]


def _corners(box: Rectangle | None, size: tuple[float, float]) -> Iterator[tuple[float, float]]:
    left, top, right, bottom = box or (0, 0, 0, 0)
    middle = (left + right - size[0]) / 2
    yield from (
        (middle, bottom),
        (middle, top - size[1]),
        (right, bottom - size[1]),
        (left - size[0], bottom - size[1]),
    )
    yield from ((right, top), (left - size[0], top), (middle, bottom + size[1]), (middle, top - 2 * size[1]))


def _inside(corner: tuple[float, float], size: tuple[float, float], picture: tuple[int, int]) -> Rectangle:
    x, y = (max(0.0, min(corner[i], picture[i] - 1 - size[i])) for i in range(2))
    return x, y, x + size[0], y + size[1]


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
