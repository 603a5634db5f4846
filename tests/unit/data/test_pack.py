"""Packs: what is in their files, how large these are, and what is said of a pack that is not whole."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agegender.data.pack import ImageFormat, Pixels, encode, open_pack, packed_files
from agegender.errors import InputError
from tests.support.packs import drawn_split, write_pack


@pytest.fixture(scope="module")
def split() -> tuple[pa.Table, Pixels]:
    return drawn_split(60, 48)


def test_files_are_bounded_and_hold_the_usable_rows_in_order(split: tuple[pa.Table, Pixels], tmp_path: Path) -> None:
    rows, pixels = split
    usable = np.arange(60) % 7 != 2
    bound = 140_000
    files = list(packed_files(rows, pixels, usable, "lossless", 80, bound, threads=2))
    assert len(files) > 2
    assert [name for name, _ in files] == [f"images-{number:04d}.parquet" for number in range(len(files))]
    tables = []
    for name, data in files:
        assert len(data) <= bound
        (tmp_path / name).write_bytes(data)
        tables.append(pq.read_table(tmp_path / name))
    packed = pa.concat_tables(tables)
    assert packed["content_hash"].to_pylist() == rows["content_hash"].filter(pa.array(usable)).to_pylist()
    assert packed["gender"].to_pylist() == rows["gender"].filter(pa.array(usable)).to_pylist()
    assert not {"uri", "group"} & set(packed.column_names)


@pytest.mark.parametrize(("image_format", "most"), [("lossless", 0.0), ("webp", 12.0), ("jpeg", 12.0)])
def test_formats_keep_the_pixels_or_nearly(
    split: tuple[pa.Table, Pixels], tmp_path: Path, image_format: ImageFormat, most: float
) -> None:
    rows, pixels = split
    write_pack(tmp_path / "pack", side_px=48)
    _, data = next(packed_files(rows, pixels, np.ones(60, np.bool_), image_format, 90, 10**7, threads=1))
    (tmp_path / "pack" / "images-0000.parquet").write_bytes(data)
    _accept(tmp_path / "pack", 60)
    error = open_pack(tmp_path / "pack").pixels.astype(np.float64) - pixels
    assert np.sqrt((error**2).mean()) <= most


def _accept(folder: Path, count: int) -> None:
    """Rewrite pack.json for other content of its only file."""
    import hashlib
    import json

    info = json.loads((folder / "pack.json").read_text())
    info["files"] = {"images-0000.parquet": hashlib.sha256((folder / "images-0000.parquet").read_bytes()).hexdigest()}
    info["images"] = {"train": count - 15, "val": 15}
    (folder / "pack.json").write_text(json.dumps(info))


def test_a_lower_quality_takes_fewer_bytes(split: tuple[pa.Table, Pixels]) -> None:
    pixels = split[1][0]
    sizes = [len(encode(pixels, "webp", quality)) for quality in (30, 60, 90)] + [len(encode(pixels, "lossless", 1))]
    assert sizes == sorted(sizes)


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pack\.json: not a pack"):
        open_pack(tmp_path)
    write_pack(tmp_path / "pack")
    file = tmp_path / "pack" / "images-0000.parquet"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + b"x")
    with pytest.raises(InputError, match=r"images-0000\.parquet: damaged"):
        open_pack(tmp_path / "pack")
    file.unlink()
    with pytest.raises(InputError, match=r"images-0000\.parquet of 1 files of the pack are missing"):
        open_pack(tmp_path / "pack")


def test_a_pack_of_another_version_is_refused(tmp_path: Path) -> None:
    write_pack(tmp_path / "pack")
    info = tmp_path / "pack" / "pack.json"
    info.write_text(info.read_text().replace('"format_version":1', '"format_version":9'))
    with pytest.raises(InputError, match="format version 9, this release reads 1"):
        open_pack(tmp_path / "pack")


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    write_pack(tmp_path / "pack")
    info = tmp_path / "pack" / "pack.json"
    info.write_text(info.read_text().replace('"image_size_px":32', '"image_size_px":40'))
    with pytest.raises(InputError, match="32 x 32 pixels, 40 x 40 expected"):
        open_pack(tmp_path / "pack")
