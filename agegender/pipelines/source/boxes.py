"""The user's boxes of faces in a listing: as columns of a table, or as JSON beside an image. No Ray.

A listing with boxes has a row for each image, as any other: ``schema.BOXES`` is its first kept column, and each kept column
that follows has a value for each box.
"""

import itertools
import json
import operator
import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import fields, replace
from typing import Any

from agegender.data.boxes import (
    MAX_BOXES,
    NO_BOX,
    GivenBox,
    UnnamedBoxError,
    box_name,
    read_boxes,
    side_names,
    without_numbers,
)
from agegender.errors import InputError
from agegender.option_groups import BoxOptions
from agegender.pipelines.source.listed_image import ListedImage
from agegender.schema import Status
from agegender.storage import files

MAX_JSON_BYTES = 1 << 20

_VALUES = operator.attrgetter(*(field.name for field in fields(ListedImage)))
"""As a tuple, which pickles several times faster than the object."""


def beside_kept(boxes: list[GivenBox], kept: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    """The values of ``schema.BOXES`` and of the kept columns, of an image with these boxes."""
    boxes = boxes or [without_numbers(NO_BOX)]
    return (boxes, *([value] * len(boxes) for value in kept))


def by_image(rows: Iterable[ListedImage]) -> Iterator[ListedImage]:
    """One row for each image, with the boxes of all its rows in their order; the images in the order of their first rows.

    Rows of one image may stand anywhere, so all are read before the first image comes. They are held and sorted in an unnamed
    temporary file of SQLite, as ``SeenUris`` are: memory does not grow with the table.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as table:
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE rows (uri BLOB, row BLOB)",
        ):
            table.execute(statement)
        table.execute("BEGIN")  # never committed: the file is temporary
        packed = ((row.uri.encode(errors="surrogateescape"), pickle.dumps(_VALUES(row))) for row in rows)
        table.executemany("INSERT INTO rows VALUES (?, ?)", packed)
        in_order = table.execute(
            "SELECT min(rowid) OVER (PARTITION BY uri) AS first, row FROM rows ORDER BY first, rowid"
        )
        for _, found in itertools.groupby(in_order, key=lambda row: row[0]):
            yield _merged([ListedImage(*pickle.loads(row)) for _, row in found])


def _merged(rows: list[ListedImage]) -> ListedImage:
    """The rows of one image as one; rows without a box count only if there is no other."""
    if len(rows) == 1:
        return rows[0]
    filled = [row for row in rows if row.kept[0][0]["problem"] != NO_BOX] or rows[:1]
    kept = tuple([value for row in filled for value in row.kept[index]] for index in range(len(rows[0].kept)))
    if len(kept[0]) > MAX_BOXES:
        problem = f"{len(kept[0]):,} boxes for one image; at most {MAX_BOXES:,} are read"
        kept = ([without_numbers(problem)], *(values[:1] for values in kept[1:]))
    return replace(rows[0], kept=kept)


def in_values(values: Any, options: BoxOptions, where: str) -> list[GivenBox]:
    """The boxes in the JSON beside an image.

    Args:
        values: a list of boxes; or an object with one or several under a usual key, with the four sides of one, or with the keys
            that ``--box-columns`` names. Other keys may be in it.
        options: names and format.
        where: the file, for messages.

    Raises:
        InputError: four numbers without names, and no ``--box-format``.
    """
    form, named = options.box_format, options.box_names
    try:
        if not isinstance(values, dict):
            return read_boxes(values, form)
        sides = side_names(named or values)
        if len(named) == 4:
            form = form or (None if sides is None else sides[1])
            return read_boxes([values.get(name) for name in named], form)
        name = next(iter(named), None) or box_name(values)
        if name is not None:
            return read_boxes(values.get(name), form)
        return [] if sides is None else read_boxes(values)
    except UnnamedBoxError as error:
        raise InputError(f"{where}: {error}") from error


def read_beside(image_uri: str, options: BoxOptions) -> list[GivenBox]:
    """The boxes in the JSON beside an image, ``photo.json`` for ``photo.jpg``; none if there is no such file.

    Raises:
        InputError: four numbers without names, and no ``--box-format``.
        ResourceError: storage does not answer.
    """
    uri = json_beside(image_uri)
    try:
        data = files.read_bytes(uri, length=MAX_JSON_BYTES + 1)
    except files.ObjectAnswer as answer:
        return [] if answer.status == Status.MISSING else [without_numbers(str(answer))]
    if len(data) > MAX_JSON_BYTES:
        return [without_numbers(f"{files.name(uri)} has more than {MAX_JSON_BYTES:,} bytes")]
    try:
        values = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return [without_numbers(f"{files.name(uri)} is not JSON: {error}")]
    return in_values(values, options, uri)


def json_beside(image_uri: str) -> str:
    """The address of the JSON beside an image."""
    folder, slash, name = image_uri.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}.json"
