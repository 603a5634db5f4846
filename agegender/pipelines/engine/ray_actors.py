"""Workers of a ``UnitPool`` as actors of a Ray cluster.

Plain actors rather than Ray Data; docs/decisions.md says why.
"""

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

from agegender.pipelines.engine.actor_pool import WorkerDied
from agegender.pipelines.engine.poison import Task
from agegender.pipelines.runtime.placement import Placement, pool_shape
from agegender.pipelines.runtime.session import cluster_address, restore_default_signal_handlers

DEATHS = (RayActorError, NodeDiedError, OutOfMemoryError, WorkerCrashedError, MemoryError)
"""A process that could not get memory lives on, but its state is unknown: it is replaced like one that was killed."""


class RayActors:
    """Actors that each hold one ``make(*arguments)``, which has a method ``do(Task)``.

    Args:
        make: called in the actor; what it raises is the error of the first task.
        arguments: of ``make``; they are sent to each actor.
        num_cpus: that each actor reserves.
        placement: where actors may run.
    """

    def __init__(
        self, make: Callable[..., Any], arguments: tuple[Any, ...], num_cpus: float, placement: Placement
    ) -> None:
        # A process that died is replaced by the pool, which must know of it; Ray would restart it unseen.
        remote = ray.remote(num_cpus=num_cpus, max_restarts=0, max_task_retries=0)(_PoolActor)
        self._remote = remote.options(**{"scheduling_strategy": "SPREAD"} | placement.options())
        self._make, self._arguments = make, arguments

    def start(self) -> Any:
        """A new actor, which waits for its CPUs."""
        return self._remote.remote(self._make, self._arguments)

    def node(self, worker: Any) -> Any:
        """Future of the id of its node."""
        return worker.node.remote()

    def submit(self, worker: Any, task: Task) -> Any:
        """Future of ``do(task)``."""
        return worker.do.remote(task)

    def wait(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Futures that are done."""
        ready, _ = ray.wait(list(futures), timeout=timeout_s)
        return list(ready)

    def result(self, future: Any) -> Any:
        """The answer of a future that is done.

        Raises:
            WorkerDied: the actor or its node ended, or it had no memory.
        """
        try:
            return ray.get(future)
        except DEATHS as death:
            raise WorkerDied(_reason(death)) from death

    def kill(self, worker: Any) -> None:
        """End the actor."""
        ray.kill(worker)


class _PoolActor:
    """One process of the pool."""

    def __init__(self, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        restore_default_signal_handlers()
        self._worker = make(*arguments)

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def do(self, task: Task) -> Any:
        return self._worker.do(task)


def _reason(death: Exception) -> str:
    """Ray's own words, of which the beginning says it; pages of numbers follow."""
    if isinstance(death, MemoryError):
        return "MemoryError: the process got no memory from the system."
    return " ".join(str(death).split())[:300]


def pool_size(num_workers: int | None, threads: int, placement: Placement) -> tuple[Callable[[], int], float]:
    """How many actors there may be, asked again as nodes come and go, and the CPUs that each reserves.

    On a Ray of our own all that were asked for run, if need be on less than a CPU each. On a cluster each has its CPUs, and
    an autoscaler starts nodes for those that are pending. Nodes cost money: without ``num_workers`` no more is asked for
    than there is, and one worker where there is nothing yet.

    Args:
        num_workers: that the user asked for; None: as many as the CPUs carry.
        threads: of each worker.
        placement: where actors may run.
    """
    if cluster_address(placement.cluster.address) is None:
        actors, cpus = pool_shape(num_workers, threads, placement.cpus())
        return lambda: actors, cpus
    reserved = min(float(threads), max(placement.cpus()))
    return lambda: num_workers or max(1, sum(int(cpus // reserved) for cpus in placement.cpus())), reserved
