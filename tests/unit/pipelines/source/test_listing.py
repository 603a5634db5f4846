import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agegender.errors import InputError
from agegender.option_groups import SourceOptions
from agegender.pipelines.source.fetch import fetch
from agegender.pipelines.source.listing import SourceCounts, list_source
from agegender.pipelines.source.streaming_listing import drain
from agegender.schema import Status


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


NAMES = [f"{age}_{age % 2}_0_2017010100000{age:04d}.jpg" for age in range(20, 30)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "faces"
    for i, name in enumerate(NAMES):
        path = root / ("deep" if i % 2 else ".") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i))
    (root / "faces.csv").write_text("no image")
    (root / "_hidden.jpg").write_text("skipped")
    return root


def listed(options: SourceOptions, **more: object) -> pa.Table:
    return pa.concat_tables(list_source(options, **more))  # type: ignore[arg-type]


def contents(options: SourceOptions) -> list[bytes | None]:
    return [fetched.data for table in list_source(options) for fetched in fetch(table, options)]


def test_a_folder_lists_images_with_labels_and_counts_what_it_ignores(folder: Path) -> None:
    counts = SourceCounts()
    table = listed(SourceOptions(input=[str(folder)], unit_images=3), counts=counts)
    assert sorted(Path(uri).name for uri in table["uri"].to_pylist()) == NAMES
    assert sorted(table["age_years"].to_pylist()) == list(range(20, 30))
    assert all(uri.startswith("/") for uri in table["uri"].to_pylist())
    assert (counts.images, counts.repeated, dict(counts.ignored)) == (10, 0, {".csv": 1, "hidden name": 1})


def test_units_have_at_most_unit_images_rows_and_repeats_are_listed_once(folder: Path) -> None:
    counts = SourceCounts()
    options = SourceOptions(input=[str(folder), str(folder / "deep")], unit_images=4)
    tables = list(list_source(options, counts=counts))
    assert [t.num_rows for t in tables] == [4, 4, 2]
    assert (counts.images, counts.repeated) == (10, 5)


@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_a_manifest_maps_columns_keeps_columns_and_resolves_relative_addresses(folder: Path, extension: str) -> None:
    manifest = folder / f"people.{extension}"
    table = pa.table(
        {"path": [NAMES[0], f"deep/{NAMES[1]}"], "years": [33.5, None], "sex": ["f", "male"], "id": [7, 8]}
    )
    (pq.write_table if extension == "parquet" else pyarrow.csv.write_csv)(table, str(manifest))
    options = SourceOptions(input=[str(manifest)], uri_column="path", age_column="years", gender_column="sex")
    rows = listed(options, keep_columns=["id"])
    assert rows["uri"].to_pylist() == [str(folder / NAMES[0]), str(folder / "deep" / NAMES[1])]
    assert rows["age_years"].to_pylist() == [33.5, None]
    assert rows["gender"].to_pylist() == [1, 0]
    assert rows["id"].to_pylist() == ([7, 8] if extension == "parquet" else ["7", "8"])
    assert contents(options) == [jpeg(0), jpeg(1)]


def test_a_manifest_without_label_columns_takes_labels_from_names(folder: Path) -> None:
    (folder / "m.csv").write_text(f"uri\n{NAMES[3]}\n")
    assert listed(SourceOptions(input=[str(folder / "m.csv")]))["age_years"].to_pylist() == [23.0]
    assert listed(SourceOptions(input=[str(folder / "m.csv")], labels="none"))["age_years"].to_pylist() == [None]


def test_labels_out_of_range_are_a_problem_with_the_value(folder: Path) -> None:
    (folder / "m.csv").write_text(f"uri,age_years,gender\n{NAMES[0]},150,0\n{NAMES[2]},30,7\n")
    problems = listed(SourceOptions(input=[str(folder / "m.csv")]))["label_problem"].to_pylist()
    assert "150" in problems[0]
    assert "7" in problems[1]


@pytest.mark.parametrize(
    ("columns", "options", "words"),
    [
        ("name,age_years\na.jpg,3\n", {}, ["uri", "'name'", "--uri-column"]),
        ("uri,years\na.jpg,3\n", {"labels": "manifest"}, ["age_years", "'years'", "--age-column"]),
    ],
)
def test_a_manifest_without_a_needed_column_says_which_and_what_it_has(
    tmp_path: Path, columns: str, options: dict[str, str], words: list[str]
) -> None:
    (tmp_path / "m.csv").write_text(columns)
    with pytest.raises(InputError) as caught:
        listed(SourceOptions(input=[str(tmp_path / "m.csv")], **options))
    assert all(word in str(caught.value) for word in [*words, "m.csv"])


def test_parquet_with_bytes_is_read_row_by_row_across_row_groups(tmp_path: Path) -> None:
    data = [jpeg(i) if i != 5 else None for i in range(20)]
    uris = [f"{i}_1_0_x.jpg" for i in range(20)]
    pq.write_table(pa.table({"uri": uris, "bytes": data}), tmp_path / "t.parquet", row_group_size=6)
    options = SourceOptions(input=[str(tmp_path / "t.parquet")], unit_images=7, labels="none")
    assert listed(options)["uri"].to_pylist() == uris
    assert contents(options) == data
    table = listed(options)
    some = table.take([2, 5, 13, 19])
    fetched = list(fetch(some, options))
    assert [f.data for f in fetched] == [data[2], None, data[13], data[19]]
    assert fetched[1].status == Status.EMPTY


def test_tar_shards_are_read_by_member(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-0.tar", "w") as archive:
        for i, name in enumerate(NAMES):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg(i))
            archive.addfile(member, io.BytesIO(jpeg(i)))
        archive.addfile(tarfile.TarInfo("a.json"), io.BytesIO())
    options = SourceOptions(input=[str(tmp_path)], unit_images=4)
    table = listed(options)
    assert table["uri"].to_pylist() == [f"{tmp_path}/shard-0.tar#{name}" for name in NAMES]
    assert table["age_years"].to_pylist() == list(range(20, 30))
    assert contents(options) == [jpeg(i) for i in range(10)]


def test_a_damaged_archive_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 200)
    options = SourceOptions(input=[str(tmp_path)])
    assert listed(options)["uri"].to_pylist() == [str(tmp_path / "broken.tar")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_a_row(folder: Path) -> None:
    (folder / NAMES[0]).chmod(0)
    options = SourceOptions(input=[str(folder / NAMES[0])])
    assert next(fetch(listed(options), options)).status == Status.UNREADABLE


def test_what_vanished_or_is_too_large_or_has_no_such_address_is_a_status(folder: Path) -> None:
    lines = [NAMES[0], "gone.jpg", NAMES[2], "https://example.com/a.jpg", "deep"]
    (folder / "m.csv").write_text("\n".join(["uri", *lines]))
    options = SourceOptions(input=[str(folder / "m.csv")], max_image_bytes=len(jpeg(0)))
    (folder / NAMES[2]).write_bytes(bytes(10_000))
    fetched = list(fetch(listed(options), options))
    assert [f.status for f in fetched] == [
        Status.OK, Status.MISSING, Status.TOO_LARGE, Status.UNREADABLE, Status.UNREADABLE
    ]  # fmt: skip
    assert all(f.error for f in fetched[1:])


def test_nothing_there_says_where_and_what_else_was_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=str(tmp_path / "none")):
        drain(SourceOptions(input=[str(tmp_path / "none")]), str(tmp_path / "work"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("text")
    with pytest.raises(InputError, match=r"1 \.txt"):
        drain(SourceOptions(input=[str(tmp_path / "docs")]), str(tmp_path / "work"))
