"""A Ray head as `ray start` makes it, for the session: of its own ports, and ended by its own process ids alone."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import free_ports
from tests.support.processes import kill_with_all_children

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
START_TIMEOUT_S = 120
COMMAND_TIMEOUT_S = 300
RAY_FLAGS = ("--object-store-memory=200000000", "--disable-usage-stats")
PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")

RayJob = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def cluster_env() -> dict[str, str]:
    """The environment of the head and of the commands: no other Ray, no proxy before it, this Python as ``python``."""
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    here = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost", "RAY_AUTH_MODE": "disabled"}
    return kept | here | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def head_ports() -> dict[str, int]:
    """Flag of `ray start` -> port."""
    return new_ports()


def new_ports() -> dict[str, int]:
    return dict(zip(PORTS, free_ports(len(PORTS)), strict=True))


@pytest.fixture(scope="session")
def ray_head(cluster_env: dict[str, str], head_ports: dict[str, int]) -> Iterator[str]:
    """The address that `ray job` takes of the head that the tests share."""
    with started_head(cluster_env, head_ports) as (address, _):
        yield address


@pytest.fixture
def ray_job(ray_head: str, cluster_env: dict[str, str]) -> RayJob:
    """``ray job ACTION ...`` against the head that the tests share."""
    return job_client(ray_head, cluster_env)


@contextmanager
def started_head(env: dict[str, str], ports: dict[str, int]) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A head with two CPUs, started in a folder without the project: its address for `ray job`, and its process."""
    folder = Path(tempfile.mkdtemp(prefix="agegender-ray-"))  # short, because sockets lie in it
    flags = [f"--{name}={port}" for name, port in ports.items()]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(
            [RAY, "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}", *flags, *RAY_FLAGS],
            cwd=folder,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    try:
        wait_until_it_answers(f"{address}/api/version", head, folder / "head.log")
        yield address, head
    finally:
        kill_with_all_children(head)
        shutil.rmtree(folder, ignore_errors=True)


def job_client(address: str, env: dict[str, str]) -> RayJob:
    """``ray job ACTION ...`` from the project's folder."""

    def run(action: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [RAY, "job", action, "--address", address, *arguments],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
        )

    return run


def wait_until_it_answers(url: str, head: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            opener.open(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            assert head.poll() is None, f"`ray start` ended:\n{log.read_text()}"
            assert time.monotonic() < deadline_s, f"no answer at {url} in {START_TIMEOUT_S} s:\n{log.read_text()}"
            time.sleep(0.5)
