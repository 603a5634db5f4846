import gzip
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agegender.errors import InputError
from agegender.option_groups import SourceOptions
from agegender.pipelines.source.fetch import fetch
from agegender.pipelines.source.listing import SourceCounts, list_source
from agegender.pipelines.source.tables import is_table, kind_of_parquet
from agegender.schema import FACTS, LISTING, SPLIT, Status, prediction_schema

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), shade, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def options(path: Path, **more: Any) -> SourceOptions:
    return SourceOptions(input=[str(path)], **more)


def listed(path: Path, keep: tuple[str, ...] = (), **more: Any) -> pa.Table:
    return pa.concat_tables(list_source(options(path, **more), keep))


def rows(path: Path, *columns: str, **more: Any) -> list[tuple[Any, ...]]:
    table = listed(path, **more)
    return list(zip(*(table[name].to_pylist() for name in columns), strict=True))


def contents(path: Path, **more: Any) -> list[bytes | None]:
    return [each.data for table in list_source(options(path, **more)) for each in fetch(table, options(path, **more))]


def refusal(path: Path, keep: tuple[str, ...] = (), **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        listed(path, keep, **more)
    assert str(path) in str(caught.value)
    return str(caught.value)


def named(option: str, column: str) -> dict[str, Any]:
    return {option: column}


def write(folder: Path, name: str, columns: dict[str, Any], metadata: dict[str, str] | None = None) -> Path:
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, folder / name)
    return folder / name


def text(folder: Path, name: str, content: str | bytes) -> Path:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


def hugging_face(folder: Path, name: str, paths: list[str | None], **columns: Any) -> Path:
    images = [{"bytes": jpeg(i), "path": path} for i, path in enumerate(paths)]
    return write(folder, name, {"image": pa.array(images, IMAGE), **columns})


# Hugging Face's Parquet


def test_hugging_face_images_are_found_and_named_by_file_and_path(tmp_path: Path) -> None:
    file = hugging_face(tmp_path, "train.parquet", ["a.jpg", "b.jpg"], age=[20, 31], gender=["female", "male"])
    assert rows(file, "uri", "age_years", "gender") == [(f"{file}#a.jpg", 20, 1), (f"{file}#b.jpg", 31, 0)]
    assert contents(file) == [jpeg(0), jpeg(1)]


def test_a_path_that_is_null_or_there_twice_gives_way_to_the_row(tmp_path: Path) -> None:
    file = hugging_face(tmp_path, "t.parquet", ["a.jpg", None, "a.jpg", "1", "", "a.jpg"])
    names = [uri.removeprefix(f"{file}#") for (uri,) in rows(file, "uri", labels="none")]
    assert names == ["a.jpg", "1", "2", "3", "4", "5"]
    assert contents(file, labels="none") == [jpeg(i) for i in range(6)]


def test_a_path_that_is_the_number_of_an_earlier_row_is_an_image_of_its_own(tmp_path: Path) -> None:
    file = hugging_face(tmp_path, "t.parquet", ["2", "2", "2", "1"])
    counts = SourceCounts()
    uris = pa.concat_tables(list_source(options(file, labels="none"), counts=counts))["uri"].to_pylist()
    assert (len(set(uris)), counts.repeated) == (4, 0)


def test_shards_that_repeat_each_others_names_hold_different_images(tmp_path: Path) -> None:
    for shard in range(2):
        hugging_face(tmp_path, f"train-{shard}-of-2.parquet", ["image0.jpg", "image1.jpg"])
    assert len(rows(tmp_path, "uri", labels="none")) == 4


def test_a_null_image_is_empty(tmp_path: Path) -> None:
    images = pa.array([None, {"bytes": None, "path": "b.jpg"}, {"bytes": jpeg(1), "path": "c.jpg"}], IMAGE)
    file = write(tmp_path, "t.parquet", {"image": images})
    assert rows(file, "uri", labels="none") == [(f"{file}#0",), (f"{file}#b.jpg",), (f"{file}#c.jpg",)]
    fetched = list(fetch(listed(file, labels="none"), options(file)))
    assert [each.status for each in fetched] == [Status.EMPTY, Status.EMPTY, Status.OK]


def test_class_labels_have_the_names_of_the_schemas_metadata(tmp_path: Path) -> None:
    features = {"gender": {"names": ["Female", "Male"], "_type": "ClassLabel"}, "age": {"dtype": "int64"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {"image": pa.array([{"bytes": jpeg(i), "path": f"{i}"} for i in range(4)], IMAGE)}
    columns |= {"gender": pa.array([0, 1, -1, None]), "age": pa.array([3, 4, 5, 6])}
    file = write(tmp_path, "t.parquet", columns, metadata)
    assert rows(file, "age_years", "gender") == [(3, 1), (4, 0), (5, None), (6, None)]


def test_labels_as_arrow_dictionaries_and_as_bytes_are_text(tmp_path: Path) -> None:
    gender = pa.array(["female", "male"]).dictionary_encode()
    columns = {"file_name": pa.array([b"a.jpg", "b/ü.jpg".encode()]), "sex": gender, "age": pa.array([b"20", b"31"])}
    file = write(tmp_path, "t.parquet", columns)
    assert rows(file, "uri", "age_years", "gender") == [(f"{tmp_path}/a.jpg", 20, 1), (f"{tmp_path}/b/ü.jpg", 31, 0)]


def test_labels_are_read_from_the_paths_of_images(tmp_path: Path) -> None:
    name = "25_1_0_20170109142408075.jpg"
    file = hugging_face(tmp_path, "t.parquet", [name, f"x/31_male/{name}", "#1.jpg", name])
    assert rows(file, "age_years", "gender") == [(25, 1), (25, 1), (None, None), (25, 1)]
    assert rows(file, "age_years", "gender", labels="folder")[:2] == [(None, None), (31, 0)]
    assert rows(file, "uri", labels="none")[2] == (f"{file}##%231.jpg",)


# which column holds the bytes


@pytest.mark.parametrize("name", ["bytes", "image", "JPG", "png", "webp", "img", "content"])
def test_bytes_are_found_by_name_and_named_by_row(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, "t.parquet", {name: pa.array([jpeg(0), None, jpeg(2)], pa.large_binary())})
    assert rows(file, "uri", "container", "offset", labels="none") == [(f"{file}#{i}", str(file), i) for i in range(3)]
    assert contents(file) == [jpeg(0), None, jpeg(2)]


def test_a_table_of_bytes_keeps_its_uris_and_puts_other_names_behind_its_own(tmp_path: Path) -> None:
    image = [jpeg(0), jpeg(1)]
    file = write(tmp_path, "u.parquet", {"uri": ["a.jpg", None], "bytes": image})
    assert rows(file, "uri", labels="none") == [("a.jpg",), (f"{file}#1",)]
    file = write(tmp_path, "u.parquet", {"uri": ["a.jpg", "a.jpg"], "bytes": image})
    assert rows(file, "uri", labels="none") == [("a.jpg",), (f"{file}#1",)]
    file = write(tmp_path, "f.parquet", {"filename": ["a.jpg", "b.jpg"], "jpg": image})
    assert rows(file, "uri", labels="none") == [(f"{file}#a.jpg",), (f"{file}#b.jpg",)]
    assert rows(file, "uri", labels="none", uri_column="filename") == [("a.jpg",), ("b.jpg",)]


def test_a_struct_of_bytes_is_found_under_any_name_and_among_several_by_the_usual_one(tmp_path: Path) -> None:
    images = [pa.array([{"bytes": jpeg(i), "path": f"{i}.jpg"}], IMAGE) for i in range(2)]
    assert contents(write(tmp_path, "a.parquet", {"portrait": images[0]}), labels="none") == [jpeg(0)]
    assert contents(write(tmp_path, "b.parquet", {"mask": images[0], "image": images[1]}), labels="none") == [jpeg(1)]
    several = write(tmp_path, "c.parquet", {"left": images[0], "right": images[1]})
    assert "left, right. Name one with --bytes-column" in refusal(several)
    assert contents(several, bytes_column="right") == [jpeg(1)]
    assert contents(several, bytes_column="left.bytes") == [jpeg(0)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [(pa.array([[255, 216]], pa.list_(pa.uint8())), "list<element: uint8>"), (pa.array(["/9j/4AAQ"]), "string")],
)
def test_bytes_of_another_type_are_refused_with_type_and_remedy(tmp_path: Path, values: pa.Array, kind: str) -> None:
    file = write(tmp_path, "t.parquet", {"uri": ["a.jpg"], "bytes": values})
    for option in (None, "bytes"):
        message = refusal(file, bytes_column=option)
        assert all(word in message for word in ("'bytes'", kind, "base64", "--bytes-column"))


def test_a_named_column_of_bytes_that_is_absent_is_refused_with_the_nearest(tmp_path: Path) -> None:
    file = hugging_face(tmp_path, "t.parquet", ["a.jpg"])
    assert "no column 'imgae', which --bytes-column names. Did you mean 'image'?" in refusal(file, bytes_column="imgae")
    assert "struct" in refusal(file, bytes_column="image.data")
    assert "holds no bytes" in refusal(text(tmp_path, "m.csv", "uri\na.jpg\n"), bytes_column="image")


def test_a_size_in_bytes_is_no_image(tmp_path: Path) -> None:
    file = write(tmp_path, "t.parquet", {"uri": ["a.jpg"], "bytes": [1024]})
    assert rows(file, "uri", "container", labels="none") == [(f"{tmp_path}/a.jpg", None)]
    file = text(tmp_path, "t.csv", "uri,bytes\na.jpg,1024\n")
    assert rows(file, "uri", "container", labels="none") == [(f"{tmp_path}/a.jpg", None)]


def test_a_column_named_for_addresses_is_no_image_though_parquet_calls_it_bytes(tmp_path: Path) -> None:
    file = write(tmp_path, "t.parquet", {"image": pa.array([b"a.jpg"])})
    assert rows(file, "uri", "container", labels="none", uri_column="image") == [(f"{tmp_path}/a.jpg", None)]


def test_damaged_bytes_are_rows(tmp_path: Path) -> None:
    file = hugging_face(tmp_path, "t.parquet", ["a.jpg", "b.jpg"])
    table = listed(file, labels="none")
    file.write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    fetched = list(fetch(table, options(file)))
    assert [each.status for each in fetched] == [Status.UNREADABLE] * 2
    assert "damaged" in str(fetched[0].error)


# columns that are named or found


@pytest.mark.parametrize("name", ["uri", "file_name", "File", "path", "image_path", "image", "url"])
def test_addresses_and_labels_are_found_by_usual_names(tmp_path: Path, name: str) -> None:
    file = text(tmp_path, "m.csv", f"id,{name},Age,SEX,ethnicity\n1,a.jpg,20,f,white\n")
    assert rows(file, "uri", "age_years", "gender", "race") == [(f"{tmp_path}/a.jpg", 20, 1, "white")]


def test_the_first_usual_name_wins_and_exact_case_before_another(tmp_path: Path) -> None:
    file = text(tmp_path, "m.csv", "path,URI,uri,age,age_years\np,U,u,1,2\n")
    assert rows(file, "uri", "age_years") == [(f"{tmp_path}/u", 2)]


@pytest.mark.parametrize("option", ["uri_column", "age_column", "gender_column", "race_column"])
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.parquet"])
def test_a_named_column_that_is_absent_is_refused_with_flag_nearest_and_all(
    tmp_path: Path, option: str, name: str
) -> None:
    columns = {"uri": ["a"], "wanted": ["1"], "other": ["2"]}
    content = {"m.csv": "uri,wanted,other\na,1,2\n", "m.jsonl": '{"uri": "a", "wanted": "1", "other": "2"}\n'}
    file = write(tmp_path, name, columns) if name.endswith("parquet") else text(tmp_path, name, content[name])
    message = refusal(file, **named(option, "Wantd"))
    flag = "--" + option.replace("_", "-")
    assert f"no column 'Wantd', which {flag} names. Did you mean 'wanted'?" in message
    assert "Its columns are 'uri', 'wanted', 'other'" in message
    assert "--keep-columns" in refusal(file, keep=("Wantd",))


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("uri_column", pa.array([["a"]])),
        ("uri_column", pa.array([1.5])),
        ("age_column", pa.array([{"years": 3}])),
        ("gender_column", pa.array([True])),
        ("race_column", pa.array([[1]])),
    ],
)
def test_a_column_of_a_type_that_cannot_be_read_is_refused(tmp_path: Path, option: str, values: pa.Array) -> None:
    file = write(tmp_path, "t.parquet", {"uri": ["a.jpg"], "x": values})
    message = refusal(file, **named(option, "x"))
    assert f"'x' is of type {str(values.type).partition('<')[0]}" in message
    assert option.replace("_", "-") in message


def test_a_column_there_twice_is_refused_if_it_is_asked_for(tmp_path: Path) -> None:
    file = text(tmp_path, "m.csv", "uri,age,note, age,note\na.jpg,1,x,2,y\n")
    assert "'age' 2 times" in refusal(file)
    assert rows(file, "uri", labels="none") == [(f"{tmp_path}/a.jpg",)]
    assert "'note' 2 times" in refusal(file, keep=("note",), labels="none")


def test_kept_columns_are_text_in_text_and_keep_their_type_in_parquet(tmp_path: Path) -> None:
    columns = {"uri": ["a.jpg", "b.jpg"], "id": pa.array([7, None], pa.int16()), "tags": [["x"], []]}
    kept = listed(write(tmp_path, "t.parquet", columns), ("id", "tags"))
    assert kept.schema.field("id").type == pa.int16()
    assert kept["tags"].to_pylist() == [["x"], []]
    kept = listed(text(tmp_path, "t.csv", "uri,id\na.jpg,007\nb.jpg,\n"), ("id",))
    assert kept["id"].to_pylist() == ["007", None]
    kept = listed(text(tmp_path, "t.jsonl", '{"uri": "a.jpg", "id": 7, "t": ["x"]}\n{"uri": "b.jpg"}\n'), ("id", "t"))
    assert (kept["id"].to_pylist(), kept["t"].to_pylist()) == (["7", None], ['["x"]', None])


def test_kept_columns_of_two_types_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path, "a.parquet", {"uri": ["a.jpg"], "id": [7]})
    second = write(tmp_path, "b.parquet", {"uri": ["b.jpg"], "id": ["7"]})
    both = SourceOptions(input=[str(first), str(second)])
    with pytest.raises(InputError, match=r"b\.parquet: the kept column 'id' is of type string, and of type int64"):
        list(list_source(both, ("id",)))


def test_a_pattern_puts_the_address_together(tmp_path: Path) -> None:
    content = (
        "user_id\toriginal_image\tface_id\tage\tgender\tx\n30@N03\tq_o.jpg\t1\t(25, 32)\tf\t0\n\tz.jpg\t2\t3\tm\t0\n"
    )
    file = text(tmp_path, "fold_0_data.txt", content)
    pattern = "faces/{user_id}/landmark_aligned_face.{face_id}.{original_image}"
    assert rows(file, "uri", "age_low_years", "age_high_years", "gender", uri_column=pattern) == [
        (f"{tmp_path}/faces/30@N03/landmark_aligned_face.1.q_o.jpg", 25, 32, 1),
        (f"{file}#1", 3, 3, 0),
    ]
    assert "no column 'face', which --uri-column names. Did you mean 'face_id'?" in refusal(file, uri_column="{face}")
    numbers = write(tmp_path, "t.parquet", {"id": [7, 8]})
    assert rows(numbers, "uri", labels="none", uri_column="{id}.jpg") == [(f"{tmp_path}/{i}.jpg",) for i in (7, 8)]


def test_a_row_without_an_address_is_a_row_of_its_own(tmp_path: Path) -> None:
    file = text(tmp_path, "m.csv", "id,uri\n1,\n2,a.jpg\n3,\n")
    assert [uri for (uri,) in rows(file, "uri", labels="none")] == [f"{file}#0", f"{tmp_path}/a.jpg", f"{file}#2"]
    fetched = list(fetch(listed(file, labels="none"), options(file)))
    assert {each.status for each in fetched} == {Status.MISSING}


# CSV as it comes


def test_fairfaces_csv_needs_no_option(tmp_path: Path) -> None:
    lines = "file,age,gender,race,service_test\ntrain/1.jpg,50-59,Male,East Asian,True\nval/2.jpg,more than 70,Female,White,False\n"
    file = text(tmp_path, "fairface_label_train.csv", lines)
    found = rows(file, "uri", "age_low_years", "age_high_years", "gender", "race", "label_problem")
    assert [row[:3] for row in found] == [(f"{tmp_path}/train/1.jpg", 50, 59), (f"{tmp_path}/val/2.jpg", 70, 120)]
    assert [row[3:] for row in found] == [(0, "East Asian", None), (1, "white", None)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.txt", "M.CSV.GZ", "m.tsv.gz"])
def test_the_delimiter_is_found_whatever_the_name(tmp_path: Path, name: str, delimiter: str) -> None:
    content = '"uri";"age";"a, b, c, d"\n"a.jpg";20;1\nb.jpg;21;2\n'.replace(";", delimiter)
    file = tmp_path / name
    file.write_bytes(gzip.compress(content.encode()) if name.lower().endswith(".gz") else content.encode())
    assert rows(file, "uri", "age_years") == [(f"{tmp_path}/a.jpg", 20), (f"{tmp_path}/b.jpg", 21)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_marks_of_the_encoding_and_line_ends_are_read(tmp_path: Path, encoding: str, newline: str) -> None:
    content = f"uri,age{newline}{newline}ü.jpg,20{newline}b.jpg,21{newline}"
    data = ("\ufeff" + content if encoding == "utf-16-le" else content).encode(encoding)
    file = text(tmp_path, "m.csv", data)
    assert rows(file, "uri", "age_years") == [(f"{tmp_path}/ü.jpg", 20), (f"{tmp_path}/b.jpg", 21)]


def test_utf16_without_a_mark_and_other_files_are_no_text(tmp_path: Path) -> None:
    assert "UTF-16 without a byte order mark" in refusal(
        text(tmp_path, "m.csv", "uri,age\na.jpg,20\n".encode("utf-16-le"))
    )
    assert "UTF-8" in refusal(text(tmp_path, "n.csv", b"PK\x03\x04\0\0\0\0"))


def test_latin_1_is_refused_with_line_column_and_byte_where_it_is_read(tmp_path: Path) -> None:
    file = text(tmp_path, "m.csv", "uri,remark\na.jpg,é\nMuñoz.jpg,\n".encode("latin-1"))
    message = refusal(file)
    assert all(word in message for word in ("line 3", "'uri'", "0xf1", "iconv"))
    file = text(tmp_path, "n.csv", "uri,remark\na.jpg,é\n".encode("latin-1"))
    assert rows(file, "uri", labels="none") == [(f"{tmp_path}/a.jpg",)]
    assert "line 2" in refusal(file, keep=("remark",))


def test_blanks_quotes_and_line_breaks_in_values(tmp_path: Path) -> None:
    content = ' uri , age ,note\n  a.jpg , 20 ,x\n "b, c.jpg" ,21,"two\nlines"\n"d ""e"".jpg",22,\n'
    file = text(tmp_path, "m.csv", content.replace('" ,', '",'))
    found = listed(file, ("note",))
    assert found["uri"].to_pylist() == [f"{tmp_path}/{name}" for name in ("a.jpg", "b, c.jpg", 'd "e".jpg')]
    assert found["age_years"].to_pylist() == [20, 21, 22]
    assert found["note"].to_pylist() == ["x", "two\nlines", None]


def test_a_column_nobody_asked_for_may_change_its_type_late(tmp_path: Path) -> None:
    lines = "".join(f"f{i}.jpg,{'' if i < 60_000 else 'a remark'}\n" for i in range(60_001))
    counts = SourceCounts()
    for _ in list_source(options(text(tmp_path, "m.csv", "uri,remark\n" + lines), labels="none"), counts=counts):
        pass
    assert counts.images == 60_001


def test_a_line_with_more_or_fewer_values_is_refused_with_its_number(tmp_path: Path) -> None:
    assert "line 3: 3 values" in refusal(text(tmp_path, "m.csv", "uri,age\na.jpg,1\nb,c.jpg,2\n"))
    assert "line 3: 1 values" in refusal(text(tmp_path, "m.csv", "uri,age\na.jpg,1\nb.jpg\n"))
    assert len(rows(text(tmp_path, "m.csv", "uri,age\na.jpg,1,,\n"), "uri")) == 1


def test_what_is_no_csv_is_refused_with_the_reason(tmp_path: Path) -> None:
    assert "double quote" in refusal(text(tmp_path, "m.csv", 'uri,age\n"a.jpg,1\nb.jpg,2\n'))
    assert "is empty" in refusal(text(tmp_path, "m.csv", ""))
    assert "is empty" in refusal(text(tmp_path, "m.csv", "\n\n"))
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(b"uri\n" + b"a.jpg\n" * 99)[:-12])
    assert "gzip" in refusal(tmp_path / "m.csv.gz")
    text(tmp_path, "n.csv", "").rename(tmp_path / "n.csv.gz").write_bytes(b"uri\na.jpg\n")
    assert "gzip" in refusal(tmp_path / "n.csv.gz")
    assert "no column of addresses" in refusal(text(tmp_path, "list.txt", "a.jpg\nb.jpg\n"))


# JSON lines


@pytest.mark.parametrize("name", ["m.jsonl", "m.jsonl.gz", "m.ndjson"])
def test_json_lines_are_read(tmp_path: Path, name: str) -> None:
    lines = ['{"file_name": "ü.jpg", "age": 20, "gender": "F"}', "", '{"file_name": " b.jpg ", "age": "21", "x": {}}']
    file = text(tmp_path, name, "\ufeff" + "\n".join(lines))
    assert rows(file, "uri", "age_years", "gender") == [(f"{tmp_path}/ü.jpg", 20, 1), (f"{tmp_path}/b.jpg", 21, None)]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('{"uri": "a.jpg"}\n{"uri": \n', "line 2: not JSON"),
        ('{"uri": "a.jpg"}\n[1]\n', "line 2: list where an object is expected"),
        ("\n", "is empty"),
        ('{"name": "a.jpg"}\n', "no column of addresses"),
        ('[\n{"uri": "a.jpg"}\n]\n', "line 1: not JSON"),
    ],
)
def test_what_is_no_json_lines_is_refused_with_the_line(tmp_path: Path, lines: str, words: str) -> None:
    assert words in refusal(text(tmp_path, "m.jsonl", lines))


def test_an_address_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = text(tmp_path, "m.jsonl", '{"uri": {"a": 1}}\n')
    with pytest.raises(InputError, match="in the column of addresses is not text"):
        listed(file)


# what is not read


@pytest.mark.parametrize("name", ["a.xlsx", "labels.json", "t.feather", "t.csv.bz2", "imdb.mat", "a.h5"])
def test_other_tables_are_named_as_not_read(tmp_path: Path, name: str) -> None:
    assert is_table(str(tmp_path / name))
    message = refusal(text(tmp_path, name, "uri\n"))
    assert "is not read" in message
    assert "CSV" in message


@pytest.mark.parametrize("name", ["a.jpg", "photos", "csv", "a.tar", "b.zip", "a.parquet/b.jpg"])
def test_images_folders_and_archives_are_no_tables(name: str) -> None:
    assert not is_table(name)


# our own tables


PREDICTIONS = {
    name: pa.nulls(1, kind) for name, kind in zip(prediction_schema().names, prediction_schema().types, strict=True)
}
PREDICTIONS |= {"uri": pa.array(["a.jpg"]), "age_years": pa.array([33.0]), "gender": pa.array(["male"])}
OURS = {"agegender.model_id": "abc123", "agegender.version": "0.1.0"}


@pytest.mark.parametrize("labels", ["auto", "manifest"])
def test_predictions_are_no_labels(tmp_path: Path, labels: str) -> None:
    file = write(tmp_path, "part-0.parquet", PREDICTIONS, OURS)
    message = refusal(file, labels=labels)
    assert all(word in message for word in ("model abc123", "age_years", "gender", "--labels"))
    without = write(tmp_path, "pandas.parquet", PREDICTIONS)
    assert "face_index" in refusal(without, labels=labels)
    names = ("uri", "face_index", "age_years", "gender", "gender_probability")
    lines = ",".join(names) + "\na.jpg,0,33,male,0.9\n"
    assert "face_index" in refusal(text(tmp_path, "p.csv", lines), labels=labels)


def test_predictions_are_a_list_of_addresses_and_may_carry_labels(tmp_path: Path) -> None:
    file = write(tmp_path, "part-0.parquet", PREDICTIONS | {"truth": pa.array([40])}, OURS)
    assert rows(file, "uri", "age_years", labels="none") == [(f"{tmp_path}/a.jpg", None)]
    assert "age_years" in refusal(file, age_column="age_years")
    assert "gender" in refusal(file, age_column="truth")
    without_gender = {name: values for name, values in PREDICTIONS.items() if name not in ("gender", "age_years")}
    file = write(tmp_path, "part-1.parquet", without_gender | {"truth": pa.array([40])}, OURS)
    assert rows(file, "age_years", age_column="truth") == [(40,)]


def test_facts_of_eda_carry_true_labels(tmp_path: Path) -> None:
    facts = {field.name: pa.nulls(1, field.type) for field in FACTS} | {"uri": pa.array(["a.jpg"]), "age_years": [33.0]}
    assert rows(write(tmp_path, "unit.parquet", facts), "age_years") == [(33,)]


def test_a_parquet_in_a_folder_is_known_by_its_footer(tmp_path: Path) -> None:
    def kind(columns: dict[str, Any], metadata: dict[str, str] | None = None, **more: Any) -> str:
        return kind_of_parquet(str(write(tmp_path, "t.parquet", columns, metadata)), options(tmp_path, **more))

    image = pa.array([{"bytes": jpeg(0), "path": "a.jpg"}], IMAGE)
    assert kind({"image": image}) == "images"
    assert kind({"uri": ["a.jpg"], "bytes": [jpeg(0)]}) == "images"
    assert kind({"uri": ["a.jpg"], "age": [3]}) == "other"
    assert kind({"image": image}, bytes_column="picture") == "other"
    assert kind(PREDICTIONS | {"image": image}) == "own"
    assert kind({"uri": ["a.jpg"], "image": image}, OURS) == "own"
    for schema in (FACTS, LISTING, SPLIT, prediction_schema()):
        assert kind({field.name: pa.nulls(1, field.type) for field in schema}) == "own"
    (tmp_path / "t.parquet").write_bytes(b"no table")
    assert kind_of_parquet(str(tmp_path / "t.parquet"), options(tmp_path)) == "damaged"
    assert kind_of_parquet(str(tmp_path / "absent.parquet"), options(tmp_path)) == "damaged"


def test_names_that_are_not_text_in_a_column_of_bytes_are_found(tmp_path: Path) -> None:
    odd = b"Mu\xf1oz.jpg"
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + odd)).write_bytes(jpeg(1))
    pq.write_table(pa.table({"path": pa.array([odd, b"gone.jpg"], pa.binary())}), tmp_path / "list.parquet")
    source = options(tmp_path / "list.parquet")
    table = pa.concat_tables(list_source(source))
    assert table["uri"].to_pylist() == [f"file://{tmp_path}/Mu%F1oz.jpg", f"{tmp_path}/gone.jpg"]
    assert [found.data for found in fetch(table, source)] == [jpeg(1), None]


def test_a_kept_column_has_one_type_in_all_tables_and_archives(tmp_path: Path) -> None:
    pq.write_table(pa.table({"bytes": [jpeg(1)], "id": [7]}), tmp_path / "a.parquet")
    with tarfile.open(tmp_path / "b.tar", "w"):
        pass
    with pytest.raises(
        InputError, match=r"b\.tar: the kept column 'id' is of type string, and of type int64 in an earlier"
    ):
        listed(tmp_path, ("id",))
