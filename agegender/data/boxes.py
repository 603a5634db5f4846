"""Boxes that a user gives: four numbers, by their usual names, as lists or as text -> x, y, width, height.

A box that cannot be used says why in its ``problem``; only four numbers without names are an error, because nothing says
whether the last two are a size or a corner.
"""

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from agegender.options import BoxFormat

BOX_NAMES = ("box", "bbox", "face_box", "bounding_box", "boxes", "bboxes", "face_boxes", "bounding_boxes")
"""Usual names of one column or key with a box, or with a list of boxes; compared without case, like all names here."""

SIDE_NAMES: tuple[tuple[BoxFormat, tuple[str, ...]], ...] = (
    ("xyxy", ("xmin", "ymin", "xmax", "ymax")),
    ("xyxy", ("x_min", "y_min", "x_max", "y_max")),
    ("xyxy", ("x1", "y1", "x2", "y2")),
    ("xyxy", ("left", "top", "right", "bottom")),
    ("xywh", ("left", "top", "width", "height")),
    ("xywh", ("x", "y", "width", "height")),
    ("xywh", ("x", "y", "w", "h")),
)
PREFIXES = ("", "box_", "bbox_", "face_", "box.", "bbox.")
"""Usual names of four columns or keys, each also with a prefix."""

MAX_BOXES = 5000
"""Of one image; as for ``--max-faces``."""

MAX_NESTED = 4

NO_BOX = "no box is given for this image"


class GivenBox(TypedDict):
    """A box in pixels of the image as shown; ``problem`` says why it is not one, and the numbers may then be None."""

    x: float | None
    y: float | None
    width: float | None
    height: float | None
    problem: str | None


class UnnamedBoxError(ValueError):
    """Four numbers without names, and no ``--box-format``."""


def without_numbers(problem: str) -> GivenBox:
    """A box of which only the problem is known."""
    return GivenBox(x=None, y=None, width=None, height=None, problem=problem)


def side_names(names: Iterable[str]) -> tuple[tuple[str, ...], BoxFormat] | None:
    """The four of these names under which a box stands, and their format; None if there are none."""
    known = {name.lower(): name for name in reversed(list(names))}
    for prefix in PREFIXES:
        for form, sides in SIDE_NAMES:
            if all(prefix + side in known for side in sides):
                return tuple(known[prefix + side] for side in sides), form
    return None


def box_name(names: Iterable[str]) -> str | None:
    """The first usual name of a box, or of a list of boxes, among these; None if there is none."""
    known = {name.lower(): name for name in reversed(list(names))}
    return next((known[name] for name in BOX_NAMES if name in known), None)


def read_boxes(value: Any, form: BoxFormat | None = None) -> list[GivenBox]:
    """The boxes in one value.

    Args:
        value: a box, or a list of boxes: a mapping with four usual names, or with a box or boxes under a usual name; four
            numbers; or any of these as text. None, empty text and missing numbers are no box.
        form: what four numbers without names are.

    Raises:
        UnnamedBoxError: four numbers without names, and no form.
    """
    try:
        boxes = _read(_parsed(value), form, 0)
    except _NoBoxError as error:
        return [without_numbers(str(error))]
    if len(boxes) > MAX_BOXES:
        return [without_numbers(f"{len(boxes):,} boxes for one image; at most {MAX_BOXES:,} are read")]
    return boxes


def box_of(values: Sequence[Any], form: BoxFormat) -> GivenBox | None:
    """The box of four numbers; None if all are missing.

    Args:
        values: left, top, and width, height or right, bottom, in pixels; numbers or text.
        form: ``xywh`` or ``xyxy``.
    """
    if all(map(_is_missing, values)):
        return None
    shown = f"the box ({', '.join(map(_shown, values))})"
    numbers = [_number(value) for value in values]
    left, top, third, fourth = numbers
    width, height = (third, fourth) if form == "xywh" else (third - left, fourth - top)
    problem = None
    if not all(map(math.isfinite, (left, top, width, height))):
        problem = f"{shown} is not four numbers"
    elif width <= 0 or height <= 0:
        problem = f"{shown} has no area: its width is {width:g}, its height {height:g}"
    elif width < 1 or height < 1:
        problem = f"{shown} is smaller than a pixel: boxes are in pixels of the image as shown, not shares of its sides"
    kept = [number if math.isfinite(number) else None for number in (left, top, width, height)]
    return GivenBox(x=kept[0], y=kept[1], width=kept[2], height=kept[3], problem=problem)


def are_shares(boxes: Iterable[GivenBox]) -> bool:
    """Whether all boxes lie between 0 and 1 as if they were shares of the image's sides; False if there are none."""
    sizes = [
        max(box["x"], box["y"], box["x"] + (box["width"] or 0), box["y"] + (box["height"] or 0))
        for box in boxes
        if box["x"] is not None and box["y"] is not None
    ]
    return bool(sizes) and max(sizes) <= 1.001


def problem_in(box: GivenBox, width_px: int, height_px: int) -> str | None:
    """Why no face can be looked for in a box of an image of this size; None if one can."""
    if box["problem"] is not None:
        return box["problem"]
    x, y, width, height = sides(box)
    if min(x + width, width_px) - max(x, 0) < 1 or min(y + height, height_px) - max(y, 0) < 1:
        return f"{shown_box(box)} lies outside of the image of {width_px} x {height_px} pixels"
    return None


def sides(box: GivenBox) -> tuple[float, float, float, float]:
    """x, y, width, height of a box without a problem."""
    values = (box["x"], box["y"], box["width"], box["height"])
    assert None not in values
    return values  # type: ignore[return-value]  # checked in the line above


def shown_box(box: GivenBox) -> str:
    """The box in words, for an error."""
    return f"the box ({', '.join(_shown(box[name]) for name in ('x', 'y', 'width', 'height'))})"


class _NoBoxError(Exception):
    """A value that is neither a box nor a list of boxes."""


def _read(value: Any, form: BoxFormat | None, depth: int) -> list[GivenBox]:
    if value is None:
        return []
    if depth > MAX_NESTED:
        raise _NoBoxError("the boxes are nested too deep")
    if isinstance(value, Mapping):
        return _of_mapping(value, form, depth)
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        raise _NoBoxError(f"{_shown(value)} is no box: give four numbers, e.g. x, y, width, height")
    items = list(value)
    if len(items) == 4 and all(_is_missing(item) or _is_number(item) for item in items):
        if form is None:
            raise UnnamedBoxError(
                f"the box [{', '.join(map(_shown, items))}] has four numbers without names: --box-format xywh says that the last "
                "two are width and height, --box-format xyxy that they are the right and lower edge"
            )
        box = box_of(items, form)
        return [] if box is None else [box]
    return [box for item in items for box in _of_item(item, form, depth)]


def _of_item(item: Any, form: BoxFormat | None, depth: int) -> list[GivenBox]:
    """The boxes in an item of a list; one that is no box keeps its place."""
    try:
        return _read(item, form, depth + 1) or [without_numbers(f"{_shown(item)} is no box")]
    except _NoBoxError as error:
        return [without_numbers(str(error))]


def _of_mapping(value: Mapping[str, Any], form: BoxFormat | None, depth: int) -> list[GivenBox]:
    found = side_names(value)
    if found is not None:
        box = box_of([value[name] for name in found[0]], found[1])
        return [] if box is None else [box]
    name = box_name(value)
    if name is not None:
        return _read(_parsed(value[name]), form, depth + 1)
    keys = ", ".join(map(repr, list(value)[:10]))
    raise _NoBoxError(f"no usual names of a box, e.g. x, y, width, height, among {keys or 'no names'}")


def _parsed(value: Any) -> Any:
    """The value in a text: JSON, Python's notation as pandas and DuckDB write it to CSV, or four numbers."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.lower() in ("", "null", "none", "nan", "[]"):
        return None
    if len(parts := re.split(r"[\s,;]+", text)) == 4 and all(map(_is_number, parts)):
        return parts
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    return text


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in ("", "null", "none", "nan")
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_number(value: Any) -> bool:
    return not math.isnan(_number(value))


def _number(value: Any) -> float:
    """The number in a value, NaN if it is none."""
    if isinstance(value, (bool, Mapping)):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _shown(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
