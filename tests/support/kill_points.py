"""A process that is killed at a chosen operation on files, played by an exception that nothing catches."""

import contextlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from unittest import mock

from agegender.storage import local


class Killed(BaseException):
    """The process ends here; no exception of the package's, so that no handler of it goes on."""


class KillPoints:
    """Counts what is written and deleted, and ends the process before or after the chosen operation.

    Reading is no kill point: to be killed there is to be killed after the operation before it.
    """

    def __init__(self) -> None:
        self._until: int | None = None
        self._after = False

    def arm(self, operations: int, after: bool) -> None:
        """Kill at the operation that so many others go before; ``after`` it has taken effect, or before."""
        self._until, self._after = operations, after

    def disarm(self) -> None:
        self._until = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """All that is stored on the local disk passes here."""
        write, delete = local.write_from, local.delete

        def write_from(source: BinaryIO, uri: str) -> None:
            self._pass(lambda: write(source, uri), lambda: _leave_half(source, uri))

        def delete_one(uri: str) -> None:
            self._pass(lambda: delete(uri), lambda: None)

        with mock.patch.object(local, "write_from", write_from), mock.patch.object(local, "delete", delete_one):
            yield

    def _pass(self, act: Callable[[], Any], leave_half: Callable[[], None]) -> None:
        if self._until == 0:
            self.disarm()
            (act if self._after else leave_half)()
            raise Killed
        if self._until is not None:
            self._until -= 1
        act()


def _leave_half(source: BinaryIO, uri: str) -> None:
    """What a writer leaves that was killed while it wrote: a file under a name of its own."""
    with contextlib.suppress(OSError):
        target = Path(uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        data = source.read()
        target.with_name(f"{local.TEMPORARY_PREFIX}{secrets.token_hex(8)}").write_bytes(data[: len(data) // 2])
