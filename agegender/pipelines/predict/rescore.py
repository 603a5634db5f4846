"""Rows that are scored again on demand: images replaced under their names, and statuses worth another try. No Ray.

A run within the run, under OUTPUT/_work/again, with a listing, units and parts of its own::

    _work/listing/unit-*.parquet   the images as they are listed now, and the unit of OUTPUT that holds each
    again.json                     all are listed; from here on the next run of any kind goes on with them

When all are scored, each part of OUTPUT that holds such rows is replaced as a whole under its own name, which both disk and
S3 do at one stroke: a reader that opens the part finds the old rows of it or the new ones, each image once. Then the
listing learns the new sizes and etags. Whatever is killed in between is done again with the same outcome.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agegender.errors import AccountingError
from agegender.pipelines.predict.ledger import COUNTS_KEY, ROW_GROUP_ROWS, UnitCounts, counts_of, part_counts, parts_of
from agegender.pipelines.source.listing import read_unit, to_table, unit_uri
from agegender.pipelines.source.reader import ListedImage
from agegender.storage import files, tables

UNIT = pa.field("agegender_unit", pa.int64())
"""Carried from the listing into the rows, as a manifest's columns are: the unit of OUTPUT that holds the image."""


class Rescoring:
    """What of a run is scored again; ``growing.Again``.

    Args:
        output: OUTPUT of the run.
        unit_images: images in one unit of work.
        takes_changed: whether images that were replaced under their names are scored again.
        statuses: rows of which status are.
    """

    def __init__(self, output: str, unit_images: int, takes_changed: bool, statuses: Sequence[str]) -> None:
        self._run, self._statuses, self._unit_images = output, statuses, unit_images
        self.takes_changed = takes_changed
        self.output = files.join(output, "_work", "again")
        """OUTPUT of the run within the run."""
        self._index_uri = files.join(self.output, "again.json")
        self._rows: list[ListedImage] = []
        self._units: list[int] = []
        self.units = self.images = 0
        if files.exists(self._index_uri):
            index = files.read_json(self._index_uri)
            self.units, self.images = index["units"], index["images"]
        self.collects = not self.units and (takes_changed or bool(statuses))
        """Whether the listing is to hand images on; not while those of an earlier run wait for their new rows."""
        if self.collects:
            self.clear()  # what a run left that was killed while it collected

    def clear(self) -> None:
        """Forget everything, the mark first."""
        files.delete(self._index_uri)
        for info in list(files.list_files(self.output, allow_empty=True, hidden=True)):
            files.delete(info.uri)

    def uris(self) -> Iterator[str]:
        """Uris of the rows of the statuses, read from the parts and from the units that are scored but in none."""
        if not self._statuses:
            return
        staged = files.list_files(files.join(self._run, "_work", "scored"), allow_empty=True)
        addresses = [uri for _, _, uri in parts_of(self._run)]
        addresses += [info.uri for info in staged if info.uri.endswith(".parquet")]
        for address in addresses:
            with files.open_for_reading(address) as stream:
                for batch in pq.ParquetFile(stream).iter_batches(columns=["uri", "status"]):
                    status = batch.column("status").cast(pa.string())
                    wanted = pc.is_in(status, value_set=pa.array(self._statuses, pa.string()))
                    yield from batch.column("uri").filter(wanted).to_pylist()

    def take(self, image: ListedImage, unit: int, keep_fields: Sequence[pa.Field]) -> None:
        """Note an image as it is listed now, and the unit that holds it."""
        self._rows.append(image)
        self._units.append(unit)
        if len(self._rows) == self._unit_images:
            self._write(keep_fields)

    def close(self, keep_fields: Sequence[pa.Field]) -> None:
        """All were noted."""
        if self._rows:
            self._write(keep_fields)
        if self.units:
            files.write_json(self._index_uri, {"units": self.units, "images": self.images})

    def _write(self, keep_fields: Sequence[pa.Field]) -> None:
        table = to_table(self._rows, keep_fields).append_column(UNIT, pa.array(self._units, UNIT.type))
        tables.write_table(self.address(self.units), table)
        self.units, self.images = self.units + 1, self.images + table.num_rows
        self._rows, self._units = [], []

    def address(self, number: int) -> str:
        """Listing of a unit of the run within the run."""
        return unit_uri(files.join(self.output, "_work", "listing"), number)

    def take_over(self) -> None:
        """Put the new rows in place of the old ones, when all units are scored and published under ``output``.

        Raises:
            AccountingError: a part would hold another number of images than before; it is left as it is.
        """
        for first, last, part in parts_of(self._run):
            rows = [table for _, _, uri in parts_of(self.output) if (table := _of_units(uri, first, last)).num_rows]
            if rows:
                replace_rows(part, pa.concat_tables(rows).drop_columns(UNIT.name))
                for number in range(self.units):
                    self._relist(_of_units(self.address(number), first, last))
        self.clear()

    def _relist(self, images: pa.Table) -> None:
        for unit in pc.unique(images.column(UNIT.name)).to_pylist():
            address = unit_uri(files.join(self._run, "_work", "listing"), unit)
            new = images.filter(pc.equal(images.column(UNIT.name), unit)).drop_columns(UNIT.name)
            old = read_unit(address)
            place = pc.index_in(old.column("uri"), value_set=new.column("uri").combine_chunks())
            index = pc.if_else(pc.is_valid(place), pc.add(place, old.num_rows), pa.array(range(old.num_rows)))
            tables.write_table(address, pa.concat_tables([old, new.cast(old.schema)]).take(index))


def _of_units(uri: str, first: int, last: int) -> pa.Table:
    """Rows of a file with ``UNIT`` whose unit is among FIRST to LAST."""
    with files.open_for_reading(uri) as stream:
        return pq.read_table(stream, filters=[(UNIT.name, ">=", first), (UNIT.name, "<=", last)])


def replace_rows(part: str, new: pa.Table) -> None:
    """Replace a part by itself with the rows of some images exchanged; its images, name and other metadata stay.

    Args:
        part: address of the part.
        new: all rows of the exchanged images, the columns of the part.

    Raises:
        AccountingError: the part does not hold exactly one entry for each of these images.
    """
    exchanged = pc.unique(new.column("uri"))
    with tempfile.TemporaryDirectory(prefix="agegender-part-") as folder:
        path = Path(folder) / "part.parquet"
        with files.open_for_reading(part) as stream:
            old = pq.ParquetFile(stream)
            gone = sum(map(counts_of, _batches(old, exchanged, True, ["uri", "face_index", "status"])), UnitCounts())
            come = counts_of(new)
            if not gone.images == come.images == len(exchanged):
                raise AccountingError(
                    f"{part}: {len(exchanged)} images were scored again into {come.images}, of which it holds {gone.images}. "
                    "It was left as it is. This is a defect: keep the folder and report it"
                )
            counts = json.dumps(asdict(part_counts(part) + come - gone), sort_keys=True)
            schema = old.schema_arrow.with_metadata({**old.schema_arrow.metadata, COUNTS_KEY: counts.encode()})
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for kept in _batches(old, exchanged, False):
                    writer.write_table(kept.cast(schema))
                writer.write_table(new.select(schema.names).cast(schema))
        with path.open("rb") as whole:
            files.write_from(whole, part)


def _batches(
    part: pq.ParquetFile, uris: pa.Array, among: bool, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The rows whose uri is, or is not, among some."""
    for batch in part.iter_batches(batch_size=ROW_GROUP_ROWS, columns=columns):
        found = pc.is_in(batch.column("uri"), value_set=uris)
        yield pa.Table.from_batches([batch.filter(found if among else pc.invert(found))])
