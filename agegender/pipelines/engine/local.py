"""Workers of a ``UnitPool`` as processes of this machine, for small jobs: no Ray, no cluster.

Processes, not threads, so that an image that kills its process is isolated as on a cluster. They are plain child processes,
not ``multiprocessing``'s, so that a notebook or a script without a main guard can start them.
"""

import contextlib
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from agegender.pipelines.engine.actor_pool import WorkerDied
from agegender.pipelines.engine.poison import Task
from agegender.pipelines.runtime.session import restore_default_signal_handlers

MAX_IMAGES = 1_000
"""A larger source is scored on Ray by default: the start of Ray is then a small part of the time."""

_NODE = "node"


def usable_cpus(num_cpus: int | None) -> int:
    """CPUs that this process may use, at most ``num_cpus``."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(available, num_cpus or available))


@dataclass(eq=False)
class _Future:
    """Pending result of a call; results arrive in the order of the calls."""

    process: "_Process"
    done: bool = False
    value: Any = None
    error: Exception | None = None


@dataclass(eq=False)
class _Process:
    child: subprocess.Popen[bytes]
    connection: Connection
    alive: int
    """Write end of a pipe: its closing notifies the child that this process has ended."""
    pending: deque[_Future] = field(default_factory=deque)

    def end(self) -> None:
        self.child.kill()
        self.child.wait()
        self.connection.close()
        if self.alive >= 0:
            os.close(self.alive)
            self.alive = -1


class LocalProcesses:
    """Processes that each hold one ``make(*arguments)``, which has a method ``do(Task)``.

    Args:
        make: importable by name; called in the process; its exception is raised by the first task.
        arguments: of ``make``; sent to each process.
        threads: of each process, for libraries that read ``OMP_NUM_THREADS``.
    """

    def __init__(self, make: Callable[..., Any], arguments: tuple[Any, ...], threads: int = 1) -> None:
        self._start_message = pickle.dumps((make, arguments))
        self._module, self._threads = make.__module__, threads

    def start(self) -> _Process:
        """Start a process, or use one that was warmed up for this module."""
        key = self._module, self._threads
        process = _warm.pop(key) if key in _warm else _spawn(*key)
        self._send(process, self._start_message)
        return process

    def node(self, worker: _Process) -> _Future:
        """Future of the name of this machine; done once the process is ready."""
        return self._call(worker, pickle.dumps(_NODE))

    def submit(self, worker: _Process, task: Task) -> _Future:
        """Future of ``do(task)``."""
        return self._call(worker, pickle.dumps(task))

    def _call(self, worker: _Process, message: bytes) -> _Future:
        future = _Future(worker)
        worker.pending.append(future)
        self._send(worker, message)
        return future

    @staticmethod
    def _send(worker: _Process, message: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has died, which its future will report
            worker.connection.send_bytes(message)

    def wait(self, futures: Sequence[_Future], timeout_s: float) -> list[_Future]:
        """Futures that are done."""
        waiting = {future.process.connection: future.process for future in futures if not future.done}
        some_done = any(future.done for future in futures)
        for connection in wait(list(waiting), 0 if some_done else timeout_s):
            self._receive(waiting[connection])  # type: ignore[index]  # wait returns members of its argument
        return [future for future in futures if future.done]

    @staticmethod
    def _receive(process: _Process) -> None:
        try:
            value, error = pickle.loads(process.connection.recv_bytes())
        except (EOFError, ConnectionResetError):
            reason = _exit_reason(process.child.wait())
            while process.pending:
                future = process.pending.popleft()
                future.done, future.error = True, WorkerDied(reason)
            return
        future = process.pending.popleft()
        future.done, future.value, future.error = True, value, error
        if isinstance(error, MemoryError):
            future.error = WorkerDied("MemoryError: the process got no memory from the system.")

    def result(self, future: _Future) -> Any:
        """The result of a future that is done.

        Raises:
            WorkerDied: the process ended or ran out of memory.
        """
        if future.error is not None:
            raise future.error
        return future.value

    def kill(self, worker: _Process) -> None:
        """Kill the process."""
        worker.end()


_warm: dict[tuple[str, int], _Process] = {}
"""(module, threads) -> a process without a worker."""


def warm_up(module: str, threads: int = 1) -> None:
    """Start a process that imports a module, for the next ``LocalProcesses`` with a ``make`` from that module."""
    _warm[module, threads] = _spawn(module, threads)


def discard_warm() -> None:
    """Kill the warm processes that were not used."""
    while _warm:
        _warm.popitem()[1].end()


def _spawn(module: str, threads: int) -> _Process:
    ours, theirs = Pipe()
    alive_read, alive_write = os.pipe()
    call = f"_main({module!r}, {theirs.fileno()}, {alive_read})"
    child = subprocess.Popen(
        # The same sys.path as here; -P: without the working directory.
        [sys.executable, "-P", "-c", f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _main; {call}"],
        pass_fds=(theirs.fileno(), alive_read),
        stdin=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))},
    )
    theirs.close()
    os.close(alive_read)
    return _Process(child, ours, alive_write)


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}."
    try:
        return f"it was ended by {signal.Signals(-code).name}."
    except ValueError:
        return f"it was ended by signal {-code}."


def _main(module: str, connection_fd: int, alive_fd: int) -> None:
    """Main loop of the child: import, create the worker, then handle messages until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its children
    restore_default_signal_handlers()
    threading.Thread(target=_end_with_parent, args=(alive_fd,), daemon=True).start()
    connection = Connection(connection_fd)
    with contextlib.suppress(Exception):  # unpickling ``make`` raises it again, and the first task reports it
        importlib.import_module(module)
    worker: Any = None
    try:
        make, arguments = pickle.loads(connection.recv_bytes())
        while True:
            message = pickle.loads(connection.recv_bytes())
            value, error = None, None
            try:
                if message == _NODE:
                    value = socket.gethostname()
                else:
                    worker = worker or make(*arguments)
                    value = worker.do(message)
            except Exception as raised:  # noqa: BLE001  (sent to the parent, which raises it)
                error = raised
            connection.send_bytes(_pickled(value, error))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _pickled(value: Any, error: Exception | None) -> bytes:
    try:
        payload = pickle.dumps((value, error))
        if error is not None:
            pickle.loads(payload)  # some exceptions can be pickled but not unpickled
        return payload
    except Exception:  # noqa: BLE001  (an exception may have any attributes)
        return pickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))


def _end_with_parent(alive_fd: int) -> None:
    """Exit when the parent has ended: nothing reads the results, and another driver may have resumed the run."""
    os.read(alive_fd, 1)
    os._exit(1)
