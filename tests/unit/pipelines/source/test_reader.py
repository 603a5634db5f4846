"""What counts as an image in a folder: tables, archives, our own output, names."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agegender import __version__
from agegender.data.images import encode_jpeg
from agegender.errors import InputError
from agegender.option_groups import SourceOptions
from agegender.pipelines.source.fetch import fetch
from agegender.pipelines.source.listing import SourceCounts, list_source
from agegender.schema import FACTS, Status, prediction_schema

FACE = encode_jpeg(np.full((32, 32, 3), 90, np.uint8))
NAME = "31_0_1_20170116002854242.jpg"


def listed(options: SourceOptions, keep: Sequence[str] = ()) -> tuple[list[dict[str, object]], dict[str, int]]:
    counts = SourceCounts()
    table = pa.concat_tables([*list_source(options, keep, counts=counts)])
    return table.to_pylist(), dict(counts.ignored)


def put(path: Path, content: bytes = FACE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def table(path: Path, columns: dict[str, list[object]], metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    put(tmp_path / "faces" / NAME)
    return tmp_path / "faces"


def test_tables_in_a_folder_are_images_only_if_they_hold_bytes(faces: Path) -> None:
    table(faces / "metadata.parquet", {"uri": [NAME], "age": [70]})  # a list, or img2dataset's facts of a shard
    table(faces / "00000.parquet", {"url": ["https://host/a.jpg"], "key": ["000"], "status": ["success"]})
    (faces / "metadata.csv").write_text(f"file_name,age\n{NAME},70\n")
    table(faces / "shard.parquet", {"image": [{"bytes": FACE, "path": "b.jpg"}], "age": [20]})
    rows, ignored = listed(SourceOptions(input=[str(faces)]))
    assert sorted(row["age_years"] for row in rows) == [20, 31]  # type: ignore[type-var]
    assert ignored == {".parquet": 2, ".csv": 1}


def test_our_own_output_in_a_source_is_left_out_whichever_job_wrote_it(faces: Path) -> None:
    out = faces / "out"
    predictions = prediction_schema().empty_table().replace_schema_metadata({"agegender.model_id": "m"})
    record = {"agegender_version": __version__}
    (out / "predictions").mkdir(parents=True)
    pq.write_table(predictions, out / "predictions" / "part-0000000-0000000.parquet")
    put(out / "predictions" / "_run.json", json.dumps({"job": "predict", **record}).encode())
    put(out / "predictions" / "_crops" / "unit-0000000" / "000000-00-a.jpg")
    (out / "eda" / "tables" / "images").mkdir(parents=True)
    pq.write_table(FACTS.empty_table(), out / "eda" / "tables" / "images" / "unit-0000000.parquet")
    put(out / "eda" / "figures" / "ages.png")
    put(out / "eda" / "run.json", json.dumps({"job": "eda", **record}).encode())
    put(out / "preview" / "00000-a.jpg")
    put(out / "preview" / "_run.json", json.dumps({"job": "preview", **record}).encode())
    rows, ignored = listed(SourceOptions(input=[str(faces)]))
    assert [row["uri"] for row in rows] == [str(faces / NAME)]
    assert ignored == {"output of agegender": 4, "hidden name": 3, ".json": 1}


def test_pictures_of_other_people_with_such_names_are_images(faces: Path) -> None:
    put(faces / "figures" / "ages.png")
    put(faces / "00000-a.jpg")
    put(faces / "run.json", b'{"job": "eda"}')  # no record of ours
    put(faces / "_run.json", b"[1]")
    assert len(listed(SourceOptions(input=[str(faces)]))[0]) == 3


def test_a_damaged_table_in_a_folder_is_a_row(faces: Path) -> None:
    put(faces / "shard.parquet", b"PAR1 and no more")
    options = SourceOptions(input=[str(faces)])
    assert [row["uri"] for row in listed(options)[0]] == [str(faces / NAME), str(faces / "shard.parquet")]
    with pytest.raises(InputError, match=r"shard\.parquet"):
        listed(SourceOptions(input=[str(faces / "shard.parquet")]))


def test_a_hash_in_a_plain_path_is_a_character(faces: Path) -> None:
    put(faces / "31_female" / "img#1.jpg")
    rows, _ = listed(SourceOptions(input=[str(faces / "31_female")], labels="folder"))
    assert (rows[0]["age_years"], rows[0]["gender"], rows[0]["label_problem"]) == (31, 1, None)
    put(faces / "25_0_0_20170109142408075#2.jpg")
    rows, _ = listed(SourceOptions(input=[str(faces / "25_0_0_20170109142408075#2.jpg")]))
    assert str(rows[0]["label_problem"]).endswith(": 25_0_0_20170109142408075#2.jpg")


def test_an_image_whose_name_is_not_text_is_read_by_its_uri(faces: Path) -> None:
    put(Path(os.fsdecode(os.fsencode(faces) + b"/Mu\xf1oz/Jos\xe9.jpg")))
    odd = faces / os.fsdecode(b"Mu\xf1oz")
    for given in (str(odd), f"file://{faces}/Mu%F1oz"):
        options = SourceOptions(input=[given])
        rows, _ = listed(options)
        assert [row["uri"] for row in rows] == [f"file://{faces}/Mu%F1oz/Jos%E9.jpg"]
        assert [each.data for each in fetch(pa.concat_tables(list_source(options)), options)] == [FACE]
    (odd / "list.csv").write_text("uri,age\nx.jpg,3\n")
    put(odd / "x.jpg")
    options = SourceOptions(input=[str(odd / "list.csv")])
    assert [each.data for each in fetch(pa.concat_tables(list_source(options)), options)] == [FACE]


def test_the_web_is_off_unless_it_is_allowed(faces: Path) -> None:
    with pytest.raises(InputError, match="--allow-http"):
        listed(SourceOptions(input=["https://host/a.jpg"]))
    (faces / "list.csv").write_text("uri\nhttp://127.0.0.1:9/a.jpg\n")
    for allow_http, reason in ((False, "--allow-http"), (True, "private network")):
        options = SourceOptions(input=[str(faces / "list.csv")], allow_http=allow_http)
        (found,) = fetch(pa.concat_tables(list_source(options)), options)
        assert found.status is Status.UNREADABLE
        assert reason in str(found.error)


def test_columns_are_kept_from_tables_alone(faces: Path) -> None:
    with pytest.raises(InputError, match="no columns to keep id from"):
        listed(SourceOptions(input=[str(faces)]), keep=["id"])


def test_a_folder_with_nothing_but_lists_says_to_name_one(tmp_path: Path) -> None:
    from agegender.pipelines.source.streaming_listing import drain

    table(tmp_path / "in" / "list.parquet", {"uri": ["a.jpg"]})
    with pytest.raises(
        InputError, match=r"only 1 \.parquet\. A table that only names images counts if it is named itself"
    ):
        drain(SourceOptions(input=[str(tmp_path / "in")]), str(tmp_path / "work"))
