"""The user's own boxes: columns of tables, JSON beside an image, keys of the JSON in archives."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agegender.config import PredictConfig
from agegender.data.boxes import MAX_BOXES, NO_BOX, GivenBox, sides
from agegender.errors import InputError
from agegender.option_groups import BoxedSource, SourceOptions
from agegender.pipelines.source import boxes as source_boxes
from agegender.pipelines.source.listing import SourceCounts, list_source
from agegender.schema import BOXES, LISTING

Box = tuple[float, ...]


def listed(path: Path, keep: tuple[str, ...] = (), counts: SourceCounts | None = None, **more: Any) -> pa.Table:
    options = BoxedSource(input=[str(path)], labels="none", **more)
    return pa.concat_tables(list_source(options, keep, counts=counts))


def said(boxes: list[GivenBox]) -> list[Box | str]:
    return [box["problem"] if box["problem"] is not None else sides(box) for box in boxes]


def found(path: Path, **more: Any) -> dict[str, list[Box | str]]:
    """Name of each image -> its boxes, or why one is none."""
    rows = listed(path, **more).select(["uri", BOXES.name]).to_pylist()
    return {row["uri"].rpartition("/")[2].rpartition("#")[2]: said(row[BOXES.name]) for row in rows}


def refusal(path: Path, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        listed(path, **more)
    assert str(path) in str(caught.value)
    return str(caught.value)


def csv(folder: Path, *lines: str, name: str = "list.csv") -> Path:
    (folder / name).write_text("\n".join(lines))
    return folder / name


def test_rows_of_one_image_are_its_boxes_wherever_they_stand(tmp_path: Path) -> None:
    path = csv(
        tmp_path,
        "file,x,y,width,height,id",
        "b.jpg,1,2,3,4,first",
        "a.jpg,5,6,7,8,",
        "b.jpg,9,10,11,12,last",
        "c.jpg,,,,,none",
    )
    counts = SourceCounts()
    table = listed(path, ("id",), counts)
    assert found(path) == {"b.jpg": [(1, 2, 3, 4), (9, 10, 11, 12)], "a.jpg": [(5, 6, 7, 8)], "c.jpg": [NO_BOX]}
    assert table["id"].to_pylist() == [["first", "last"], [None], ["none"]]
    assert (counts.images, counts.repeated) == (3, 0)
    assert table.column_names == [*LISTING.names, BOXES.name, "id"]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("path;xmin;ymin;xmax;ymax", "a.jpg;1;2;4;6"),
        ("path\tbbox_x1\tbbox_y1\tbbox_x2\tbbox_y2", "a.jpg\t1\t2\t4\t6"),
        ("path,left,top,right,bottom", "a.jpg,1,2,4,6"),
        ("path,width,height,box", "a.jpg,640,480,\"{'x': 1.0, 'y': 2.0, 'width': 3.0, 'height': 4.0}\""),
        ("path,boxes", 'a.jpg,"[{""x"": 1, ""y"": 2, ""w"": 3, ""h"": 4}]"'),
    ],
)
def test_columns_of_boxes_are_found_by_their_usual_names(tmp_path: Path, header: str, row: str) -> None:
    assert found(csv(tmp_path, header, row)) == {"a.jpg": [(1, 2, 3, 4)]}


def test_columns_are_named_and_what_their_numbers_are_is_not_guessed(tmp_path: Path) -> None:
    path = csv(tmp_path, "path,a,b,c,d,list", 'x.jpg,10,20,40,60,"[10, 20, 40, 60]"')
    assert "no column of boxes" in refusal(path)
    for columns in ("a,b, c,d", "list"):
        assert "--box-format" in refusal(path, box_columns=columns)
        assert found(path, box_columns=columns, box_format="xyxy") == {"x.jpg": [(10, 20, 30, 40)]}
        assert found(path, box_columns=columns, box_format="xywh") == {"x.jpg": [(10, 20, 40, 60)]}
    assert "no column 'lost', which --box-columns names" in refusal(path, box_columns="lost")


def test_shares_of_the_sides_are_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "path,x,y,w,h", "a.jpg,0.1,0.2,0.3,0.4", "b.jpg,0,0,1,1")
    assert "all boxes of the first 2 rows lie between 0 and 1" in refusal(path)


def test_json_lines_and_parquet_hold_lists_of_boxes_and_our_own_structs(tmp_path: Path) -> None:
    boxes = [{"x": 1.0, "y": 2.0, "width": 3.0, "height": 4.0}, {"x": 5.0, "y": 6.0, "width": 7.0, "height": 8.0}]
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"uri": "a.jpg", "boxes": boxes}) + "\n" + json.dumps({"uri": "b.jpg", "boxes": []}))
    assert found(path) == {"a.jpg": [(1, 2, 3, 4), (5, 6, 7, 8)], "b.jpg": [NO_BOX]}
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"uri": ["a.jpg", "a.jpg", "b.jpg"], "box": [*boxes, None], "face_index": [0, 1, 0]}), path)
    assert found(path) == {"a.jpg": [(1, 2, 3, 4), (5, 6, 7, 8)], "b.jpg": [NO_BOX]}
    assert listed(path, ("face_index",))["face_index"].to_pylist() == [[0, 1], [0]]


def test_images_in_a_table_have_the_boxes_of_their_row(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    pq.write_table(pa.table({"bytes": [b"1", b"2"], "uri": ["a", "a"], "bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}), path)
    assert found(path, box_format="xywh") == {"a": [(1, 2, 3, 4)], "1": [(5, 6, 7, 8)]}


def test_too_many_boxes_of_one_image_are_one_row_that_says_so(tmp_path: Path) -> None:
    path = csv(tmp_path, "file,x,y,w,h,id", *(f"a.jpg,{row},2,3,4,{row}" for row in range(MAX_BOXES + 1)))
    assert found(path) == {"a.jpg": ["5,001 boxes for one image; at most 5,000 are read"]}
    assert listed(path, ("id",))["id"].to_pylist() == [["0"]]


def test_json_beside_an_image_holds_its_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_boxes, "MAX_JSON_BYTES", 1000)
    box = {"x": 1, "y": 2, "width": 3, "height": 4}
    texts: dict[str, str | bytes] = {
        "list": json.dumps([box, box]), "one": json.dumps(box), "keyed": json.dumps({"age": 31, "boxes": [box]}),
        "bbox": json.dumps({"bbox": {"x1": 1, "y1": 2, "x2": 4, "y2": 6}}), "none": "[]", "other": '{"age": 31}',
        "broken": "[{", "latin": b"\xff", "large": "[" + " " * 1000 + "]", "wrong": "7",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / f"{name}.jpg").write_bytes(b"image")
        (tmp_path / f"{name}.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "alone.PNG").write_bytes(b"image")
    (tmp_path / "notes.txt").write_bytes(b"text")
    counts = SourceCounts()
    rows = found(tmp_path, counts=counts)
    good = (1, 2, 3, 4)
    assert {name.partition(".")[0]: boxes for name, boxes in rows.items() if good in boxes} == {
        "list": [good, good], "one": [good], "keyed": [good], "bbox": [good],
    }  # fmt: skip
    assert [rows[name] for name in ("none.jpg", "other.jpg", "alone.PNG")] == [[NO_BOX]] * 3
    assert "broken.json is not JSON" in str(rows["broken.jpg"][0])
    assert "latin.json is not JSON" in str(rows["latin.jpg"][0])
    assert rows["large.jpg"] == ["large.json has more than 1,000 bytes"]
    assert "7 is no box" in str(rows["wrong.jpg"][0])
    assert counts.ignored == {".txt": 1}
    assert found(tmp_path / "one.jpg") == {"one.jpg": [good]}
    assert found(tmp_path, include=["l*.jpg"]).keys() == {"list.jpg", "latin.jpg", "large.jpg"}


def test_json_in_an_archive_holds_the_boxes_and_the_kept_keys_of_its_image(tmp_path: Path) -> None:
    path = tmp_path / "shard.tar"
    texts = {"a": {"boxes": [[1, 2, 3, 4], [5, 6, 7, 8]], "id": 7}, "b": [[1, 2, 3, 4]], "c": None, "d": {"id": 8}}
    with tarfile.open(path, "w") as archive:
        for name, value in texts.items():
            for suffix, data in (("jpg", b"image"), ("json", json.dumps(value).encode())):
                info = tarfile.TarInfo(f"{name}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    assert found(path, box_format="xywh") == {
        "a.jpg": [(1, 2, 3, 4), (5, 6, 7, 8)], "b.jpg": [(1, 2, 3, 4)], "c.jpg": [NO_BOX], "d.jpg": [NO_BOX],
    }  # fmt: skip
    assert listed(path, ("id",), box_format="xywh")["id"].to_pylist() == [["7", "7"], [None], [None], ["8"]]
    assert "--box-format" in refusal(path)
    path.write_bytes(path.read_bytes()[:700])
    assert found(path, box_format="xywh") == {"shard.tar": [NO_BOX]}


def test_boxes_are_read_only_where_they_are_asked_for(tmp_path: Path) -> None:
    path = csv(tmp_path, "file,x,y,w,h", "a.jpg,1,2,3,4", "a.jpg,5,6,7,8")
    options = PredictConfig(input=[str(path)], output="out").source()
    assert type(options) is SourceOptions
    assert pa.concat_tables(list_source(options)).column_names == LISTING.names
    assert PredictConfig(input=["a"], output="b", faces="boxes", box_format="xyxy").source().boxes is not None
    with pytest.raises(ValueError, match="are for --faces boxes"):
        PredictConfig(input=["a"], output="b", box_columns="box")
    with pytest.raises(ValueError, match="box_columns x,y: give one"):
        PredictConfig(input=["a"], output="b", faces="boxes", box_columns=["x", "y"])
