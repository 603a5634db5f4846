"""Files by uri, on the local disk and on S3 alike; every job reads and writes through these functions.

A uri is a local path or ``s3://bucket/key``. Three kinds of failure stay apart everywhere:

- ``ObjectAnswer``: a definite answer about one object (not there, may not be read); for an image it becomes a row;
- ``InputError`` / ``ConfigError``: what was asked for cannot be had (nothing there, no such bucket, no such scheme);
- ``ResourceError``: an outage that outlasted the retries, refused keys, a full disk; never becomes data.
"""

import itertools
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

import pyarrow.fs
from pydantic_core import PydanticSerializationError, to_json

from agegender.errors import ConfigError, InputError
from agegender.storage import local
from agegender.storage.answers import FileInfo, ObjectAnswer

__all__ = [
    "FileInfo", "ObjectAnswer", "Range", "absolute", "arrow_filesystem", "delete", "download_folder", "exists", "is_s3",
    "join", "list_files", "name", "open_for_reading", "parent", "read_ahead", "read_bytes", "read_json", "read_many", "stat",
    "upload_folder", "write_bytes", "write_from", "write_json",
]  # fmt: skip

Wanted = TypeVar("Wanted")
Got = TypeVar("Got")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class _Backend(Protocol):
    """What ``local`` and ``s3`` both are."""

    def list_files(self, uri: str, hidden: bool) -> Iterator[FileInfo]: ...
    def stat(self, uri: str) -> FileInfo | None: ...
    def read_bytes(self, uri: str, offset: int, length: int | None) -> bytes: ...
    def open_for_reading(self, uri: str) -> BinaryIO: ...
    def write_bytes(self, uri: str, data: bytes) -> None: ...
    def write_from(self, source: BinaryIO, uri: str) -> None: ...
    def delete(self, uri: str) -> None: ...
    def arrow_filesystem(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]: ...


def _backend(uri: str) -> _Backend:
    if is_s3(uri):
        from agegender.storage import s3  # boto3 takes a third of a second to import: local runs do without

        return s3
    if scheme := _SCHEME.match(uri):
        raise InputError(f"{uri}: cannot read {scheme[0]} addresses. Use a local path or s3://BUCKET/KEY.")
    if not uri:
        raise InputError("an empty address. Use a local path or s3://BUCKET/KEY.")
    return local


def is_s3(uri: str) -> bool:
    """Whether the uri is on S3; otherwise it is a local path."""
    return uri.startswith("s3://")


def absolute(uri: str) -> str:
    """The same place under a name that holds in every working directory; ``s3://`` stays as it is."""
    return uri if _SCHEME.match(uri) else os.path.abspath(uri)  # noqa: PTH100  (resolves no links, unlike Path)


def join(base: str, *parts: str) -> str:
    """Append parts with one slash between each; empty parts vanish."""
    tail = [part.strip("/") for part in parts if part.strip("/")]
    root = base.rstrip("/") if base.strip("/") else base[:1]  # "/" stays
    return "/".join([root, *tail]) if root != "/" else "/" + "/".join(tail)


def parent(uri: str) -> str:
    """The folder that holds it; of a bucket the bucket itself, of a bare name ``.``."""
    if is_s3(uri):
        bucket, _, key = uri.removeprefix("s3://").rstrip("/").partition("/")
        return join(f"s3://{bucket}", key.rpartition("/")[0])
    return os.path.dirname(uri.rstrip("/")) or ("/" if uri.startswith("/") else ".")  # noqa: PTH120  (keeps ./ as it is)


def name(uri: str) -> str:
    """The last part of the address, without a closing slash."""
    return uri.rstrip("/").rpartition("/")[2]


def list_files(uri: str, *, allow_empty: bool = False, hidden: bool = False) -> Iterator[FileInfo]:
    """All files below a folder or prefix, at any depth, streamed in an order that depends on the names alone.

    Files and folders below it whose names begin with ``.`` or ``_`` are left out, as in Spark, Hive and Ray. A uri that names
    one file yields that file, whatever its name. ``s3://bucket/prefix`` means ``prefix/...``, never ``prefix2``. Local
    links are followed; a broken one is listed, so that reading it gives the reason. Memory does not grow with the folder.

    Args:
        uri: a local path or ``s3://``.
        allow_empty: yield nothing where nothing is, instead of an error.
        hidden: list the names that begin with ``.`` or ``_`` too.

    Raises:
        InputError: nothing there, no such bucket, may not be listed. At once, not at the first ``next``.
        ResourceError: storage does not answer.
    """
    found = _backend(uri).list_files(uri, hidden)
    first = next(found, None)
    if first is not None:
        return itertools.chain([first], found)
    if allow_empty:
        return iter(())
    raise InputError(
        f"{uri}: no files there. Check the address; names that begin with '.' or '_' are not counted as files of a folder."
    )


def stat(uri: str) -> FileInfo | None:
    """Size and etag of one file; None where there is none, or a folder.

    Raises:
        ObjectAnswer: ``UNREADABLE``: there may be one, but it is not ours to see.
        InputError: no such bucket.
        ResourceError: storage does not answer.
    """
    return _backend(uri).stat(uri)


def exists(uri: str) -> bool:
    """Whether there is such a file, or a folder or prefix with any file in it."""
    if stat(uri) is not None:
        return True
    return next(list_files(uri, allow_empty=True, hidden=True), None) is not None


def read_bytes(uri: str, offset: int = 0, length: int | None = None) -> bytes:
    """The content, or ``length`` bytes of it from ``offset``; fewer where it ends earlier.

    Raises:
        ObjectAnswer: not there, or may not be read.
        InputError: no such bucket.
        ResourceError: storage does not answer; retries did not help.
    """
    return _backend(uri).read_bytes(uri, offset, length)


class Range(NamedTuple):
    """A piece of a file."""

    uri: str
    offset: int = 0
    length: int | None = None


def read_many(wanted: Iterable[str | Range], in_flight: int = 16) -> Iterator[bytes | ObjectAnswer]:
    """Read many files or pieces, several at a time, and hand them over in order.

    Args:
        wanted: uris or ``Range``; taken up as they are needed.
        in_flight: reads under way or waiting to be taken; 1 reads without threads.

    Yields:
        The bytes of each, or the definite answer why there are none.

    Raises:
        InputError: no such bucket.
        ResourceError: storage does not answer; nothing after that is yielded.
    """
    ranges = (Range(each) if isinstance(each, str) else each for each in wanted)
    yield from read_ahead(_read_or_answer, ranges, in_flight)


def read_ahead(read: Callable[[Wanted], Got], wanted: Iterable[Wanted], in_flight: int) -> Iterator[Got]:
    """``map``, with several calls under way at a time in threads.

    Args:
        read: safe to call from any thread.
        wanted: taken up as they are needed.
        in_flight: calls under way or waiting to be taken, which bounds the memory; 1 calls without threads.
    """
    if in_flight <= 1:
        yield from map(read, wanted)
        return
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="read_ahead")
    try:
        waiting: deque[Future[Got]] = deque()
        for each in wanted:
            waiting.append(pool.submit(read, each))
            if len(waiting) >= in_flight:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_or_answer(wanted: Range) -> bytes | ObjectAnswer:
    try:
        return read_bytes(*wanted)
    except ObjectAnswer as answer:
        return answer


def open_for_reading(uri: str) -> BinaryIO:
    """A seekable stream; on S3 read in ranges, and an object that changes meanwhile is an ``InputError``.

    Raises:
        ObjectAnswer: not there, or may not be read.
        ResourceError: storage does not answer.
    """
    return _backend(uri).open_for_reading(uri)


def read_json(uri: str) -> Any:
    """The value in a JSON file.

    Raises:
        ObjectAnswer: not there, or may not be read.
        InputError: no JSON in it.
    """
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        raise InputError(
            f"{uri}: damaged, or not JSON ({error}). Take the file that the job wrote, or make it again."
        ) from error


def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file or none: readers see the old one or the new one, also if this process is killed.

    Makes the folders above it. A local writer that is killed may leave a file ``.tmp-...``, which no listing shows.

    Raises:
        ConfigError: it cannot stand there (a file where a folder is needed, or the reverse).
        InputError: no such bucket.
        ResourceError: the disk is full, writing is not allowed, or storage does not answer.
    """
    _backend(uri).write_bytes(uri, data)


def write_from(source: BinaryIO, uri: str) -> None:
    """Write what a seekable stream holds from where it stands, without holding it in memory; else as ``write_bytes``."""
    _backend(uri).write_from(source, uri)


def write_json(uri: str, value: Any) -> None:
    """Write a value as strict, indented JSON, whole or absent.

    Models, dataclasses, paths, enums, dates and numpy values are taken; NaN and infinities become null.
    """
    try:
        data = to_json(value, indent=2, inf_nan_mode="null", fallback=_plain)
    except PydanticSerializationError as error:
        raise TypeError(f"{uri}: {error}") from error
    write_bytes(uri, data + b"\n")


def _plain(value: Any) -> Any:
    """Numpy arrays and scalars as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def delete(uri: str) -> None:
    """Delete one file; none there is as good.

    Raises:
        ResourceError: not allowed, or storage does not answer.
    """
    _backend(uri).delete(uri)


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """What pyarrow and Ray Train take: a file system and the path in it.

    That of S3 honours the AWS variables and carries no key when it is pickled: each process uses its own environment's.

    Raises:
        ResourceError: S3 does not answer the question for the bucket's region.
    """
    return _backend(uri).arrow_filesystem(uri)


def download_folder(uri: str, to: Path) -> None:
    """Copy every file below a folder or prefix, hidden ones too, each whole or absent.

    Raises:
        InputError: nothing there, or a key that would leave ``to``.
    """
    base = uri.rstrip("/") + "/"
    for info in list_files(uri, hidden=True):
        relative = info.uri.removeprefix(base) if info.uri.startswith(base) else name(info.uri)
        if ".." in relative.split("/") or relative.startswith("/"):
            raise InputError(f"{info.uri}: this name would leave the folder {to}. Rename it, or take another folder.")
        with open_for_reading(info.uri) as source:
            local.write_from(source, str(to / relative))


def upload_folder(folder: Path, uri: str, last: str | None = None) -> None:
    """Copy every file below a local folder, hidden ones too, each whole or absent.

    Args:
        folder: where they are.
        uri: local folder or ``s3://`` prefix to put them.
        last: the file that makes the folder valid: an old one there is deleted first, the new one goes last.

    Raises:
        InputError: nothing there.
        ConfigError: ``last`` is not among the files.
    """
    paths = [Path(info.uri) for info in list_files(str(folder), hidden=True)]
    paths = [path for path in paths if not path.name.startswith(local.TEMPORARY_PREFIX)]
    if last is not None:
        if folder / last not in paths:
            raise ConfigError(f"{folder}: has no {last}, without which it is not valid. Make the folder again.")
        paths.sort(key=lambda path: path == folder / last)
        delete(join(uri, last))
    for path in paths:
        with path.open("rb") as source:
            write_from(source, join(uri, path.relative_to(folder).as_posix()))
