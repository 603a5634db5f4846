"""Killing for tests of what a run leaves behind."""

import contextlib
import signal
import subprocess

import psutil


def kill_with_all_children(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """SIGKILL a job, the Ray that it started and every worker at once, and wait until all are gone.

    Ray's workers outlive their driver by a moment, in which they may still write.
    """
    tree: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):  # it has ended by itself
        tree = kill_tree(psutil.Process(process.pid))
    process.wait()  # before psutil waits for it, which would take its exit code
    psutil.wait_procs(tree, timeout=60)


def kill_tree(root: psutil.Process) -> list[psutil.Process]:
    """SIGKILL a process and all below it at once; returns them, some of which may live for another moment."""
    tree = [*root.children(recursive=True), root]
    for each in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGSTOP)  # so that none starts another while the rest are killed
    for each in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    return tree


def scoring_workers(root_pid: int) -> list[psutil.Process]:
    """The processes below another one that score for predict: Ray's actors, or those of a job without a cluster."""
    return processes_below(root_pid, "_PoolActor") or processes_below(root_pid, "agegender.pipelines.engine.local")


def processes_below(root_pid: int, words: str) -> list[psutil.Process]:
    """The processes below another one whose command line has these words; Ray writes what a worker is at into it."""
    return [each for each in psutil.Process(root_pid).children(recursive=True) if words in _command(each)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
