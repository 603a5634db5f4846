"""Units of facts in pieces, as they come where a unit's facts are larger than a block, or where a run was killed between two."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agegender.data.face_searches import FaceSearches
from agegender.data.samples import SampleSet
from agegender.data.statistics import SetStatistics
from agegender.option_groups import SourceOptions
from agegender.pipelines.source import image_facts
from agegender.pipelines.source.datasource import unit_blocks
from agegender.pipelines.source.image_facts import Piece
from agegender.pipelines.source.listing import Listing
from agegender.pipelines.source.streaming_listing import drain
from agegender.schema import FACTS
from agegender.storage import tables
from tests.support.drawn import write_faces

NONE = SampleSet(overall=0, per_group=0)


@pytest.fixture
def options(tmp_path: Path) -> SourceOptions:
    write_faces(tmp_path / "in", 24)
    return SourceOptions(input=[str(tmp_path / "in")], unit_images=12)


@pytest.fixture
def listing(options: SourceOptions, tmp_path: Path) -> Listing:
    return drain(options, str(tmp_path / "listing"))


def facts_of(listing: Listing, unit: int, options: SourceOptions, samples: SampleSet, skipped=()) -> pa.Table:
    blocks = unit_blocks(listing.units[unit], options.limits(), skipped)
    return pa.concat_tables(
        image_facts._unit_facts(block, options.limits(), FaceSearches(None), samples) for block in blocks
    )


def store(facts: pa.Table, folder: Path, samples: SampleSet = NONE) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = image_facts._store(
        facts, str(folder / "facts"), str(folder / "summaries"), samples
    ).to_pylist()
    return rows


@pytest.mark.parametrize("piece", [Piece("unit-0000003"), Piece("unit-0000003", (5, 100)), Piece("unit-12345678")])
def test_a_file_name_says_which_rows_it_has(piece):
    assert Piece.of_file(f"s3://b/x/{piece.name}.parquet") == piece


@pytest.mark.parametrize("name", ["notes.parquet", "unit-0000003-rows-5.parquet", "part-0000001.parquet", "unit-.json"])
def test_a_file_of_another_kind_is_no_piece(name):
    assert Piece.of_file(name) is None


def test_a_unit_in_pieces_adds_up_to_the_unit(listing, options, tmp_path):
    samples = SampleSet(seed=1, overall=4, per_group=2)
    facts = facts_of(listing, 0, options, samples)
    (whole,) = store(facts, tmp_path / "whole", samples)
    assert (whole["piece"], whole["is_last"]) == ("unit-0000000", True)
    pieces = [row for part in (facts.slice(0, 5), facts.slice(5)) for row in store(part, tmp_path / "cut", samples)]
    assert [(row["piece"], row["is_last"]) for row in pieces] == [
        ("unit-0000000-rows-0000000-0000005", False),
        ("unit-0000000-rows-0000005-0000012", True),
    ]
    first, second = (SetStatistics.from_bytes(row["summary"]) for row in pieces)
    assert first.merged(second) == SetStatistics.from_bytes(whole["summary"])
    files = [tables.read_table(str(tmp_path / "cut/facts" / f"{row['piece']}.parquet")) for row in pieces]
    stored = tables.read_table(str(tmp_path / "whole/facts/unit-0000000.parquet"))
    assert stored.schema.equals(FACTS)
    assert pa.concat_tables(files).equals(stored)


def test_rows_of_several_units_and_with_gaps_are_kept_apart(listing, options, tmp_path):
    first, second = (facts_of(listing, unit, options, NONE, [(3, 7)] if unit == 0 else []) for unit in (0, 1))
    stored = store(pa.concat_tables([first, second]), tmp_path)
    assert [row["piece"] for row in stored] == [
        "unit-0000000-rows-0000000-0000003",
        "unit-0000000-rows-0000007-0000012",
        "unit-0000001",
    ]


def test_what_is_done_is_read_off_the_summaries_and_no_row_counts_twice(listing, tmp_path):
    for name in (
        *(
            "unit-0000000-rows-0000000-0000003",
            "unit-0000000-rows-0000002-0000005",
            "unit-0000000-rows-0000007-0000012",
        ),
        *("unit-0000001", "unit-0000001-rows-0000000-0000003", "unit-0000009"),
    ):
        path = tmp_path / "summaries" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    done = image_facts._done_pieces(listing, str(tmp_path / "summaries"))
    assert done == {
        "unit-0000000": [Piece("unit-0000000", (0, 3)), Piece("unit-0000000", (7, 12))],
        "unit-0000001": [Piece("unit-0000001")],
    }


def test_facts_that_stand_in_another_file_too_are_deleted_and_nothing_else(tmp_path):
    for name in ("unit-0000000.parquet", "unit-0000000-rows-0000000-0000003.parquet", "mine.parquet"):
        (tmp_path / name).write_bytes(b"")
    image_facts._remove_others(str(tmp_path), {str(tmp_path / "unit-0000000.parquet")})
    assert {path.name for path in tmp_path.iterdir()} == {"unit-0000000.parquet", "mine.parquet"}
