"""The scored units of an evaluation -> one Parquet file, and the values per image that metrics need, on the driver."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agegender.data.races import MAX_NAMES, OTHER_GROUPS, largest_groups
from agegender.evaluation.metrics import Observations, bucketed
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.pipelines.source.listing import Listing
from agegender.schema import SOURCE, TRUE_LABELS, Status
from agegender.storage import files, tables

Keys = npt.NDArray[np.uint64]
"""Sorted first 8 bytes of content hashes."""


@dataclass(frozen=True)
class Gathered:
    """Values on the driver: under 64 bytes for each evaluated image."""

    observations: Observations
    """The readable images with a label."""

    races: tuple[str, ...]
    """The names of the groups that ``observations.race`` counts."""

    sources: tuple[str, ...]
    """The names of the sources that ``observations.source`` counts."""

    unit: npt.NDArray[np.int32]
    """int32[N], index of the unit of each image."""

    row: npt.NDArray[np.int32]
    """int32[N], row of each image in the table of its unit."""

    by_status: dict[str, int]
    """Images by status, including unlabelled ones."""

    status_by_source: dict[str, dict[str, int]]
    """The same for each source."""

    unlabelled: int
    """Readable images without a label."""

    seen_in_training: int
    """Of ``observations``, images that the model was trained on, by content."""


def with_label_columns(listed: pa.Table) -> pa.Table:
    """Append copies of a listing's labels, as columns that scoring keeps."""
    for name, source in TRUE_LABELS.items():
        listed = listed.append_column(name, listed.column(source))
    return listed


def observations_of(output: str, listing: Listing, corruption: str) -> Observations:
    """The observations of a corruption of the images of ``gather``."""
    parts = []
    for unit in listing.units:
        table = tables.read_table(OutputLayout(output).evaluated(unit, corruption))
        parts.append(_observations(table.take(pa.array(_usable_rows(table)))))
    return bucketed(Observations.joined(parts))


def content_keys(hashes: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """First 8 bytes of content hashes of 16, little-endian, uint64[N]; nulls are 0."""
    whole = b"".join(digest or bytes(16) for digest in hashes.to_pylist())
    return np.frombuffer(whole, "<u8")[::2].astype(np.uint64)


def is_among(keys: Keys, digest: bytes) -> bool:
    """Whether the key of a content hash is among sorted keys."""
    key = np.frombuffer(digest[:8], "<u8")[0]
    at = int(np.searchsorted(keys, key))
    return at < keys.size and bool(keys[at] == key)


def gather(
    output: str, listing: Listing, training_keys: Keys, metadata: dict[str, str], sources: Sequence[str]
) -> Gathered:
    """Stream every scored unit into OUTPUT/predictions.parquet and collect the observations.

    Args:
        output: of the run.
        listing: all of its units must be scored.
        training_keys: uint64[M], sorted: content of the model's training images.
        metadata: for the Parquet file.
        sources: their names.
    """
    parts: list[Observations] = []
    names = {OTHER_GROUPS: 0}
    races: list[npt.NDArray[np.int16]] = []
    of_source: list[npt.NDArray[np.int16]] = []
    rows_of_units: list[tuple[int, npt.NDArray[np.int32]]] = []
    by_source: dict[str, Counter[str]] = {name: Counter() for name in sources}
    unlabelled = seen_in_training = 0
    with tempfile.TemporaryFile() as file:
        writer: pq.ParquetWriter | None = None
        for number, unit in enumerate(listing.units):
            table = tables.read_table(OutputLayout(output).evaluated(unit))
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema.with_metadata(metadata), compression="zstd")
            writer.write_table(table.replace_schema_metadata(metadata))
            source = source_of(table)
            by_source[source or sources[0]].update(table.column("status").to_pylist())
            rows = _usable_rows(table)
            usable = table.take(pa.array(rows))
            parts.append(_observations(usable))
            races.append(_name_codes(usable.column("true_race"), names))
            of_source.append(np.full(rows.size, -1 if source is None else sources.index(source), dtype=np.int16))
            rows_of_units.append((number, rows))
            unlabelled += int(pc.sum(pc.equal(table.column("status"), Status.OK.value)).as_py() or 0) - rows.size
            seen_in_training += int(np.isin(content_keys(usable.column("content_hash")), training_keys).sum())
        if writer is not None:
            writer.close()
        file.seek(0)
        files.write_from(file, OutputLayout(output).predictions)
    units = np.repeat(
        np.array([number for number, _ in rows_of_units], np.int32), [rows.size for _, rows in rows_of_units]
    )
    groups, codes = _groups(list(names), np.concatenate(races))
    return Gathered(
        bucketed(replace(Observations.joined(parts), race=codes, source=np.concatenate(of_source))),
        groups,
        tuple(sources),
        units,
        np.concatenate([rows for _, rows in rows_of_units]),
        _in_order(sum(by_source.values(), Counter())),
        {name: _in_order(counts) for name, counts in by_source.items()},
        unlabelled,
        seen_in_training,
    )


def source_of(unit: pa.Table) -> str | None:
    """The source that all rows of a unit are of; None without rows, or in a unit of an earlier release."""
    if not unit.num_rows or SOURCE.name not in unit.column_names:
        return None
    name: str = unit.column(SOURCE.name)[0].as_py()
    return name


def _in_order(counts: Counter[str]) -> dict[str, int]:
    return {status.value: counts[status.value] for status in Status if counts[status.value]}


def _usable_rows(table: pa.Table) -> npt.NDArray[np.int32]:
    """Rows with predictions and at least one label."""
    ok = pc.equal(table.column("status"), Status.OK.value)
    labelled = pc.or_(pc.is_valid(table.column("true_age_low_years")), pc.is_valid(table.column("true_gender")))
    return np.flatnonzero(pc.and_(ok, labelled).to_numpy()).astype(np.int32)


def _name_codes(column: pa.ChunkedArray, names: dict[str, int]) -> npt.NDArray[np.int16]:
    """The code of each name, int16[N], -1 if null; ``names`` grows by those that are new."""
    encoded = column.combine_chunks().dictionary_encode()
    for name in encoded.dictionary.to_pylist():
        if len(names) <= MAX_NAMES:
            names.setdefault(name, len(names))
    codes = [names.get(name, names[OTHER_GROUPS]) for name in encoded.dictionary.to_pylist()]
    indices: npt.NDArray[np.int32] = np.asarray(pc.fill_null(encoded.indices, -1), dtype=np.int32)
    return np.array([*codes, -1], dtype=np.int16)[indices]


def _groups(names: list[str], codes: npt.NDArray[np.int16]) -> tuple[tuple[str, ...], npt.NDArray[np.int8]]:
    """The groups that are told apart, and the index of each image's, int8[N], -1 if null."""
    counts = np.bincount(codes[codes >= 0], minlength=len(names)).tolist()
    groups = tuple(largest_groups({name: count for name, count in zip(names, counts, strict=True) if count}))
    others = groups.index(OTHER_GROUPS) if OTHER_GROUPS in groups else -1
    index = [groups.index(name) if name in groups else others for name in names]
    return groups, np.array([*index, -1], dtype=np.int8)[codes]


def _observations(table: pa.Table) -> Observations:
    """The observations of scored rows, without races and buckets, which are known when all rows are."""
    exact = pc.is_valid(table.column("true_age_years")).to_numpy()
    low, high = (_numbers(table, f"true_age_{end}_years", np.nan, np.float32) for end in ("low", "high"))
    unknown = np.full(table.num_rows, -1, dtype=np.int8)
    return Observations(
        age_true=_numbers(table, "true_age_years", np.nan, np.float32),
        gender_true=_numbers(table, "true_gender", -1, np.int8),
        race=unknown,
        age_pred=_numbers(table, "age_years", np.nan, np.float32),
        age_low=_numbers(table, "age_low_years", np.nan, np.float32),
        age_high=_numbers(table, "age_high_years", np.nan, np.float32),
        female_probability=_numbers(table, "female_probability", np.nan, np.float32),
        range_low=np.where(exact, np.float32(np.nan), low),
        range_high=np.where(exact, np.float32(np.nan), high),
        bucket_steps=unknown,
        source=unknown.astype(np.int16),
    )


def _numbers(table: pa.Table, name: str, missing: float, kind: Any) -> npt.NDArray[Any]:
    column = table.column(name)
    return np.asarray(pc.fill_null(column, pa.scalar(missing, column.type)), dtype=kind)


def rows_at(output: str, listing: Listing, unit: int, rows: Sequence[int]) -> pa.Table:
    """Read some rows of a scored unit."""
    return tables.read_table(OutputLayout(output).evaluated(listing.units[unit])).take(pa.array(rows, pa.int64()))
