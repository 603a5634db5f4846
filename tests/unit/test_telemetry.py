"""Nothing reports home: no file in the home folder, no name that is looked up, no connection to another machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agegender.data.synthetic import draw_sample

ROOT = Path(__file__).parents[2]

WATCH = """
import os, socket, sys, threading, time
said = os.environ["WATCH_LOG"]

def tell(what):
    with open(said, "a") as log:
        log.write(f"{os.getpid()} {what}\\n")

def audit(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        tell(f"{event} {arguments[0]}")
    elif event == "socket.connect" and arguments[0].family != socket.AF_UNIX:
        tell(f"{event} {arguments[1]}")

sys.addaudithook(audit)

def ours():
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if link.startswith("socket:["):
            yield link[8:-1]

def poll():
    while True:  # sockets that native code opens; Python's own are seen by the hook
        inodes = set(ours())
        for kind in ("tcp", "tcp6", "udp", "udp6"):
            try:
                lines = open(f"/proc/self/net/{kind}").read().splitlines()[1:]
            except OSError:
                continue
            for line in lines:
                fields = line.split()
                if fields[9] in inodes:
                    tell(f"{kind} socket to {fields[2]}")
        time.sleep(0.002)

threading.Thread(target=poll, daemon=True).start()
"""
"""A ``sitecustomize`` module: what a process of Python runs first, so that every child is watched, too."""

EXAMPLES = {
    "lookup": "import socket; socket.getaddrinfo('localhost', 80)",
    "connection": "import socket; s = socket.socket(); s.connect_ex(('127.0.0.1', 9))",
    "native": "import subprocess, time; import _socket; s = _socket.socket(2, 2); s.connect(('127.0.0.1', 9)); time.sleep(0.2)",
}


def watched(command: list[str], folder: Path) -> tuple[list[str], list[Path]]:
    """Run a command with an empty home; returns what it looked up or connected to, and the files in its home."""
    home, log = folder / "home", folder / "log"
    home.mkdir()
    (folder / "sitecustomize.py").write_text(WATCH)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_", "RAY_", "CI"))}
    environment = {**kept, "HOME": str(home), "WATCH_LOG": str(log), "PYTHONPATH": f"{folder}:{ROOT}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines() if log.exists() else [], list(home.rglob("*"))


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(draw_sample(0, 0, 64)[1])
    return folder


@pytest.mark.parametrize("arguments", [["preview"], ["predict"], ["predict", "--dry-run"]])
def test_a_job_and_its_processes_report_nothing(arguments: list[str], photographs: Path, tmp_path: Path) -> None:
    flags = [str(photographs), "--faces", "none", "--output", str(tmp_path / "out")]
    command = [sys.executable, "-m", "agegender.cli", *arguments, *flags]
    assert watched(command, tmp_path) == ([], [])


@pytest.mark.parametrize(
    "code",
    [
        "import agegender.scoring.openvino_graphs as b; import agegender.released as r; import openvino; "
        "openvino.Core().compile_model(str(r.FOLDER / 'model.onnx'), 'CPU'); import time; time.sleep(0.5)",
        "import agegender; from agegender.scoring.cpu import CpuScorer; import agegender.released as r; "
        "CpuScorer(r.FOLDER); import time; time.sleep(0.5)",
    ],
    ids=["openvino", "onnxruntime"],
)
def test_what_runs_the_network_reports_nothing(code: str, tmp_path: Path) -> None:
    assert watched([sys.executable, "-c", code], tmp_path) == ([], [])


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_would_be_seen(example: str, tmp_path: Path) -> None:
    assert watched([sys.executable, "-c", EXAMPLES[example]], tmp_path)[0]
