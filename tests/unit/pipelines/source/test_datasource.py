from pathlib import Path

import pyarrow as pa
import pytest

from agegender.errors import ConfigError
from agegender.option_groups import ImageLimits, SourceOptions
from agegender.pipelines.source import datasource
from agegender.pipelines.source.datasource import SourceDatasource, UnitsDatasource, read, unit_blocks
from agegender.pipelines.source.fetch import BYTES_FIELDS, fetch_blocks, read_unit
from agegender.pipelines.source.listing import list_source
from agegender.pipelines.source.streaming_listing import drain
from agegender.schema import LISTING
from tests.support.drawn import write_faces


@pytest.fixture
def options(tmp_path: Path) -> SourceOptions:
    write_faces(tmp_path / "in", 25)
    return SourceOptions(input=[str(tmp_path / "in"), str(tmp_path / "in")], unit_images=10)


def test_blocks_are_bounded_by_bytes_and_hold_every_row_in_order(options):
    listed = pa.concat_tables(list_source(options))
    largest = max(listed["size_bytes"].to_pylist())
    blocks = list(fetch_blocks(listed, options.limits(), block_bytes=5 * largest))
    assert len(blocks) > 3
    sizes = [sum(len(data) for data in block["bytes"].to_pylist()) for block in blocks]
    assert max(sizes) < 6 * largest
    assert min(sizes[:-1]) >= 5 * largest
    whole = pa.concat_tables(blocks)
    assert whole.schema.names == [*LISTING.names, *(field.name for field in BYTES_FIELDS)]
    assert whole.select(LISTING.names).equals(listed)
    assert [len(data) for data in whole["bytes"].to_pylist()] == listed["size_bytes"].to_pylist()


def test_one_task_lists_all_inputs_and_each_uri_once(options):
    (task,) = SourceDatasource(options).get_read_tasks(parallelism=8)
    assert pa.concat_tables(task()).num_rows == 25


def test_a_task_for_each_unit_reads_what_is_not_skipped(options, tmp_path):
    listing = drain(options, str(tmp_path / "listing"))
    units = dict.fromkeys(listing.units, ()) | {listing.units[0]: [(2, 4), (7, 10)], listing.units[1]: [(0, 10)]}
    tasks = UnitsDatasource(units, ImageLimits()).get_read_tasks(parallelism=1)
    read = [[row for block in task() for row in block.to_pylist()] for task in tasks]
    assert [[row["row"] for row in rows] for rows in read] == [[0, 1, 4, 5, 6], [], list(range(5))]
    listed = read_unit(listing.units[0])["uri"].to_pylist()
    assert all(row["uri"] == listed[row["row"]] and row["unit_rows"] == 10 for row in read[0])


def test_a_missing_file_of_a_unit_is_a_row(options, tmp_path):
    listing = drain(options, str(tmp_path / "listing"))
    gone = read_unit(listing.units[2])["uri"][1].as_py()
    Path(gone).unlink()
    (block,) = unit_blocks(listing.units[2], ImageLimits())
    assert block["status"].to_pylist() == ["ok", "missing", "ok", "ok", "ok"]
    assert block["bytes"][1].as_py() is None


def test_an_unknown_option_names_those_that_there_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(datasource, "ensure_ray", lambda: pytest.fail("Ray was asked for"))
    with pytest.raises(ConfigError, match=r"read: unit_imagse: .* Its options are .*unit_images"):
        read("anywhere", unit_imagse=3)
