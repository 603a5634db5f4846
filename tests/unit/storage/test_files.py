import errno
import io
import json
import multiprocessing
import os
import pickle
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from agegender import storage
from agegender.errors import ConfigError, InputError, ResourceError
from agegender.schema import Status
from agegender.storage import files, local


def as_user_without_rights(code: str, *arguments: str) -> str:
    """Run Python code as user ``nobody`` if we are root, who may do anything; returns its output."""
    drop = "import os\nif os.geteuid() == 0:\n    os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    # imports first: the user nobody may not be able to read the installed package
    program = "import sys\nfrom agegender import storage\n" + drop + code
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("base", "parts", "joined"),
    [
        ("s3://b", ("k",), "s3://b/k"),
        ("s3://b/", ("/k/", "x"), "s3://b/k/x"),
        ("s3://b/p", (), "s3://b/p"),
        ("a/b/", ("c/d",), "a/b/c/d"),
        ("/", ("a",), "/a"),
        (".", ("a", ""), "./a"),
    ],
)
def test_join(base: str, parts: tuple[str, ...], joined: str) -> None:
    assert storage.join(base, *parts) == joined


@pytest.mark.parametrize(
    ("uri", "above", "last"),
    [
        ("s3://b/p/k.jpg", "s3://b/p", "k.jpg"),
        ("s3://b/k", "s3://b", "k"),
        ("s3://b/p/", "s3://b", "p"),
        ("s3://b", "s3://b", "b"),
        ("/a/b/", "/a", "b"),
        ("/a", "/", "a"),
        ("a", ".", "a"),
    ],
)
def test_parent_and_name(uri: str, above: str, last: str) -> None:
    assert (storage.parent(uri), storage.name(uri)) == (above, last)


def test_absolute_leaves_s3_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("a/../b") == f"{tmp_path}/b"
    assert storage.absolute("s3://b/a/../b") == "s3://b/a/../b"
    assert storage.is_s3("s3://b/x")
    assert not storage.is_s3("/s3://b")


@pytest.mark.parametrize("uri", ["gs://b/x", "hdfs://host/x.jpg", ""])
def test_other_addresses_are_refused(uri: str) -> None:
    with pytest.raises(InputError, match="local path or s3://"):
        storage.read_bytes(uri)


def test_a_local_run_imports_no_boto3_and_no_web_client() -> None:
    code = "print(any('boto' in name or 'urllib3' in name for name in sys.modules))"
    assert as_user_without_rights(code) == "False"


def test_a_listing_is_sorted_deep_and_without_hidden_names(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "b/10.jpg", "a.jpg", "c/d/e.jpg", "_work/x", ".git/x", "b/_y", "b/.tmp-1", "zeile\n.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"123")
    listed = list(storage.list_files(str(tmp_path) + "/"))
    assert [info.uri.removeprefix(f"{tmp_path}/") for info in listed] == [
        "a.jpg", "b/10.jpg", "b/2.jpg", "c/d/e.jpg", "zeile\n.jpg",
    ]  # fmt: skip
    assert listed[0] == storage.stat(f"{tmp_path}/a.jpg")
    assert listed[0].size_bytes == 3
    assert listed[0].etag == str((tmp_path / "a.jpg").stat().st_mtime_ns)
    assert len(list(storage.list_files(str(tmp_path), hidden=True))) == 9
    assert [info.uri for info in storage.list_files(f"{tmp_path}/b/_y")] == [f"{tmp_path}/b/_y"]
    assert [info.uri for info in storage.list_files(f"{tmp_path}/_work")] == [f"{tmp_path}/_work/x"]


def test_relative_addresses_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.jpg").touch()
    monkeypatch.chdir(tmp_path)
    assert [info.uri for info in storage.list_files("a")] == ["a/x.jpg"]
    assert [info.uri for info in storage.list_files(".")] == ["./a/x.jpg"]


def test_a_large_folder_is_sorted_through_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{index:04d} ü\n" for index in range(257)]
    for name in reversed(names):
        (tmp_path / name).touch()
    monkeypatch.setattr(local, "NAMES_IN_MEMORY", 50)
    assert [storage.name(info.uri) for info in storage.list_files(str(tmp_path))] == names


def test_links_are_followed_once_and_broken_ones_listed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/x.jpg").write_bytes(b"1")
    (tmp_path / "real/round").symlink_to(tmp_path)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/linked").symlink_to(tmp_path / "real")
    (tmp_path / "set/broken.jpg").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "set/pipe")
    listed = [info.uri.removeprefix(f"{tmp_path}/set/") for info in storage.list_files(f"{tmp_path}/set")]
    assert "linked/x.jpg" in listed
    assert "broken.jpg" in listed
    assert "pipe" not in listed
    assert len(listed) < 10


def test_nothing_there_is_said_at_once(tmp_path: Path) -> None:
    for uri in (f"{tmp_path}/none", str(tmp_path)):
        with pytest.raises(InputError, match="no files there"):
            storage.list_files(uri)
        assert list(storage.list_files(uri, allow_empty=True)) == []
        assert not storage.exists(uri)
    storage.write_bytes(f"{tmp_path}/a/_x", b"")
    assert storage.exists(f"{tmp_path}/a")
    assert storage.exists(f"{tmp_path}/a/_x")
    assert storage.stat(f"{tmp_path}/a") is None


def test_bytes_and_ranges(tmp_path: Path) -> None:
    uri = f"{tmp_path}/deep/er/x"
    storage.write_bytes(uri, b"0123456789")
    assert storage.read_bytes(uri) == b"0123456789"
    assert storage.read_bytes(uri, 3, 4) == b"3456"
    assert storage.read_bytes(uri, 8, 40) == b"89"
    assert storage.read_bytes(uri, 80, 4) == b""
    with storage.open_for_reading(uri) as stream:
        stream.seek(-2, io.SEEK_END)
        assert stream.read() == b"89"


def test_definite_answers_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    expected = {
        "none.jpg": Status.MISSING,
        "none/none.jpg": Status.MISSING,
        "file/x.jpg": Status.MISSING,
        "": Status.UNREADABLE,
        "pipe": Status.UNREADABLE,
        "loop": Status.UNREADABLE,
        "n" * 300: Status.UNREADABLE,
        "nul\0.jpg": Status.UNREADABLE,
    }
    for name, status in expected.items():
        with pytest.raises(storage.ObjectAnswer) as caught:
            storage.read_bytes(f"{tmp_path}/{name}")
        assert caught.value.status is status, name
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.status, again.uri, again.reason, str(again)) == (
        caught.value.status, caught.value.uri, caught.value.reason, str(caught.value),
    )  # fmt: skip


def test_a_forbidden_file_is_an_answer_a_forbidden_folder_an_input_error(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(0o755)
        if path.name.startswith("pytest-of-"):  # under which pytest keeps all that is temporary
            break
    (tmp_path / "x.jpg").write_bytes(b"1")
    (tmp_path / "x.jpg").chmod(0)
    code = "try: storage.read_bytes(sys.argv[1])\nexcept storage.ObjectAnswer as answer: print(answer.status, answer.reason)"
    assert as_user_without_rights(code, f"{tmp_path}/x.jpg") == "unreadable Permission denied"
    (tmp_path / "closed").mkdir(mode=0)
    code = "try: list(storage.list_files(sys.argv[1]))\nexcept Exception as error: print(type(error).__name__, error)"
    assert "InputError" in as_user_without_rights(code, str(tmp_path))
    code = "try: storage.write_bytes(sys.argv[1], b'1')\nexcept Exception as error: print(type(error).__name__, error)"
    assert "ResourceError" in as_user_without_rights(code, f"{tmp_path}/new")
    (tmp_path / "closed").chmod(0o755)


def test_a_disk_without_room_is_a_resource_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    uri = f"{tmp_path}/x"
    storage.write_bytes(uri, b"old")
    code = (
        "import resource\nfrom agegender.errors import ResourceError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: storage.write_bytes(sys.argv[1], bytes(1_000_000))\nexcept ResourceError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\nfrom agegender import storage\n{code}", uri],
        capture_output=True,
        text=True,
    )
    assert "cannot be written (File too large)" in done.stdout, done.stderr
    assert storage.read_bytes(uri) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    failure = local._write_failure(uri, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert isinstance(failure, ResourceError)


def test_an_io_error_is_an_outage_not_an_answer() -> None:
    for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE):
        assert isinstance(local._answer("x", OSError(number, os.strerror(number))), ResourceError)


def test_writing_replaces_whole_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    uri = f"{tmp_path}/x.json"
    storage.write_bytes(uri, b"old")
    storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "x.json").stat().st_mode) == 0o666 & ~mask
    with pytest.raises(ConfigError, match="Choose another output"):
        storage.write_bytes(f"{uri}/below-a-file", b"")
    (tmp_path / "folder/full").mkdir(parents=True)
    with pytest.raises(ConfigError, match="Choose another output"):
        storage.write_bytes(f"{tmp_path}/folder", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "x.json"]
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)


def _write_for_ever(uri: str) -> None:
    turn = 0
    while True:
        storage.write_bytes(uri, bytes([turn % 256]) * 3_000_000)
        turn += 1


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    uri = f"{tmp_path}/x"
    storage.write_bytes(uri, b"\0" * 3_000_000)
    writer = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=(uri,))
    writer.start()
    for _ in range(200):
        data = storage.read_bytes(uri)
        assert len(data) == 3_000_000
        assert data == data[:1] * len(data)
    writer.kill()
    writer.join()
    data = storage.read_bytes(uri)
    assert data == data[:1] * 3_000_000
    assert [info.uri for info in storage.list_files(str(tmp_path))] == [uri]


@dataclass
class Sums:
    total: float
    where: Path


def test_json_is_strict_and_takes_what_jobs_have(tmp_path: Path) -> None:
    value = {
        "float32": np.float32(0.5), "nan": float("nan"), "numpy_nan": np.float64("nan"), "float32_nan": np.float32("nan"),
        "infinite": [float("inf")], "array": np.array([1.0, np.nan]), "status": Status.OK, "sums": Sums(1.5, Path("/x")),
    }  # fmt: skip
    storage.write_json(f"{tmp_path}/x.json", value)
    text = (tmp_path / "x.json").read_text()
    expected = {
        "float32": 0.5, "nan": None, "numpy_nan": None, "float32_nan": None, "infinite": [None], "array": [1.0, None],
        "status": "ok", "sums": {"total": 1.5, "where": "/x"},
    }  # fmt: skip
    assert json.loads(text, parse_constant=pytest.fail) == expected == storage.read_json(f"{tmp_path}/x.json")
    (tmp_path / "x.json").write_text(text[:-9])
    with pytest.raises(InputError, match="damaged, or not JSON"):
        storage.read_json(f"{tmp_path}/x.json")
    with pytest.raises(TypeError, match="is not JSON serializable"):
        storage.write_json(f"{tmp_path}/y.json", object())
    assert not storage.exists(f"{tmp_path}/y.json")


@pytest.mark.parametrize("in_flight", [1, 4])
def test_many_reads_keep_their_order(tmp_path: Path, in_flight: int) -> None:
    uris = [f"{tmp_path}/{index}" for index in range(30)]
    for index, uri in enumerate(uris):
        if index != 4:
            storage.write_bytes(uri, str(index).encode())
    answers = list(storage.read_many(uris, in_flight))
    assert isinstance(answers[4], storage.ObjectAnswer)
    assert answers[:4] + answers[5:] == [str(index).encode() for index in range(30) if index != 4]
    assert list(storage.read_many([files.Range(uris[29], 1)], in_flight)) == [b"9"]


def test_folders_are_copied_with_the_last_file_last(tmp_path: Path) -> None:
    source = tmp_path / "model"
    for name in ("a.bin", "_x/b.bin", "model.json", ".tmp-left"):
        storage.write_bytes(f"{source}/{name}", name.encode())
    target = f"{tmp_path}/to/model"
    storage.upload_folder(source, target, last="model.json")
    listed = list(storage.list_files(target, hidden=True))
    assert [info.uri.removeprefix(f"{target}/") for info in listed] == ["_x/b.bin", "a.bin", "model.json"]
    assert max(listed, key=lambda info: int(info.etag)).uri == f"{target}/model.json"
    storage.download_folder(target, tmp_path / "back")
    assert (tmp_path / "back/_x/b.bin").read_bytes() == b"_x/b.bin"
    with pytest.raises(ConfigError, match=r"has no other\.json"):
        storage.upload_folder(source, target, last="other.json")
    with pytest.raises(InputError, match="no files there"):
        storage.download_folder(f"{tmp_path}/none", tmp_path / "x")


def test_arrow_takes_local_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    filesystem, path = storage.arrow_filesystem("a/b")
    assert path == f"{tmp_path}/a/b"
    filesystem.create_dir(path)
    assert (tmp_path / "a/b").is_dir()
