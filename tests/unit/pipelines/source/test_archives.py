"""Archives: names, links, compression, damage; WebDataset's labels beside an image."""

import io
import json
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from agegender.errors import InputError
from agegender.option_groups import SourceOptions
from agegender.pipelines.source import archives
from agegender.pipelines.source.fetch import fetch
from agegender.pipelines.source.listing import SourceCounts, list_source
from agegender.schema import Status

ODD = b"photos/Mu\xf1oz.jpg".decode("utf-8", "surrogateescape")


def data(name: str) -> bytes:
    """What a test member holds: no image, but of its own for every name, and not a multiple of tar's block."""
    return name.encode("utf-8", "surrogateescape") * 100


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def tar(path: Path, members: Sequence[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> SourceOptions:
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return SourceOptions(input=[str(path)])


def listed(options: SourceOptions, keep: Sequence[str] = ()) -> tuple[list[dict[str, object]], dict[str, int]]:
    counts = SourceCounts()
    table = pa.concat_tables(list_source(options, keep, counts=counts))
    return table.to_pylist(), dict(counts.ignored)


def names(options: SourceOptions) -> list[str]:
    return [str(row["uri"]).partition("#")[2] for row in listed(options)[0]]


def contents(options: SourceOptions) -> list[bytes | None]:
    return [fetched.data for table in list_source(options) for fetched in fetch(table, options)]


def test_a_tar_of_macos_holds_the_images_that_its_folder_holds(tmp_path: Path) -> None:
    photos = ["./photos/a.jpg", "./photos/b.JPG"]
    rest = [
        "./photos/._a.jpg",
        "__MACOSX/photos/._a.jpg",
        "./photos/.DS_Store",
        "./photos/@eaDir/a.jpg/thumb.jpg",
        "./n.txt",
    ]
    options = tar(tmp_path / "mac.tar", [member(name, data(name)) for name in (*photos, *rest)])
    rows, ignored = listed(options)
    assert [row["uri"] for row in rows] == [f"{tmp_path}/mac.tar#photos/a.jpg", f"{tmp_path}/mac.tar#photos/b.JPG"]
    assert ignored == {"hidden name": 3, "system folder": 1, ".txt": 1}
    assert contents(options) == [data(name) for name in photos]


def test_links_are_images_if_they_lead_to_a_file_of_the_archive_and_else_counted(tmp_path: Path) -> None:
    options = tar(
        tmp_path / "links.tar",
        [
            member("d/early.jpg", kind=tarfile.SYMTYPE, link="../late.jpg"),
            member("a.jpg", data("a.jpg")),
            member("b.jpg", kind=tarfile.LNKTYPE, link="a.jpg"),
            member("out.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd"),
            member("up.jpg", kind=tarfile.SYMTYPE, link="../../x.jpg"),
            member("loop.jpg", kind=tarfile.SYMTYPE, link="loop.jpg"),
            member("notes.txt", kind=tarfile.LNKTYPE, link="a.jpg"),
            member("pipe", kind=tarfile.FIFOTYPE),
            member("late.jpg", data("late.jpg")),
        ],
    )
    assert names(options) == ["a.jpg", "late.jpg", "d/early.jpg", "b.jpg"]
    assert contents(options) == [data("a.jpg"), data("late.jpg"), data("late.jpg"), data("a.jpg")]
    assert listed(options)[1] == {"link": 3, "pipe, socket or device": 1, ".txt": 1}


def test_names_that_are_not_text_or_begin_with_a_hash_have_a_uri_of_their_own(tmp_path: Path) -> None:
    odd = [ODD, "photos/Mu%F1oz.jpg", "#1.jpg", "a#b.jpg"]
    options = tar(tmp_path / "odd.tar", [member(name, data(name)) for name in odd])
    assert names(options) == ["#photos/Mu%F1oz.jpg", "photos/Mu%F1oz.jpg", "#%231.jpg", "a#b.jpg"]
    assert contents(options) == [data(name) for name in odd]


@pytest.mark.parametrize("extension", ["tgz", "tar.gz", "tar.bz2", "tar.xz", "TAR.GZ"])
def test_compressed_tars_are_read_in_units_and_in_any_order(tmp_path: Path, extension: str) -> None:
    written = [f"{index:03}.jpg" for index in range(40)]
    mode = f"w:{extension.lower().rpartition('.')[2].replace('tgz', 'gz')}"
    options = tar(tmp_path / f"set.{extension}", [member(name, data(name)) for name in written], mode)
    options = options.model_copy(update={"unit_images": 7})
    assert names(options) == written
    assert contents(options) == [data(name) for name in written]
    table = pa.concat_tables(list_source(options)).take([30, 2, 39, 0])
    assert [fetched.data for fetched in fetch(table, options)] == [data(written[i]) for i in (30, 2, 39, 0)]


def test_a_zip_is_read_by_member(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("photos/", "photos/José.jpg", "photos/b.jpg", "__MACOSX/photos/._b.jpg", "notes.txt"):
            archive.writestr(name, b"" if name.endswith("/") else data(name))
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "photos/b.jpg")
    options = SourceOptions(input=[str(path)])
    assert names(options) == ["photos/José.jpg", "photos/b.jpg"]
    assert contents(options) == [data("photos/José.jpg"), data("photos/b.jpg")]
    assert listed(options)[1] == {"hidden name": 1, ".txt": 1, "link": 1}


def test_a_damaged_or_encrypted_member_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.jpg", data("a.jpg"))
        archive.writestr("b.jpg", data("b.jpg"))
        archive.writestr("c.jpg", data("c.jpg"))
    damaged = bytearray(path.read_bytes())
    at = damaged.index(data("a.jpg"))
    damaged[at : at + 4] = b"!!!!"
    second = damaged.index(b"PK\x01\x02", damaged.index(b"PK\x01\x02") + 4)
    damaged[second + 8] |= 1  # the flag of an encrypted member
    path.write_bytes(damaged)
    options = SourceOptions(input=[str(path)])
    fetched = [each for table in list_source(options) for each in fetch(table, options)]
    assert [each.status for each in fetched] == [Status.UNREADABLE, Status.UNREADABLE, Status.OK]
    assert "encrypted" in str(fetched[1].error)


@pytest.mark.parametrize("name", ["x.tar", "x.tgz", "x.tar.xz", "x.tar.bz2", "x.zip"])
@pytest.mark.parametrize("content", [b"", b"no archive" * 200])
def test_a_damaged_archive_is_a_row(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    rows, _ = listed(SourceOptions(input=[str(tmp_path)]))
    assert [row["uri"] for row in rows] == [f"{tmp_path}/{name}"]


def test_an_archive_that_ends_early_gives_the_images_before_its_end_and_a_row_of_its_own(tmp_path: Path) -> None:
    for extension, mode in (("tar", "w"), ("tgz", "w:gz")):
        path = tmp_path / f"cut.{extension}"
        tar(path, [member(f"{i}.jpg", bytes(range(256)) * 400) for i in range(5)], mode)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
        rows, _ = listed(SourceOptions(input=[str(path)]))
        assert rows[0]["uri"] == f"{path}#0.jpg"
        assert rows[-1]["uri"] == str(path), extension


@pytest.mark.parametrize("name", ["a.7z", "a.rar", "a.tar.zst", "a.jpg.gz"])
def test_another_kind_of_archive_is_refused_if_it_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"is not read\. Unpack it"):
        listed(SourceOptions(input=[str(tmp_path / name)]))


def sample(key: str, label: object, image: str = ".jpg") -> list[tuple[tarfile.TarInfo, bytes]]:
    content = label if isinstance(label, bytes) else json.dumps(label).encode()
    return [member(f"{key}{image}", data(key)), member(f"{key}.json", content)]


def test_labels_beside_an_image_are_its_labels(tmp_path: Path) -> None:
    options = tar(
        tmp_path / "shard.tar",
        [
            *sample("0001", {"age": 38.0, "gender": "female", "id": 7}),
            *reversed(sample("0002", {"Age": 25, "gender": "male"})),
            *sample("a/0003", b"{broken"),
            *sample("a/0004", [1, 2]),
            *sample("31_0_1_20170116002854242", {"caption": "a man"}, ".jpg"),
            member("0006.jpg", data("6")),
        ],
    )
    rows, ignored = listed(options, keep=["id"])
    assert [(row["age_years"], row["gender"]) for row in rows] == [
        (38, 1), (25, 0), (None, None), (None, None), (31, 0), (None, None)
    ]  # fmt: skip
    assert "0003.json" in str(rows[2]["label_problem"])
    assert "no object" in str(rows[3]["label_problem"])
    assert [row["id"] for row in rows] == ["7", None, None, None, None, None]
    assert ignored == {}
    assert contents(options)[1] == data("0002")


def test_hostile_labels_are_problems_of_their_image_alone(tmp_path: Path) -> None:
    values = [
        b'{"age": 1' + b"0" * 400 + b"}", b"[" * 100_000, b'{"age": {"a": 1}}', b'{"age": true, "gender": "f"}', b"\xff\xfe",
        b'{"age": 31, "race": "\\ud800", "id": "\\udfff"}', b'{"age": NaN, "gender": Infinity}', b'{"age": "' + b"9" * 10_000 + b'"}',
    ]  # fmt: skip
    members = [each for key, value in enumerate(values) for each in sample(f"{key:04}", value)]
    rows, _ = listed(tar(tmp_path / "shard.tar", members), keep=["id"])
    assert [row["age_years"] for row in rows] == [None] * 5 + [31, None, None]
    assert [row["label_problem"] is None for row in rows] == [False] * 5 + [True] + [False] * 2
    assert (rows[5]["race"], rows[5]["id"]) == ("?", "?")


def test_many_images_of_one_sample_are_listed_as_they_come_and_share_its_labels(tmp_path: Path) -> None:
    images = [member(f"photo.{index}.jpg", data("x")) for index in range(2 * archives.MAX_SAMPLE_IMAGES + 1)]
    options = tar(tmp_path / "one.tar", [member("photo.json", b'{"age": 5}'), *images])
    rows, _ = listed(options)
    assert [row["age_years"] for row in rows] == [5] * len(images)


def test_keys_are_named_by_the_options_of_columns(tmp_path: Path) -> None:
    options = tar(
        tmp_path / "shard.tar",
        [
            member("1.png", data("1")), member("1.cls", b"1\n"), member("1.json", b'{"years": 20}'),
            member("2.png", data("2")), member("2.cls", b"0"), member("2.txt", b"text"),
        ],
    ).model_copy(update={"age_column": "years", "gender_column": "cls"})  # fmt: skip
    assert [(row["age_years"], row["gender"]) for row in listed(options)[0]] == [(20, 1), (None, 0)]
    some = options.model_copy(update={"include": ["1.png"]})
    assert [(row["age_years"], row["gender"]) for row in listed(some)[0]] == [(20, 1)]
    without = options.model_copy(update={"labels": "none"})
    assert listed(without)[1] == {".cls": 2, ".json": 1, ".txt": 1}
    assert listed(options)[1] == {".txt": 1}


def test_a_named_key_that_no_image_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    options = tar(tmp_path / "shard.tar", sample("1", {"year": 20, "gender": "f"}))
    with pytest.raises(
        InputError, match=r"shard\.tar has no column 'years', which --age-column names\. Did you mean 'year'"
    ):
        listed(options.model_copy(update={"age_column": "years"}))
