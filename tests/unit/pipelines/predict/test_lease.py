import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agegender.errors import ConfigError, ResourceError
from agegender.pipelines.predict import lease
from agegender.pipelines.predict.lease import Lease

HOLD = """
import sys, time
from agegender.pipelines.predict import lease
lease.HEARTBEAT_S = 0.3
with lease.Lease(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(output: Path) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", HOLD, str(output)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def state(output: Path) -> Path:
    return output / "_work" / "driver.json"


def test_held_by_a_living_driver_it_is_refused_and_free_after_its_end(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as other:
        with (
            pytest.raises(ConfigError, match=rf"process {other.pid} on .* is running it\. Nothing was changed"),
            Lease(str(tmp_path)),
        ):
            pass
        assert json.loads(state(tmp_path).read_text())["pid"] == other.pid
        other.communicate()
    assert not state(tmp_path).exists()
    with Lease(str(tmp_path)) as free:
        free.check()


def test_what_a_killed_driver_of_this_machine_left_is_taken_over_at_once(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as other:
        other.kill()
        other.poll()  # not waited for: it stays a zombie for a while
    assert state(tmp_path).exists()
    with Lease(str(tmp_path)) as taken:
        taken.check()
    assert not state(tmp_path).exists()


def test_a_driver_of_another_machine_is_dead_when_it_says_nothing_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_TTL_S", 2.0)
    state(tmp_path).parent.mkdir()
    left = {"host": "elsewhere", "pid": 1, "since": "2026-01-01T00:00:00+00:00", "token": "a", "beat": 7}
    state(tmp_path).write_text(json.dumps(left))
    with Lease(str(tmp_path)) as taken:
        taken.check()


def test_whoever_was_taken_over_may_not_publish_and_leaves_the_other_alone(tmp_path: Path) -> None:
    with Lease(str(tmp_path)) as ours:
        found = json.loads(state(tmp_path).read_text()) | {"host": "elsewhere", "token": "other"}
        state(tmp_path).write_text(json.dumps(found))
        with pytest.raises(ResourceError, match=r"on elsewhere, since .* has taken over this run"):
            ours.check()
    assert json.loads(state(tmp_path).read_text())["token"] == "other"


@pytest.mark.parametrize("namespace", ["boot pid:[1]", None])
def test_a_process_id_of_another_container_says_nothing_and_its_heartbeat_decides(
    namespace: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_TTL_S", 30.0)
    state(tmp_path).parent.mkdir()
    # Of the same host name and of our own process id, as where the driver is process 1 of every container.
    found = {"host": socket.gethostname(), "pid": os.getpid(), "since": "now", "token": "a", "pid_namespace": namespace}
    state(tmp_path).write_text(json.dumps(found | {"beat": 0}))
    beat = threading.Timer(1.5, state(tmp_path).write_text, [json.dumps(found | {"beat": 1})])
    beat.start()
    with pytest.raises(ConfigError, match=r"is running it\. Nothing was changed"), Lease(str(tmp_path)):
        pass
    beat.join()
    assert json.loads(state(tmp_path).read_text())["token"] == "a"


def test_the_namespace_of_process_ids_is_known_here_and_shared_with_children() -> None:
    code = "from agegender.pipelines.predict.lease import pid_namespace; print(pid_namespace())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert lease.pid_namespace() is not None
    assert child == lease.pid_namespace()
