import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agegender import storage
from agegender.errors import InputError
from agegender.storage import files
from agegender.storage.addresses import canonical, local_path, local_uri, member_uri

LATIN_1 = os.fsdecode(b"Mu\xf1oz 100%.jpg")


@pytest.mark.parametrize(
    ("written", "uri"),
    [
        ("/photos/a.jpg", "/photos/a.jpg"),
        ("photos/a#1 %41.jpg", "photos/a#1 %41.jpg"),
        ("s3a://bucket/a.jpg", "s3://bucket/a.jpg"),
        ("s3n://bucket/a.jpg", "s3://bucket/a.jpg"),
        ("file:///photos/a%20b%23.jpg", "/photos/a b#.jpg"),
        ("file://localhost/photos/a.jpg", "/photos/a.jpg"),
        ("file:///photos/Mu%F1oz.jpg", "file:///photos/Mu%F1oz.jpg"),
        ("https://host/a%20b.jpg", "https://host/a%20b.jpg"),
        ("~/photos", "/home/ada/photos"),
        ("~", "/home/ada"),
        ("./~/photos", "./~/photos"),
        ("photos/~", "photos/~"),
    ],
)
def test_addresses_as_people_write_them(written: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert canonical(written) == uri
    assert canonical(uri) == uri


def test_a_file_of_another_host_is_refused() -> None:
    with pytest.raises(InputError, match="another machine"):
        canonical("file://server/share/a.jpg")


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name and b"/" not in name))
def test_every_name_has_one_uri_which_leads_back(name: bytes) -> None:
    path = "/photos/" + os.fsdecode(name)
    uri = local_uri(path)
    uri.encode()
    assert local_path(uri) == (path if not uri.startswith("file://") else os.path.normpath(path))


@given(st.lists(st.binary(min_size=1, max_size=6), unique=True, min_size=2, max_size=2))
def test_two_members_never_share_a_uri(names: list[bytes]) -> None:
    first, second = (member_uri("/a.tar", name) for name in names)
    assert first != second
    first.encode()


def test_a_name_that_is_not_text_is_listed_read_written_and_deleted(tmp_path: Path) -> None:
    (tmp_path / LATIN_1).write_bytes(b"1")
    (tmp_path / "Mu%F1oz 100%25.jpg").write_bytes(b"2")
    odd, plain = sorted((info.uri for info in files.list_files(str(tmp_path))), key=len, reverse=True)
    assert odd == f"file://{tmp_path}/Mu%F1oz%20100%25.jpg"
    assert plain == f"{tmp_path}/Mu%F1oz 100%25.jpg"
    assert (files.read_bytes(odd), files.read_bytes(plain)) == (b"1", b"2")
    assert [info.uri for info in files.list_files(odd)] == [odd]
    files.write_bytes(odd, b"3")
    assert (tmp_path / LATIN_1).read_bytes() == b"3"
    files.delete(odd)
    assert [path.name for path in tmp_path.iterdir()] == ["Mu%F1oz 100%25.jpg"]


def test_addresses_in_a_file_are_relative_to_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert storage.files.resolve("a/b.jpg", "/lists") == "/lists/a/b.jpg"
    assert files.resolve("a.jpg", "s3://bucket/lists") == "s3://bucket/lists/a.jpg"
    assert files.resolve("/x/a.jpg", "s3://bucket") == "/x/a.jpg"
    assert files.resolve("~/a.jpg", "/lists") == "/home/ada/a.jpg"
    assert files.resolve("s3a://b/a.jpg", "/lists") == "s3://b/a.jpg"
    assert files.resolve("a %41.jpg", "file:///Mu%F1oz") == "file:///Mu%F1oz/a%20%2541.jpg"
    assert files.resolve(LATIN_1, "/lists") == "file:///lists/Mu%F1oz%20100%25.jpg"
    assert files.resolve(f"/x/{LATIN_1}", "s3://bucket") == "file:///x/Mu%F1oz%20100%25.jpg"
    assert files.resolve(LATIN_1, "s3://bucket") == "s3://bucket/Mu\\udcf1oz 100%.jpg"
    assert files.resolve(f"s3://bucket/{LATIN_1}", "/lists") == "s3://bucket/Mu\\udcf1oz 100%.jpg"
    assert files.resolve("file://server/a.jpg", "/lists") == "file://server/a.jpg"
    assert files.resolve("~nobody-there/a.jpg", "/lists") == "/lists/~nobody-there/a.jpg"
