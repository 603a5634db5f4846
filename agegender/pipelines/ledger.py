"""Which units of a predict run are scored, and the parts that readers see. No Ray.

Under OUTPUT::

    _work/listing/            the units, written when listed
    _work/scored/NAME.parquet rows of a unit, written whole by the worker that scored it
    _work/scored/NAME.json    its counts, written after the rows: this file says that the unit is done
    part-FIRST-LAST.parquet   the rows of units FIRST to LAST, written whole and never again; the counts are in its metadata

A unit is done when its counts or a part that covers it exist, so a run that was killed anywhere goes on from these names.
"""

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agegender.pipelines.sources import Listing, unit_name
from agegender.storage import files, tables

PART_BYTES = 128_000_000
PART_ROWS = 1_000_000
"""A part is closed when it reaches either: large enough for engines, small enough to hold few units back."""

ROW_GROUP_ROWS = 131_072
COUNTS_KEY = b"agegender.counts"
_PART_NAME = re.compile(r"part-(\d{7})-(\d{7})\.parquet")


@dataclass(frozen=True)
class UnitCounts:
    """What came out of one unit, or of several together."""

    images: int = 0
    rows: int = 0
    size_bytes: int = 0
    by_status: dict[str, int] | None = None
    """Images, not rows, of each status."""

    def __add__(self, other: "UnitCounts") -> "UnitCounts":
        by_status = Counter(self.by_status or {}) + Counter(other.by_status or {})
        size_bytes = self.size_bytes + other.size_bytes
        return UnitCounts(self.images + other.images, self.rows + other.rows, size_bytes, dict(by_status))


def stage_unit(output: str, unit_uri: str, table: pa.Table) -> UnitCounts:
    """Write the rows of a scored unit, then its counts; called by the worker that scored it.

    Args:
        output: OUTPUT of the run.
        unit_uri: address of the unit's listing.
        table: its rows, ``schema.prediction_schema``; each image has exactly one row with face_index 0.
    """
    stem = _staged(output, unit_name(unit_uri))
    size_bytes = tables.write_table(f"{stem}.parquet", table)
    first_rows = table.column("status").filter(pa.compute.equal(table.column("face_index"), 0))
    by_status = Counter(first_rows.to_pylist())
    counts = UnitCounts(sum(by_status.values()), table.num_rows, size_bytes, dict(by_status))
    files.write_json(f"{stem}.json", asdict(counts))
    return counts


class Ledger:
    """The state of a run's output.

    Args:
        output: OUTPUT of the run.
        listing: its units.
        metadata: written into every part: model id and hash, config hash, versions.
    """

    def __init__(self, output: str, listing: Listing, metadata: dict[str, str]) -> None:
        self._output, self._metadata = output, metadata
        self._names = [unit_name(unit) for unit in listing.units]
        self._units = listing.units
        self.published = UnitCounts()
        self.parts = 0
        self._staged: dict[int, UnitCounts] = {}
        self._next = 0
        self._take_up()

    def _take_up(self) -> None:
        for first, last, uri in parts_of(self._output):
            if first != self._next:
                break  # cannot happen by our own writing; the units are scored again rather than trusted
            self.published += part_counts(uri)
            self.parts += 1
            self._next = last + 1
        for number, counts in staged_units(self._output).items():
            if number >= self._next:
                self._staged[number] = counts
            else:
                self._forget(number)  # published, but the kill came before it was removed

    @property
    def totals(self) -> UnitCounts:
        """Counts of everything that is scored, published or not."""
        return sum(self._staged.values(), self.published)

    def pending(self) -> list[str]:
        """Addresses of the units that are still to be scored."""
        return [unit for i, unit in enumerate(self._units) if i >= self._next and i not in self._staged]

    def add(self, unit_uri: str, counts: UnitCounts) -> None:
        """Take note of a unit that was staged, and publish what has become a part."""
        self._staged[_number(unit_name(unit_uri))] = counts
        for run in self._full_runs():
            self._publish(run)

    def publish_rest(self) -> None:
        """Publish the units that are left over as the last part."""
        run = list(self._run())
        if run:
            self._publish(run)

    def _run(self) -> Iterator[int]:
        number = self._next
        while number in self._staged:
            yield number
            number += 1

    def _full_runs(self) -> Iterator[list[int]]:
        run: list[int] = []
        size = UnitCounts()
        for number in list(self._run()):
            run.append(number)
            size += self._staged[number]
            if size.size_bytes >= PART_BYTES or size.rows >= PART_ROWS:
                yield run
                run, size = [], UnitCounts()

    def _publish(self, run: list[int]) -> None:
        counts = sum((self._staged[number] for number in run), UnitCounts())
        uri = files.join(self._output, f"part-{run[0]:07d}-{run[-1]:07d}.parquet")
        metadata = self._metadata | {COUNTS_KEY.decode(): json.dumps(asdict(counts), sort_keys=True)}
        with tempfile.TemporaryDirectory(prefix="agegender-part-") as folder:
            path = Path(folder) / "part.parquet"
            _write_part(path, (f"{_staged(self._output, self._names[number])}.parquet" for number in run), metadata)
            with path.open("rb") as part:
                files.write_from(part, uri)
        self.published += counts
        self.parts += 1
        self._next = run[-1] + 1
        for number in run:
            del self._staged[number]
            self._forget(number)

    def _forget(self, number: int) -> None:
        stem = _staged(self._output, self._names[number])
        for extension in ("json", "parquet"):  # the counts first: rows without counts are not a unit
            files.delete(f"{stem}.{extension}")


def _write_part(path: Path, staged: Iterable[str], metadata: dict[str, str]) -> None:
    writer: pq.ParquetWriter | None = None
    waiting: list[pa.Table] = []
    try:
        for table in map(tables.read_table, staged):
            if writer is None:
                schema = table.schema.with_metadata({key.encode(): value.encode() for key, value in metadata.items()})
                writer = pq.ParquetWriter(path, schema, compression="zstd")
            waiting.append(table.cast(writer.schema))
            if sum(t.num_rows for t in waiting) >= ROW_GROUP_ROWS:
                writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP_ROWS)
                waiting = []
        if writer is not None and waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP_ROWS)
    finally:
        if writer is not None:
            writer.close()


def parts_of(output: str) -> list[tuple[int, int, str]]:
    """(first unit, last unit, address) of every published part, ascending."""
    found = []
    for info in files.list_files(output, allow_empty=True):
        match = _PART_NAME.fullmatch(files.name(info.uri))
        if match:
            found.append((int(match[1]), int(match[2]), info.uri))
    return sorted(found)


def part_counts(uri: str) -> UnitCounts:
    """The counts in a part's metadata."""
    with files.open_for_reading(uri) as stream:
        metadata = pq.read_schema(stream).metadata or {}
    return _counts(json.loads(metadata[COUNTS_KEY]))


def staged_units(output: str) -> dict[int, UnitCounts]:
    """Unit number -> counts, of the units that are scored and not yet published."""
    folder = files.join(output, "_work", "scored")
    found = [info.uri for info in files.list_files(folder, allow_empty=True) if info.uri.endswith(".json")]
    return {_number(files.name(uri).removesuffix(".json")): _counts(files.read_json(uri)) for uri in found}


def _staged(output: str, name: str) -> str:
    return files.join(output, "_work", "scored", name)


def _number(name: str) -> int:
    return int(name.removeprefix("unit-"))


def _counts(values: dict[str, Any]) -> UnitCounts:
    return UnitCounts(**values)
