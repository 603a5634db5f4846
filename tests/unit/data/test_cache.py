import os
import time
from pathlib import Path

import numpy as np
import pytest

from agegender.data import cache
from agegender.data.images import encode_jpeg
from agegender.errors import ResourceError

SIDE_PX = 32


def _faces(count: int) -> list[bytes]:
    return [encode_jpeg(np.full((48, 48, 3), 20 * index, np.uint8)) for index in range(count)]


def _build(path: Path, encoded: list[tuple[int, bytes]], images: int, limit_bytes: int = 10**9) -> cache.DecodedImages:
    return cache.build_cache(path, encoded, images, SIDE_PX, max_pixels=10**6, threads=2, limit_bytes=limit_bytes)


def test_each_image_is_in_its_row_whatever_the_order(tmp_path: Path) -> None:
    faces = _faces(7)
    built = _build(tmp_path / "x.npy", [(row, faces[row]) for row in (3, 0, 6, 1, 5, 2, 4)], 7)
    assert built.pixels.shape == (7, SIDE_PX, SIDE_PX, 3)
    assert np.allclose(built.pixels.mean(axis=(1, 2, 3)), [20 * row for row in range(7)], atol=2)
    assert built.usable.all()


def test_missing_and_undecodable_rows_are_not_usable(tmp_path: Path) -> None:
    faces = _faces(3)
    built = _build(tmp_path / "x.npy", [(0, faces[0]), (1, b"no image")], 3)
    assert built.usable.tolist() == [True, False, False]


def test_more_images_than_are_decoded_ahead(tmp_path: Path) -> None:
    faces = _faces(10)
    built = _build(tmp_path / "x.npy", [(row, faces[row % 10]) for row in range(100)], 100)
    assert built.usable.all()


def test_opens_again_as_it_was_built(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    assert cache.open_cache(path) is None
    built = _build(path, list(enumerate(_faces(3))), 4)
    opened = cache.open_cache(path)
    assert opened is not None
    assert np.array_equal(opened.pixels, built.pixels)
    assert opened.usable.tolist() == [True, True, True, False]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> list[tuple[int, bytes]]:
        raise ResourceError("storage does not answer")

    with pytest.raises(ResourceError):
        _build(tmp_path / "x.npy", (broken() for _ in range(1)), 3)  # type: ignore[arg-type]
    assert cache.open_cache(tmp_path / "x.npy") is None
    assert list(tmp_path.iterdir()) == []


def test_old_caches_make_room_for_a_new_one_and_no_more_than_needed(tmp_path: Path) -> None:
    for age_s, name in ((300, "oldest"), (200, "old"), (100, "young")):
        _build(tmp_path / f"{name}.npy", [], 10)
        os.utime(tmp_path / f"{name}.npy", (time.time() - age_s,) * 2)
    size_bytes = (tmp_path / "old.npy").stat().st_size
    _build(tmp_path / "new.npy", [], 10, limit_bytes=3 * size_bytes)
    left = {path.name for path in tmp_path.glob("*.npy")} - {path.name for path in tmp_path.glob("*.usable.npy")}
    assert left == {"old.npy", "young.npy", "new.npy"}


def test_abandoned_parts_go_and_fresh_ones_stay(tmp_path: Path) -> None:
    dead, alive = tmp_path / "a.npy.1.part", tmp_path / "b.npy.2.part"
    dead.write_bytes(b"x" * 100)
    alive.write_bytes(b"x" * 100)
    os.utime(dead, (time.time() - 2 * cache.ABANDONED_AFTER_S,) * 2)
    cache.make_room(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == [alive.name]


def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="--cache-dir"):
        _build(tmp_path / "x.npy", [], 10**12, limit_bytes=10**18)
    assert list(tmp_path.iterdir()) == []


def test_remove(tmp_path: Path) -> None:
    _build(tmp_path / "x.npy", [], 2)
    cache.remove_cache(tmp_path / "x.npy")
    cache.remove_cache(tmp_path / "x.npy")
    assert list(tmp_path.iterdir()) == []
