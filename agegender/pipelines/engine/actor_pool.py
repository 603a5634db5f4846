"""An elastic pool of workers: units in, results in completion order. No Ray.

A worker that dies is replaced, and the image that killed it is isolated (``poison``).

    units -> queue -> ready workers, TASKS_IN_FLIGHT each -> results

``Workers`` is the backend: actors of a Ray cluster (``ray_actors``) or processes of this machine (``local``). A worker is
started when there is a task for it, and gets tasks once it is ready: it may be pending until a node joins.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agegender.pipelines.engine.poison import PoisonTracker, Task
from agegender.pipelines.runtime import metrics

logger = logging.getLogger(__name__)

TASKS_IN_FLIGHT = 2
"""Units per worker: the next one is queued while one is processed."""

POLL_S = 0.2

RESIZE_INTERVAL_S = 5.0
"""How often the target number of workers is updated."""

START_S = 10.0
"""Most schedulable workers are ready by then; the others are pending."""

PENDING_WARN_S = 30.0
"""A worker that is pending for longer is reported."""

REPORT_INTERVAL_S = 60.0
"""How often the report is repeated while no worker is ready."""


class WorkerDied(Exception):  # noqa: N818  (its message is a reason, not an error of the job)
    """A worker ended, or ran out of memory: its state is unknown, so it is replaced. The message is the reason."""


class Workers(Protocol):
    """Backend that starts, calls and kills workers; calls return futures."""

    def start(self) -> Any:
        """Start a worker; it may be pending, and never restarts by itself."""
        ...

    def node(self, worker: Any) -> Any:
        """Future of the name of the worker's node; done once the worker is ready."""
        ...

    def submit(self, worker: Any, task: Task) -> Any:
        """Future of the result of a task; None for a piece of a unit."""
        ...

    def wait(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Wait until at least one future is done, at most ``timeout_s`` seconds; return those that are done."""
        ...

    def result(self, future: Any) -> Any:
        """The result of a future that is done.

        Raises:
            WorkerDied: the worker ended.
            Exception: as the worker raised it.
        """
        ...

    def kill(self, worker: Any) -> None:
        """Kill a worker in any state."""
        ...


@dataclass
class RunStats:
    """Statistics of a run; updated while it runs."""

    workers_lost: int = 0
    """Processes that ended while they had work."""

    unit_retries: int = 0
    """Retries of whole units because their process ended."""


@dataclass
class _Worker:
    """A worker and its tasks, oldest first: it processes the first one."""

    handle: Any
    started_s: float
    replaces_lost_at_s: float | None = None
    node: str | None = None
    tasks: deque[tuple[Any, Task]] = field(default_factory=deque)


class UnitPool:
    """A pool of workers that each process one task at a time.

    Args:
        workers: backend.
        size: gives the target number of workers, at least 1; called every few seconds. Each worker is started when there is
            a task for it. Workers that cannot be scheduled stay pending: they get no tasks, and make an autoscaler start
            nodes.
        images_of: gives the number of images of a unit, for the search of poison images.
        stats: updated when workers die.
        command: tag of the metrics.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        workers: Workers,
        size: Callable[[], int],
        images_of: Callable[[str], int],
        stats: RunStats,
        command: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend, self._target_size, self._stats, self._command, self._clock = workers, size, stats, command, clock
        self._poison = PoisonTracker(images_of, workers=1)
        self._queue: deque[Task] = deque()  # taken from the units, not yet assigned to a worker
        self._workers: list[_Worker] = []
        self._starting: dict[Any, _Worker] = {}  # by the future of its node
        self._lost_at_s: deque[float] = deque()  # of dead workers without a replacement
        self._size, self._resized_s = size(), clock()
        self._reported, self._reported_s = (0, 0, 0), self._resized_s

    def results(self, units: Iterator[str | None]) -> Generator[tuple[str, Any], None, None]:
        """Process every unit and yield (unit, result) in completion order.

        At most ``TASKS_IN_FLIGHT`` units per worker are in flight.

        Args:
            units: their addresses; None: none available yet.

        Raises:
            ResourceError: processes die, and no image is the cause.
        """
        ended = False
        try:
            while not ended or self._queue or self._poison.pending or self._in_flight():
                self._resize()
                ended = self._assign(units, ended)
                if awaited := [*self._in_flight(), *self._starting]:
                    ready = self._backend.wait(awaited, POLL_S)
                    self._on_ready(ready)
                    yield from self._collect(set(ready))
        finally:
            for worker in [*self._workers, *self._starting.values()]:
                self._backend.kill(worker.handle)

    def _in_flight(self) -> list[Any]:
        """The future of the current task of each worker."""
        return [worker.tasks[0][0] for worker in self._workers if worker.tasks]

    def _resize(self) -> None:
        now_s = self._clock()
        if now_s - self._resized_s < RESIZE_INTERVAL_S:
            return
        self._resized_s, self._size = now_s, self._target_size()
        # Ready workers end with their node; after the loss of nodes, the newest pending workers are not needed.
        while self._starting and len(self._workers) + len(self._starting) > self._size:
            self._backend.kill(self._starting.popitem()[1].handle)
        self._report(now_s)

    def _report(self, now_s: float) -> None:
        nodes = len({worker.node for worker in self._workers})
        pending = sum(now_s - worker.started_s > PENDING_WARN_S for worker in self._starting.values())
        now = len(self._workers), nodes, pending
        if now == self._reported and (self._workers or now_s - self._reported_s < REPORT_INTERVAL_S):
            return
        self._reported, self._reported_s = now, now_s
        if pending:
            logger.warning(
                "scoring in %d processes on %d nodes; %d more are pending: insufficient CPUs, or nodes are missing. "
                "They start as nodes join or other jobs end",
                *now,
            )
        elif self._workers:
            logger.info("scoring in %d processes on %d nodes", *now[:2])

    def _assign(self, units: Iterator[str | None], ended: bool) -> bool:
        """Assign tasks to ready workers, and start more workers; returns whether the units are exhausted."""
        now_s = self._clock()
        starting_soon = any(now_s - worker.started_s < START_S for worker in self._starting.values())
        max_tasks = 1 if starting_soon else TASKS_IN_FLIGHT  # leave tasks for workers that are about to be ready
        while self._workers:
            worker = min(self._workers, key=lambda each: len(each.tasks))
            if len(worker.tasks) >= max_tasks:
                break
            ended = ended or self._fill_queue(units, 1)
            waiting = self._poison.todo or self._queue
            if not waiting:
                break
            task = waiting.popleft()
            worker.tasks.append((self._backend.submit(worker.handle, task), task))
        while len(self._workers) + len(self._starting) < self._size:
            ended = ended or self._fill_queue(units, len(self._starting) + 1)
            if len(self._poison.todo) + len(self._queue) <= len(self._starting):
                break
            self._start()
        return ended

    def _fill_queue(self, units: Iterator[str | None], count: int) -> bool:
        """Queue up to ``count`` tasks from the units available now; returns whether the units are exhausted."""
        while len(self._poison.todo) + len(self._queue) < count:
            unit = next(units, _END)
            if unit is None:
                break
            if unit == _END:
                return True
            self._queue.append(Task(unit))
        return False

    def _start(self) -> None:
        lost_at_s = self._lost_at_s.popleft() if self._lost_at_s else None
        worker = _Worker(self._backend.start(), self._clock(), lost_at_s)
        self._starting[self._backend.node(worker.handle)] = worker

    def _on_ready(self, ready: Sequence[Any]) -> None:
        """Add started workers to the pool; a worker that died while starting costs no unit a retry."""
        for future in [each for each in ready if each in self._starting]:
            worker = self._starting.pop(future)
            try:
                worker.node = self._backend.result(future)
            except WorkerDied as death:
                self._backend.kill(worker.handle)
                self._lost_at_s.append(worker.replaces_lost_at_s or self._clock())
                self._poison.died_at_start(str(death))
                continue
            self._workers.append(worker)
            self._poison.workers = max(self._poison.workers, len(self._workers))

    def _collect(self, ready: set[Any]) -> Iterator[tuple[str, Any]]:
        for worker in [each for each in self._workers if each.tasks and each.tasks[0][0] in ready]:
            future, task = worker.tasks.popleft()
            try:
                result = self._backend.result(future)
            except WorkerDied as death:
                self._handle_death(worker, task, str(death))
                continue
            self._poison.finished(task)
            if worker.replaces_lost_at_s is not None:
                waited_s = self._clock() - worker.replaces_lost_at_s
                logger.info("a replacement finished its first task, %.1f s after the loss was noticed", waited_s)
                worker.replaces_lost_at_s = None
            if task.rows is None:
                yield task.unit, result

    def _handle_death(self, worker: _Worker, task: Task, reason: str) -> None:
        """Retry the current task of the dead worker, which is suspected; requeue the tasks behind it."""
        self._workers.remove(worker)
        self._backend.kill(worker.handle)  # it may only be unreachable, and must not continue
        self._lost_at_s.append(worker.replaces_lost_at_s or self._clock())
        self._stats.workers_lost += 1
        self._stats.unit_retries += task.rows is None
        metrics.count("agegender_workers_lost_total", 1, self._command)
        metrics.count("agegender_unit_retries_total", task.rows is None, self._command)
        logger.warning("a scoring process ended at %s; it is replaced. Reason: %s", task.unit, reason)
        for _, waiting in worker.tasks:
            self._poison.requeue(waiting)
        self._poison.died(task, reason)


_END = ""
"""No unit has this address."""
