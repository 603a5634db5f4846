"""Ray nodes on this machine, each a `ray start --block` of its own, so that a test can lose one like a machine."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.ports import free_ports
from tests.processes import kill_with_all_children

RAY = str(Path(sys.executable).with_name("ray"))
START_TIMEOUT_S = 180
FLAGS = ("--object-store-memory=200000000", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0")

Node = subprocess.Popen[bytes]


class RayNodes:
    """A cluster that begins with a head.

    Args:
        cpus: of the head.
        environment: of all nodes, and so of the workers on them.
        folder: of sockets and logs; its name must be short.
    """

    def __init__(self, cpus: int, environment: Mapping[str, str], folder: Path) -> None:
        self._environment, self._folder = dict(environment), folder
        self._nodes: list[Node] = []
        port, client_port = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        own = [f"--port={port}", f"--ray-client-server-port={client_port}", "--include-dashboard=false"]
        self.head = self._start(cpus, ["--head", *own, f"--temp-dir={folder}"])

    def add_node(self, cpus: int) -> Node:
        """One more node, which has joined when this returns."""
        return self._start(cpus, [f"--address={self.address}"])

    def lose(self, node: Node) -> None:
        """End a node with all that runs on it, at once and without a word to the others."""
        kill_with_all_children(node)

    def close(self) -> None:
        """End all nodes, the head last."""
        for node in reversed(self._nodes):
            kill_with_all_children(node)

    def _start(self, cpus: int, flags: list[str]) -> Node:
        [agent_port] = free_ports(1)
        log = self._folder / f"node-{len(self._nodes)}.log"
        with log.open("wb") as sink:
            node = subprocess.Popen(
                [
                    RAY,
                    "start",
                    "--block",
                    f"--num-cpus={cpus}",
                    f"--dashboard-agent-listen-port={agent_port}",
                    *flags,
                    *FLAGS,
                ],
                cwd=self._folder,
                env=self._environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        self._nodes.append(node)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while "Ray runtime started" not in log.read_text():
            assert node.poll() is None, f"`ray start` ended:\n{log.read_text()}"
            assert time.monotonic() < deadline_s, f"not there in {START_TIMEOUT_S} s:\n{log.read_text()}"
            time.sleep(0.2)
        return node


@contextmanager
def ray_nodes(cpus: int, environment: Mapping[str, str]) -> Iterator[RayNodes]:
    """A cluster for the time of the block."""
    folder = Path(tempfile.mkdtemp(prefix="agegender-ray-"))
    nodes = RayNodes(cpus, environment, folder)
    try:
        yield nodes
    finally:
        nodes.close()
        shutil.rmtree(folder, ignore_errors=True)
