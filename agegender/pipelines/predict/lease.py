"""One driver at a time for an OUTPUT: two would publish the same units twice. No Ray.

``_work/driver.json`` says who works there and is written anew all the time. A driver that was killed leaves it behind: on
its own machine its process id tells that it is gone, on another one the file stays as it is.
"""

import contextlib
import logging
import os
import secrets
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agegender.errors import ConfigError, ResourceError
from agegender.storage import files

logger = logging.getLogger(__name__)

BEAT_S = 10.0
PATIENCE_S = 35.0
"""A file that has not changed for so long is that of a dead driver."""


class Lease:
    """Held from ``with`` to its end.

    Args:
        output: OUTPUT of the run, which is ours by ``record.claim_output``.

    Raises:
        ConfigError: (on entering) another driver works there.
    """

    def __init__(self, output: str) -> None:
        self._output, self._uri = output, files.join(output, "_work", "driver.json")
        self._token = secrets.token_hex(8)
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._wait_for_the_dead()
        self._write(0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(timeout=10)
        with contextlib.suppress(ResourceError):  # the job's own error says it
            if self._is_ours(self._read()):
                files.delete(self._uri)

    def check(self) -> None:
        """To be called before what must not be done twice.

        Raises:
            ResourceError: another driver has taken over; it goes on with what was done here.
        """
        found = self._read()
        if not self._is_ours(found):
            raise ResourceError(f"{self._output}: {_who(found)} has taken this run over; it goes on there")

    def _wait_for_the_dead(self) -> None:
        found = self._read()
        if found is None or _is_gone(found):
            return
        logger.info("%s: looking whether %s still works at it, for %.0f s", self._output, _who(found), PATIENCE_S)
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            time.sleep(1)
            now = self._read()
            if now is None:
                return
            if now != found:
                raise ConfigError(
                    f"{self._output}: {_who(now)} works at it. Nothing was changed. Wait for its end or stop it, "
                    "or give another --output"
                )

    def _beat(self) -> None:
        beat = 0
        while not self._ending.wait(BEAT_S):
            with contextlib.suppress(ResourceError):  # an outage: the job meets it too
                if self._is_ours(self._read()):
                    beat += 1
                    self._write(beat)

    def _write(self, beat: int) -> None:
        said = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._since, "token": self._token}
        files.write_json(self._uri, said | {"beat": beat})

    def _read(self) -> dict[str, Any] | None:
        try:
            return dict(files.read_json(self._uri))
        except files.ObjectAnswer:
            return None

    def _is_ours(self, found: dict[str, Any] | None) -> bool:
        return found is not None and found["token"] == self._token


def _who(found: dict[str, Any] | None) -> str:
    return f"process {found['pid']} on {found['host']}, since {found['since']}," if found else "another process"


def _is_gone(found: dict[str, Any]) -> bool:
    """Whether a driver of this machine has ended; of others nobody can say. Our own id is that of one before us."""
    return found["host"] == socket.gethostname() and (found["pid"] == os.getpid() or not _lives(found["pid"]))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # one that has ended and that nobody has asked for its exit code does not live either
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
