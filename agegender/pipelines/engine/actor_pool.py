"""A pool of actors that grows with the cluster: units in, results as they come; what dies is replaced, and what killed it isolated.

Plain actors rather than Ray Data, whose input must be known before it starts, whose retries of a unit that kills its
process never end or lose the block, and whose bookkeeping grows with the number of blocks.

    units -> queue -> actors that are up, IN_FLIGHT tasks each -> results

An actor is started when there is a task for it, but is given none before it is up: it may wait for a node for ever.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

from agegender.pipelines.engine.poison import Suspects, Task
from agegender.pipelines.runtime import metrics

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Units at one actor: the next one is there when the last is done."""

POLL_S = 0.2

RESIZE_INTERVAL_S = 5.0
"""So often the pool looks how many actors the cluster carries."""

START_S = 10.0
"""Most actors that find room are up by then; those that are not wait for a node."""

HOMELESS_S = 30.0
"""An actor that has waited so long for a place is told of."""

TELL_INTERVAL_S = 60.0
"""While nothing can be scored, that is said so often."""

DEATHS = (RayActorError, NodeDiedError, OutOfMemoryError, WorkerCrashedError, MemoryError)
"""A process that could not get memory lives on, but of what it holds nobody knows: it is replaced like one that was killed."""


@dataclass
class Losses:
    """What a run lost; filled while it runs."""

    workers: int = 0
    """Processes that ended while they scored."""

    units: int = 0
    """Times that a whole unit was begun again, because its process ended."""


@dataclass
class _Worker:
    """An actor and what it was given, oldest first: the first is the one that it works at."""

    actor: Any
    born_s: float
    replaces_lost_at_s: float | None = None
    node: str | None = None
    tasks: deque[tuple[Any, Task]] = field(default_factory=deque)


class UnitPool:
    """Actors that each do one task at a time.

    Args:
        make_actor: starts an actor with a method ``do(Task)`` that gives the result of a whole unit, and None for a piece,
            and a method ``node()`` that names the node that it is on. It must not restart by itself.
        size: how many actors there may be now, at least 1; asked again and again. Each is started when there is a task for
            it. Those for which there is no room wait: they take no work from the others, and make an autoscaler start nodes.
        images_of: number of images of a unit, asked when a unit is searched.
        losses: counted up as actors die.
    """

    def __init__(
        self, make_actor: Callable[[], Any], size: Callable[[], int], images_of: Callable[[str], int], losses: Losses
    ) -> None:
        self._make_actor, self._ask_size, self._losses = make_actor, size, losses
        self._suspects = Suspects(images_of, workers=1)
        self._queue: deque[Task] = deque()  # taken from the units, and not yet given to an actor
        self._workers: list[_Worker] = []
        self._starting: dict[Any, _Worker] = {}  # by the answer to node() that they owe
        self._lost_at_s: deque[float] = deque()  # of the dead that nobody has replaced
        self._size, self._resized_s = size(), time.monotonic()
        self._told, self._told_s = (0, 0, 0), self._resized_s

    def results(self, units: Iterator[str | None]) -> Generator[tuple[str, Any], None, None]:
        """Do every unit and hand over (unit, result) in the order in which they finish.

        Holds no more than ``IN_FLIGHT`` units per actor, whatever the number of units.

        Args:
            units: their addresses; None: none at the moment, ask again.

        Raises:
            ResourceError: processes die, and no image is the reason.
        """
        ended = False
        try:
            while not ended or self._queue or self._suspects.waiting or self._heads():
                self._resize()
                ended = self._hand_out(units, ended)
                if awaited := [*self._heads(), *self._starting]:
                    ready, _ = ray.wait(awaited, timeout=POLL_S)
                    self._welcome(ready)
                    yield from self._take(set(ready))
        finally:
            for worker in [*self._workers, *self._starting.values()]:
                ray.kill(worker.actor)

    def _heads(self) -> list[Any]:
        """What each actor is at."""
        return [worker.tasks[0][0] for worker in self._workers if worker.tasks]

    def _resize(self) -> None:
        now_s = time.monotonic()
        if now_s - self._resized_s < RESIZE_INTERVAL_S:
            return
        self._resized_s, self._size = now_s, self._ask_size()
        # Those that are up end with their node; the newest of those that wait are not needed where nodes have gone.
        while self._starting and len(self._workers) + len(self._starting) > self._size:
            ray.kill(self._starting.popitem()[1].actor)
        self._tell(now_s)

    def _tell(self, now_s: float) -> None:
        nodes = len({worker.node for worker in self._workers})
        homeless = sum(now_s - worker.born_s > HOMELESS_S for worker in self._starting.values())
        now = len(self._workers), nodes, homeless
        if now == self._told and (self._workers or now_s - self._told_s < TELL_INTERVAL_S):
            return
        self._told, self._told_s = now, now_s
        if homeless:
            logger.warning(
                "scoring in %d processes on %d nodes; %d more find no room: the cluster's CPUs are taken, or nodes are missing. "
                "They start as nodes join or other jobs end",
                *now,
            )
        elif self._workers:
            logger.info("scoring in %d processes on %d nodes", *now[:2])

    def _hand_out(self, units: Iterator[str | None], ended: bool) -> bool:
        """Give the actors what they can take, and start more; returns whether the units have come to their end."""
        now_s = time.monotonic()
        soon = any(now_s - worker.born_s < START_S for worker in self._starting.values())
        most = 1 if soon else IN_FLIGHT  # nothing in advance that those could take which are about to be up
        while self._workers:
            worker = min(self._workers, key=lambda each: len(each.tasks))
            if len(worker.tasks) >= most:
                break
            ended = ended or self._fill_queue(units, 1)
            waiting = self._suspects.todo or self._queue
            if not waiting:
                break
            task = waiting.popleft()
            worker.tasks.append((worker.actor.do.remote(task), task))
        while len(self._workers) + len(self._starting) < self._size:
            ended = ended or self._fill_queue(units, len(self._starting) + 1)
            if len(self._suspects.todo) + len(self._queue) <= len(self._starting):
                break
            self._start()
        return ended

    def _fill_queue(self, units: Iterator[str | None], count: int) -> bool:
        """Have ``count`` tasks waiting, as far as there are units at the moment; returns whether there will be none any more."""
        while len(self._suspects.todo) + len(self._queue) < count:
            unit = next(units, _END)
            if unit is None:
                break
            if unit == _END:
                return True
            self._queue.append(Task(unit))
        return False

    def _start(self) -> None:
        lost_at_s = self._lost_at_s.popleft() if self._lost_at_s else None
        worker = _Worker(self._make_actor(), time.monotonic(), lost_at_s)
        self._starting[worker.actor.node.remote()] = worker

    def _welcome(self, ready: list[Any]) -> None:
        """Those that are up can be given work; one that died before it was up costs no unit anything."""
        for answer in [each for each in ready if each in self._starting]:
            worker = self._starting.pop(answer)
            try:
                worker.node = ray.get(answer)
            except DEATHS as death:
                ray.kill(worker.actor)
                self._lost_at_s.append(worker.replaces_lost_at_s or time.monotonic())
                self._suspects.lost(_reason(death))
                continue
            self._workers.append(worker)
            self._suspects.workers = max(self._suspects.workers, len(self._workers))

    def _take(self, ready: set[Any]) -> Iterator[tuple[str, Any]]:
        for worker in [each for each in self._workers if each.tasks and each.tasks[0][0] in ready]:
            reference, task = worker.tasks.popleft()
            try:
                result = ray.get(reference)
            except DEATHS as death:
                self._bury(worker, task, _reason(death))
                continue
            self._suspects.finished(task)
            if worker.replaces_lost_at_s is not None:
                waited_s = time.monotonic() - worker.replaces_lost_at_s
                logger.info("a replacement finished its first work, %.1f s after the loss was noticed", waited_s)
                worker.replaces_lost_at_s = None
            if task.rows is None:
                yield task.unit, result

    def _bury(self, worker: _Worker, task: Task, reason: str) -> None:
        """Only the task that the actor was at is suspected; what waited behind it is done elsewhere."""
        self._workers.remove(worker)
        metrics.count("agegender_unit_retries_total", task.rows is None, "predict")
        ray.kill(worker.actor)  # it may only have been out of reach, and must not go on
        self._lost_at_s.append(worker.replaces_lost_at_s or time.monotonic())
        self._losses.workers += 1
        metrics.count("agegender_workers_lost_total", 1, "predict")
        self._losses.units += task.rows is None
        logger.warning("a scoring process ended at %s; it is replaced. Ray says: %s", task.unit, reason)
        for _, waited in worker.tasks:
            self._suspects.again(waited)
        self._suspects.died(task, reason)


def _reason(death: Exception) -> str:
    """Ray's own words, of which the beginning says it: what follows are pages of figures."""
    if isinstance(death, MemoryError):
        return "MemoryError: the process got no memory from the system."
    return " ".join(str(death).split())[:300]


_END = ""
"""No unit has this address."""
