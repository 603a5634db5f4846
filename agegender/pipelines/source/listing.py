"""SOURCE -> units of work -> bytes: every job reads its images through here.

A listing is made once per run and written down in units of a few hundred rows; a unit is what is done, or done again, as
a whole. Only ``unit_dataset`` knows of Ray.

    list_source -> Listing (unit tables in OUTPUT/_work) -> unit_dataset -> [fetch]

predict, whose source may grow and never ends within memory, has a ``GrowingListing`` in its place.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa
import ray

from agegender.config import SourceOptions
from agegender.errors import InputError
from agegender.pipelines.source.fetch import Fetched, fetch
from agegender.pipelines.source.reader import ListedImage, SourceReader
from agegender.pipelines.source.seen_uris import SeenUris
from agegender.schema import LISTING
from agegender.storage import files, tables

__all__ = [
    "Fetched", "Listing", "SourceCounts", "fetch", "list_source", "list_units", "nothing_found", "read_unit", "to_table",
    "unit_dataset", "unit_name", "unit_number", "unit_uri",
]  # fmt: skip


@dataclass
class SourceCounts:
    """What listing met beside the images it listed."""

    images: int = 0
    repeated: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    """File extension -> files of a folder that are no images by their names."""


def list_source(
    options: SourceOptions,
    keep_columns: Sequence[str] = (),
    counts: SourceCounts | None = None,
    limit: int | None = None,
) -> Iterator[pa.Table]:
    """Stream a source as tables of at most ``options.unit_images`` rows; a uri that was met before is counted, not listed.

    The order depends on the source alone. Memory is that of one table and of ``SeenUris``.

    Args:
        options: where the images and their labels are.
        keep_columns: manifest columns that follow the columns of ``schema.LISTING``.
        counts: filled while listing.
        limit: stop after so many images.

    Raises:
        InputError: nothing at an address, a manifest without the columns that were asked for.
    """
    counts = counts if counts is not None else SourceCounts()
    with SeenUris() as seen:

        def is_new(image: ListedImage) -> bool:
            new = seen.meet(image.uri) is True
            counts.repeated += not new
            return new

        yield from list_units(SourceReader(options, tuple(keep_columns), counts.ignored), counts, limit, is_new)


def list_units(
    reader: SourceReader, counts: SourceCounts, limit: int | None, is_new: Callable[[ListedImage], bool]
) -> Iterator[pa.Table]:
    """Stream the images that ``is_new`` lets pass, as tables of one unit each.

    Args:
        reader: of the source.
        counts: its ``images`` is raised by those listed.
        limit: stop when ``counts.images`` has come so far.
        is_new: is asked once for every image of the source, in its order, repeats included.
    """
    rows: list[ListedImage] = []
    for image in filter(is_new, reader.images()):
        rows.append(image)
        counts.images += 1
        if len(rows) == reader.options.unit_images:
            yield to_table(rows, reader.keep_fields)
            rows = []
        if limit is not None and counts.images >= limit:
            break
    if rows:
        yield to_table(rows, reader.keep_fields)


def to_table(rows: list[ListedImage], keep_fields: Sequence[pa.Field]) -> pa.Table:
    """Rows of ``schema.LISTING`` and the kept columns."""
    columns = [pa.array([getattr(row, f.name) for row in rows], f.type) for f in LISTING]
    columns += [pa.array([row.kept[i] for row in rows], f.type) for i, f in enumerate(keep_fields)]
    return pa.table(columns, schema=pa.schema([*LISTING, *keep_fields]))


@dataclass(frozen=True)
class Listing:
    """The listed images of a run, written down in units under ``work_uri``."""

    work_uri: str
    units: list[str]
    images: int
    repeated: int
    ignored: dict[str, int]

    @classmethod
    def create(
        cls, options: SourceOptions, work_uri: str, keep_columns: Sequence[str] = (), limit: int | None = None
    ) -> Self:
        """List a source into ``work_uri``, or take up the listing that is complete there.

        Raises:
            InputError: the source holds no image.
        """
        index_uri = files.join(work_uri, "listing.json")
        if files.exists(index_uri):
            return cls._from_index(work_uri, files.read_json(index_uri))
        counts, units = SourceCounts(), 0
        for number, table in enumerate(list_source(options, keep_columns, counts, limit)):
            tables.write_table(unit_uri(work_uri, number), table)
            units = number + 1
        if not counts.images:
            raise InputError(nothing_found(options, counts))
        index = {
            "images": counts.images,
            "repeated": counts.repeated,
            "ignored": dict(counts.ignored),
            "units": units,
        }
        files.write_json(index_uri, index)
        return cls._from_index(work_uri, index)

    @classmethod
    def _from_index(cls, work_uri: str, index: dict[str, Any]) -> Self:
        units = [unit_uri(work_uri, number) for number in range(index["units"])]
        return cls(work_uri, units, index["images"], index["repeated"], index["ignored"])


def read_unit(unit_uri: str) -> pa.Table:
    """The listing rows of one unit: ``schema.LISTING`` and the kept columns."""
    return tables.read_table(unit_uri)


def unit_uri(work_uri: str, number: int) -> str:
    """Address of the listing of a unit."""
    return files.join(work_uri, f"unit-{number:07d}.parquet")


def unit_name(unit_uri: str) -> str:
    """``unit-0000012`` of a unit's address: names everything that is made from it."""
    return files.name(unit_uri).removesuffix(".parquet")


def unit_number(uri: str) -> int:
    """12 of ``.../unit-0000012.parquet``, or of what else is named after the unit."""
    return int(files.name(uri).removeprefix("unit-").partition(".")[0])


def nothing_found(options: SourceOptions, counts: SourceCounts) -> str:
    """What to say of a source without images."""
    where = ", ".join(options.input)
    if counts.ignored:
        seen = ", ".join(f"{n} {extension or 'without extension'}" for extension, n in counts.ignored.most_common(5))
        return f"no images in {where}: only other files ({seen}). Point --input at a folder of images, a manifest, Parquet or tar"
    return f"no images in {where}: it is empty. Point --input at a folder of images, a manifest, Parquet or tar"


def unit_dataset(units: Sequence[str]) -> "ray.data.Dataset":
    """A Ray dataset with one row ``{"unit": address}`` and one block per unit, for ``map_batches(..., batch_size=1)``."""
    return ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=max(1, len(units)))
