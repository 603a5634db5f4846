from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agegender import storage
from agegender.errors import InputError
from agegender.schema import FACTS, Status, prediction_schema


def test_a_table_comes_back_with_its_schema_and_metadata(tmp_path: Path) -> None:
    schema = prediction_schema(age_distribution=True).with_metadata({"model_id": "abc"})
    row = {"uri": "a", "face_index": 0, "status": "ok", "box": {"x": 1.0, "y": 2.0, "width": 3.0, "height": 4.0}}
    table = pa.Table.from_pylist([row], schema=schema)
    uri = f"{tmp_path}/new/part-0.parquet"
    assert storage.write_table(uri, table) == Path(uri).stat().st_size
    again = storage.read_table(uri)
    assert again.equals(table)
    assert again.schema.metadata == {b"model_id": b"abc"}
    assert storage.read_table(uri, ["status", "uri"]).column_names == ["status", "uri"]
    assert pq.ParquetFile(uri).metadata.row_group(0).column(0).compression == "ZSTD"
    assert [path.name for path in Path(uri).parent.iterdir()] == ["part-0.parquet"]


def test_an_empty_table_keeps_its_schema(tmp_path: Path) -> None:
    storage.write_table(f"{tmp_path}/x.parquet", FACTS.empty_table())
    assert storage.read_table(f"{tmp_path}/x.parquet").schema == FACTS


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(storage.ObjectAnswer) as caught:
        storage.read_table(f"{tmp_path}/none.parquet")
    assert caught.value.status is Status.MISSING
    uri = f"{tmp_path}/x.parquet"
    storage.write_table(uri, pa.table({"a": list(range(10_000))}))
    with pytest.raises(InputError, match="has no column b"):
        storage.read_table(uri, ["b"])
    data = Path(uri).read_bytes()
    for damaged in (b"", b"text", data[: len(data) // 2], data[:100] + bytes(1000) + data[1100:]):
        Path(uri).write_bytes(damaged)
        with pytest.raises(InputError, match="damaged, or not Parquet"):
            storage.read_table(uri)
