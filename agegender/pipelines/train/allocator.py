"""Settings of glibc's malloc for training on CPUs: memory that a step frees is kept for the next one.

By default glibc gives large blocks back to the kernel, and the kernel clears each page that it hands out again. A step
allocates and frees gigabytes of feature maps, so a third to half of the time of training went into that
(docs/training.md).
"""

import ctypes

WORKER_ENV = {
    "MALLOC_ARENA_MAX": "1",  # Ray trains in a thread, and the heap of a further arena has at most 64 MB
    "MALLOC_MMAP_MAX_": "0",  # large blocks come from the heap as well
    "MALLOC_TRIM_THRESHOLD_": str(2**40),  # in bytes: never give the top of the heap back
}
"""For a process that is yet to start; another C library ignores them."""

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of malloc.h


def keep_freed_memory() -> None:
    """Apply the same settings to this process; call it before other threads start. No effect without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
            mallopt(parameter, value)
