"""SOURCE -> units of work -> bytes: how every job reads its images.

A run has one listing, stored in units of a few hundred rows; a unit is processed, and retried, as a whole. No Ray.

    SourceReader -> StreamingListing (unit tables in OUTPUT/_work) -> [fetch]
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from agegender.option_groups import InputOptions, LabelledSources, SourceOptions
from agegender.pipelines.runtime.layout import unit_name, unit_number, unit_uri
from agegender.pipelines.source.listed_image import ListedImage
from agegender.pipelines.source.reader import LabelledReader, SourceReader, reader_of
from agegender.pipelines.source.seen_uris import SeenUris
from agegender.schema import LISTING

__all__ = [
    "Listing", "SourceCounts", "list_source", "list_units", "nothing_found", "to_table",
    "unit_name", "unit_number", "unit_uri",
]  # fmt: skip


@dataclass
class SourceCounts:
    """Counts of a listing."""

    images: int = 0
    repeated: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    """What was left out of folders and archives: kind, or extension of a file that is not an image -> files."""


def list_source(
    options: SourceOptions | LabelledSources,
    keep_columns: Sequence[str] = (),
    counts: SourceCounts | None = None,
    limit: int | None = None,
) -> Iterator[pa.Table]:
    """Stream a source as tables of at most ``options.unit_images`` rows; repeated uris are counted and skipped.

    The order depends only on the source. Memory: one table, and ``SeenUris``.

    Args:
        options: where the images and their labels are; several sources have the column ``source``, too.
        keep_columns: manifest columns to append to those of ``schema.LISTING``.
        counts: updated while listing.
        limit: maximum number of images.

    Raises:
        InputError: no file at an address, or a manifest without the requested columns.
    """
    counts = counts if counts is not None else SourceCounts()
    with SeenUris() as seen:

        def is_new(image: ListedImage) -> bool:
            new = seen.add(image.uri) is True
            counts.repeated += not new
            return new

        yield from list_units(reader_of(options, tuple(keep_columns), counts.ignored), counts, limit, is_new)


def list_units(
    reader: SourceReader | LabelledReader,
    counts: SourceCounts,
    limit: int | None,
    is_new: Callable[[ListedImage], bool],
) -> Iterator[pa.Table]:
    """Stream the images for which ``is_new`` is true, as tables of one unit each.

    Args:
        reader: of the source.
        counts: ``images`` is incremented.
        limit: stop when ``counts.images`` reaches it.
        is_new: called once for every image of the source, in order, repeats included.
    """
    rows: list[ListedImage] = []
    for image in filter(is_new, reader.images()):
        if rows and reader.separates(rows[-1], image):
            yield to_table(rows, reader.keep_fields)
            rows = []
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
    """A table of ``schema.LISTING`` and the kept columns."""
    columns = [pa.array([getattr(row, f.name) for row in rows], f.type) for f in LISTING]
    columns += [pa.array([row.kept[i] for row in rows], f.type) for i, f in enumerate(keep_fields)]
    return pa.table(columns, schema=pa.schema([*LISTING, *keep_fields]))


@dataclass(frozen=True)
class Listing:
    """The complete listing of a run, stored in units under ``work_uri``; created by ``streaming_listing.drain``."""

    work_uri: str
    units: list[str]
    images: int
    repeated: int
    ignored: dict[str, int]


def nothing_found(options: InputOptions, counts: SourceCounts) -> str:
    """The error message for a source without images."""
    where = ", ".join(options.input)
    if not counts.ignored:
        return f"no images in {where}: it is empty. Point --input at a folder of images, a table, Parquet or archives"
    found = ", ".join(f"{n} {kind or 'without extension'}" for kind, n in counts.ignored.most_common(5))
    named = " A table that only names images counts if it is named itself" if counts.ignored[".parquet"] else ""
    return f"no images in {where}: only {found}.{named or ' Point --input at a folder of images, a table, Parquet or archives'}"
