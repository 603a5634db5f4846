"""Several Ray nodes on this machine, each with a raylet and workers of its own, as on several machines."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import psutil
from ray.cluster_utils import Cluster

from tests.support.ports import free_ports
from tests.support.processes import kill_tree, kill_with_all_children


@contextmanager
def started_cluster(cpus_of_nodes: list[int], variables: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A head and nodes behind it; their workers get ``variables``, because workers inherit from the node, not from the driver."""
    with mock.patch.dict(os.environ, variables or {}):
        cluster = Cluster()
        try:
            add_node(cluster, cpus_of_nodes[0], include_dashboard=False, gcs_server_port=free_ports(1)[0])
            for cpus in cpus_of_nodes[1:]:
                add_node(cluster, cpus)
            yield cluster
        finally:
            cluster.shutdown()


def add_node(cluster: Cluster, cpus: int, attempts: int = 3, **more: Any) -> Any:
    """Start another node and return it; a busy machine may need more than the 30 s that Ray allows itself."""
    before = psutil.Process().children()
    try:
        return cluster.add_node(num_cpus=cpus, **more)
    except Exception as error:
        if "timed out during startup" not in str(error) or attempts == 1:
            raise
    for each in set(psutil.Process().children()) - set(before):
        psutil.wait_procs(kill_tree(each), timeout=60)
    return add_node(cluster, cpus, attempts - 1, **more)


def raylet(node: Any) -> subprocess.Popen[bytes]:
    """The process of a node that all of its workers are children of."""
    process: subprocess.Popen[bytes] = node.all_processes["raylet"][0].process
    return process


def kill_node(node: Any) -> None:
    """SIGKILL everything of a node at once; its connections are closed, so that the others know."""
    kill_with_all_children(raylet(node))


def silence_node(node: Any) -> None:
    """Stop everything of a node, as when its machine is switched off: connections stay open and nobody answers."""
    root = psutil.Process(raylet(node).pid)
    for each in [root, *root.children(recursive=True)]:
        each.suspend()
