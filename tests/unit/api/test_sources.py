"""What lies in memory becomes a file that the jobs read: the same pixels, in order, under the name of its content."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agegender.api.sources import PreparedSource, prepare_source
from agegender.data.images import decode
from agegender.errors import ConfigError, InputError
from agegender.option_groups import SourceOptions
from agegender.pipelines.source.fetch import fetch
from agegender.pipelines.source.listing import list_source
from agegender.schema import Status
from tests.support.corpus import PICTURE, encoded, exif

RGB = Image.fromarray(PICTURE)


def listed(prepared: PreparedSource, **options: Any) -> pa.Table:
    return pa.concat_tables(list_source(SourceOptions(input=prepared.addresses, **options)))


def pictures(prepared: PreparedSource) -> list[np.ndarray | Status]:
    """What the decoder of the jobs makes of each image."""
    options = SourceOptions(input=prepared.addresses)
    fetched = [f for table in list_source(options) for f in fetch(table, options)]
    decoded = [decode(f.data or b"", 10**6) for f in fetched]
    return [d.status if d.pixels is None else d.pixels for d in decoded]


@pytest.mark.parametrize("source", ["photos/", Path("photos"), "s3://bucket/photos"])
def test_an_address_passes_as_it_is(source: Any, tmp_path: Path) -> None:
    assert prepare_source(source, str(tmp_path)).addresses == [str(source)]
    assert prepare_source([source, "more.tar"], str(tmp_path)).addresses == [str(source), "more.tar"]
    assert not list(tmp_path.iterdir())


def test_a_list_of_images_by_address_is_a_manifest_in_which_one_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "31_0_0_20170110101010101.jpg").write_bytes(encoded(RGB, "JPEG"))
    prepared = prepare_source(
        [tmp_path / "31_0_0_20170110101010101.jpg", str(tmp_path / "gone.jpg")], str(tmp_path / "out")
    )
    table = listed(prepared)
    assert table.column("uri").to_pylist() == [f"{tmp_path}/31_0_0_20170110101010101.jpg", f"{tmp_path}/gone.jpg"]
    assert table.column("age_years").to_pylist() == [31.0, None], "labels in file names are still found"
    options = SourceOptions(input=prepared.addresses)
    assert [f.status for f in fetch(table, options)] == [Status.OK, Status.MISSING]


@pytest.mark.parametrize(
    "image",
    [
        PICTURE,
        PICTURE[::1, ::1].copy(order="F"),
        encoded(RGB, "PNG"),
        bytearray(encoded(RGB, "PNG")),
        RGB,
        Image.open(BytesIO(encoded(RGB, "PNG"))),
        np.stack([PICTURE]),
    ],
    ids=["array", "array in Fortran's order", "bytes", "bytearray", "PIL", "PIL, not loaded yet", "batch"],
)
def test_every_kind_of_image_arrives_as_the_same_pixels(image: Any, tmp_path: Path) -> None:
    (seen,) = pictures(prepare_source(image, str(tmp_path)))
    assert np.array_equal(seen, PICTURE)


def test_a_mixed_list_keeps_its_order_and_its_bad_images(tmp_path: Path) -> None:
    images = [255 - PICTURE, b"no image", RGB, b"", *[encoded(RGB, "PNG")] * 70]
    prepared = prepare_source(iter(images), str(tmp_path))
    seen = pictures(prepared)
    assert np.array_equal(seen[0], 255 - PICTURE)
    assert seen[1] == Status.NOT_AN_IMAGE
    assert seen[3] == Status.EMPTY
    assert all(np.array_equal(picture, PICTURE) for picture in [seen[2], *seen[4:]])
    assert listed(prepared).column("uri").to_pylist() == [f"image-{number:06d}" for number in range(74)]
    assert not prepared.names_its_images


def test_a_pil_image_is_taken_as_a_viewer_shows_it(tmp_path: Path) -> None:
    turned = Image.open(BytesIO(encoded(RGB, "PNG", exif=exif(6))))
    cmyk, grey = RGB.convert("CMYK"), RGB.convert("L")
    clear = RGB.copy()
    clear.putalpha(0)
    floats = Image.fromarray(np.ones((20, 20), np.float32))
    seen = pictures(prepare_source([turned, cmyk, grey, clear, floats], str(tmp_path)))
    assert np.array_equal(seen[0], np.rot90(PICTURE, -1))
    assert np.array_equal(seen[1], np.asarray(cmyk.convert("RGB")))
    assert np.array_equal(seen[2], np.asarray(grey.convert("RGB")))
    assert np.all(seen[3] == 255), "transparency lies over white"
    assert seen[4] == Status.UNSUPPORTED


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([], "empty list"),
        (np.zeros((4, 4, 3), np.float32), r"image 0 is an array of float32\[4, 4, 3\]; it must be uint8\[H, W, 3\]"),
        ([PICTURE, PICTURE[..., 0]], r"image 1 is an array of uint8\[40, 48\]"),
        ([Image.open(BytesIO(encoded(RGB, "PNG")[:200]))], "image 0 is a PIL image that does not load"),
        (pa.table({"name": ["a"]}), "no column of addresses .* its columns are 'name'"),
        (pa.table({"bytes": ["text"]}), "column 'bytes' is of type string.*base64"),
        (pa.table({"uri": pa.array([], pa.string())}), "no rows"),
        (pd.DataFrame({"uri": ["a"], "thing": [object()]}), "does not convert to an Arrow table"),
    ],
)
def test_images_that_cannot_be_used_are_named(source: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        prepare_source(source, str(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (3, "a source cannot be int. Give an address"),
        ({"a": 1}, "a source cannot be dict"),
        ([3], "item 0 of the source is int"),
        (["a.jpg", b"b"], "item 1 of the source is bytes among addresses"),
        ([b"b", "a.jpg"], "item 1 of the source is an address among images in memory"),
    ],
)
def test_a_source_of_no_known_kind_says_what_is_allowed(source: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare_source(source, str(tmp_path))


TABLE = pa.table({"bytes": [encoded(RGB, "PNG"), b""], "id": [7, 8], "gender": ["male", "female"]})


@pytest.mark.parametrize(
    "table",
    [TABLE, pd.DataFrame(TABLE.to_pydict(), index=[5, 3]), polars.DataFrame(TABLE.to_pydict())],
    ids=["pyarrow", "pandas", "polars"],
)
def test_a_table_of_bytes_keeps_its_columns(table: Any, tmp_path: Path) -> None:
    prepared = prepare_source(table, str(tmp_path), rename=True)
    assert prepared.columns == ("id", "source_gender")
    assert prepared.renamed == {"gender": "source_gender"}
    seen = pictures(prepared)
    assert np.array_equal(seen[0], PICTURE)
    assert seen[1] == Status.EMPTY
    written = pq.read_table(prepared.addresses[0])
    assert written.column("uri").to_pylist() == ["image-000000", "image-000001"]
    assert written.column("id").to_pylist() == [7, 8]


def test_labels_in_a_table_stay_under_their_names_where_labels_are_wanted(tmp_path: Path) -> None:
    prepared = prepare_source(TABLE, str(tmp_path))
    assert listed(prepared).column("gender").to_pylist() == [0, 1]


def test_addresses_in_a_table_count_from_here_not_from_where_the_table_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = pa.table({"path": ["a.png", "s3://bucket/b.png", "/c.png"], "uri": [1, 2, 3]})
    prepared = prepare_source(table, "out", uri_column="path", rename=True)
    found = listed(prepared, uri_column="path").column("uri").to_pylist()
    assert found == [f"{tmp_path}/a.png", "s3://bucket/b.png", "/c.png"]
    assert prepared.columns == ("source_uri",)


def test_the_same_data_is_the_same_file_and_other_data_another(tmp_path: Path) -> None:
    first, again = (prepare_source([PICTURE], str(tmp_path)) for _ in range(2))
    other = prepare_source([255 - PICTURE], str(tmp_path))
    assert first.addresses == again.addresses == [first.written]
    assert again.written is None
    assert other.addresses != first.addresses
    assert Path(first.addresses[0]).parent == tmp_path / "_input"
