"""Freed memory is kept by the process: each page of a block that the kernel gives out is a page fault."""

import os
import subprocess
import sys

import pytest

from agegender.pipelines.train.allocator import WORKER_ENV

BLOCKS = """
import resource, sys, threading
import torch
if sys.argv[1] == "call":
    from agegender.pipelines.train.allocator import keep_freed_memory
    keep_freed_memory()

def allocate():
    faults = []
    for _ in range(20):
        torch.ones(10_000_000)  # 40 MB: 9,766 pages
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    print(faults[-1] - faults[9])

thread = threading.Thread(target=allocate)
thread.start() if sys.argv[2] == "thread" else allocate()
"""


def page_faults(how: str, where: str, env: dict[str, str]) -> int:
    command = [sys.executable, "-c", BLOCKS, how, where]
    return int(subprocess.run(command, env=os.environ | env, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_a_block_that_was_freed_costs_no_page_faults_again() -> None:
    assert page_faults("none", "main", {}) > 90_000
    assert page_faults("call", "main", {}) < 1_000
    assert page_faults("none", "thread", WORKER_ENV) < 1_000
