"""Where the work of a run may be scheduled, given its local addresses.

A local path is a different disk on every node. Unless the user declares it shared, work that opens one is refused on a
cluster of several nodes, and kept on the driver's node if others may join later: on another node an image would get the
status ``missing``, which is a row and not an error.

Ray is imported lazily: a local job does not pay for it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agegender.errors import ConfigError
from agegender.option_groups import ClusterOptions
from agegender.pipelines.runtime.session import cluster_address, ray_session
from agegender.storage import files


@dataclass(frozen=True)
class Placement:
    """Whether the work of a run may run on any node, or only on the driver's.

    Args:
        cluster: to connect to.
        addresses: flag -> addresses that workers open.
    """

    cluster: ClusterOptions
    addresses: Mapping[str, Sequence[str]]

    def check(self) -> None:
        """Refuse local addresses on a cluster of several nodes; call it before anything is written to OUTPUT.

        Raises:
            ConfigError: names the addresses.
            ResourceError: no cluster answers at the address.
        """
        if not self._on_driver_node():
            return
        with ray_session(self.cluster.address, self.cluster.num_cpus):
            nodes, here = alive_nodes(), _driver_node()
            address = cluster_address(self.cluster.address) or ""
            separate = address.startswith("ray://") or not here["Resources"].get("CPU")
            if len(nodes) > 1 or separate:
                where = f"{len(nodes)} nodes" if len(nodes) > 1 else "another machine than the driver's"
                raise ConfigError(
                    f"{', '.join(self._local_addresses())}: local paths, but the work runs on {where}, each with its own disk. "
                    "Nothing was written. Use s3:// addresses, or --shared-storage if every node sees these paths (NFS, EFS)"
                )

    def options(self) -> dict[str, Any]:
        """Ray's options of tasks and actors that open the run's addresses. Needs a running Ray."""
        if not self._on_driver_node():
            return {}
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(_driver_node()["NodeID"], soft=False)}

    def cpus(self) -> list[float]:
        """CPUs of each node that ``options`` allows; never empty. Needs a running Ray."""
        return [_driver_node()["Resources"]["CPU"]] if self._on_driver_node() else node_cpus()

    def _on_driver_node(self) -> bool:
        """Whether work must stay on the driver's node; a local Ray has only one."""
        on_cluster = cluster_address(self.cluster.address) is not None
        return on_cluster and not self.cluster.shared_storage and bool(self._local_addresses())

    def _local_addresses(self) -> list[str]:
        every = [(flag, address) for flag, addresses in self.addresses.items() for address in addresses]
        return [f"--{flag} {address}" for flag, address in every if not files.is_s3(address)]


def alive_nodes() -> list[dict[str, Any]]:
    """The nodes that are alive, as ``ray.nodes`` describes them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def node_cpus() -> list[float]:
    """CPUs of each alive node with CPUs."""
    found = [node["Resources"].get("CPU", 0.0) for node in alive_nodes()]
    return [cpus for cpus in found if cpus > 0] or [1.0]


def gpu_cpus() -> list[float]:
    """CPUs per GPU, for each GPU of the alive nodes."""
    shares = []
    for node in alive_nodes():
        gpus = int(node["Resources"].get("GPU", 0.0))
        shares += [node["Resources"].get("CPU", 0.0) / max(1, gpus)] * gpus
    return [cpus for cpus in shares if cpus > 0] or [1.0]


def pool_shape(num_workers: int | None, threads_per_worker: int, cpus_of_nodes: Sequence[float]) -> tuple[int, float]:
    """The number of scoring actors, and the CPUs that each reserves.

    A fifth of every CPU stays free, and no actor needs more than one node has: a pool that reserves all CPUs, or that
    cannot be scheduled, would make the job wait forever without an error.

    Args:
        num_workers: requested by the user; None: as many as the CPUs allow.
        threads_per_worker: threads of each.
        cpus_of_nodes: CPUs of each node with CPUs, at least one node.

    Returns:
        (actors, CPUs reserved by each), e.g. (2, 0.8) on one node of two CPUs.
    """
    actors = num_workers or sum(max(1, int(cpus // threads_per_worker)) for cpus in cpus_of_nodes)
    capacity = min(cpus / math.ceil(actors * cpus / sum(cpus_of_nodes)) for cpus in cpus_of_nodes)
    return actors, max(0.01, math.floor(80 * min(threads_per_worker, capacity)) / 100)


def cpus_per_worker(workers: int, cpus_of_nodes: Sequence[float]) -> float:
    """The largest CPU reservation per worker with which all workers can be scheduled; below 1 they share CPUs.

    Args:
        workers: at least 1.
        cpus_of_nodes: CPUs of each node with CPUs.
    """
    for cpus in range(int(max(cpus_of_nodes)), 0, -1):
        if sum(int(of_node // cpus) for of_node in cpus_of_nodes) >= workers:
            return float(cpus)
    capacity = min(cpus / math.ceil(workers * cpus / sum(cpus_of_nodes)) for cpus in cpus_of_nodes)
    return max(0.01, math.floor(90 * min(capacity, 1.0)) / 100)


def cpus_per_elastic_worker(workers: int, min_workers: int, cpus_of_nodes: Sequence[float]) -> float:
    """As ``cpus_per_worker``, but if not all workers fit with a whole CPU each, some stay pending for nodes that may join.

    Args:
        workers: maximum.
        min_workers: that must be schedulable now.
        cpus_of_nodes: CPUs of each node with CPUs.
    """
    cpus = cpus_per_worker(workers, cpus_of_nodes)
    return cpus if cpus >= 1 else min(1.0, cpus_per_worker(min_workers, cpus_of_nodes))


def _driver_node() -> dict[str, Any]:
    import ray

    here = ray.get_runtime_context().get_node_id()
    return next(node for node in alive_nodes() if node["NodeID"] == here)
