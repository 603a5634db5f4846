"""SOURCE -> units of work -> bytes: every job reads its images through here.

A listing is made once per run and written down in units of a few hundred rows; a unit is what is done, or done again, as
a whole. Only ``unit_dataset`` knows of Ray.

    list_source -> Listing (unit tables in OUTPUT/_work) -> unit_dataset -> [fetch]
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa
import ray

from agegender.config import SourceOptions
from agegender.errors import InputError
from agegender.pipelines.fetch import Fetched, fetch
from agegender.pipelines.listing import ListedImage, SourceReader
from agegender.schema import LISTING
from agegender.storage import files, tables

__all__ = ["Fetched", "Listing", "SourceCounts", "fetch", "list_source", "read_unit", "unit_dataset", "unit_name"]


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

    Args:
        options: where the images and their labels are.
        keep_columns: manifest columns that follow the columns of ``schema.LISTING``.
        counts: filled while listing.
        limit: stop after so many images.

    Raises:
        InputError: nothing at an address, a manifest without the columns that were asked for.
    """
    counts = counts if counts is not None else SourceCounts()
    reader = SourceReader(options, tuple(keep_columns), counts.ignored)
    rows: list[ListedImage] = []
    for image in _without_repeats(reader.images(), counts):
        rows.append(image)
        counts.images += 1
        if len(rows) == options.unit_images:
            yield _to_table(rows, reader.keep_fields)
            rows = []
        if limit is not None and counts.images >= limit:
            break
    if rows:
        yield _to_table(rows, reader.keep_fields)


def _without_repeats(images: Iterable[ListedImage], counts: SourceCounts) -> Iterator[ListedImage]:
    seen: set[int] = set()
    for image in images:
        key = int.from_bytes(hashlib.blake2b(image.uri.encode(), digest_size=8).digest())
        if key in seen:
            counts.repeated += 1
            continue
        seen.add(key)
        yield image


def _to_table(rows: list[ListedImage], keep_fields: Sequence[pa.Field]) -> pa.Table:
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
        counts, names, unit_images = SourceCounts(), [], []
        for number, table in enumerate(list_source(options, keep_columns, counts, limit)):
            names.append(f"unit-{number:07d}.parquet")
            unit_images.append(table.num_rows)
            tables.write_table(files.join(work_uri, names[-1]), table)
        if not counts.images:
            raise InputError(_nothing_found(options, counts))
        index = {
            "images": counts.images,
            "repeated": counts.repeated,
            "ignored": dict(counts.ignored),
            "units": len(names),
        }
        files.write_json(index_uri, index)
        return cls._from_index(work_uri, index)

    @classmethod
    def _from_index(cls, work_uri: str, index: dict[str, Any]) -> Self:
        units = [files.join(work_uri, f"unit-{number:07d}.parquet") for number in range(index["units"])]
        return cls(work_uri, units, index["images"], index["repeated"], index["ignored"])


def read_unit(unit_uri: str) -> pa.Table:
    """The listing rows of one unit: ``schema.LISTING`` and the kept columns."""
    return tables.read_table(unit_uri)


def unit_name(unit_uri: str) -> str:
    """``unit-0000012`` of a unit's address: names everything that is made from it."""
    return files.name(unit_uri).removesuffix(".parquet")


def _nothing_found(options: SourceOptions, counts: SourceCounts) -> str:
    where = ", ".join(options.input)
    if counts.ignored:
        seen = ", ".join(f"{n} {extension or 'without extension'}" for extension, n in counts.ignored.most_common(5))
        return f"no images in {where}: only other files ({seen}). Point --input at a folder of images, a manifest, Parquet or tar"
    return f"no images in {where}: it is empty. Point --input at a folder of images, a manifest, Parquet or tar"


def unit_dataset(units: Sequence[str]) -> "ray.data.Dataset":
    """A Ray dataset with one row ``{"unit": address}`` and one block per unit, for ``map_batches(..., batch_size=1)``."""
    return ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=max(1, len(units)))
