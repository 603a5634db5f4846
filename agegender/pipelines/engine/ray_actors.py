"""Workers of a ``UnitPool`` as actors of a Ray cluster.

Plain actors rather than Ray Data; docs/decisions.md has the reasons.
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
"""After a MemoryError the process is alive, but its state is unknown: it is replaced like a dead one."""


class RayActors:
    """Actors that each hold one ``make(*arguments)``, which has a method ``do(Task)``.

    Args:
        make: called in the actor; its exception is raised by the first task.
        arguments: of ``make``; sent to each actor.
        num_cpus: reserved by each actor.
        placement: where actors may run.
    """

    def __init__(
        self, make: Callable[..., Any], arguments: tuple[Any, ...], num_cpus: float, placement: Placement
    ) -> None:
        # The pool replaces dead actors, because it must count deaths; Ray would restart them silently.
        remote = ray.remote(num_cpus=num_cpus, max_restarts=0, max_task_retries=0)(_PoolActor)
        self._remote = remote.options(**{"scheduling_strategy": "SPREAD"} | placement.options())
        self._make, self._arguments = make, arguments

    def start(self) -> Any:
        """Start an actor; it is pending until its CPUs are available."""
        return self._remote.remote(self._make, self._arguments)

    def node(self, worker: Any) -> Any:
        """Future of the id of the actor's node."""
        return worker.node.remote()

    def submit(self, worker: Any, task: Task) -> Any:
        """Future of ``do(task)``."""
        return worker.do.remote(task)

    def wait(self, futures: Sequence[Any], timeout_s: float) -> list[Any]:
        """Futures that are done."""
        ready, _ = ray.wait(list(futures), timeout=timeout_s)
        return list(ready)

    def result(self, future: Any) -> Any:
        """The result of a future that is done.

        Raises:
            WorkerDied: the actor or its node ended, or it ran out of memory.
        """
        try:
            return ray.get(future)
        except DEATHS as death:
            raise WorkerDied(_reason(death)) from death

    def kill(self, worker: Any) -> None:
        """Kill the actor."""
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
    """The beginning of Ray's message, which has the reason; of a longer one also its last line, where an exception is."""
    if isinstance(death, MemoryError):
        return "MemoryError: the process got no memory from the system."
    message = str(death).strip()
    text = " ".join(message.split())
    return text if len(text) <= 300 else f"{text[:300]} ... {message.splitlines()[-1].strip()}"


def pool_size(num_workers: int | None, threads: int, placement: Placement) -> tuple[Callable[[], int], float]:
    """A function that gives the target number of actors as nodes join and leave, and the CPUs that each reserves.

    On a local Ray all requested actors run, with less than a CPU each if necessary. On a cluster each actor has its CPUs, and
    an autoscaler starts nodes for pending actors. Nodes cost money: without ``num_workers`` only the existing nodes are used,
    or one worker if there is none yet.

    Args:
        num_workers: requested by the user; None: as many as the CPUs allow.
        threads: of each worker.
        placement: where actors may run.
    """
    if cluster_address(placement.cluster.address) is None:
        actors, cpus = pool_shape(num_workers, threads, placement.cpus())
        return lambda: actors, cpus
    reserved = min(float(threads), max(placement.cpus()))
    return lambda: num_workers or max(1, sum(int(cpus // reserved) for cpus in placement.cpus())), reserved
