import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agegender.errors import InputError
from agegender.option_groups import SourceOptions
from agegender.pipelines.source.fetch import read_unit
from agegender.pipelines.source.listed_image import ListedImage
from agegender.pipelines.source.reader import SourceReader
from agegender.pipelines.source.streaming_listing import StreamingListing, drain
from agegender.storage import files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "faces"
    root.mkdir()
    for index in range(10):
        (root / f"{index:02d}.jpg").write_bytes(b"x" * index)
    (root / "notes.txt").write_text("no image")
    return root


def growing(folder: Path, tmp_path: Path, *more: Path, limit: int | None = None) -> StreamingListing:
    source = SourceOptions(input=[str(folder), *map(str, more)], unit_images=4, labels="none")
    return StreamingListing(source, str(tmp_path / "work"), limit=limit)


def names(listing: StreamingListing) -> list[list[str]]:
    with listing:
        units = [number for number in listing.numbers() if number is not None]
    return [[Path(uri).stem for uri in read_unit(listing.address(unit))["uri"].to_pylist()] for unit in units]


def state(work: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in work.iterdir()}


def has_ended(listing: StreamingListing) -> bool:
    """Asked again each time: its thread goes on between two lines of a test."""
    return listing.ended


def test_units_can_be_read_while_the_rest_is_still_being_listed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_go_on = threading.Event()
    images = SourceReader.images

    def in_two_goes(reader: SourceReader) -> Iterator[ListedImage]:
        for index, image in enumerate(images(reader)):
            assert index < 8 or may_go_on.wait(60)
            yield image

    monkeypatch.setattr(SourceReader, "images", in_two_goes)
    with growing(folder, tmp_path) as listing:
        numbers = listing.numbers()
        assert [next(n for n in numbers if n is not None) for _ in range(2)] == [0, 1]
        assert next(numbers) is None
        assert not has_ended(listing)
        may_go_on.set()
        assert [n for n in numbers if n is not None] == [2]
        assert has_ended(listing)
    assert (listing.counts.images, listing.counts.repeated, dict(listing.counts.ignored)) == (10, 0, {".txt": 1})


def test_units_that_a_kill_left_behind_a_gap_are_listed_again(folder: Path, tmp_path: Path) -> None:
    whole = names(growing(folder, tmp_path))
    for name in ("listing.json", "unit-0000001.parquet"):
        (tmp_path / "work" / name).unlink()
    again = growing(folder, tmp_path)
    assert names(again) == whole
    assert again.counts.images == 10


def test_a_unit_that_is_gone_from_a_whole_listing_is_missed(folder: Path, tmp_path: Path) -> None:
    names(growing(folder, tmp_path))
    (tmp_path / "work" / "unit-0000001.parquet").unlink()
    with pytest.raises(InputError, match=r"unit-0000001\.parquet: this unit of the run's listing is missing"):
        names(growing(folder, tmp_path))
    assert (tmp_path / "work" / "unit-0000002.parquet").exists()


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_a_listing_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(
    written: int, folder: Path, tmp_path: Path
) -> None:
    whole = names(growing(folder, tmp_path, folder))
    work = tmp_path / "work"
    index = (work / "listing.json").read_text()
    (work / "listing.json").unlink()
    for number in range(written, 3):
        (work / f"unit-{number:07d}.parquet").unlink()
    kept = state(work)
    again = growing(folder, tmp_path, folder)
    assert names(again) == whole
    assert again.counts.repeated == 10
    assert (work / "listing.json").read_text() == index
    assert kept.items() <= state(work).items()


def test_images_that_came_later_are_units_of_their_own_and_nothing_else_is_touched(
    folder: Path, tmp_path: Path
) -> None:
    assert names(growing(folder, tmp_path)) == [["00", "01", "02", "03"], ["04", "05", "06", "07"], ["08", "09"]]
    before = state(tmp_path / "work")
    assert len(names(growing(folder, tmp_path))) == 3
    assert state(tmp_path / "work") == before
    for name in ("00a", "zz"):
        (folder / f"{name}.jpg").write_bytes(b"new")
    again = growing(folder, tmp_path)
    assert names(again)[3:] == [["00a", "zz"]]
    assert (again.counts.images, again.counts.repeated) == (12, 0)
    after = state(tmp_path / "work")
    assert files.read_json(str(tmp_path / "work" / "listing.json"))["images"] == 12
    assert {name for name in before if before[name] != after[name]} == {"listing.json"}


def test_a_limit_counts_what_is_listed_already(folder: Path, tmp_path: Path) -> None:
    assert names(growing(folder, tmp_path, limit=6)) == [["00", "01", "02", "03"], ["04", "05"]]
    (folder / "00a.jpg").write_bytes(b"new")
    again = growing(folder, tmp_path, limit=6)
    assert len(names(again)) == 2
    assert again.counts.images == 6


def test_what_goes_wrong_while_listing_comes_out_where_it_is_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none"):
        names(growing(folder, tmp_path, tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("text")
    with pytest.raises(InputError, match=r"1 \.txt"):
        names(growing(tmp_path / "empty", tmp_path / "other"))


def test_a_unit_that_is_gone_is_named(folder: Path, tmp_path: Path) -> None:
    names(growing(folder, tmp_path))
    (tmp_path / "work" / "unit-0000001.parquet").unlink()
    with pytest.raises(InputError, match="this unit of the run's listing is missing"):
        names(growing(folder, tmp_path))


def test_nobody_waits_for_a_listing_that_is_no_longer_wanted(folder: Path, tmp_path: Path) -> None:
    threads = threading.active_count()
    with growing(folder, tmp_path):
        pass
    assert threading.active_count() == threads


def test_a_source_is_known_to_be_small_before_it_is_scored(folder: Path, tmp_path: Path) -> None:
    with growing(folder, tmp_path) as listing:
        assert [listing.ends_within(most) for most in (9, 10, 11)] == [False, True, True]
    with growing(tmp_path / "none", tmp_path) as listing, pytest.raises(InputError, match="none"):
        listing.ends_within(5)


def test_a_drained_listing_is_made_once_and_read_again(folder: Path, tmp_path: Path) -> None:
    options = SourceOptions(input=[str(folder)], unit_images=4, labels="none")
    first = drain(options, str(tmp_path / "work"))
    (folder / "zz.jpg").write_bytes(b"new")
    assert drain(options, str(tmp_path / "work")) == first
    assert [read_unit(unit).num_rows for unit in first.units] == [4, 4, 2]
    assert (first.images, first.repeated, first.ignored) == (10, 0, {".txt": 1})


def test_a_listing_that_was_killed_before_its_end_is_drained_from_where_it_was(folder: Path, tmp_path: Path) -> None:
    options = SourceOptions(input=[str(folder)], unit_images=4, labels="none")
    whole = drain(options, str(tmp_path / "work"))
    for name in ("listing.json", "unit-0000002.parquet"):
        (tmp_path / "work" / name).unlink()
    kept = state(tmp_path / "work")
    assert drain(options, str(tmp_path / "work")) == whole
    assert kept.items() <= state(tmp_path / "work").items()
