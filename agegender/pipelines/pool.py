"""A bounded pool of actors: units in, results as they come; what dies is replaced, and the image that killed it isolated.

Plain actors rather than Ray Data, whose input must be known before it starts, whose retries of a unit that kills its
process never end or lose the block, and whose bookkeeping grows with the number of blocks.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

from agegender.pipelines import metrics
from agegender.pipelines.isolation import Suspects, Task

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Units at one actor: the next one is there when the last is done."""

POLL_S = 0.2

DEATHS = (RayActorError, NodeDiedError, OutOfMemoryError, WorkerCrashedError)


@dataclass
class _Worker:
    """An actor and what it was given, oldest first: the first is the one that it works at."""

    actor: Any
    tasks: deque[tuple[Any, Task]] = field(default_factory=deque)


class UnitPool:
    """Actors that each do one task at a time.

    Args:
        make_actor: starts an actor with a method ``do(Task)`` that gives the result of a whole unit, and None for a piece.
            It must not restart by itself.
        size: most actors at once; each is started when there is a task for it.
        images_of: number of images of a unit, asked when a unit is searched.
    """

    def __init__(self, make_actor: Callable[[], Any], size: int, images_of: Callable[[str], int]) -> None:
        self._make_actor, self._size = make_actor, size
        self._suspects = Suspects(images_of, size)
        self._workers: list[_Worker] = []

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
            while not ended or self._suspects.waiting or self._heads():
                ended = self._hand_out(units, ended)
                if heads := self._heads():
                    ready, _ = ray.wait(heads, timeout=POLL_S)
                    yield from self._take(set(ready))
        finally:
            for worker in self._workers:
                ray.kill(worker.actor)

    def _heads(self) -> list[Any]:
        """What each actor is at."""
        return [worker.tasks[0][0] for worker in self._workers if worker.tasks]

    def _hand_out(self, units: Iterator[str | None], ended: bool) -> bool:
        """Give the actors what they can take; returns whether the units have come to their end."""
        while len(self._workers) < self._size or any(len(worker.tasks) < IN_FLIGHT for worker in self._workers):
            if self._suspects.todo:
                self._give(self._suspects.todo.popleft())
                continue
            unit = None if ended else next(units, _END)
            if unit is None:
                break
            if unit == _END:
                ended = True
            else:
                self._give(Task(unit))
        return ended

    def _give(self, task: Task) -> None:
        """To an idle actor, else to a new one where there is room, else to the least busy."""
        worker = min(self._workers, key=lambda each: len(each.tasks), default=None)
        if worker is None or (worker.tasks and len(self._workers) < self._size):
            worker = _Worker(self._make_actor())
            self._workers.append(worker)
        worker.tasks.append((worker.actor.do.remote(task), task))

    def _take(self, ready: set[Any]) -> Iterator[tuple[str, Any]]:
        for worker in [each for each in self._workers if each.tasks and each.tasks[0][0] in ready]:
            reference, task = worker.tasks.popleft()
            try:
                result = ray.get(reference)
            except DEATHS as death:
                self._bury(worker, task, str(death))
                continue
            self._suspects.finished(task)
            if task.rows is None:
                yield task.unit, result

    def _bury(self, worker: _Worker, task: Task, reason: str) -> None:
        """Only the task that the actor was at is suspected; what waited behind it is done elsewhere."""
        self._workers.remove(worker)
        metrics.count("agegender_workers_lost_total", 1, "predict")
        metrics.count("agegender_unit_retries_total", task.rows is None, "predict")
        ray.kill(worker.actor)  # it may only have been out of reach, and must not go on
        words = " ".join(reason.split())
        logger.warning("a scoring process ended at %s; it is replaced. Ray says: %s", task.unit, words[:300])
        for _, waited in worker.tasks:
            self._suspects.again(waited)
        self._suspects.died(task, words)


_END = ""
"""No unit has this address."""
