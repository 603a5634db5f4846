"""Every function of storage against a real S3 server, its refusals and its outages included."""

import io
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from agegender import storage
from agegender.config import EdaConfig
from agegender.errors import ConfigError, InputError, ResourceError
from agegender.pipelines.runtime.run_record import claim_output
from agegender.pipelines.source.inputs import check_inputs
from agegender.schema import Status
from agegender.storage import files, s3, s3_client
from agegender.storage.retries import take_retries

SECRETS = ("testkey", "testsecret", "otherkey", "othersecret", "wrongkey", "wrongsecret")


def bucket_name(uri: str) -> str:
    return uri.removeprefix("s3://")


def test_bytes_come_back_whole_and_in_ranges(s3_bucket: str) -> None:
    data = np.random.default_rng(0).bytes(100_000)
    uri = storage.join(s3_bucket, "folder", "a b+c%20#ü?.jpg")
    storage.write_bytes(uri, data)
    assert storage.read_bytes(uri) == data
    assert storage.read_bytes(uri, 10, 20) == data[10:30]
    assert storage.read_bytes(uri, 99_990) == data[99_990:]
    assert storage.read_bytes(uri, 99_990, 500) == data[99_990:]
    assert storage.read_bytes(uri, 5, 0) == b""
    assert storage.read_bytes(uri, 200_000, 5) == b""
    found = storage.stat(uri)
    assert found is not None
    assert (found.uri, found.size_bytes) == (uri, 100_000)
    assert list(storage.list_files(s3_bucket)) == [found]
    storage.write_bytes(uri, b"other")
    changed = storage.stat(uri)
    assert changed is not None
    assert changed.etag != found.etag


def test_an_empty_object_is_read_as_no_bytes(s3_bucket: str) -> None:
    uri = f"{s3_bucket}/empty"
    storage.write_bytes(uri, b"")
    assert storage.read_bytes(uri) == b""
    assert storage.read_bytes(uri, 0, 100) == b""
    with storage.open_for_reading(uri) as stream:
        assert stream.read() == b""


@pytest.mark.parametrize("size_bytes", [s3.MULTIPART_BYTES - 1, s3.MULTIPART_BYTES, 2 * s3.MULTIPART_BYTES + 12_345])
def test_big_objects_go_up_in_parts_and_come_back_the_same(s3_bucket: str, s3_admin: Any, size_bytes: int) -> None:
    data = np.random.default_rng(size_bytes).bytes(size_bytes)
    uri = f"{s3_bucket}/big"
    storage.write_bytes(uri, data)
    assert storage.read_bytes(uri) == data
    etag = s3_admin.head_object(Bucket=bucket_name(s3_bucket), Key="big")["ETag"].strip('"')
    assert ("-" in etag) == (size_bytes >= s3.MULTIPART_BYTES)  # the mark of an upload in parts
    source = io.BytesIO(b"skipped" + data)
    source.seek(7)
    files.write_from(source, f"{s3_bucket}/again")
    assert storage.read_bytes(f"{s3_bucket}/again") == data


def test_a_stream_seeks_and_reads_like_a_file(s3_bucket: str) -> None:
    data = np.random.default_rng(1).bytes(s3.READ_AHEAD_BYTES * 2 + 777)
    storage.write_bytes(f"{s3_bucket}/x", data)
    with storage.open_for_reading(f"{s3_bucket}/x") as stream:
        assert stream.seekable()
        assert stream.read(100) == data[:100]
        stream.seek(-50, io.SEEK_END)
        assert stream.read() == data[-50:]
        assert stream.read() == b""
        stream.seek(1000)
        assert stream.tell() == 1000
        assert stream.read() == data[1000:]


def test_an_object_that_changes_under_a_reader_is_an_error_not_a_mixture(s3_bucket: str) -> None:
    uri = f"{s3_bucket}/x"
    storage.write_bytes(uri, b"a" * (s3.READ_AHEAD_BYTES * 2))
    with storage.open_for_reading(uri) as stream:
        stream.read(10)
        storage.write_bytes(uri, b"b" * (s3.READ_AHEAD_BYTES * 2))
        with pytest.raises(InputError, match="changed while it was read"):
            stream.read()


def test_exists_knows_objects_and_prefixes(s3_bucket: str) -> None:
    storage.write_bytes(f"{s3_bucket}/a/_work/x", b"1")
    assert storage.exists(f"{s3_bucket}/a/_work/x")
    assert storage.exists(f"{s3_bucket}/a")
    assert storage.exists(f"{s3_bucket}/a/")
    assert not storage.exists(f"{s3_bucket}/a/_wor")
    assert storage.stat(f"{s3_bucket}/a") is None


def test_nothing_there_is_said_at_once(s3_bucket: str) -> None:
    with pytest.raises(InputError, match="no files there"):
        storage.list_files(f"{s3_bucket}/none")
    assert list(storage.list_files(f"{s3_bucket}/none", allow_empty=True)) == []
    with pytest.raises(InputError, match="no files there"):
        storage.list_files(s3_bucket)


def test_a_few_names_are_one_request(s3_bucket: str) -> None:
    for key in ("out/_work/x", "out/.hidden", "out/a.parquet", "out/deep/b.parquet", "output/c"):
        storage.write_bytes(f"{s3_bucket}/{key}", b"1")
    assert files.peek(f"{s3_bucket}/out") == files.peek(f"{s3_bucket}/out/") == ["a.parquet", "deep/"]
    assert files.peek(f"{s3_bucket}/out/_work", hidden=True) == ["x"]
    assert files.peek(f"{s3_bucket}/out/a.parquet") == []
    assert files.peek(f"{s3_bucket}/none") == []
    with pytest.raises(InputError):
        files.peek("s3://no-such-bucket-here/out")


def test_an_output_with_other_objects_and_an_input_without_any_are_refused(s3_bucket: str) -> None:
    config = EdaConfig(input=["a"], output="o")
    for key in ("hidden/_work/x", "other/old.parquet", "photos/a.jpg"):
        storage.write_bytes(f"{s3_bucket}/{key}", b"1")
    with pytest.raises(ConfigError, match=r"other has other files, e\.g\. old\.parquet"):
        claim_output(f"{s3_bucket}/other", "eda", config, {})
    assert claim_output(f"{s3_bucket}/hidden", "eda", config, {}) is None
    assert claim_output(f"{s3_bucket}/hidden", "eda", config, {}) is not None
    check_inputs([f"{s3_bucket}/photos", f"{s3_bucket}/photos/", f"{s3_bucket}/photos/a.jpg", s3_bucket])
    with pytest.raises(InputError, match=r"photo: no such object or prefix"):
        check_inputs([f"{s3_bucket}/photo"])


def test_a_missing_object_is_an_answer(s3_bucket: str) -> None:
    uri = f"{s3_bucket}/none.jpg"
    for ask in (storage.read_bytes, storage.open_for_reading, storage.read_json, storage.read_table):
        with pytest.raises(storage.ObjectAnswer) as caught:
            ask(uri)
        assert (caught.value.status, caught.value.uri) == (Status.MISSING, uri)
    assert storage.stat(uri) is None
    storage.delete(uri)


def test_a_missing_bucket_is_an_input_error_everywhere(s3_bucket: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    uri = "s3://no-such-bucket-here/x"
    for ask in (
        lambda: storage.read_bytes(uri),
        lambda: storage.stat(uri),
        lambda: storage.exists(uri),
        lambda: storage.list_files(uri),
        lambda: storage.list_files("s3://no-such-bucket-here", allow_empty=True),
        lambda: storage.open_for_reading(uri),
        lambda: storage.write_bytes(uri, b"1"),
        lambda: storage.delete(uri),
        lambda: storage.upload_folder(tmp_path, uri),
        lambda: storage.read_bytes("s3://Not_A_Name!/x"),
        lambda: list(storage.read_many([uri])),
    ):
        with pytest.raises(InputError, match="no such bucket") as caught:
            ask()
        assert not isinstance(caught.value, storage.ObjectAnswer)


def test_a_denied_object_is_an_answer_and_its_neighbours_are_read(s3_bucket: str, s3_admin: Any) -> None:
    bucket = bucket_name(s3_bucket)
    for key in ("allowed.jpg", "denied.jpg"):
        storage.write_bytes(f"{s3_bucket}/{key}", b"pixels")
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/denied.jpg",
    }
    s3_admin.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    allowed, denied = storage.read_many(info.uri for info in storage.list_files(s3_bucket))
    assert allowed == b"pixels"
    assert isinstance(denied, storage.ObjectAnswer)
    assert (denied.status, denied.reason) == (Status.UNREADABLE, "AccessDenied")
    with pytest.raises(storage.ObjectAnswer) as caught:
        storage.stat(f"{s3_bucket}/denied.jpg")
    assert caught.value.status is Status.UNREADABLE


def test_a_bucket_of_somebody_else_is_refused_in_words(s3_bucket: str, s3_env: Callable[..., None]) -> None:
    storage.write_bytes(f"{s3_bucket}/a/x", b"1")
    s3_env(AWS_ACCESS_KEY_ID="otherkey", AWS_SECRET_ACCESS_KEY="othersecret")
    for uri in (s3_bucket, f"{s3_bucket}/a", f"{s3_bucket}/a/"):
        with pytest.raises((InputError, storage.ObjectAnswer), match=r"no permission to list|AccessDenied"):
            storage.list_files(uri)
    with pytest.raises(ResourceError, match="no permission to write"):
        storage.write_bytes(f"{s3_bucket}/y", b"1")
    with pytest.raises(ResourceError, match="no permission to write"):
        storage.delete(f"{s3_bucket}/a/x")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "wrongkey"}, "InvalidAccessKeyId"),
        ({"AWS_SECRET_ACCESS_KEY": "wrongsecret"}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no keys for S3"),
        ({"AWS_SECRET_ACCESS_KEY": None}, "no keys for S3"),
    ],
)
def test_wrong_keys_are_a_resource_error_without_a_key_in_it(
    s3_bucket: str,
    s3_env: Callable[..., None],
    variables: dict[str, str | None],
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    uri = f"{s3_bucket}/x"
    storage.write_bytes(uri, b"1")
    s3_env(**variables)
    for ask in (
        lambda: storage.read_bytes(uri),
        lambda: storage.stat(uri),
        lambda: storage.stat(f"{s3_bucket}/none"),
        lambda: storage.list_files(uri),
        lambda: storage.list_files(s3_bucket),
        lambda: storage.open_for_reading(uri),
        lambda: storage.write_bytes(uri, b"2"),
        lambda: storage.delete(uri),
        lambda: list(storage.read_many([uri, uri])),
    ):
        with pytest.raises(ResourceError, match=message) as caught:
            ask()
        assert "AWS_ACCESS_KEY_ID" in str(caught.value)
        assert not any(secret in str(caught.value) + caplog.text for secret in SECRETS)


def test_json_and_tables_come_back(s3_bucket: str) -> None:
    storage.write_json(f"{s3_bucket}/m/x.json", {"mae": np.float32(4.5), "bad": float("nan"), "n": np.int64(3)})
    assert storage.read_json(f"{s3_bucket}/m/x.json") == {"mae": 4.5, "bad": None, "n": 3}
    table = pa.table({"uri": ["a", "b"], "age_years": pa.array([1.0, None], pa.float32())})
    table = table.replace_schema_metadata({"model": "abc"})
    size_bytes = storage.write_table(f"{s3_bucket}/t.parquet", table)
    found = storage.stat(f"{s3_bucket}/t.parquet")
    assert found is not None
    assert found.size_bytes == size_bytes
    assert storage.read_table(f"{s3_bucket}/t.parquet").equals(table, check_metadata=True)
    assert storage.read_table(f"{s3_bucket}/t.parquet", ["age_years"]).column_names == ["age_years"]
    storage.write_bytes(f"{s3_bucket}/damaged", b"PAR1 and no more")
    with pytest.raises(InputError, match="damaged"):
        storage.read_table(f"{s3_bucket}/damaged")


def test_folders_go_up_with_the_last_file_last_and_come_down(s3_bucket: str, s3_admin: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "_deep").mkdir(parents=True)
    contents = {"weights.bin": b"w" * 9_000_000, "_deep/x": b"x", "model.json": b"{}", "zz": b""}
    for relative, data in contents.items():
        (folder / relative).write_bytes(data)
    (folder / ".tmp-left-by-a-kill").write_bytes(b"half")
    uri = f"{s3_bucket}/out/model"
    storage.upload_folder(folder, uri, last="model.json")
    listed = {info.uri.removeprefix(uri + "/") for info in storage.list_files(uri, hidden=True)}
    assert listed == set(contents)
    client, bucket = s3_admin, bucket_name(s3_bucket)
    times = {key: client.head_object(Bucket=bucket, Key=f"out/model/{key}")["LastModified"] for key in contents}
    assert times["model.json"] == max(times.values())
    storage.download_folder(uri, tmp_path / "down")
    assert {
        path.relative_to(tmp_path / "down").as_posix(): path.read_bytes()
        for path in (tmp_path / "down").rglob("*")
        if path.is_file()
    } == contents
    with pytest.raises(ConfigError, match=r"has no other\.json"):
        storage.upload_folder(folder, uri, last="other.json")
    with pytest.raises(InputError, match="no files there"):
        storage.download_folder(f"{s3_bucket}/none", tmp_path / "none")


def test_a_key_that_leaves_the_folder_is_refused(s3_bucket: str, s3_admin: Any, tmp_path: Path) -> None:
    s3_admin.put_object(Bucket=bucket_name(s3_bucket), Key="m/../../escaped", Body=b"x")
    with pytest.raises(InputError, match="would leave the folder"):
        storage.download_folder(f"{s3_bucket}/m", tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("escaped"))


def test_many_reads_keep_their_order_and_their_bound(s3_bucket: str) -> None:
    uris = [f"{s3_bucket}/{index}" for index in range(60)]
    for index, uri in enumerate(uris):
        if index != 7:
            storage.write_bytes(uri, str(index).encode())
    taken = 0

    def wanted() -> Any:
        nonlocal taken
        for uri in uris:
            taken += 1
            yield uri

    answers = storage.read_many(wanted(), in_flight=8)
    assert next(answers) == b"0"
    assert taken <= 8
    rest = list(answers)
    assert isinstance(rest[6], storage.ObjectAnswer)
    assert [data for data in rest if isinstance(data, bytes)] == [
        str(index).encode() for index in range(1, 60) if index != 7
    ]
    assert list(storage.read_many([files.Range(uris[12], 1, 1)], in_flight=1)) == [b"2"]


def test_arrow_and_another_process_use_the_same_server_without_a_key_travelling(s3_bucket: str) -> None:
    filesystem, path = storage.arrow_filesystem(f"{s3_bucket}/tables/")
    assert path == f"{bucket_name(s3_bucket)}/tables"
    big = pa.table({"x": np.random.default_rng(0).integers(0, 2**60, 1_500_000)})  # 12 MB: in parts
    pq.write_table(big, f"{path}/big.parquet", filesystem=filesystem)
    assert pq.read_table(f"{path}/big.parquet", filesystem=filesystem).equals(big)
    assert storage.read_table(f"{s3_bucket}/tables/big.parquet").equals(big)
    pickled = pickle.dumps(filesystem)
    assert not any(secret.encode() in pickled for secret in SECRETS)
    code = (
        "import pickle, sys\n"
        "filesystem = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "with filesystem.open_output_stream(sys.argv[2]) as stream: stream.write(b'z' * 6_000_000)"
    )
    environment = {name: value for name, value in os.environ.items() if "CHECKSUM" not in name}
    subprocess.run([sys.executable, "-c", code, pickled.hex(), f"{path}/z"], check=True, env=environment)
    assert filesystem.get_file_info(f"{path}/z").size == 6_000_000
    assert isinstance(pickle.loads(pickled), pyarrow.fs.S3FileSystem)


def test_a_read_survives_a_server_that_is_killed_and_started_again(
    s3_bucket: str, s3_gateway: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    data = np.random.default_rng(2).bytes(1_000_000)
    storage.write_bytes(f"{s3_bucket}/x", data)
    caplog.set_level(logging.WARNING)
    take_retries()
    s3_gateway("stop")
    starter = threading.Timer(2.0, s3_gateway, ["start"])
    starter.start()
    try:
        assert list(storage.read_many([f"{s3_bucket}/x"] * 20, in_flight=8)) == [data] * 20
        storage.write_bytes(f"{s3_bucket}/y", data)
    finally:
        starter.join()
    assert storage.read_bytes(f"{s3_bucket}/y") == data
    assert "attempt 1 of 8" in caplog.text
    assert take_retries() == caplog.text.count(" of 8, next in ")


def test_an_outage_that_lasts_is_a_resource_error_never_an_answer(
    s3_bucket: str, s3_gateway: Callable[[str], None], s3_env: Callable[..., None], tmp_path: Path
) -> None:
    uri = f"{s3_bucket}/x"
    big = b"b" * (2 * s3.MULTIPART_BYTES)
    storage.write_bytes(uri, big)
    s3_env(AWS_MAX_ATTEMPTS="2")
    stream = storage.open_for_reading(uri)
    stream.read(1)
    s3_gateway("stop")
    for ask in (
        lambda: storage.read_bytes(uri),
        lambda: storage.read_bytes(f"{s3_bucket}/none"),
        lambda: storage.stat(uri),
        lambda: storage.exists(uri),
        lambda: storage.list_files(s3_bucket),
        lambda: stream.read(),
        lambda: storage.write_bytes(uri, b"1"),
        lambda: storage.write_bytes(uri, big),
        lambda: storage.delete(uri),
        lambda: storage.download_folder(s3_bucket, tmp_path),
        lambda: list(storage.read_many([uri])),
    ):
        with pytest.raises(ResourceError, match="in 2 attempts"):
            ask()
    s3_gateway("start")
    assert storage.read_bytes(uri) == big
    assert [info.uri for info in storage.list_files(s3_bucket)] == [uri]


@pytest.mark.parametrize(
    "variables", [{"AWS_MAX_ATTEMPTS": "many"}, {"AWS_ENDPOINT_URL": "not a url"}, {"AWS_PROFILE": "nobody"}]
)
def test_a_variable_that_cannot_be_meant_is_a_config_error(
    s3_bucket: str, s3_env: Callable[..., None], variables: dict[str, str]
) -> None:
    s3_env(**variables)
    with pytest.raises(ConfigError):
        storage.read_bytes(f"{s3_bucket}/x")


def test_a_forked_or_reset_process_gets_a_client_of_its_own(s3_server: str) -> None:
    first = s3_client.client()
    assert s3_client.client() is first
    s3_client.forget_client()
    assert s3_client.client() is not first
