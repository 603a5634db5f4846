"""``files`` for ``s3://bucket/key``."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import SplitResult, urlsplit

import pyarrow.fs
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from agegender.errors import ConfigError, InputError, ResourceError
from agegender.schema import Status
from agegender.storage.answers import PEEK_NAMES, FileInfo, ObjectAnswer, Selection, is_hidden
from agegender.storage.s3_client import call, client, endpoint, error_code, max_attempts, relax_checksums
from agegender.storage.s3_listing import list_objects, listing_denied

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MULTIPART_BYTES = 16 << 20
"""Larger objects are uploaded in concurrent parts."""

READ_AHEAD_BYTES = 4 << 20
"""Size of a stream's requests: a compromise between round trips and memory."""

relax_checksums()  # also needed in a process that only unpickles a ``PortableS3FileSystem``


def split(uri: str) -> tuple[str, str]:
    """``s3://bucket/key`` -> bucket, key. Not a URL parser's task, because keys may contain any character.

    Raises:
        InputError: no bucket.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise InputError(f"{uri!r}: has no bucket. Write s3://BUCKET/KEY.")
    return bucket, key


def list_files(uri: str, selection: Selection) -> Iterator[FileInfo]:
    """See ``files.list_files``."""
    bucket, key = split(uri)
    if key and not key.endswith("/"):
        single = _exact_object(bucket, key, uri)
        if single is not None:
            yield single
            return
        key += "/"

    def skip(folder: str) -> bool:
        return selection.skips(folder[len(key) :])

    for item in list_objects(bucket, key, uri, skip):
        relative = item["Key"][len(key) :]
        # consoles create empty objects with a trailing slash to represent folders
        if relative and not relative.endswith("/") and not selection.skips(relative):
            yield _info(bucket, item)


def peek(uri: str, hidden: bool) -> list[str]:
    """See ``files.peek``. One page of names: a folder with more than a thousand hidden names before others looks empty."""
    bucket, key = split(uri)
    prefix = f"{key.rstrip('/')}/" if key else ""
    try:
        page = call(lambda: client().list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/"), uri)
    except ObjectAnswer as refused:
        raise listing_denied(uri, refused) from refused
    keys = [item["Key"] for item in page["Contents"]] + [each["Prefix"] for each in page.get("CommonPrefixes", [])]
    names = [key[len(prefix) :] for key in keys if len(key) > len(prefix)]
    return [name for name in names if hidden or not is_hidden(name)][:PEEK_NAMES]


def _exact_object(bucket: str, key: str, uri: str) -> FileInfo | None:
    """The object with exactly this key, which LIST returns before all longer keys."""
    try:
        page = call(lambda: client().list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1), uri)
    except ObjectAnswer as refused:  # credentials that may read an object but not list the bucket
        info = stat(uri)
        if info is None:
            raise listing_denied(uri, refused) from refused
        return info
    return next((_info(bucket, item) for item in page["Contents"] if item["Key"] == key), None)


def _info(bucket: str, item: Any) -> FileInfo:
    return FileInfo(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))


def stat(uri: str) -> FileInfo | None:
    """See ``files.stat``."""
    bucket, key = split(uri)
    if not key or key.endswith("/"):
        return None

    def head() -> FileInfo:
        try:
            response: Any = client().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error_code(error) not in ("400", "403", "404"):
                raise
            # a response to HEAD has no body and so no reason: a GET tells rejected keys from a denied object
            response = client().get_object(Bucket=bucket, Key=key)
            response["Body"].close()
        return FileInfo(uri, response["ContentLength"], response["ETag"].strip('"'))

    try:
        return call(head, uri)
    except ObjectAnswer as answer:
        if answer.status is Status.MISSING:
            return None
        raise


def read_bytes(uri: str, offset: int, length: int | None, etag: str | None = None) -> bytes:
    """See ``files.read_bytes``; with ``etag``, fail if the object has changed."""
    bucket, key = split(uri)
    if not key:
        raise ObjectAnswer(Status.UNREADABLE, uri, "Is a bucket")
    if length == 0:
        return b""
    request: dict[str, Any] = {"Bucket": bucket, "Key": key}
    if offset or length is not None:
        request["Range"] = f"bytes={offset}-{'' if length is None else offset + length - 1}"
    if etag is not None:
        request["IfMatch"] = f'"{etag}"'

    def get() -> bytes:
        try:
            with client().get_object(**request)["Body"] as body:
                return bytes(body.read())
        except ClientError as error:
            if error_code(error) == "InvalidRange":  # starts beyond the end, or the object is empty
                return b""
            if error_code(error) in ("PreconditionFailed", "412"):
                raise InputError(
                    f"{uri}: changed while it was read. Wait until its writer has finished, and run again."
                ) from error
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
        """Read the rest in one request; the inherited method reads 8 kB at a time."""
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
    """See ``files.write_from``; S3 makes an object visible only when it is complete."""
    bucket, key = split(uri)
    if not key or key.endswith("/"):
        raise ConfigError(f"{uri}: is not an object to write. Write s3://BUCKET/KEY.")
    start = source.tell()
    size_bytes = source.seek(0, io.SEEK_END) - start
    parts = TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES, max_concurrency=4)

    def put() -> None:
        source.seek(start)
        if size_bytes < MULTIPART_BYTES:
            client().put_object(Bucket=bucket, Key=key, Body=source.read())
        else:
            # s3transfer closes the stream, which a retry has to read again
            client().upload_fileobj(cast("BinaryIO", _Unclosed(source)), bucket, key, Config=parts)

    call(put, uri, writing=True)


class _Unclosed(io.RawIOBase):
    """A stream that ignores ``close``."""

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
    """pyarrow's S3 file system; unpickled from the environment of the receiving process, so that no key is pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrow_filesystem, (self.region,)


_ARROW_EXTRA_ATTEMPTS = 3
"""pyarrow's delays start at 50 ms and double, so that eleven attempts take as long as our eight."""


def _arrow_filesystem(region: str | None) -> PortableS3FileSystem:
    options: dict[str, Any] = {"region": region} if region else {}
    endpoint_url = urlsplit(client().meta.endpoint_url)
    if not _is_amazon(endpoint_url):
        options |= {"scheme": endpoint_url.scheme, "endpoint_override": endpoint_url.netloc}
    retries = pyarrow.fs.AwsDefaultS3RetryStrategy(max_attempts=max_attempts() + _ARROW_EXTRA_ATTEMPTS)
    return PortableS3FileSystem(**options, retry_strategy=retries)


def _is_amazon(endpoint_url: SplitResult) -> bool:
    return (endpoint_url.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """See ``files.arrow_filesystem``."""
    bucket, key = split(uri)
    amazon = _is_amazon(urlsplit(client().meta.endpoint_url))
    try:
        region = pyarrow.fs.resolve_s3_region(bucket) if amazon else client().meta.region_name
    except OSError as error:
        raise ResourceError(
            f"{uri}: S3 at {endpoint()} does not tell the bucket's region ({error}). Check the address and the endpoint."
        ) from error
    return _arrow_filesystem(region), f"{bucket}/{key}".rstrip("/")
