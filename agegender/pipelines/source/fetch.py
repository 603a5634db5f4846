"""Listing rows -> the bytes of their images, or a permanent error. No Ray.

An outage raises ``ResourceError`` instead, and the unit stays pending.
"""

import itertools
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agegender.errors import InputError, ResourceError
from agegender.option_groups import ImageLimits
from agegender.pipelines.source import containers
from agegender.pipelines.source.columns import BytesColumn, bytes_column
from agegender.schema import Status
from agegender.storage import files, tables

REMOTE_READS_IN_FLIGHT = 32
"""A small object costs a round trip, not bandwidth, so many must be in flight."""

BLOCK_BYTES = 16 * 1024 * 1024
"""Image bytes in one table of ``fetch_blocks``; a larger image is alone in its table."""

PARQUET_READ_BYTES = 4 * 1024 * 1024
"""One read of a Parquet file with the bytes of images."""

BYTES_FIELDS = (
    pa.field("bytes", pa.large_binary()),  # the image's file; null if the status is not ok
    pa.field("status", pa.string(), nullable=False),
    pa.field("error", pa.string()),
)
"""Columns that ``fetch_blocks`` appends to those of a listing. Status: ``ok``, or why there are no bytes."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The bytes of one listed image: ``data``, or the status and error of a failed read."""

    data: bytes | None
    status: Status
    error: str | None = None


_EMPTY = Fetched(None, Status.EMPTY, "the table has no bytes here")


def read_unit(unit_uri: str) -> pa.Table:
    """The listing rows of one unit: ``schema.LISTING`` and the kept columns."""
    return tables.read_table(unit_uri)


def fetch(listing: pa.Table, limits: ImageLimits) -> Generator[Fetched, None, None]:
    """Read the images of a listing table, in order.

    Args:
        listing: rows of ``schema.LISTING``.
        limits: maximum sizes, and the name of the bytes column.

    Raises:
        ResourceError: storage does not answer.
    """
    rows = listing.select(["uri", "container", "offset", "size_bytes", "etag"]).to_pylist()
    for container, members in itertools.groupby(rows, key=lambda row: row["container"]):
        if container is not None and container.lower().endswith(".parquet"):
            yield from _from_table(container, list(members), limits)
        elif container is not None and not containers.is_plain_tar(container):
            yield from (_read_member(row, limits) for row in members)
        else:
            yield from _from_files(list(members), limits)


def fetch_blocks(listing: pa.Table, limits: ImageLimits, block_bytes: int = BLOCK_BYTES) -> Iterator[pa.Table]:
    """Yield the rows of a listing with the bytes of their images, in tables of bounded size.

    Args:
        listing: rows of ``schema.LISTING`` and any other columns.
        limits: maximum sizes, and the name of the bytes column.
        block_bytes: image bytes in one table; exceeded only by its last image.

    Yields:
        Consecutive rows of the listing, followed by ``BYTES_FIELDS``.

    Raises:
        ResourceError: storage does not answer.
    """
    pending: list[Fetched] = []
    first = size_bytes = 0
    with closing(fetch(listing, limits)) as images:
        for image in images:
            pending.append(image)
            size_bytes += len(image.data or b"")
            if size_bytes >= block_bytes:
                yield _with_bytes(listing.slice(first, len(pending)), pending)
                first, size_bytes, pending = first + len(pending), 0, []
    if pending:
        yield _with_bytes(listing.slice(first), pending)


def _with_bytes(listed: pa.Table, images: list[Fetched]) -> pa.Table:
    columns = ([each.data for each in images], [each.status.value for each in images], [each.error for each in images])
    for field, values in zip(BYTES_FIELDS, columns, strict=True):
        listed = listed.append_column(field, pa.array(values, field.type))
    return listed


def _from_files(rows: list[dict[str, Any]], limits: ImageLimits) -> Iterator[Fetched]:
    """Read files, or ranges of a tar file; where they are remote, ahead of the caller."""
    address = rows[0]["container"] or rows[0]["uri"]
    if not (files.is_s3(address) or files.is_web(address)):
        yield from (_read(row, limits) for row in rows)  # a local read is faster than dispatching it to a thread
        return
    # bounded read-ahead: a unit of photographs does not fit into memory
    yield from files.read_ahead(lambda row: _read(row, limits), rows, REMOTE_READS_IN_FLIGHT)


def _read(row: dict[str, Any], limits: ImageLimits) -> Fetched:
    limit = limits.max_image_bytes
    if (row["size_bytes"] or 0) > limit:
        return _too_large(row["size_bytes"], limit)
    if files.is_web(row["container"] or row["uri"]) and not limits.allow_http:
        return Fetched(None, Status.UNREADABLE, "addresses of the web are read only with --allow-http")
    try:
        if row["container"] is not None:
            return _bounded(files.read_bytes(row["container"], row["offset"], row["size_bytes"]), limit)
        return _bounded(files.read_bytes(row["uri"], length=limit + 1), limit)
    except files.ObjectAnswer as answer:
        return Fetched(None, answer.status, str(answer))
    except InputError as error:  # a manifest may contain any address: a missing bucket, an unsupported scheme
        return Fetched(None, Status.UNREADABLE, str(error))


def _read_member(row: dict[str, Any], limits: ImageLimits) -> Fetched:
    """Read a member of an archive whose members are no ranges of its bytes."""
    limit = limits.max_image_bytes
    if (row["size_bytes"] or 0) > limit:
        return _too_large(row["size_bytes"], limit)
    try:
        return Fetched(
            containers.read_member(row["container"], row["etag"], row["offset"], row["size_bytes"]), Status.OK
        )
    except files.ObjectAnswer as answer:
        return Fetched(None, answer.status, str(answer))


def _from_table(container: str, rows: list[dict[str, Any]], limits: ImageLimits) -> Iterator[Fetched]:
    """Read rows of one Parquet file, in ascending order; row groups without a requested row are skipped."""
    try:
        stream = files.open_for_reading(container)
    except files.ObjectAnswer as answer:
        yield from (Fetched(None, answer.status, str(answer)) for _ in rows)
        return
    done = 0
    with stream:
        try:
            # without them a whole column of a row group is read, of which a unit may need the first rows
            table = pq.ParquetFile(stream, pre_buffer=False, buffer_size=PARQUET_READ_BYTES)
            found = _bytes_column(container, table, limits)
            with closing(_bytes_by_row(table, found, [row["offset"] for row in rows])) as values:
                for data in values:
                    yield _EMPTY if data is None else _bounded(data, limits.max_image_bytes)
                    done += 1
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # from the disk; Arrow's own errors have no errno
                raise ResourceError(
                    f"{container}: {error}. Repair the disk or the mount, and run the same command again."
                ) from error
            damaged = Fetched(None, Status.UNREADABLE, f"{container}: damaged, or not Parquet ({error})")
            yield from (damaged for _ in rows[done:])


def _bytes_column(container: str, table: pq.ParquetFile, limits: ImageLimits) -> BytesColumn:
    found = bytes_column(container, table.schema_arrow, limits.bytes_column)
    if found is None:
        raise InputError(f"{container} has no column of bytes any more. Was it replaced? Give another --output")
    return found


def _bytes_by_row(
    table: pq.ParquetFile, column: BytesColumn, requested: Iterable[int]
) -> Generator[bytes | None, None, None]:
    row_iterator = iter(requested)
    target = next(row_iterator, None)
    start = 0
    for group in range(table.num_row_groups):
        end = start + table.metadata.row_group(group).num_rows
        if target is None:
            return
        if target < end:
            row = start
            for batch in table.iter_batches(batch_size=64, row_groups=[group], columns=[column.address]):
                while target is not None and target < row + batch.num_rows:
                    value = batch.column(0)[target - row].as_py()
                    yield value[column.field] if column.field and value is not None else value
                    target = next(row_iterator, None)
                row += batch.num_rows
        start = end


def _bounded(data: bytes, limit: int) -> Fetched:
    return _too_large(len(data), limit) if len(data) > limit else Fetched(data, Status.OK)


def _too_large(size_bytes: int, limit: int) -> Fetched:
    size = f"more than {limit:,}" if size_bytes == limit + 1 else f"{size_bytes:,}"
    return Fetched(None, Status.TOO_LARGE, f"{size} bytes; --max-image-bytes is {limit:,}")
