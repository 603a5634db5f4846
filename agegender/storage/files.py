"""Files by uri, on local disk and S3; every job reads and writes through these functions.

A uri is a local path, ``s3://bucket/key`` or ``https://...`` (``addresses``). Failures are of three kinds:

- ``ObjectAnswer``: a definite answer about one object (missing, not readable); for an image it becomes a row;
- ``InputError`` / ``ConfigError``: the request is wrong (no files, no such bucket, unknown scheme);
- ``ResourceError``: an outage that outlasted the retries, rejected keys, a full disk; never becomes data.
"""

import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

import pyarrow.fs
from pydantic_core import PydanticSerializationError, to_json

from agegender.errors import ConfigError, InputError
from agegender.storage import local
from agegender.storage.addresses import SCHEME, canonical, is_text, local_path, local_uri
from agegender.storage.answers import PEEK_NAMES, Everything, FileInfo, ObjectAnswer, Selection

__all__ = [
    "FileInfo", "ObjectAnswer", "Range", "Selection", "absolute", "arrow_filesystem", "delete", "delete_folder",
    "download_folder", "exists", "is_s3", "is_web", "join", "list_files", "name", "open_for_reading", "parent", "peek",
    "read_ahead", "read_bytes", "read_json", "read_many", "resolve", "stat", "upload_folder", "write_bytes",
    "write_from", "write_json",
]  # fmt: skip

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Backend(Protocol):
    """The interface of the modules ``local`` and ``s3``."""

    def list_files(self, uri: str, selection: Selection) -> Iterator[FileInfo]: ...
    def stat(self, uri: str) -> FileInfo | None: ...
    def read_bytes(self, uri: str, offset: int, length: int | None) -> bytes: ...
    def open_for_reading(self, uri: str) -> BinaryIO: ...
    def write_bytes(self, uri: str, data: bytes) -> None: ...
    def write_from(self, source: BinaryIO, uri: str) -> None: ...
    def delete(self, uri: str) -> None: ...
    def arrow_filesystem(self, uri: str) -> tuple[pyarrow.fs.FileSystem, str]: ...


def _backend(uri: str) -> _Backend:
    if is_s3(uri):
        from agegender.storage import s3  # boto3 takes 0.3 s to import, which local runs do not need

        return s3
    if is_web(uri):
        from agegender.storage import web

        return web
    if (scheme := SCHEME.match(uri)) and scheme[0] != "file://":
        raise InputError(f"{uri}: cannot read {scheme[0]} addresses. Use a local path or s3://BUCKET/KEY.")
    if not uri:
        raise InputError("an empty address. Use a local path or s3://BUCKET/KEY.")
    return local


def is_s3(uri: str) -> bool:
    """Whether the uri is on S3; otherwise it is a local path."""
    return uri.startswith("s3://")


def is_web(uri: str) -> bool:
    """Whether the uri is of a web server."""
    return uri.startswith(("https://", "http://"))


def absolute(address: str) -> str:
    """The uri of an address, valid in every working directory, as ``addresses.canonical`` has it."""
    uri = canonical(address)
    return uri if not uri or SCHEME.match(uri) else os.path.abspath(uri)  # noqa: PTH100  (resolves no links, unlike Path)


def resolve(address: str, folder: str) -> str:
    """The uri of an address that a file in ``folder`` names: relative to the folder, unless it is absolute.

    An address that cannot be read stays as it is: reading it gives the reason.

    Args:
        address: as written, with surrogates for bytes that are not text.
        folder: a uri.
    """
    if SCHEME.match(address) or address.startswith(("/", "~")):
        try:
            uri = canonical(address)
        except InputError:
            uri = address
        address, folder = uri, "" if SCHEME.match(uri) or uri.startswith("/") else folder
    elif folder.startswith("file://") or not (SCHEME.match(folder) or is_text(address)):
        return local_uri(f"{local_path(folder)}/{address}")  # join the paths, not the percent-encoded uri
    address = (
        address if is_text(address) else address.encode(errors="backslashreplace").decode()
    )  # nothing has this address
    return join(folder, address) if folder else address


def join(base: str, *parts: str) -> str:
    """Join parts with one slash between each; empty parts are dropped."""
    tail = [part.strip("/") for part in parts if part.strip("/")]
    root = base.rstrip("/") if base.strip("/") else base[:1]  # "/" stays
    return "/".join([root, *tail]) if root != "/" else "/" + "/".join(tail)


def parent(uri: str) -> str:
    """The folder of a file; of a bucket the bucket itself, of a bare name ``.``."""
    if is_s3(uri):
        bucket, _, key = uri.removeprefix("s3://").rstrip("/").partition("/")
        return join(f"s3://{bucket}", key.rpartition("/")[0])
    return os.path.dirname(uri.rstrip("/")) or ("/" if uri.startswith("/") else ".")  # noqa: PTH120  (keeps ./ as it is)


def name(uri: str) -> str:
    """The last part of the address, without a trailing slash."""
    return uri.rstrip("/").rpartition("/")[2]


def list_files(
    uri: str, *, allow_empty: bool = False, hidden: bool = False, selection: Selection | None = None
) -> Iterator[FileInfo]:
    """Stream all files below a folder or prefix, at any depth, in an order that depends only on the names.

    Files and folders whose names begin with ``.`` or ``_`` are skipped, as in Spark, Hive and Ray. A uri of one file yields
    that file, also if its name is hidden. ``s3://bucket/prefix`` means ``prefix/...``, not ``prefix2``. Local links are
    followed; a broken one is listed, and reading it gives the reason. Memory does not grow with the folder.

    Args:
        uri: a local path, ``s3://`` or ``https://`` (one file).
        allow_empty: yield nothing instead of raising if there are no files.
        hidden: include names that begin with ``.`` or ``_``.
        selection: what is skipped instead.

    Raises:
        InputError: no files, no such bucket, or no permission to list. Raised at once, not at the first ``next``.
        ResourceError: storage does not answer.
    """
    listed = _backend(uri).list_files(uri, selection or (Everything() if hidden else Selection()))
    first = next(listed, None)
    if first is not None:
        return itertools.chain([first], listed)
    if allow_empty:
        return iter(())
    raise InputError(f"{uri}: no files there. Check the address; names that begin with '.' or '_' are skipped.")


def peek(uri: str, *, hidden: bool = False) -> list[str]:
    """A few names in a folder or prefix, for one request to S3; empty if there is nothing, or the uri is of a file.

    Args:
        uri: a local path or ``s3://``.
        hidden: include names that begin with ``.`` or ``_``.

    Returns:
        Names relative to the folder, of files, or on S3 also of folders.

    Raises:
        InputError: no such bucket, or no permission to list.
        ResourceError: storage does not answer.
    """
    if is_s3(uri):
        from agegender.storage import s3

        return s3.peek(uri, hidden)
    found = itertools.islice(list_files(uri, allow_empty=True, hidden=hidden), PEEK_NAMES)
    return [info.uri.removeprefix(join(uri) + "/") for info in found if info.uri != uri]


def stat(uri: str) -> FileInfo | None:
    """Size and etag of one file; None if it does not exist or is a folder.

    Raises:
        ObjectAnswer: ``UNREADABLE``: no permission, so it is not known whether the file exists.
        InputError: no such bucket.
        ResourceError: storage does not answer.
    """
    return _backend(uri).stat(uri)


def exists(uri: str) -> bool:
    """Whether the file exists, or a folder or prefix with at least one file."""
    if stat(uri) is not None:
        return True
    return next(list_files(uri, allow_empty=True, hidden=True), None) is not None


def read_bytes(uri: str, offset: int = 0, length: int | None = None) -> bytes:
    """The content, or up to ``length`` bytes from ``offset``.

    Raises:
        ObjectAnswer: missing or not readable.
        InputError: no such bucket.
        ResourceError: storage does not answer; retries did not help.
    """
    return _backend(uri).read_bytes(uri, offset, length)


class Range(NamedTuple):
    """A byte range of a file."""

    uri: str
    offset: int = 0
    length: int | None = None


def read_many(uris: Iterable[str | Range], in_flight: int = 16) -> Iterator[bytes | ObjectAnswer]:
    """Read many files or ranges concurrently, and yield them in order.

    Args:
        uris: uris or ``Range``; consumed lazily.
        in_flight: reads in flight or finished but not consumed; 1 reads without threads.

    Yields:
        The bytes of each, or the definite answer why it cannot be read.

    Raises:
        InputError: no such bucket.
        ResourceError: storage does not answer; nothing after that is yielded.
    """
    ranges = (Range(each) if isinstance(each, str) else each for each in uris)
    yield from read_ahead(_read_or_answer, ranges, in_flight)


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item], in_flight: int) -> Iterator[Result]:
    """``map`` with several calls in flight in threads; results come in order.

    Args:
        read: thread-safe.
        items: consumed lazily.
        in_flight: calls in flight or finished but not consumed, which bounds the memory; 1 calls without threads.
    """
    if in_flight <= 1:
        yield from map(read, items)
        return
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="read_ahead")
    try:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) >= in_flight:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_or_answer(piece: Range) -> bytes | ObjectAnswer:
    try:
        return read_bytes(*piece)
    except ObjectAnswer as answer:
        return answer


def open_for_reading(uri: str) -> BinaryIO:
    """A seekable stream; on S3 read in ranges, with an ``InputError`` if the object changes meanwhile.

    Raises:
        ObjectAnswer: missing or not readable.
        ResourceError: storage does not answer.
    """
    return _backend(uri).open_for_reading(uri)


def read_json(uri: str) -> Any:
    """The value in a JSON file.

    Raises:
        ObjectAnswer: missing or not readable.
        InputError: not JSON.
    """
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        raise InputError(
            f"{uri}: damaged, or not JSON ({error}). Restore the file that the job wrote, or run the job again."
        ) from error


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file atomically: readers see the old or the new one, also if this process is killed.

    Creates parent folders. A local writer that is killed may leave a file ``.tmp-...``, which listings skip.

    Raises:
        ConfigError: a file is in the place of a parent folder, or a folder in the place of the file.
        InputError: no such bucket.
        ResourceError: the disk is full, no write permission, or storage does not answer.
    """
    _backend(uri).write_bytes(uri, data)


def write_from(source: BinaryIO, uri: str) -> None:
    """As ``write_bytes``, from the current position of a seekable stream, without holding it in memory."""
    _backend(uri).write_from(source, uri)


def write_json(uri: str, value: Any) -> None:
    """Write a value atomically as strict, indented JSON.

    Accepts models, dataclasses, paths, enums, dates and numpy values; NaN and infinities become null.
    """
    try:
        data = to_json(value, indent=2, inf_nan_mode="null", fallback=_plain)
    except PydanticSerializationError as error:
        raise TypeError(f"{uri}: {error}") from error
    write_bytes(uri, data + b"\n")


def _plain(value: Any) -> Any:
    """Numpy arrays and scalars as Python values."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def delete(uri: str) -> None:
    """Delete one file, if it exists.

    Raises:
        ResourceError: no permission, or storage does not answer.
    """
    _backend(uri).delete(uri)


def delete_folder(uri: str) -> None:
    """Delete every file under a folder or prefix, hidden ones too; nothing there is no error.

    Raises:
        ResourceError: storage does not answer.
    """
    for info in list(list_files(uri, allow_empty=True, hidden=True)):
        delete(info.uri)


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """A file system and a path in it, for pyarrow and Ray Train.

    The one of S3 uses the AWS variables. Its pickle contains no keys: each process uses those of its own environment.

    Raises:
        ResourceError: S3 does not tell the bucket's region.
    """
    return _backend(uri).arrow_filesystem(uri)


def download_folder(uri: str, to: Path) -> None:
    """Copy all files below a folder or prefix, hidden ones too, each atomically.

    Raises:
        InputError: no files, or a key that would leave ``to``.
    """
    base = uri.rstrip("/") + "/"
    for info in list_files(uri, hidden=True):
        relative = info.uri.removeprefix(base) if info.uri.startswith(base) else name(info.uri)
        if ".." in relative.split("/") or relative.startswith("/"):
            raise InputError(f"{info.uri}: this name would leave the folder {to}. Rename it, or use another folder.")
        with open_for_reading(info.uri) as source:
            local.write_from(source, str(to / relative))


def upload_folder(folder: Path, uri: str, last: str | None = None) -> None:
    """Copy all files below a local folder, hidden ones too, each atomically.

    Args:
        folder: source folder.
        uri: target, a local folder or ``s3://`` prefix.
        last: the file that marks the folder as complete: an old one is deleted first, the new one is written last.

    Raises:
        InputError: no files.
        ConfigError: ``last`` is not among the files.
    """
    paths = [Path(info.uri) for info in list_files(str(folder), hidden=True)]
    paths = [path for path in paths if not path.name.startswith(local.TEMPORARY_PREFIX)]
    if last is not None:
        if folder / last not in paths:
            raise ConfigError(f"{folder}: has no {last}, without which it is not complete. Create the folder again.")
        paths.sort(key=lambda path: path == folder / last)
        delete(join(uri, last))
    for path in paths:
        with path.open("rb") as source:
            write_from(source, join(uri, path.relative_to(folder).as_posix()))
