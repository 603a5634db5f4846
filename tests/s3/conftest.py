"""A real S3 server for the session, and a fresh bucket for each test. Nothing here skips: without the server these tests fail."""

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from agegender.storage import s3_client
from tests.support.ports import free_ports

HERE = Path(__file__).parent
SERVER = HERE / "server.sh"
PACKAGES = HERE.parents[1] / ".ceph"
START_TIMEOUT_S = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.s3)


@pytest.fixture(scope="session")
def s3_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder of a running server, and its endpoint."""
    subprocess.run([SERVER, "install", PACKAGES], check=True, timeout=600)
    run = tmp_path_factory.mktemp("ceph")
    gateway_port, monitor_port = free_ports(2)
    # the server stops when its stdin ends, so also when this process is killed
    server = subprocess.Popen(
        [SERVER, "serve", PACKAGES, run, str(gateway_port), str(monitor_port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin and server.stdout
    try:
        ready = server.stdout.readline()
        assert ready.startswith("READY "), f"the S3 server did not start: see above, and the logs in {run}"
        yield run, ready.split()[1]
    finally:
        server.stdin.close()
        server.wait(START_TIMEOUT_S)


@pytest.fixture(scope="session")
def s3_server(s3_run: tuple[Path, str]) -> Iterator[str]:
    """The endpoint of the server; the AWS variables name it and good keys to it, for child processes too."""
    endpoint = s3_run[1]
    with pytest.MonkeyPatch.context() as env:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            env.delenv(name)
        env.setenv("AWS_ENDPOINT_URL", endpoint)
        env.setenv("AWS_ACCESS_KEY_ID", "testkey")
        env.setenv("AWS_SECRET_ACCESS_KEY", "testsecret")
        env.setenv("AWS_CONFIG_FILE", os.devnull)
        env.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        env.setenv("AWS_EC2_METADATA_DISABLED", "true")
        env.setenv("NO_PROXY", f"127.0.0.1,localhost,{os.environ.get('NO_PROXY', '')}")
        s3_client.forget_client()
        s3_client.client()  # sets what it needs itself while this context lasts
        yield endpoint
    s3_client.forget_client()


@pytest.fixture(scope="session")
def s3_admin(s3_server: str) -> Any:
    """A plain boto3 client with good keys, for arranging a test."""
    return boto3.session.Session().client("s3", region_name="us-east-1")


@pytest.fixture
def s3_bucket(s3_server: str, s3_admin: Any) -> str:
    """``s3://name`` of a new, empty bucket."""
    name = f"test-{secrets.token_hex(6)}"
    s3_admin.create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture
def s3_env(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Call it with AWS variables (None: unset) to make this test's client use them."""

    def change(**variables: str | None) -> None:
        for name, value in variables.items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        s3_client.forget_client()

    yield change
    monkeypatch.undo()
    s3_client.forget_client()


@pytest.fixture
def s3_gateway(s3_run: tuple[Path, str], s3_server: str) -> Iterator[Callable[[str], Any]]:
    """Call it with ``stop`` or ``start``: an outage of the server, whose data live on; started again at the end."""
    run, endpoint = s3_run
    stopped = False

    def gateway(action: str) -> None:
        nonlocal stopped
        command: list[str | Path] = ["stop-gateway", run] if action == "stop" else ["start-gateway", PACKAGES, run]
        subprocess.run([SERVER, *command], check=True, timeout=START_TIMEOUT_S)
        stopped = action == "stop"
        if action == "start":
            _wait_until_it_answers(endpoint)

    yield gateway
    if stopped:
        gateway("start")


def _wait_until_it_answers(endpoint: str) -> None:
    """The gateway goes into the background before it takes its port."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    port = int(endpoint.rpartition(":")[2])
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline_s, f"the gateway does not answer at {endpoint}"
            time.sleep(0.1)
