import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import urllib3

from agegender.errors import ConfigError
from agegender.schema import Status
from agegender.storage import files, web

CONTENT = bytes(range(256)) * 10


class Handler(BaseHTTPRequestHandler):
    """``/a.jpg`` with ranges, ``/whole.jpg`` without, ``/moved``, ``/no-head``; others: the status in the path."""

    attempts = 0

    def do_HEAD(self) -> None:
        if self.path == "/no-head":
            self._answer(405, b"")
        else:
            self._get(head=True)

    def do_GET(self) -> None:
        self._get(head=False)

    def _get(self, *, head: bool) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/a.jpg")
            self.end_headers()
        elif self.path == "/flaky":
            Handler.attempts += 1
            self._answer(503 if Handler.attempts < 3 else 200, CONTENT, head=head)
        elif self.path.lstrip("/").isdigit():
            self._answer(int(self.path[1:]), b"")
        elif self.path == "/a.jpg" and (wanted := self.headers.get("range")):
            first, last = wanted.removeprefix("bytes=").split("-")
            self._answer(206, CONTENT[int(first) : int(last) + 1 if last else None], head=head)
        else:
            self._answer(200, CONTENT, head=head)

    def _answer(self, status: int, body: bytes, *, head: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if not head:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def loopback(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server, with this machine's address taken for one of the public internet."""
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")
    monkeypatch.setattr(web, "RETRIES", web.RETRIES.new(backoff_factor=0.01))
    web._client.cache_clear()
    return server


def test_files_and_ranges_are_read(loopback: str) -> None:
    for name in ("a.jpg", "whole.jpg", "moved", "no-head"):
        uri = f"{loopback}/{name}"
        assert [info.size_bytes for info in files.list_files(uri)] == [len(CONTENT)], name
        assert files.read_bytes(uri) == CONTENT
        assert files.read_bytes(uri, offset=10, length=300) == CONTENT[10:310]
        assert files.read_bytes(uri, length=7) == CONTENT[:7]
        with files.open_for_reading(uri) as stream:
            stream.seek(5)
            assert stream.read(3) == CONTENT[5:8]


def test_an_overloaded_server_is_asked_again(loopback: str) -> None:
    Handler.attempts = 0
    assert files.read_bytes(f"{loopback}/flaky") == CONTENT


@pytest.mark.parametrize(
    ("status", "expected"),
    [(404, Status.MISSING), (410, Status.MISSING), (403, Status.UNREADABLE), (500, Status.UNREADABLE)],
)
def test_a_refusal_is_an_answer_about_the_image(loopback: str, status: int, expected: Status) -> None:
    with pytest.raises(files.ObjectAnswer) as caught:
        files.read_bytes(f"{loopback}/{status}")
    assert caught.value.status is expected
    assert str(status) in str(caught.value)


def test_a_server_that_is_not_there_is_an_answer(loopback: str) -> None:
    with pytest.raises(files.ObjectAnswer, match="NewConnectionError"):
        files.read_bytes("http://127.0.0.1:9/x.jpg")


def test_private_addresses_are_never_asked(server: str) -> None:
    web._client.cache_clear()
    for address in (server, server.replace("127.0.0.1", "localhost")):
        with pytest.raises(files.ObjectAnswer, match="private network"):
            files.read_bytes(f"{address}/a.jpg")


def test_a_redirect_into_a_private_network_is_refused(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([True, True, False])  # before and after the first connection, before the second
    monkeypatch.setattr(web, "is_public", lambda _: next(answers))
    web._client.cache_clear()
    monkeypatch.setattr(
        urllib3.PoolManager, "connection_from_host", fresh_connection(urllib3.PoolManager.connection_from_host)
    )
    with pytest.raises(files.ObjectAnswer, match="private network"):
        files.read_bytes(f"{server}/moved")


def fresh_connection(original):
    def wrapped(self, *arguments, **keywords):
        self.clear()  # a redirect to another host opens a connection of its own; here both are one
        return original(self, *arguments, **keywords)

    return wrapped


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("10.1.2.3", False), ("127.0.0.1", False), ("::1", False),
        ("169.254.169.254", False), ("fe80::1%eth0", False), ("192.168.1.1", False), ("100.64.0.1", False),
        ("::ffff:10.0.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("fd00:ec2::254", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(address: str, *, public: bool) -> None:
    assert web.is_public(address) is public


def test_nothing_is_written_to_the_web() -> None:
    for write in (lambda: files.write_bytes("https://host/a", b""), lambda: files.delete("https://host/a")):
        with pytest.raises(ConfigError, match="web server"):
            write()
