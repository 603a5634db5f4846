"""One look at every image of a listing, as a Ray Dataset: images, their facts, one Parquet of facts and a summary per unit.

    Listing -> read_units -> _unit_facts -> _store -> facts_uri/unit-*.parquet and summaries -> SetStatistics

The three are one task for each unit, and image rows never reach the driver: a unit comes back as one small summary.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agegender.data.face_searches import FaceSearches
from agegender.data.facts import image_facts
from agegender.data.samples import SampleSet, thumbnail_jpeg
from agegender.data.statistics import SetStatistics
from agegender.option_groups import ImageLimits
from agegender.pipelines.runtime import metrics
from agegender.pipelines.runtime.progress import Progress
from agegender.pipelines.runtime.session import own_errors, restore_default_signal_handlers
from agegender.pipelines.source.datasource import UNIT_FIELDS, Rows, Step, read_units
from agegender.pipelines.source.listing import Listing, unit_name, unit_number
from agegender.schema import FACTS, SOURCE, Status
from agegender.storage import files, tables

_TASK_CPUS = 1.0
FACE_PX = 200
"""Side of a face that is cut out of a photograph, as of UTKFace's crops."""

_MAX_RETRIES = 3
"""Of a unit whose process died; Ray Data's default is forever."""

SUMMARIES_IN_FLIGHT = 16

_WHOLE = FaceSearches(None)

_SAMPLE = pa.field("sample", pa.binary())
"""Thumbnail of an image that was drawn to be looked at, as JPEG."""

_STORED = pa.schema([("piece", pa.string()), ("is_last", pa.bool_()), ("summary", pa.large_binary())])

_PIECE_NAME = re.compile(r"(unit-\d+)(?:-rows-(\d+)-(\d+))?")


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a unit whose facts were written together: all of them, unless its facts are larger than a block."""

    unit: str
    """Name of the unit, as ``unit_name`` gives it."""

    rows: Rows | None = None
    """First row, and the row after the last; None: the whole unit."""

    @property
    def name(self) -> str:
        """Names the files that hold its facts and its summary."""
        return self.unit if self.rows is None else f"{self.unit}-rows-{self.rows[0]:07d}-{self.rows[1]:07d}"

    @property
    def order(self) -> tuple[int, Rows]:
        """Sorts pieces as the listing does; a whole unit comes before its pieces."""
        return unit_number(self.unit), self.rows or (-1, 0)

    def overlaps(self, before: Self) -> bool:
        """Whether it has a row that an earlier piece of the same unit has."""
        return self.rows is None or before.rows is None or self.rows[0] < before.rows[1]

    @classmethod
    def of_file(cls, uri: str) -> Self | None:
        """The piece that a file is named after; None: a file of another kind."""
        found = _PIECE_NAME.fullmatch(files.name(uri).partition(".")[0])
        if found is None:
            return None
        return cls(found[1], None if found[2] is None else (int(found[2]), int(found[3])))


@dataclass(frozen=True)
class GatheredFacts:
    """What ``gather_facts`` made."""

    statistics: SetStatistics
    uris: list[str]
    """The files with the facts, in the order of the listing; one per unit, unless a unit's facts are larger than a block."""


def gather_facts(
    listing: Listing,
    options: ImageLimits,
    facts_uri: str,
    *,
    summary_uri: str | None = None,
    samples: SampleSet | None = None,
    searches: FaceSearches = _WHOLE,
    command: str = "eda",
    placement: dict[str, Any] | None = None,
) -> GatheredFacts:
    """Note the facts of every listed image; units that are done already are not done again.

    Needs a running Ray. Each unit takes one CPU, and holds a block of images, about 32 MB, and the facts of its rows.

    Args:
        listing: what to look at.
        options: how bytes are read and bounded.
        facts_uri: folder for one Parquet of ``schema.FACTS`` per unit.
        summary_uri: folder for one summary per unit, which marks it done; default: ``_summaries`` inside facts_uri.
        searches: how the labelled face of each source's images is found; default: all are face crops.
        command: that looks, for the metrics.
        samples: an empty draw that says how many images to draw and with which seed; None: none.
        placement: Ray's options of where the tasks may run; None: anywhere.

    Raises:
        ResourceError: storage or cluster failed; finished units stay.
    """
    summary_uri = summary_uri or files.join(facts_uri, "_summaries")
    samples = samples or SampleSet(overall=0, per_group=0)
    done = _done_pieces(listing, summary_uri)
    names = {unit_name(unit): unit for unit in listing.units}
    pending = {unit: _rows_of(done[name]) for name, unit in names.items() if Piece(name) not in done[name]}
    steps = (
        (_unit_facts, {"limits": options.limits(), "searches": searches, "samples": samples}),
        (_store, {"facts_uri": facts_uri, "summary_uri": summary_uri, "samples": samples}),
    )
    earlier = _read_summaries([piece for name in names for piece in done[name]], summary_uri)
    fresh = _look(pending, options.limits(), steps, placement)
    pieces: list[Piece] = []
    total: SetStatistics | None = None
    with Progress(listing.images, "images", "look at images") as progress, own_errors():
        for piece, is_last, part in itertools.chain(earlier, fresh):
            pieces.append(piece)
            total = part if total is None else total.merged(part)
            progress.update(part.images, bad=total.images - total.statuses["ok"])
            metrics.count("agegender_units_total", int(is_last), command)
            for status, images in part.statuses.items():
                metrics.count("agegender_images_total", images, command, status=str(status))
    uris = [_facts_file(facts_uri, piece) for piece in sorted(pieces, key=lambda piece: piece.order)]
    _remove_others(facts_uri, set(uris))
    return GatheredFacts(total or SetStatistics(), uris)


def read_facts(uris: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
    """What ``gather_facts`` wrote, as one table; for sets whose facts fit into memory."""
    # Facts that an earlier release wrote have no source.
    return pa.concat_tables((tables.read_table(uri, columns) for uri in uris), promote_options="default")


def _done_pieces(listing: Listing, summary_uri: str) -> dict[str, list[Piece]]:
    """Name of each unit -> what earlier runs finished of it, ascending, no row twice."""
    done: dict[str, list[Piece]] = {unit_name(unit): [] for unit in listing.units}
    found = (Piece.of_file(file.uri) for file in files.list_files(summary_uri, allow_empty=True))
    for piece in sorted((piece for piece in found if piece is not None), key=lambda piece: piece.order):
        before = done.get(piece.unit)
        if before is not None and not (before and piece.overlaps(before[-1])):
            before.append(piece)
    return done


def _rows_of(pieces: Sequence[Piece]) -> list[Rows]:
    return [piece.rows for piece in pieces if piece.rows is not None]


def _read_summaries(pieces: Sequence[Piece], summary_uri: str) -> Iterator[tuple[Piece, bool, SetStatistics]]:
    """(Piece, whether it is a whole unit, its summary) of earlier runs."""
    wanted = (_summary_file(summary_uri, piece) for piece in pieces)
    for piece, data in zip(pieces, files.read_many(wanted, SUMMARIES_IN_FLIGHT), strict=True):
        if isinstance(data, files.ObjectAnswer):
            raise data
        yield piece, piece.rows is None, SetStatistics.from_bytes(data)


def _look(
    pending: dict[str, list[Rows]], limits: ImageLimits, steps: Sequence[Step], placement: dict[str, Any] | None
) -> Iterator[tuple[Piece, bool, SetStatistics]]:
    """(Piece, whether its unit ends with it, its summary) as they are done."""
    if not pending:
        return
    found = read_units(pending, limits, steps, num_cpus=_TASK_CPUS, max_retries=_MAX_RETRIES, placement=placement)
    for row in found.iter_rows():
        piece = Piece.of_file(row["piece"])
        assert piece is not None
        yield piece, row["is_last"], SetStatistics.from_bytes(row["summary"])


def _unit_facts(images: pa.Table, limits: ImageLimits, searches: FaceSearches, samples: SampleSet) -> pa.Table:
    """Rows of ``UNIT_FIELDS``, ``schema.FACTS`` and ``_SAMPLE`` of images with their bytes, which are not needed any more."""
    restore_default_signal_handlers()
    cutter = searches.croppers(FACE_PX)
    drawn = replace(samples, by_key={})
    rows = []
    for label, data in zip(images.drop_columns(["bytes"]).to_pylist(), images.column("bytes"), strict=True):
        read = (Status(label["status"]), label["error"])
        cut = cutter(label.get(SOURCE.name))
        row, pixels = image_facts(
            *(label["uri"], data.as_py(), read, label, limits.max_image_pixels, cut),
            allow_truncated=limits.allow_truncated,
        )
        rows.append(row | {field.name: label[field.name] for field in UNIT_FIELDS})
        if pixels is not None:
            drawn.add(
                row["uri"],
                (row["age_low_years"], row["age_high_years"]),
                row["gender"],
                partial(thumbnail_jpeg, pixels),
            )
    jpegs = {sample.uri: sample.jpeg for samples in drawn.by_key.values() for sample in samples}
    for row in rows:
        row[_SAMPLE.name] = jpegs.get(row["uri"])
    return pa.Table.from_pylist(rows, schema=pa.schema([*UNIT_FIELDS, *FACTS, _SAMPLE]))


def _store(facts: pa.Table, facts_uri: str, summary_uri: str, samples: SampleSet) -> pa.Table:
    """Write the facts that ``_unit_facts`` gave and their summary; the summary comes back."""
    stored = [_store_piece(rows, facts_uri, summary_uri, samples) for rows in _consecutive(facts)]
    return pa.Table.from_pylist(stored, schema=_STORED)


def _store_piece(facts: pa.Table, facts_uri: str, summary_uri: str, samples: SampleSet) -> dict[str, Any]:
    unit, first, unit_rows = (facts.column(field.name)[0].as_py() for field in UNIT_FIELDS)
    rows = (first, first + facts.num_rows)
    piece = Piece(unit_name(unit), None if rows == (0, unit_rows) else rows)
    drawn = replace(samples, by_key={})
    for row in facts.filter(pc.is_valid(facts.column(_SAMPLE.name))).to_pylist():
        drawn.add(
            row["uri"], (row["age_low_years"], row["age_high_years"]), row["gender"], partial(bytes, row[_SAMPLE.name])
        )
    facts = facts.select(FACTS.names)
    tables.write_table(_facts_file(facts_uri, piece), facts)
    summary = SetStatistics.of_facts(facts, drawn).to_bytes()
    files.write_bytes(_summary_file(summary_uri, piece), summary)  # last: from here on the rows count as done
    return {"piece": piece.name, "is_last": rows[1] == unit_rows, "summary": summary}


def _consecutive(facts: pa.Table) -> Iterator[pa.Table]:
    """Cut a table where another unit begins, or where rows are left out that an earlier run has done."""
    units, rows = facts.column("unit").to_numpy(), facts.column("row").to_numpy()
    cuts = np.flatnonzero((units[1:] != units[:-1]) | (np.diff(rows) != 1)) + 1
    for first, end in itertools.pairwise([0, *cuts.tolist(), facts.num_rows]):
        if end > first:
            yield facts.slice(first, end - first)


def _facts_file(facts_uri: str, piece: Piece) -> str:
    return files.join(facts_uri, piece.name + ".parquet")


def _summary_file(summary_uri: str, piece: Piece) -> str:
    return files.join(summary_uri, piece.name + ".json")


def _remove_others(facts_uri: str, uris: set[str]) -> None:
    """Delete facts of rows that stand in another file, too: of a unit that a killed process had begun to write in pieces."""
    for file in list(files.list_files(facts_uri, allow_empty=True)):
        if file.uri not in uris and Piece.of_file(file.uri) is not None:
            files.delete(file.uri)
