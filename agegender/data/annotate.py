"""Draw the estimates of faces on a photograph, as one would show it to a colleague; captions, and contact sheets.

Lines and corners are drawn by their distance from a rounded rectangle, so that they are smooth at every size.
"""

import importlib.util
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from agegender.data.images import Pixels

Colour = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]
"""Left, top, right, bottom."""

Rectangles = npt.NDArray[np.float64]
"""float64[N, 4]."""

WHITE: Colour = (255, 255, 255)
AMBER: Colour = (255, 176, 0)
DARK: Colour = (0, 0, 0)
INK: Colour = (48, 56, 61)
PALE: Colour = (227, 230, 232)
"""A box is white, that of a doubtful face amber and dashed, each within a dark rim; no colour means anything else."""

MIN_TEXT_PX = 12
SMALLEST_TEXT, LARGEST_TEXT = 1 / 90, 1 / 56
"""Height of the text as a share of the picture's longer side, however small or large the face."""

TEXT_OF_FACE = 0.15
"""Height of the text as a share of the face's width, in between."""

LABEL_OPACITY = 0.68

MAX_COVERED = 0.2
"""Share of a face that a text may cover where there is no room beside faces."""

BAND_ROWS = 512
"""Rows that are painted at once, so that memory does not grow with the box."""

SHEET_COLUMNS, SHEET_ROWS = 5, 4
THUMBNAIL_PX = (384, 288)
SHEET_CELLS = SHEET_COLUMNS * SHEET_ROWS
SHEET_GAP_PX = 24


@dataclass(frozen=True)
class Annotation:
    """One face to draw."""

    box: Rectangle | None
    """In pixels of the photograph; None: the face is the whole image."""

    texts: Sequence[str]
    """From the longest to the shortest: the first that finds room is drawn, and none if none does."""

    doubtful: bool = False


@dataclass(frozen=True)
class Thumbnail:
    """One image of a contact sheet."""

    pixels: Pixels | None
    """Of at most ``THUMBNAIL_PX``; None: the image could not be decoded."""

    name: str
    note: str = ""


def fit(pixels: Pixels, scale: float) -> Pixels:
    """Enlarge or shrink uint8[H, W, 3]."""
    height, width = pixels.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def draw_annotations(pixels: Pixels, annotations: Iterable[Annotation], *, always: bool = False) -> tuple[Pixels, int]:
    """A box and a text for each face.

    A text stands at its own box, and covers neither another text nor another face.

    Args:
        pixels: uint8[H, W, 3].
        annotations: of the faces.
        always: draw a text even where it covers something.

    Returns:
        A copy, and the number of faces whose text found no room.
    """
    canvas = pixels.copy()
    height, width = canvas.shape[:2]
    whole = (0, 0, width, height)
    faces = sorted(annotations, key=lambda face: -_area(face.box or whole))
    for face in faces:
        if face.box is not None or face.doubtful:
            _frame(canvas, face)
    boxes = np.array([face.box or whole for face in faces], np.float64).reshape(-1, 4)
    texts: list[tuple[Rectangle, str, int]] = []
    for face in faces:
        taken = np.array([place for place, *_ in texts], np.float64).reshape(-1, 4)
        placed = _placed(face.texts, face.box or whole, (width, height), boxes, taken, always)
        texts += [placed] if placed is not None else []
    for place, _, size_px in texts:
        _paint(canvas, place, 0.4 * size_px, DARK, LABEL_OPACITY)
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for place, text, size_px in texts:
        _write(draw, ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2), text, size_px, WHITE, "mm")
    return np.asarray(image), len(faces) - len(texts)


def add_caption(pixels: Pixels, notes: Sequence[str], *, doubtful: bool) -> Pixels:
    """Append a white strip below a picture with a few words.

    Args:
        pixels: uint8[H, W, 3].
        notes: what it says.
        doubtful: whether to explain dashed boxes.
    """
    text_px = max(MIN_TEXT_PX, round(max(pixels.shape) * SMALLEST_TEXT))
    strip = _words(pixels.shape[1], text_px, text_px, notes, doubtful)
    return np.vstack([pixels, strip])


def contact_sheet(images: Sequence[Thumbnail], title: str, notes: Sequence[str], *, doubtful: bool) -> Pixels:
    """One page of thumbnails, each with its name and note.

    Args:
        images: at most ``SHEET_CELLS``, at least one.
        title: words above.
        notes: smaller words below the title.
        doubtful: whether to explain dashed boxes.

    Returns:
        uint8[H, W, 3].
    """
    (wide, high), text_px = THUMBNAIL_PX, 15
    columns = min(max(len(images), 3), SHEET_COLUMNS)  # of less, the title would have too many lines
    step_x, step_y = wide + SHEET_GAP_PX, high + text_px + SHEET_GAP_PX
    width_px = SHEET_GAP_PX + columns * step_x
    head = np.vstack([_words(width_px, SHEET_GAP_PX, *rest) for rest in ((24, [title], False), (16, notes, doubtful))])
    page = Image.new("RGB", (width_px, head.shape[0] + math.ceil(len(images) / columns) * step_y), WHITE)
    page.paste(Image.fromarray(head))
    draw = ImageDraw.Draw(page)
    for index, image in enumerate(images):
        x, y = SHEET_GAP_PX + index % columns * step_x, head.shape[0] + index // columns * step_y
        pixels = np.full((high, wide, 3), PALE, np.uint8) if image.pixels is None else image.pixels
        page.paste(Image.fromarray(pixels), (x + (wide - pixels.shape[1]) // 2, y + high - pixels.shape[0]))
        text = " · ".join(filter(None, (image.name, image.note)))
        _write(draw, (x + wide / 2, y + high + 4), _shortened(text, text_px, wide), text_px, INK, "ma")
    return np.asarray(page)


def _words(width_px: int, margin: int, text_px: int, notes: Sequence[str], doubtful: bool) -> Pixels:
    """A white strip with words, and a sample of a dashed box; as many lines as they need."""
    line_px, sample_px = round(1.5 * text_px), round(1.4 * text_px)
    places: list[tuple[int, int, str, bool]] = []
    x, y = margin, round(0.5 * text_px)
    line_characters = max(1, int((width_px - 2 * margin) / (0.6 * text_px)))
    parts = [part for note in notes for part in textwrap.wrap(note, line_characters)]
    for text, with_sample in [*((part, False) for part in parts), *[("doubtful", True)] * doubtful]:
        length = math.ceil(_font(text_px).getlength(text)) + with_sample * sample_px
        if x > margin and x + length > width_px - margin:
            x, y = margin, y + line_px
        places.append((x, y, text, with_sample))
        x += length + line_px
    if not places:
        return np.empty((0, width_px, 3), np.uint8)
    strip = np.full((y + line_px, width_px, 3), 255, np.uint8)
    for x, y, _, with_sample in places:
        if with_sample:
            sample = (x, y + 0.1 * text_px, x + text_px, y + 1.1 * text_px)
            _frame(strip, Annotation(sample, [], doubtful=True), text_px / 8)
    image = Image.fromarray(strip)
    draw = ImageDraw.Draw(image)
    for x, y, text, with_sample in places:
        _write(draw, (x + with_sample * sample_px, y + 0.6 * text_px), text, text_px, INK, "lm")
    return np.asarray(image)


def _frame(canvas: Pixels, face: Annotation, line_px: float | None = None) -> None:
    """Paint the box of a face: white or dashed amber, in a dark rim."""
    height, width = canvas.shape[:2]
    inset = max(height, width) / 100
    left, top, right, bottom = face.box or (inset, inset, width - inset, height - inset)
    # on whole pixels, where a thin line is sharp
    box = (round(left) + 0.5, round(top) + 0.5, round(right) - 0.5, round(bottom) - 0.5)
    side = min(box[2] - box[0], box[3] - box[1])
    line = line_px or max(1.2, min(max(height, width) / 600, side / 12))
    radius = min(side / 6, 9 * line)
    dash = 8 * line if face.doubtful else None
    _paint(canvas, box, radius, DARK, 0.55, line * 2 + 0.6, dash, overlap=line / 2)
    _paint(canvas, box, radius, AMBER if face.doubtful else WHITE, 1, line, dash)


def _paint(
    canvas: Pixels,
    box: Rectangle,
    radius_px: float,
    colour: Colour,
    opacity: float,
    line_px: float | None = None,
    dash_px: float | None = None,
    overlap: float = 0,
) -> None:
    """Paint a rounded rectangle, or its outline, on uint8[H, W, 3]; dashes meet at the corners."""
    half_x, half_y = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    radius = min(radius_px, half_x, half_y)
    reach = 1 + (line_px or 0) / 2
    left, right = (_clipped(x, canvas.shape[1]) for x in (box[0] - reach, box[2] + reach))
    top, bottom = (_clipped(y, canvas.shape[0]) for y in (box[1] - reach, box[3] + reach))
    x = np.arange(left, right, dtype=np.float32)[None] + 0.5 - (box[0] + box[2]) / 2
    across = np.abs(x) - (half_x - radius)
    for start in range(top, bottom, BAND_ROWS):
        rows = slice(start, min(bottom, start + BAND_ROWS))
        y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + 0.5 - (box[1] + box[3]) / 2
        down = np.abs(y) - (half_y - radius)
        distance = (
            np.hypot(np.maximum(across, 0), np.maximum(down, 0)) + np.minimum(np.maximum(across, down), 0) - radius
        )
        cover = np.clip(0.5 + (line_px / 2 - np.abs(distance) if line_px else -distance), 0, 1) * opacity
        if dash_px is not None:
            dashes = (_dashes(y, half_y - radius, dash_px, overlap), _dashes(x, half_x - radius, dash_px, overlap))
            cover = cover * np.where(across > down, *dashes)
        area = canvas[rows, left:right]
        area[:] = np.rint(area + (np.array(colour, np.float32) - area) * cover[..., None])


def _dashes(along: npt.NDArray[np.float32], half: float, dash_px: float, overlap: float) -> npt.NDArray[np.float32]:
    """1 on a dash and 0 in a gap, along a side of length ``2 * half`` whose middle is at 0."""
    if half <= 0:
        return np.ones_like(along)
    period = 2 * half / max(1, round(2 * half / dash_px))
    from_gap = np.abs((along + half) / period % 1 - 0.5) * period - 0.22 * period + overlap
    return np.where(np.abs(along) > half, 1, np.clip(0.5 + from_gap, 0, 1)).astype(np.float32)


def _placed(
    texts: Sequence[str],
    box: Rectangle,
    picture: tuple[int, int],
    boxes: Rectangles,
    taken: Rectangles,
    always: bool,
) -> tuple[Rectangle, str, int] | None:
    """Where the longest text stands that covers nothing, else the longest within its own box; its words and their height."""
    smallest, largest = (max(MIN_TEXT_PX, max(picture) * share) for share in (SMALLEST_TEXT, LARGEST_TEXT))
    size_px = round(min(max(smallest, TEXT_OF_FACE * (box[2] - box[0])), largest))
    gap = size_px / 4
    places: list[tuple[Rectangle, str, int]] = []
    room = ((_around, picture[0] - gap, 0.9 * gap, 0.0), (_within, box[2] - box[0], 0.0, MAX_COVERED))
    for corners, widest, margin, covered_share in room:
        for text in texts:
            size = _label_size(text, size_px)
            for corner in corners(box, size, gap):
                x, y = (max(gap, min(corner[i], picture[i] - size[i] - gap)) for i in range(2))
                place = (x, y, x + size[0], y + size[1])
                places.append((place, text, size_px))
                if size[0] > widest or _covered(place, taken, gap) > 0:
                    continue
                if _covered(place, boxes, margin) <= covered_share:
                    return places[-1]
    legible = [each for each in places if not _covered(each[0], taken, 0)]
    return (legible or places)[0] if always else None


def _around(box: Rectangle, size: tuple[float, float], gap: float) -> Iterator[tuple[float, float]]:
    """Left upper corners of a text at its box, best first."""
    left, top, right, bottom = box
    for x in ((left + right - size[0]) / 2, left, right - size[0]):
        yield x, bottom + gap
        yield x, top - gap - size[1]
    for y in (bottom - size[1], top):
        yield right + gap, y
        yield left - gap - size[0], y


def _within(box: Rectangle, size: tuple[float, float], gap: float) -> Iterator[tuple[float, float]]:
    middle = (box[0] + box[2] - size[0]) / 2
    yield middle, box[3] - gap - size[1]
    yield middle, box[1] + gap


def _covered(place: Rectangle, others: Rectangles, margin: float) -> float:
    """The largest share of one of the others that a text with its margin covers; 0 if it covers none."""
    left, top, right, bottom = others.T
    across = np.minimum(place[2] + margin, right) - np.maximum(place[0] - margin, left)
    down = np.minimum(place[3] + margin, bottom) - np.maximum(place[1] - margin, top)
    shares = np.maximum(across, 0) * np.maximum(down, 0) / np.maximum((right - left) * (bottom - top), 1)
    return float(shares.max(initial=0))


def _area(box: Rectangle) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _clipped(value: float, end: int) -> int:
    return min(max(0, math.floor(value)), end)


def _label_size(text: str, size_px: int) -> tuple[float, float]:
    lines = text.split("\n")
    longest = max(map(_font(size_px).getlength, lines))
    return math.ceil(longest + 0.9 * size_px), math.ceil((1.25 * len(lines) + 0.2) * size_px)


def _shortened(text: str, size_px: int, width_px: int) -> str:
    """The text, without its middle if it is longer than that."""
    kept = len(text)
    while kept and _font(size_px).getlength(shown := _without_middle(text, kept)) > width_px:
        kept -= 1
    return shown if kept else ""


def _without_middle(text: str, kept: int) -> str:
    return text if kept == len(text) else f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size_px: int, colour: Colour, anchor: str
) -> None:
    draw.text(at, text, font=_font(size_px), fill=colour, anchor=anchor, spacing=size_px // 4)


@lru_cache(maxsize=64)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: made for small sizes, and it has the letters of most names of files."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    return ImageFont.truetype(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size_px)
