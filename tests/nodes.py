"""Several Ray nodes on this machine, each with a raylet and workers of its own, as on several machines."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import psutil
from ray.cluster_utils import Cluster

from tests.ports import free_ports
from tests.processes import kill_with_all_children


@contextmanager
def started_cluster(cpus_of_nodes: list[int], variables: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A head and nodes behind it; their workers get ``variables``, because workers inherit from the node, not from the driver."""
    with mock.patch.dict(os.environ, variables or {}):
        head = {"num_cpus": cpus_of_nodes[0], "include_dashboard": False, "gcs_server_port": free_ports(1)[0]}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for cpus in cpus_of_nodes[1:]:
                cluster.add_node(num_cpus=cpus)
            yield cluster
        finally:
            cluster.shutdown()


def raylet(node: Any) -> psutil.Popen:
    """The process of a node that all of its workers are children of."""
    return node.all_processes["raylet"][0].process


def kill_node(node: Any) -> None:
    """SIGKILL everything of a node at once, as when its machine is switched off."""
    kill_with_all_children(raylet(node))
