"""The S3 side of ``files``: the same functions over ``s3://bucket/key``."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import SplitResult, urlsplit

import pyarrow.fs
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from agegender.errors import ConfigError, InputError, ResourceError
from agegender.schema import Status
from agegender.storage.answers import FileInfo, ObjectAnswer, is_hidden
from agegender.storage.s3_client import call, client, endpoint, error_code, max_attempts, relax_checksums
from agegender.storage.s3_listing import list_objects, may_not_list

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MULTIPART_BYTES = 16 << 20
"""Larger objects go up in parts, several at a time."""

READ_AHEAD_BYTES = 4 << 20
"""One request of a stream: long against the round trip, short against memory."""

relax_checksums()  # a process that only unpickles an ``S3FileSystem`` of ours needs it too


def split(uri: str) -> tuple[str, str]:
    """``s3://bucket/key`` -> bucket, key; keys may hold any character, so this is no URL parser's work.

    Raises:
        InputError: no bucket in it.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise InputError(f"{uri!r}: names no bucket. Write s3://BUCKET/KEY.")
    return bucket, key


def list_files(uri: str, hidden: bool) -> Iterator[FileInfo]:
    """See ``files.list_files``."""
    bucket, key = split(uri)
    if key and not key.endswith("/"):
        itself = _itself(bucket, key, uri)
        if itself is not None:
            yield itself
            return
        key += "/"

    def leave_out(folder: str) -> bool:
        return not hidden and is_hidden(folder[len(key) :])

    for item in list_objects(bucket, key, uri, leave_out):
        relative = item["Key"][len(key) :]
        # consoles make empty objects whose names end in a slash, to show folders
        if relative and not relative.endswith("/") and (hidden or not is_hidden(relative)):
            yield _info(bucket, item)


def _itself(bucket: str, key: str, uri: str) -> FileInfo | None:
    """The object of exactly this key: the first of all keys that begin with it."""
    try:
        page = call(lambda: client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1), uri)
    except ObjectAnswer as refused:  # keys that may read one object but list nothing
        found = stat(uri)
        if found is None:
            raise may_not_list(uri, refused) from refused
        return found
    return next((_info(bucket, item) for item in page["Contents"] if item["Key"] == key), None)


def _info(bucket: str, item: Any) -> FileInfo:
    return FileInfo(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))


def stat(uri: str) -> FileInfo | None:
    """See ``files.stat``."""
    bucket, key = split(uri)
    if not key or key.endswith("/"):
        return None

    def ask() -> FileInfo:
        try:
            facts: Any = client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error_code(error) not in ("400", "403", "404"):
                raise
            # the answer to HEAD has no body, hence no reason: a GET tells a refused key from a refused object
            facts = client().get_object(Bucket=bucket, Key=key)
            facts["Body"].close()
        return FileInfo(uri, facts["ContentLength"], facts["ETag"].strip('"'))

    try:
        return call(ask, uri)
    except ObjectAnswer as answer:
        if answer.status is Status.MISSING:
            return None
        raise


def read_bytes(uri: str, offset: int, length: int | None, etag: str | None = None) -> bytes:
    """See ``files.read_bytes``; with ``etag`` only if the object is still that one."""
    bucket, key = split(uri)
    if not key:
        raise ObjectAnswer(Status.UNREADABLE, uri, "Is a bucket")
    if length == 0:
        return b""
    wanted: dict[str, Any] = {"Bucket": bucket, "Key": key}
    if offset or length is not None:
        wanted["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
    if etag is not None:
        wanted["IfMatch"] = f'"{etag}"'

    def get() -> bytes:
        try:
            with client().get_object(**wanted)["Body"] as body:
                return bytes(body.read())
        except ClientError as error:
            if error_code(error) == "InvalidRange":  # begins behind the end, or the object is empty
                return b""
            if error_code(error) in ("PreconditionFailed", "412"):
                raise InputError(f"{uri}: changed while it was read. Let its writer finish, and run again.") from error
            raise

    return call(get, uri)


class _RangeReader(io.RawIOBase):
    """An object as a seekable stream, one ranged request per read."""

    def __init__(self, info: FileInfo) -> None:
        self._info = info
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._info.size_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._info.size_bytes - self._position)
        if length <= 0:
            return 0
        data = read_bytes(self._info.uri, self._position, length, self._info.etag)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def readall(self) -> bytes:
        """The rest in one request; the inherited one asks for 8 kB at a time."""
        data = read_bytes(
            self._info.uri, self._position, max(0, self._info.size_bytes - self._position), self._info.etag
        )
        self._position += len(data)
        return data


def open_for_reading(uri: str) -> BinaryIO:
    """See ``files.open_for_reading``."""
    info = stat(uri)
    if info is None:
        raise ObjectAnswer(Status.MISSING, uri, "NoSuchKey")
    return io.BufferedReader(_RangeReader(info), READ_AHEAD_BYTES)


def write_bytes(uri: str, data: bytes) -> None:
    """See ``files.write_bytes``."""
    write_from(io.BytesIO(data), uri)


def write_from(source: BinaryIO, uri: str) -> None:
    """See ``files.write_from``; S3 shows an object only when all of it has arrived."""
    bucket, key = split(uri)
    if not key or key.endswith("/"):
        raise ConfigError(f"{uri}: names no object to write. Write s3://BUCKET/KEY.")
    start = source.tell()
    size_bytes = source.seek(0, io.SEEK_END) - start
    parts = TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, max_concurrency=4)

    def put() -> None:
        source.seek(start)
        if size_bytes < MULTIPART_BYTES:
            client().put_object(Bucket=bucket, Key=key, Body=source.read())
        else:
            # s3transfer closes what it is given, and a second attempt must read it again
            client().upload_fileobj(cast("BinaryIO", _Unclosed(source)), bucket, key, Config=parts)

    call(put, uri, writing=True)


class _Unclosed(io.RawIOBase):
    """A stream whose closing closes nothing."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int = -1) -> bytes:
        return self._stream.read(size)


def delete(uri: str) -> None:
    """See ``files.delete``."""
    bucket, key = split(uri)
    call(lambda: client().delete_object(Bucket=bucket, Key=key), uri, writing=True)


class PortableS3FileSystem(pyarrow.fs.S3FileSystem):  # type: ignore[misc]  # pyarrow has no types
    """pyarrow's S3 client, built anew from each process's own environment when it travels: no key travels with it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrow_filesystem, (self.region,)


_ARROW_MORE_ATTEMPTS = 3
"""Its first delay is 50 ms and each is twice the one before, so that eleven attempts take as long as eight of ours."""


def _arrow_filesystem(region: str | None) -> PortableS3FileSystem:
    options: dict[str, Any] = {"region": region} if region else {}
    where = urlsplit(client().meta.endpoint_url)
    if not _is_amazon(where):
        options |= {"scheme": where.scheme, "endpoint_override": where.netloc}
    patience = pyarrow.fs.AwsDefaultS3RetryStrategy(max_attempts=max_attempts() + _ARROW_MORE_ATTEMPTS)
    return PortableS3FileSystem(**options, retry_strategy=patience)


def _is_amazon(where: SplitResult) -> bool:
    return (where.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """See ``files.arrow_filesystem``."""
    bucket, key = split(uri)
    amazon = _is_amazon(urlsplit(client().meta.endpoint_url))
    try:
        region = pyarrow.fs.resolve_s3_region(bucket) if amazon else client().meta.region_name
    except OSError as error:
        raise ResourceError(f"{uri}: S3 at {endpoint()} does not name the bucket's region ({error}).") from error
    return _arrow_filesystem(region), f"{bucket}/{key}".rstrip("/")
