"""Counts the retried storage requests of this process."""

import threading

_lock = threading.Lock()
_count = 0


def note_retry() -> None:
    """Count one retry."""
    global _count
    with _lock:
        _count += 1


def take_retries() -> int:
    """Number of retries since the last call; resets the count."""
    global _count
    with _lock:
        taken, _count = _count, 0
    return taken
