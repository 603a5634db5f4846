"""Killing for tests of what a run leaves behind."""

import signal
import subprocess

import psutil


def kill_with_all_children(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a job, the Ray that it started and every worker at once, and wait until all are gone.

    Ray's workers outlive their driver by a moment, in which they may still write.
    """
    try:
        tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:  # it has ended by itself
        tree = []
    for each in tree:
        try:
            each.send_signal(signal.SIGSTOP)  # so that none starts another while the rest are killed
        except psutil.NoSuchProcess:
            continue
    for each in tree:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(tree, timeout=60)


def scoring_workers(root_pid: int) -> list[psutil.Process]:
    """The processes below another one that score for predict."""
    return [each for each in psutil.Process(root_pid).children(recursive=True) if "_ScoringActor" in _command(each)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
