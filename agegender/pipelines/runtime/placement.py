"""Which of a run's addresses are local, and on which nodes work at them may run.

A local path means another disk on every node. Work that opens one is refused on a cluster of several nodes, and kept on
the driver's node where others may join later, unless the user says that the path is shared: elsewhere an image would be
``missing``, which is a row and no error.
"""

from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agegender.config import RELEASED_MODEL, ClusterOptions
from agegender.errors import ConfigError
from agegender.pipelines.runtime.session import cluster_address, living_nodes, node_cpus, ray_session
from agegender.storage import files

OPENED_BY_WORKERS = ("output", "input", "model", "weights")
"""Settings whose addresses workers open. What the driver alone reads, such as a split or a teacher, may lie anywhere."""


def check_storage(config: ClusterOptions) -> None:
    """Refuse local addresses on a cluster of several nodes; to be called before anything is written to OUTPUT.

    Args:
        config: of any job.

    Raises:
        ConfigError: names the addresses.
        ResourceError: no cluster answers at the address.
    """
    if not _stays_here(config):
        return
    with ray_session(config.address, config.num_cpus):
        nodes, here = living_nodes(), _driver_node()
        apart = (cluster_address(config.address) or "").startswith("ray://") or not here["Resources"].get("CPU")
        if len(nodes) > 1 or apart:
            where = f"{len(nodes)} nodes" if len(nodes) > 1 else "another machine than the driver's"
            raise ConfigError(
                f"{', '.join(_local_addresses(config))}: local, and the work is done on {where}, each with a disk of its own. "
                "Nothing was written. Use s3:// addresses, or --shared-storage where every node sees these paths (NFS, EFS)"
            )


def placement(config: ClusterOptions) -> dict[str, Any]:
    """Options of tasks and actors that open a run's addresses: any node, or this one alone. Needs a running Ray."""
    if not _stays_here(config):
        return {}
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(_driver_node()["NodeID"], soft=False)}


def usable_cpus(config: ClusterOptions) -> list[float]:
    """CPUs of each node on which ``placement`` lets work run; never empty. Needs a running Ray."""
    return [_driver_node()["Resources"]["CPU"]] if _stays_here(config) else node_cpus()


def _stays_here(config: ClusterOptions) -> bool:
    """A Ray of our own has one node, for ever."""
    on_cluster = cluster_address(config.address) is not None
    return on_cluster and not config.shared_storage and bool(_local_addresses(config))


def _local_addresses(config: ClusterOptions) -> list[str]:
    found = []
    for name in OPENED_BY_WORKERS:
        said = getattr(config, name, None) or []
        addresses = [said] if isinstance(said, str) else said
        found += [f"--{name} {each}" for each in addresses if _is_local(name, each)]
    return found


def _is_local(name: str, address: str) -> bool:
    if name == "weights":  # else the name of published ones
        return not files.is_s3(address) and Path(address).suffix in (".pth", ".safetensors")
    return not files.is_s3(address) and not (name == "model" and address == RELEASED_MODEL)


def _driver_node() -> dict[str, Any]:
    here = ray.get_runtime_context().get_node_id()
    return next(node for node in living_nodes() if node["NodeID"] == here)
