"""Archives: which there are by their names, how one is opened, and how members are read from one. No Ray."""

import bz2
import gzip
import lzma
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from agegender.errors import InputError
from agegender.schema import Status
from agegender.storage import files

_COMPRESSED_TARS: dict[str, Callable[[BinaryIO, Literal["rb"]], Any]] = {
    ".tgz": gzip.open, ".tar.gz": gzip.open,
    ".tbz2": bz2.open, ".tar.bz2": bz2.open,
    ".txz": lzma.open, ".tar.xz": lzma.open,
}  # fmt: skip

DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
"""What the standard library raises for a damaged archive; an ``OSError`` may also come from the disk (``check_damage``)."""

NOT_READ = (".7z", ".rar", ".tar.zst", ".tzst", ".tar.lz4", ".tar.z", ".gz", ".bz2", ".xz", ".zst")
"""Archives and packed files that are refused if they are named."""

ARCHIVE_EXTENSIONS = (".tar", ".zip", *_COMPRESSED_TARS)


def is_archive(uri: str) -> bool:
    """Whether a file is an archive, by its extension."""
    return uri.lower().endswith(ARCHIVE_EXTENSIONS)


def check_read(uri: str) -> None:
    """Refuse an input that is an archive of a kind that is not read.

    Raises:
        InputError: names the kinds that are.
    """
    if not is_archive(uri) and (kind := next((end for end in NOT_READ if uri.lower().endswith(end)), None)):
        raise InputError(f"{uri}: {kind} is not read. Unpack it, or make one of {', '.join(ARCHIVE_EXTENSIONS)} of it")


def is_plain_tar(uri: str) -> bool:
    """Whether members of the archive are ranges of its bytes."""
    return uri.lower().endswith(".tar")


def is_zip(uri: str) -> bool:
    """Whether the archive is a zip file."""
    return uri.lower().endswith(".zip")


def tar_stream(stream: BinaryIO, uri: str) -> BinaryIO:
    """The bytes of a tar file without its compression, seekable; seeking back starts again from the beginning."""
    for extension, opened in _COMPRESSED_TARS.items():
        if uri.lower().endswith(extension):
            return cast("BinaryIO", opened(stream, "rb"))
    return stream


def check_damage(error: BaseException) -> None:
    """Raise what is no damage of the archive: an error of the disk has a number, one of a decompressor has none."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


class _Opened(NamedTuple):
    container: str
    etag: str | None
    stream: BinaryIO
    archive: zipfile.ZipFile | None
    members: list[zipfile.ZipInfo]


_last = threading.local()
"""The archive that this thread read last: units come in order, and the way to a member of a compressed archive leads through
all that come before it, as the directory of a zip file is read whole."""


def read_member(container: str, etag: str | None, offset: int, length: int) -> bytes:
    """Up to ``length`` bytes of a member of a zip file or of a compressed tar.

    Args:
        container: address of the archive.
        etag: of the archive as it was listed.
        offset: number of the member in a zip file's directory; first byte of the member in the tar without compression.
        length: at most so many bytes.

    Raises:
        ObjectAnswer: the archive is missing, or the member is damaged or encrypted.
        ResourceError: storage does not answer.
    """
    try:
        opened = _opened(container, etag)
        if opened.archive is None:
            opened.stream.seek(offset)
            return opened.stream.read(length)
        with opened.archive.open(opened.members[offset]) as member:
            return member.read(length)
    except (*DAMAGED, IndexError, RuntimeError) as error:  # the last: encrypted, or an unknown method of compression
        _close_last()
        check_damage(error)
        raise files.ObjectAnswer(Status.UNREADABLE, container, f"damaged or not readable: {error}") from error
    except InputError:
        _close_last()
        raise


def _opened(container: str, etag: str | None) -> _Opened:
    last: _Opened | None = getattr(_last, "opened", None)
    if last is not None and (last.container, last.etag) == (container, etag):
        return last
    _close_last()
    stream = files.open_for_reading(container)
    if is_zip(container):
        archive = zipfile.ZipFile(stream)
        _last.opened = _Opened(container, etag, stream, archive, archive.infolist())
    else:
        _last.opened = _Opened(container, etag, tar_stream(stream, container), None, [])
    return cast("_Opened", _last.opened)


def _close_last() -> None:
    """Close the archive that this thread read last."""
    last: _Opened | None = getattr(_last, "opened", None)
    if last is not None:
        _last.opened = None
        (last.archive or last.stream).close()
