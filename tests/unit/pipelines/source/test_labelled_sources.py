"""The listing of several sources, each with its own labels."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agegender.config import EvaluateConfig
from agegender.pipelines.source.streaming_listing import drain
from agegender.schema import LISTING, SOURCE
from tests.support.drawn import write_faces


def test_a_unit_holds_images_of_one_source_read_with_its_own_options(tmp_path: Path) -> None:
    write_faces(tmp_path / "drawn", 5)
    rows = [{"bytes": b"x", "years": f"{age}-{age + 9}", "age": 99, "sex": code} for age, code in ((20, 1), (30, 2))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    config = EvaluateConfig(
        input=[str(tmp_path / "drawn"), str(tmp_path / "table.parquet"), str(tmp_path / "drawn")],
        output="-",
        age_column=["", "years", ""],
        gender_codes=["", "1=male,2=female", ""],
        unit_images=4,
    )
    listing = drain(config, str(tmp_path / "work"))
    units = [pq.read_table(unit) for unit in listing.units]
    assert all(unit.schema.equals(pa.schema([*LISTING, SOURCE])) for unit in units)
    assert [set(unit["source"].to_pylist()) for unit in units] == [{str(tmp_path / "drawn")[1:]}] * 2 + [
        {"table.parquet"}
    ]
    assert [unit.num_rows for unit in units] == [4, 1, 2]
    assert (listing.images, listing.repeated) == (7, 5), "an image that two inputs have is of the first"
    drawn, table = pa.concat_tables(units[:2]).to_pylist(), units[2].to_pylist()
    assert all(row["age_years"] == int(row["uri"].rsplit("/", 1)[-1].split("_")[0]) for row in drawn)
    assert [(row["age_low_years"], row["age_high_years"], row["gender"]) for row in table] == [(20, 29, 0), (30, 39, 1)]
