"""A server before the real one that answers some requests as a busy S3 does, or late, and passes on the rest as they are."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "date", "server"}


class Faults(ThreadingHTTPServer):
    """Counts what it did; the address of the real server and the faults are fixed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, endpoint: str, busy_every: int, delay_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = urlsplit(endpoint).netloc
        self.busy_every, self.delay_s = busy_every, delay_s
        self.requests = self.refused = 0
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def refuses(self) -> bool:
        """Whether the request that has just come in is one of those that are refused."""
        with self._lock:
            self.requests += 1
            refused = self.requests % self.busy_every == 0
            self.refused += refused
            return refused


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Faults

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.server.delay_s)
        if self.server.refuses():
            self._send(503, [("Content-Length", str(len(BUSY)))], BUSY)
            return
        real = http.client.HTTPConnection(self.server.behind, timeout=60)
        try:
            real.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # the host too: it is signed
                if name.lower() not in ("expect", "connection"):
                    real.putheader(name, value)
            real.endheaders(body)
            answer = real.getresponse()
            data = answer.read()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP]
            if not answer.getheader("Content-Length"):
                kept.append(("Content-Length", str(len(data))))
            self._send(answer.status, kept, data)
        finally:
            real.close()

    def _send(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


for _method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler._answer)


@contextmanager
def faulty(endpoint: str, busy_every: int, delay_s: float) -> Iterator[Faults]:
    """Serve until the end of the block.

    Args:
        endpoint: of the real server.
        busy_every: each so-many-th request gets a 503.
        delay_s: what every request waits.
    """
    server = Faults(endpoint, busy_every, delay_s)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
