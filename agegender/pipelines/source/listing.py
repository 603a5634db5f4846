"""SOURCE -> units of work -> bytes: every job reads its images through here.

A listing is made once per run and written down in units of a few hundred rows; a unit is what is done, or done again, as
a whole. No Ray.

    SourceReader -> StreamingListing (unit tables in OUTPUT/_work) -> [fetch]
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from agegender.config import SourceOptions
from agegender.pipelines.runtime.layout import unit_name, unit_number, unit_uri
from agegender.pipelines.source.fetch import Fetched, fetch
from agegender.pipelines.source.reader import ListedImage, SourceReader
from agegender.pipelines.source.seen_uris import SeenUris
from agegender.schema import LISTING
from agegender.storage import tables

__all__ = [
    "Fetched", "Listing", "SourceCounts", "fetch", "list_source", "list_units", "nothing_found", "read_unit", "to_table",
    "unit_name", "unit_number", "unit_uri",
]  # fmt: skip


@dataclass
class SourceCounts:
    """What a listing saw beside the images that it listed."""

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
    """Stream a source as tables of at most ``options.unit_images`` rows; a uri that was listed before is counted, not listed again.

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
            new = seen.add(image.uri) is True
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
    """The listed images of a run, written down in units under ``work_uri``; ``streaming_listing.drain`` makes it."""

    work_uri: str
    units: list[str]
    images: int
    repeated: int
    ignored: dict[str, int]


def read_unit(unit_uri: str) -> pa.Table:
    """The listing rows of one unit: ``schema.LISTING`` and the kept columns."""
    return tables.read_table(unit_uri)


def nothing_found(options: SourceOptions, counts: SourceCounts) -> str:
    """What to say of a source without images."""
    where = ", ".join(options.input)
    if counts.ignored:
        seen = ", ".join(f"{n} {extension or 'without extension'}" for extension, n in counts.ignored.most_common(5))
        return f"no images in {where}: only other files ({seen}). Point --input at a folder of images, a manifest, Parquet or tar"
    return f"no images in {where}: it is empty. Point --input at a folder of images, a manifest, Parquet or tar"
