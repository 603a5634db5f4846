"""``agegender rescore OUTPUT``: score images of a finished predict run again. This module does not import Ray.

It is a nested run under OUTPUT/_work/rescore, with its own listing, units and parts::

    _work/listing/unit-*.parquet   the images as listed now, each with its unit of OUTPUT
    rescore.json                   collecting is complete; from here on the next ``rescore`` scores and commits them

When all are scored, each part of OUTPUT with such rows is replaced under the same name, which is atomic on disk and on S3:
a reader that opens the part finds the old rows or the new ones, each image once. Then the listing gets the new sizes and
etags. All steps are idempotent, so a killed ``rescore`` can be repeated.
"""

import json
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agegender.config import PredictConfig, RescoreConfig
from agegender.errors import AccountingError, ConfigError, InputError
from agegender.pipelines.engine import local
from agegender.pipelines.predict.launch import may_be_local
from agegender.pipelines.predict.lease import Lease
from agegender.pipelines.predict.ledger import (
    COUNTS_KEY,
    ROW_GROUP_ROWS,
    Ledger,
    counts_of,
    part_counts,
    parts_of,
)
from agegender.pipelines.predict.scoring import Run, check_bad_fraction, check_run, counted, score_into
from agegender.pipelines.predict.worker import PredictStats
from agegender.pipelines.runtime.layout import OutputLayout, listing_index, unit_uri
from agegender.pipelines.runtime.run_record import DONE, claim_output, finish_record, read_record
from agegender.pipelines.source.fetch import read_unit
from agegender.pipelines.source.listed_image import ListedImage
from agegender.pipelines.source.listing import to_table
from agegender.pipelines.source.reader import SourceReader
from agegender.pipelines.source.seen_uris import Earlier, SeenUris
from agegender.pipelines.source.streaming_listing import has_changed, load_units
from agegender.storage import files, tables

logger = logging.getLogger(__name__)

UNIT = pa.field("agegender_unit", pa.int64())
"""The unit of OUTPUT that contains the image; kept from the listing in the rows, like a manifest's columns."""


def run_rescore(config: RescoreConfig) -> dict[str, Any]:
    """Score images of a finished run again and replace their rows.

    Returns:
        The closing summary: the number of rescored images, and the new counts of the whole run.

    Raises:
        ConfigError: the run is not finished, its model or detector has changed, or nothing was selected; nothing was
            changed.
        InputError: OUTPUT has no predict run, or more bad files than its ``max_bad_fraction`` (the output is kept).
        ResourceError: storage or cluster failed; the same command resumes.
    """
    output = files.absolute(config.output)
    record = read_record(output, "predict")
    if record is None:
        raise InputError(f"{output} holds no predict run: _run.json is missing. Give the OUTPUT of `agegender predict`")
    if record["state"] != DONE:
        raise ConfigError(f"{output}: this run is not finished. Run its `agegender predict` command again first")
    recorded = _recorded_config(output, record)
    overrides = config.cluster().model_dump() | {"num_workers": config.num_workers, "save_crops": False}
    run = check_run(recorded.model_copy(update=overrides))
    run.placement.check()
    claim_output(output, "predict", run.config, run.identity)
    with Lease(output) as lease:
        return _rescore(config, run, recorded, record["result"], lease)


def _recorded_config(output: str, record: dict[str, Any]) -> PredictConfig:
    """The config of the run as its record has it; options that are gone since are left out."""
    known = {name: value for name, value in record["config"].items() if name in PredictConfig.model_fields}
    return PredictConfig.model_validate(known | {"output": output})


def _rescore(
    config: RescoreConfig, run: Run, recorded: PredictConfig, before: dict[str, Any], lease: Lease
) -> dict[str, Any]:
    output = run.config.output
    started_s, stats = time.monotonic(), PredictStats()
    collector = RescoreCollector(output)
    rescored = collector.images
    if rescored:
        logger.info("%s: resuming %d images collected by an earlier rescore", output, rescored)
        _score_and_commit(run, collector, stats, lease)
    elif not (config.changed or config.status):
        raise ConfigError(
            "nothing to score again: give --changed, --status or both. `agegender rescore --help` explains them"
        )
    if config.changed or config.status:
        collector.collect(run.config, changed=config.changed, statuses=config.status)
        rescored += collector.images
        _score_and_commit(run, collector, stats, lease)
    totals = Ledger(output, run.metadata).totals
    result = {**before, **counted(totals)}
    if config.changed:
        result = {name: value for name, value in result.items() if not name.startswith("changed_")}
    finish_record(output, "predict", recorded, run.identity, result)  # where this rescore ran is not the run's config
    check_bad_fraction(run.config, totals)
    return {
        "images_rescored": rescored,
        **counted(totals),
        "workers_lost": stats.workers_lost or None,
        "units_tried_again": stats.unit_retries or None,
        "seconds": round(time.monotonic() - started_s, 1),
        "output": output,
    }


def _score_and_commit(run: Run, collector: "RescoreCollector", stats: PredictStats, lease: Lease) -> None:
    inner = replace(run, config=run.config.model_copy(update={"output": collector.layout.output}))
    ledger = Ledger(collector.layout.output, run.metadata, lease.check)
    units = [collector.address(number) for number in range(collector.units) if not ledger.is_done(number)]
    if units:
        locally = may_be_local(run.config) and collector.images <= local.MAX_IMAGES
        score_into(inner, iter(units), ledger, stats, locally=locally, label="rescore")
    ledger.publish_rest()
    lease.check()
    collector.commit()


class RescoreCollector:
    """Collects the images of a run to score again, and commits their new rows.

    Args:
        output: OUTPUT of the run.
    """

    def __init__(self, output: str) -> None:
        self._run = OutputLayout(output)
        self.layout = self._run.rescore
        """Of the nested run."""
        self._index_uri = self._run.rescore_index
        self._rows: list[ListedImage] = []
        self._units: list[int] = []
        self.units = self.images = 0
        """Collected by this process or an earlier one, and not yet committed."""
        if files.exists(self._index_uri):
            index = files.read_json(self._index_uri)
            self.units, self.images = index["units"], index["images"]

    def collect(self, config: PredictConfig, *, changed: bool, statuses: Sequence[str]) -> None:
        """List the source of the run and collect images as they are now.

        Args:
            config: of the run.
            changed: whether to collect images whose size or etag differ.
            statuses: collect images with one of these statuses.
        """
        self._clear()  # left by a run that was killed while collecting
        units = files.read_json(listing_index(self._run.listing))["units"]
        reader = SourceReader(config.source(), tuple(config.keep_columns), Counter())
        with SeenUris() as seen:
            for _ in load_units(seen, [unit_uri(self._run.listing, number) for number in range(units)]):
                pass
            seen.mark(self._uris(statuses))
            for image in reader.images():
                earlier = seen.add(image.uri)
                if isinstance(earlier, Earlier) and (earlier.marked or (changed and has_changed(image, earlier))):
                    self._add(image, earlier.unit, reader.keep_fields, config.unit_images)
        if self._rows:
            self._write(reader.keep_fields)
        if self.units:
            files.write_json(self._index_uri, {"units": self.units, "images": self.images})

    def _clear(self) -> None:
        """Delete everything, the index first."""
        self.units = self.images = 0
        files.delete(self._index_uri)
        files.delete_folder(self.layout.output)

    def _uris(self, statuses: Sequence[str]) -> Iterator[str]:
        """Uris of the rows of some statuses, read from the parts."""
        if not statuses:
            return
        for _, _, part in parts_of(self._run.output):
            with files.open_for_reading(part) as stream:
                for batch in pq.ParquetFile(stream).iter_batches(columns=["uri", "status"]):
                    status = batch.column("status").cast(pa.string())
                    selected = pc.is_in(status, value_set=pa.array(statuses, pa.string()))
                    yield from batch.column("uri").filter(selected).to_pylist()

    def _add(self, image: ListedImage, unit: int, keep_fields: Sequence[pa.Field], unit_images: int) -> None:
        self._rows.append(image)
        self._units.append(unit)
        if len(self._rows) == unit_images:
            self._write(keep_fields)

    def _write(self, keep_fields: Sequence[pa.Field]) -> None:
        table = to_table(self._rows, keep_fields).append_column(UNIT, pa.array(self._units, UNIT.type))
        tables.write_table(self.address(self.units), table)
        self.units, self.images = self.units + 1, self.images + table.num_rows
        self._rows, self._units = [], []

    def address(self, number: int) -> str:
        """Listing of a unit of the nested run."""
        return unit_uri(self.layout.listing, number)

    def commit(self) -> None:
        """Replace the old rows by the new ones, after all units are scored and published.

        Raises:
            AccountingError: the number of images in a part would change; the part is left unchanged.
        """
        for first, last, part in parts_of(self._run.output):
            new = [_of_units(uri, first, last) for _, _, uri in parts_of(self.layout.output)]
            rows = [table for table in new if table.num_rows]
            if rows:
                replace_rows(part, pa.concat_tables(rows).drop_columns(UNIT.name))
                for number in range(self.units):
                    self._relist(_of_units(self.address(number), first, last))
        self._clear()

    def _relist(self, images: pa.Table) -> None:
        for unit in pc.unique(images.column(UNIT.name)).to_pylist():
            address = unit_uri(self._run.listing, unit)
            new = images.filter(pc.equal(images.column(UNIT.name), unit)).drop_columns(UNIT.name)
            old = read_unit(address)
            place = pc.index_in(old.column("uri"), value_set=new.column("uri").combine_chunks())
            index = pc.if_else(pc.is_valid(place), pc.add(place, old.num_rows), pa.array(range(old.num_rows)))
            tables.write_table(address, pa.concat_tables([old, new.cast(old.schema)]).take(index))


def _of_units(uri: str, first: int, last: int) -> pa.Table:
    """Rows of a file with the column ``UNIT`` for units FIRST to LAST."""
    with files.open_for_reading(uri) as stream:
        return pq.read_table(stream, filters=[(UNIT.name, ">=", first), (UNIT.name, "<=", last)])


def replace_rows(part: str, new: pa.Table) -> None:
    """Replace the rows of some images in a part; its name, images and other metadata stay the same.

    Args:
        part: address of the part.
        new: all rows of these images, with the columns of the part.

    Raises:
        AccountingError: the part does not contain each of these images exactly once.
    """
    uris = pc.unique(new.column("uri"))
    with tempfile.TemporaryDirectory(prefix="agegender-part-") as folder:
        path = Path(folder) / "part.parquet"
        with files.open_for_reading(part) as stream:
            old = pq.ParquetFile(stream)
            counted = ["uri", "face_index", "status", "warning"]
            removed = counts_of(pa.concat_tables(_batches(old, uris, True, counted)))
            added = counts_of(new)
            if not removed.images == added.images == len(uris):
                raise AccountingError(
                    f"{part}: {len(uris)} images were rescored into {added.images}, and the part has {removed.images} of them. "
                    "The part was left unchanged. This is a defect: keep the folder and report it"
                )
            counts = json.dumps(asdict(part_counts(part) + added - removed), sort_keys=True)
            schema = old.schema_arrow.with_metadata({**old.schema_arrow.metadata, COUNTS_KEY: counts.encode()})
            with pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for kept in _batches(old, uris, False):
                    writer.write_table(kept.cast(schema))
                writer.write_table(new.select(schema.names).cast(schema))
        with path.open("rb") as whole:
            files.write_from(whole, part)


def _batches(
    part: pq.ParquetFile, uris: pa.Array, among: bool, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The rows whose uri is, or is not, among ``uris``."""
    for batch in part.iter_batches(batch_size=ROW_GROUP_ROWS, columns=columns):
        found = pc.is_in(batch.column("uri"), value_set=uris)
        yield pa.Table.from_batches([batch.filter(found if among else pc.invert(found))])
