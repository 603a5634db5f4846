"""State of a predict run: the scored units, and the published parts. No Ray.

Under OUTPUT::

    _work/listing/            the units of the listing
    _work/scored/NAME.parquet rows of a unit, written atomically by the worker that scored it
    _work/scored/NAME.json    its counts, written after the rows: this file marks the unit as done
    part-FIRST-LAST.parquet   the rows of units FIRST to LAST, written atomically; the counts are in its metadata. Only
                              ``rescore`` replaces it, as a whole

A unit is done if its counts or a part that covers it exist, so a run that was killed at any point resumes from these names.
Memory: the counts of the staged units that are not yet in a part.
"""

import json
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agegender.errors import InputError, ResourceError
from agegender.pipelines.runtime.layout import OutputLayout, part_units, unit_number
from agegender.schema import Status
from agegender.storage import files, tables

PART_BYTES = 128_000_000
PART_ROWS = 1_000_000
"""A part is published when it reaches either limit: large enough for query engines, small enough to delay few units."""

REQUESTS_IN_FLIGHT = 16
"""To S3, where each small file costs a round trip."""

ROW_GROUP_ROWS = 131_072
COUNTS_KEY = b"agegender.counts"
T = TypeVar("T")


@dataclass(frozen=True)
class UnitCounts:
    """Counts of one or several scored units."""

    images: int = 0
    rows: int = 0
    size_bytes: int = 0
    by_status: dict[str, int] | None = None
    """Images, not rows, of each status."""
    images_with_warning: int = 0
    """Images with a warning in any of their rows."""
    faces: int = 0
    """Rows that are scored."""

    def __add__(self, other: "UnitCounts") -> "UnitCounts":
        by_status = Counter(self.by_status or {}) + Counter(other.by_status or {})
        size_bytes, warned = self.size_bytes + other.size_bytes, self.images_with_warning + other.images_with_warning
        faces = self.faces + other.faces
        return UnitCounts(
            self.images + other.images, self.rows + other.rows, size_bytes, dict(by_status), warned, faces
        )

    def __sub__(self, other: "UnitCounts") -> "UnitCounts":
        by_status = Counter(self.by_status or {}) - Counter(other.by_status or {})
        size_bytes, warned = self.size_bytes - other.size_bytes, self.images_with_warning - other.images_with_warning
        faces = self.faces - other.faces
        return UnitCounts(
            self.images - other.images, self.rows - other.rows, size_bytes, dict(by_status), warned, faces
        )


def counts_of(table: pa.Table, size_bytes: int = 0) -> UnitCounts:
    """Counts of all rows of some images; each image has exactly one row with face_index 0."""
    images = table.column("status").filter(pc.equal(table.column("face_index"), 0))
    warned = pc.count_distinct(table.column("uri").filter(pc.is_valid(table.column("warning")))).as_py()
    return UnitCounts(
        len(images),
        table.num_rows,
        size_bytes,
        dict(Counter(images.to_pylist())),
        images_with_warning=warned,
        faces=pc.sum(pc.equal(table.column("status").cast(pa.string()), Status.OK.value)).as_py() or 0,
    )


def stage_unit(output: str, unit_uri: str, table: pa.Table) -> UnitCounts:
    """Write the rows of a scored unit, then its counts; called by the worker that scored it.

    Args:
        output: OUTPUT of the run.
        unit_uri: address of the unit's listing.
        table: its rows, ``schema.prediction_schema``.
    """
    layout, number = OutputLayout(output), unit_number(unit_uri)
    counts = counts_of(table, tables.write_table(layout.scored_rows(number), table))
    files.write_json(layout.scored_counts(number), asdict(counts))
    return counts


class Ledger:
    """The state of a run's output.

    Within ``with`` a part is written in a background thread; the next part waits for it. An error there is raised by one of
    the next calls, or at the end of ``with``.

    Args:
        output: OUTPUT of the run.
        metadata: written into every part: model id and hash, config hash, versions.
        may_publish: called before a part is written; raises if another driver has taken over.
    """

    def __init__(self, output: str, metadata: dict[str, str], may_publish: Callable[[], None] = lambda: None) -> None:
        self._output, self._layout = output, OutputLayout(output)
        self._metadata, self._may_publish = metadata, may_publish
        self.totals = UnitCounts()
        """Counts of all scored units, published or not."""
        self.parts = 0
        self._next = 0  # the first unit that is in no part
        self._staged: dict[int, UnitCounts] = {}
        self._ready = UnitCounts()  # of the contiguous units from _next on, for the next part
        self._ready_end = 0
        self._publisher: ThreadPoolExecutor | None = None
        self._publishing: Future[None] | None = None
        self._recover()

    def __enter__(self) -> Self:
        self._publisher = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._publisher is not None
        self._publisher.shutdown()  # the lease of the run must be held until then
        self._publisher = None
        if error is None:
            self._wait_for_part()

    def _recover(self) -> None:
        for first, last, uri in parts_of(self._output):
            if first != self._next:
                break  # we never write such parts: score the units again
            self.totals += part_counts(uri)
            self.parts += 1
            self._next = self._ready_end = last + 1
        for number, counts in staged_units(self._output).items():
            if number >= self._next:
                self._count(number, counts)
            else:
                self._delete_staged([number])  # published; the driver was killed before it deleted the staged rows

    @property
    def units(self) -> int:
        """Units that are scored, published or not."""
        return self._next + len(self._staged)

    def is_done(self, number: int) -> bool:
        """Whether a unit is scored."""
        return number < self._next or number in self._staged

    def add(self, unit_uri: str, counts: UnitCounts) -> None:
        """Count a unit that was staged, and publish a part when it is full."""
        if self._publishing is not None and self._publishing.done():
            self._wait_for_part()
        self._count(unit_number(unit_uri), counts)
        self._publish_full()

    def publish_rest(self) -> None:
        """Publish the remaining units as the last part."""
        self._publish_full()
        if self._ready_end > self._next:
            self._publish()

    def _publish_full(self) -> None:
        while self._ready_end in self._staged:
            self._ready += self._staged[self._ready_end]
            self._ready_end += 1
            if self._ready.size_bytes >= PART_BYTES or self._ready.rows >= PART_ROWS:
                self._publish()

    def _count(self, number: int, counts: UnitCounts) -> None:
        self._staged[number] = counts
        self.totals += counts

    def _publish(self) -> None:
        self._wait_for_part()
        run, counts = range(self._next, self._ready_end), self._ready
        self._next, self._ready = self._ready_end, UnitCounts()
        for number in run:
            del self._staged[number]
        if self._publisher is None:
            self._write_part_file(run, counts)
            self.parts += 1
        else:
            self._publishing = self._publisher.submit(self._write_part_file, run, counts)

    def _wait_for_part(self) -> None:
        """Wait for the part in flight, and raise its error."""
        if self._publishing is not None:
            publishing, self._publishing = self._publishing, None
            publishing.result()
            self.parts += 1

    def _write_part_file(self, run: range, counts: UnitCounts) -> None:
        self._may_publish()
        uri = self._layout.part(run[0], run[-1])
        metadata = self._metadata | {COUNTS_KEY.decode(): json.dumps(asdict(counts), sort_keys=True)}
        staged = (self._layout.scored_rows(number) for number in run)
        try:
            with tempfile.TemporaryDirectory(prefix="agegender-part-") as folder:
                path = Path(folder) / "part.parquet"
                _write_part(path, _each(tables.read_table, staged, self._output), metadata)
                with path.open("rb") as part:
                    files.write_from(part, uri)
        except OSError as error:  # a local error; storage raises our own classes
            raise ResourceError(
                f"{tempfile.gettempdir()}: cannot write {uri} to this temporary folder first ({error}). Free "
                f"{PART_BYTES / 1e6:.0f} MB there or set TMPDIR to another folder, and run the same command again"
            ) from error
        self._delete_staged(run)

    def _delete_staged(self, numbers: Iterable[int]) -> None:
        staged = list(numbers)
        for address in (self._layout.scored_counts, self._layout.scored_rows):  # rows without counts are not a unit
            deque(_each(files.delete, map(address, staged), self._output), maxlen=0)


def _each(do: Callable[[str], T], uris: Iterable[str], output: str) -> Iterator[T]:
    """``map``, concurrent on S3; a local request is faster than dispatching it to a thread."""
    return files.read_ahead(do, uris, REQUESTS_IN_FLIGHT if files.is_s3(output) else 1)


def _write_part(path: Path, staged: Iterable[pa.Table], metadata: dict[str, str]) -> None:
    writer: pq.ParquetWriter | None = None
    buffer: list[pa.Table] = []
    buffered_rows = 0
    try:
        for table in staged:
            if writer is None:
                schema = table.schema.with_metadata({key.encode(): value.encode() for key, value in metadata.items()})
                writer = pq.ParquetWriter(path, schema, compression="zstd")
            buffer.append(table.cast(writer.schema))
            buffered_rows += table.num_rows
            if buffered_rows >= ROW_GROUP_ROWS:
                writer.write_table(pa.concat_tables(buffer), row_group_size=ROW_GROUP_ROWS)
                buffer, buffered_rows = [], 0
        if writer is not None and buffer:
            writer.write_table(pa.concat_tables(buffer), row_group_size=ROW_GROUP_ROWS)
    finally:
        if writer is not None:
            writer.close()


def parts_of(output: str) -> list[tuple[int, int, str]]:
    """(first unit, last unit, address) of every published part, ascending."""
    listed = files.list_files(output, allow_empty=True)
    return sorted((*units, info.uri) for info in listed if (units := part_units(info.uri)))


def part_counts(uri: str) -> UnitCounts:
    """The counts in a part's metadata.

    Raises:
        InputError: damaged, or not written by a run.
    """
    with files.open_for_reading(uri) as stream:
        try:
            metadata = pq.read_schema(stream).metadata or {}
            return _counts(json.loads(metadata[COUNTS_KEY]))
        except (pa.ArrowInvalid, OSError, KeyError) as error:
            if isinstance(error, OSError) and error.errno:  # a disk error; Arrow's errors have no errno
                raise
            raise InputError(
                f"{uri}: damaged, or not written by this command ({error}). Restore the file that the run wrote, or run into "
                "another --output"
            ) from error


def staged_units(output: str) -> dict[int, UnitCounts]:
    """Unit number -> counts, for the scored units that are not yet published."""
    found = files.list_files(OutputLayout(output).scored, allow_empty=True)
    uris = [info.uri for info in found if info.uri.endswith(".json")]
    return {
        unit_number(uri): _counts(counts)
        for uri, counts in zip(uris, _each(files.read_json, uris, output), strict=True)
    }


def _counts(values: dict[str, Any]) -> UnitCounts:
    return UnitCounts(**values)
