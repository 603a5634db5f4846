"""Lease of an OUTPUT: only one driver at a time, as two would publish the same units twice. No Ray.

``_work/driver.json`` identifies the driver and is rewritten as its heartbeat. A killed driver leaves the file behind, and the
file stops changing. Where process ids mean the same to both, on one machine and not in two containers, its process id shows at
once that it has ended.
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
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.storage import files

logger = logging.getLogger(__name__)

HEARTBEAT_S = 10.0
LEASE_TTL_S = 35.0
"""A lease without a heartbeat for so long has expired: its driver is dead."""


class Lease:
    """Context manager that holds the lease.

    Args:
        output: OUTPUT of the run, claimed by ``run_record.claim_output``.

    Raises:
        ConfigError: (on entering) another driver holds the lease.
    """

    def __init__(self, output: str) -> None:
        self._output, self._uri = output, OutputLayout(output).lease
        self._token = secrets.token_hex(8)
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._heartbeat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._acquire()
        self._write(0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join(timeout=10)
        with contextlib.suppress(ResourceError):  # the job raises its own error
            if self._is_ours(self._read()):
                files.delete(self._uri)

    def check(self) -> None:
        """Check that this driver still holds the lease; call it before writes that must happen once.

        Raises:
            ResourceError: another driver has taken over and resumes the run.
        """
        found = self._read()
        if not self._is_ours(found):
            raise ResourceError(f"{self._output}: {_describe(found)} has taken over this run and resumes it there")

    def _acquire(self) -> None:
        found = self._read()
        if found is None or _has_ended(found):
            return
        logger.info("%s: waiting up to %.0f s for a heartbeat of %s", self._output, LEASE_TTL_S, _describe(found))
        deadline_s = time.monotonic() + LEASE_TTL_S
        while time.monotonic() < deadline_s:
            time.sleep(1)
            now = self._read()
            if now is None:
                return
            if now != found:
                raise ConfigError(
                    f"{self._output}: {_describe(now)} is running it. Nothing was changed. Wait for its end or stop it, "
                    "or give another --output"
                )

    def _heartbeat(self) -> None:
        beat = 0
        while not self._ending.wait(HEARTBEAT_S):
            with contextlib.suppress(ResourceError):  # an outage: the job sees it too
                if self._is_ours(self._read()):
                    beat += 1
                    self._write(beat)

    def _write(self, beat: int) -> None:
        lease = {"host": socket.gethostname(), "pid": os.getpid(), "since": self._since, "token": self._token}
        lease["pid_namespace"] = pid_namespace()
        files.write_json(self._uri, lease | {"beat": beat})

    def _read(self) -> dict[str, Any] | None:
        try:
            return dict(files.read_json(self._uri))
        except files.ObjectAnswer:
            return None

    def _is_ours(self, found: dict[str, Any] | None) -> bool:
        return found is not None and found["token"] == self._token


def _describe(found: dict[str, Any] | None) -> str:
    return f"process {found['pid']} on {found['host']}, since {found['since']}," if found else "another process"


def pid_namespace() -> str | None:
    """What distinguishes the process ids of this process from those of other machines and containers; None: unknown.

    A host name does not: containers may share one, and in each of them the driver is process 1.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # noqa: PTH115  (/proc is of another container or of the host)
            return None
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return None


def _has_ended(found: dict[str, Any]) -> bool:
    """Whether a driver that shares our process ids has ended; unknown for others. Our own process id was reused."""
    here = pid_namespace()
    if here is None or found["host"] != socket.gethostname() or found.get("pid_namespace") != here:
        return False
    return found["pid"] == os.getpid() or not _is_running(found["pid"])


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a zombie has ended as well
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
