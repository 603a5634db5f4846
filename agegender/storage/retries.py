"""How often this process asked storage again."""

import threading

_lock = threading.Lock()
_count = 0


def note_retry() -> None:
    """One request is made again."""
    global _count
    with _lock:
        _count += 1


def take_retries() -> int:
    """Requests that were made again since this was last called."""
    global _count
    with _lock:
        taken, _count = _count, 0
    return taken
