"""``files`` for local paths. Reads raise ``ObjectAnswer``, disk failures ``ResourceError``."""

import contextlib
import errno
import heapq
import io
import json
import os
import secrets
import shutil
import stat as modes
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow.fs

from agegender.errors import ConfigError, InputError, ResourceError
from agegender.schema import Status
from agegender.storage.addresses import local_path, local_uri
from agegender.storage.answers import FileInfo, ObjectAnswer, Selection

TEMPORARY_PREFIX = ".tmp-"
"""Begins with a dot, so that listings and readers of tables skip it."""

NAMES_IN_MEMORY = 50_000
"""Folders with more entries are sorted on disk (external merge sort), so that memory does not grow with them."""

_MISSING = {errno.ENOENT, errno.ENOTDIR}
_UNREADABLE = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO}
_WRONG_PLACE = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOTEMPTY}


def list_files(uri: str, selection: Selection) -> Iterator[FileInfo]:
    """See ``files.list_files``; yields nothing if there are no files."""
    path = local_path(uri)
    if os.path.isdir(path):  # noqa: PTH112  (Path.is_dir raises without permission)
        yield from _walk(path.rstrip("/") or "/", "", selection, frozenset())
    elif (info := stat(uri)) is not None:
        yield info


def _walk(folder: str, relative: str, selection: Selection, above: frozenset[tuple[int, int]]) -> Iterator[FileInfo]:
    """Depth first, names in code point order. Links are followed, except to a folder above (a cycle)."""
    folder_stat = os.stat(folder)  # noqa: PTH116  (Path costs more than the system call)
    identity = (folder_stat.st_dev, folder_stat.st_ino)
    if identity in above:
        selection.note("link to a folder above")
        return
    for name in _sorted_names(folder):
        path, inside = f"{folder.rstrip('/')}/{name}", relative + name
        try:
            facts = os.stat(path)  # noqa: PTH116
        except OSError:  # a broken link, or deleted meanwhile: reading it gives the reason
            if not selection.skips(inside):
                yield FileInfo(local_uri(path), 0, "")
            continue
        if modes.S_ISDIR(facts.st_mode):
            if not selection.skips(f"{inside}/"):
                yield from _walk(path, f"{inside}/", selection, above | {identity})
        elif not selection.skips(inside):
            if modes.S_ISREG(facts.st_mode):
                yield FileInfo(local_uri(path), facts.st_size, str(facts.st_mtime_ns))
            else:
                selection.note("pipe, socket or device")


def _sorted_names(folder: str) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        runs = []
        names: list[str] = []
        try:
            for entry in stack.enter_context(os.scandir(folder)):
                names.append(entry.name)
                if len(names) == NAMES_IN_MEMORY:
                    spill = stack.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
                    spill.writelines(json.dumps(name) + "\n" for name in sorted(names))
                    spill.seek(0)
                    runs.append(map(json.loads, spill))
                    names = []
        except PermissionError as error:
            raise InputError(
                f"{folder}: no permission to list it ({error.strerror}). Grant this user read access, or leave the folder out of the input."
            ) from error
        except OSError as error:
            raise _outage(folder, error) from error
        yield from heapq.merge(*runs, sorted(names))


def stat(uri: str) -> FileInfo | None:
    """See ``files.stat``."""
    try:
        facts = os.stat(local_path(uri))  # noqa: PTH116
    except (OSError, ValueError) as error:
        answer = _answer(uri, error)
        if isinstance(answer, ObjectAnswer) and answer.status is Status.MISSING:
            return None
        raise answer from error
    return FileInfo(uri, facts.st_size, str(facts.st_mtime_ns)) if modes.S_ISREG(facts.st_mode) else None


def read_bytes(uri: str, offset: int, length: int | None) -> bytes:
    """See ``files.read_bytes``."""
    with open_for_reading(uri) as stream:
        try:
            if offset:
                stream.seek(offset)
            return stream.read(-1 if length is None else length)
        except OSError as error:
            raise _answer(uri, error) from error


def open_for_reading(uri: str) -> BinaryIO:
    """See ``files.open_for_reading``."""
    try:
        # O_NONBLOCK: opening a named pipe would otherwise wait forever for a writer
        descriptor = os.open(local_path(uri), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        if not modes.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ObjectAnswer(Status.UNREADABLE, uri, "Not a regular file")
    except (OSError, ValueError) as error:
        raise _answer(uri, error) from error
    return os.fdopen(descriptor, "rb")


def write_bytes(uri: str, data: bytes) -> None:
    """See ``files.write_bytes``."""
    write_from(io.BytesIO(data), uri)


def write_from(source: BinaryIO, uri: str) -> None:
    """See ``files.write_from``."""
    target = Path(local_path(uri))
    # A unique name per writer: a retried task may run at the same time as the first one.
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            shutil.copyfileobj(source, stream, 1 << 20)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise _write_failure(uri, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def delete(uri: str) -> None:
    """See ``files.delete``."""
    try:
        Path(local_path(uri)).unlink(missing_ok=True)
    except OSError as error:
        raise _write_failure(uri, error) from error


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """See ``files.arrow_filesystem``."""
    return pyarrow.fs.LocalFileSystem(), str(Path(local_path(uri)).absolute())


def _sync_folder(folder: Path) -> None:
    """Make the new name durable, where the file system supports it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network mounts
            raise
    finally:
        os.close(descriptor)


def _answer(uri: str, error: OSError | ValueError) -> ObjectAnswer | ResourceError:
    if not isinstance(error, OSError):  # a name with a NUL or an unencodable character
        return ObjectAnswer(Status.UNREADABLE, uri, str(error))
    if error.errno in _MISSING:
        return ObjectAnswer(Status.MISSING, uri, os.strerror(error.errno))
    if error.errno in _UNREADABLE:
        return ObjectAnswer(Status.UNREADABLE, uri, os.strerror(error.errno))
    return _outage(uri, error)


def _outage(uri: str, error: OSError) -> ResourceError:
    return ResourceError(f"{uri}: {error.strerror}. Repair the disk or the mount, and run the same command again.")


def _write_failure(uri: str, error: OSError) -> ConfigError | ResourceError:
    if error.errno in _WRONG_PLACE:
        return ConfigError(f"{uri}: cannot be written ({error.strerror}). Choose another output.")
    return ResourceError(
        f"{uri}: cannot be written ({error.strerror}). Free disk space or grant this user write access, and run the same command again."
    )
