"""Addresses as people write them, and names of files that are not text.

A uri is a local path, ``s3://bucket/key`` or ``https://...``. A path whose bytes are not UTF-8 has no form as text, so its
uri is the standard one for such a path, ``file:///photos/Mu%F1oz.jpg``. All other paths are written as they are, without
any escapes. Both forms are unambiguous, and ``local_path`` gives the path back.

A member of an archive is ``ARCHIVE#MEMBER``; ``ARCHIVE##MEMBER`` if the member's name is percent-encoded, because it is not
UTF-8 or begins with ``#``.
"""

import os
import re
import sys
from urllib.parse import quote_from_bytes, unquote_to_bytes

from agegender.errors import InputError

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SURROGATE = re.compile("[\ud800-\udfff]")
_S3_ALIASES = ("s3a://", "s3n://")
_FILE = "file://"
_IS_UTF8 = sys.getfilesystemencoding() == "utf-8"


def canonical(address: str) -> str:
    """The uri of an address, as jobs use it everywhere; relative paths stay relative.

    ``s3a://`` and ``s3n://`` (Hadoop's schemes) become ``s3://``, ``file://`` becomes a path, ``~`` the home folder.

    Raises:
        InputError: a ``file://`` address of another host.
    """
    for alias in _S3_ALIASES:
        if address.startswith(alias):
            return "s3://" + address.removeprefix(alias)
    if address.startswith(_FILE):
        return local_uri(local_path(address))
    if SCHEME.match(address):
        return address
    return local_uri(os.path.expanduser(address) if address.startswith("~") else address)  # noqa: PTH111


def is_text(address: str) -> bool:
    """Whether an address has no surrogates, which stand for bytes that are not UTF-8."""
    return address.isascii() or not _SURROGATE.search(address)


def local_uri(path: str) -> str:
    """The uri of a local path as Python has it, with surrogates for bytes that are not text."""
    if path.isascii():
        return path
    raw = os.fsencode(path)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return _FILE + quote_from_bytes(os.path.abspath(raw))  # noqa: PTH100  (bytes)


def local_path(uri: str) -> str:
    """The path of a local uri, as functions of ``os`` take it.

    Raises:
        InputError: a ``file://`` uri of another host.
    """
    if not uri.startswith(_FILE):
        return uri if _IS_UTF8 or uri.isascii() else os.fsdecode(uri.encode())
    host, slash, path = uri.removeprefix(_FILE).partition("/")
    if host not in ("", "localhost") or not slash:
        raise InputError(f"{uri}: is a file of another machine. Write file:///PATH for a local file, or only its path.")
    return os.fsdecode(unquote_to_bytes(slash + path))


def member_uri(archive: str, name: str | bytes) -> str:
    """The uri of a member of an archive: ``ARCHIVE#NAME``, or ``ARCHIVE##NAME`` with a percent-encoded name.

    Args:
        archive: its uri.
        name: of the member; bytes or surrogates if it is not text.
    """
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return f"{archive}##{quote_from_bytes(raw)}"
    return f"{archive}##{quote_from_bytes(raw)}" if text.startswith("#") else f"{archive}#{text}"
