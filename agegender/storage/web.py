"""``files`` for ``https://`` and ``http://``: reading only, and never from an address of a private network.

An address in a manifest may come from anyone: a worker that asked for ``http://169.254.169.254/`` would hand the keys of its
machine to whoever reads the output. So the address that was connected to is checked, after redirects and whatever the name
resolved to. Jobs read from the web only with ``--allow-http``.

A server that does not answer is an answer about its image, unlike an outage of the one storage that a run depends on: a list
of the web always has dead hosts. ``agegender rescore --status unreadable`` asks them again.
"""

import ipaddress
import shutil
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from http import HTTPStatus
from typing import Any, BinaryIO, NoReturn, cast

import pyarrow.fs
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from agegender.errors import ConfigError
from agegender.schema import Status
from agegender.storage.answers import FileInfo, ObjectAnswer, Selection

RETRIES = urllib3.Retry(total=3, redirect=5, backoff_factor=0.5, status_forcelist=[429, 500, 502, 503, 504])
TIMEOUT = urllib3.Timeout(connect=10, read=30)
CONNECTIONS_PER_HOST = 8

_MISSING = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


class PrivateAddressError(HTTPError):
    """The name of a server leads to an address that is not of the public internet."""


def is_public(address: str) -> bool:
    """Whether an IP address is of the public internet: not loopback, private, link-local or reserved."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_global) and not found.is_multicast


class _Checked:
    """Checks the address of a connection before it is opened, and once more before anything is sent: names can change."""

    def _new_conn(self) -> socket.socket:
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)  # type: ignore[attr-defined]
        except OSError:
            found = []  # the connection gives the reason
        for *_, (address, *_rest) in found:
            _check(str(address))
        connected = cast("socket.socket", super()._new_conn())  # type: ignore[misc]  # of the connection that it is mixed into
        try:
            _check(connected.getpeername()[0])
        except PrivateAddressError:
            connected.close()
            raise
        return connected


def _check(address: str) -> None:
    if not is_public(address):
        raise PrivateAddressError(f"{address} is an address of a private network")


class _CheckedHTTP(_Checked, HTTPConnection):
    pass


class _CheckedHTTPS(_Checked, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _CheckedHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _CheckedHTTPS


@cache
def _client() -> urllib3.PoolManager:
    client = urllib3.PoolManager(
        retries=RETRIES, timeout=TIMEOUT, maxsize=CONNECTIONS_PER_HOST, headers={"user-agent": "agegender"}
    )
    client.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return client


def _request(method: str, uri: str, **headers: str) -> urllib3.BaseHTTPResponse:
    """An answer with a body that is not read yet.

    Raises:
        ObjectAnswer: the server does not answer, or answers that there is nothing to read.
    """
    try:
        response = _client().request(method, uri, preload_content=False, headers={"user-agent": "agegender", **headers})
    except HTTPError as error:
        raise ObjectAnswer(Status.UNREADABLE, uri, _reason(error)) from error
    if response.status >= HTTPStatus.BAD_REQUEST:
        response.close()
        status = Status.MISSING if response.status in _MISSING else Status.UNREADABLE
        raise ObjectAnswer(status, uri, f"HTTP {response.status} {response.reason or ''}".strip())
    return response


def _reason(error: HTTPError) -> str:
    cause = getattr(error, "reason", None) or error
    said = str(cause)
    said = said.partition("): ")[2] or said  # without the connection's own name
    return said if isinstance(cause, PrivateAddressError) else f"{type(cause).__name__}: {said}"


def list_files(uri: str, selection: Selection) -> Iterator[FileInfo]:  # noqa: ARG001  (one file)
    """See ``files.list_files``; a web server lists nothing, so it is the one file."""
    if (info := stat(uri)) is not None:
        yield info


def stat(uri: str) -> FileInfo | None:
    """See ``files.stat``."""
    try:
        response = _request("HEAD", uri)
    except ObjectAnswer as answer:
        if answer.status is Status.MISSING:
            return None
        response = _request("GET", uri)  # some servers do not know HEAD
    with response:
        headers = response.headers
        return FileInfo(
            uri, int(headers.get("content-length", 0)), headers.get("etag") or headers.get("last-modified", "")
        )


def read_bytes(uri: str, offset: int, length: int | None) -> bytes:
    """See ``files.read_bytes``."""
    if length == 0:
        return b""
    headers = (
        {}
        if not offset and length is None
        else {"range": f"bytes={offset}-{'' if length is None else offset + length - 1}"}
    )
    with _request("GET", uri, **headers) as response:
        try:
            if response.status != HTTPStatus.PARTIAL_CONTENT:  # the server ignores ranges and sends everything
                _skip(response, offset)
            return _read(response, length)
        except HTTPError as error:
            raise ObjectAnswer(Status.UNREADABLE, uri, _reason(error)) from error


def _skip(response: urllib3.BaseHTTPResponse, size_bytes: int) -> None:
    while size_bytes > 0 and (piece := response.read(min(size_bytes, 1 << 20))):
        size_bytes -= len(piece)


def _read(response: urllib3.BaseHTTPResponse, length: int | None) -> bytes:
    if length is None:
        return response.read()
    pieces = []
    while length > 0 and (piece := response.read(length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def open_for_reading(uri: str) -> BinaryIO:
    """See ``files.open_for_reading``; the file is downloaded to the temporary folder first."""
    copy = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115  (the caller closes it)
    with _request("GET", uri) as response:
        try:
            shutil.copyfileobj(cast("Any", response), copy, 1 << 20)
        except HTTPError as error:
            copy.close()
            raise ObjectAnswer(Status.UNREADABLE, uri, _reason(error)) from error
    copy.seek(0)
    return copy


def write_bytes(uri: str, data: bytes) -> None:  # noqa: ARG001
    """Refused."""
    _refuse(uri)


def write_from(source: BinaryIO, uri: str) -> None:  # noqa: ARG001
    """Refused."""
    _refuse(uri)


def delete(uri: str) -> None:
    """Refused."""
    _refuse(uri)


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Refused."""
    _refuse(uri)


def _refuse(uri: str) -> NoReturn:
    raise ConfigError(f"{uri}: nothing is written to a web server. Use a local path or s3://BUCKET/KEY.")
