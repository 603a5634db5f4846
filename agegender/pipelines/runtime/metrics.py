"""What Prometheus sees of a job: counters and gauges that Ray's metrics endpoint on each node shows with ``ray_`` before.

A few calls per unit of work, never per image. Nearly all values are counted on the driver, from what
the workers send back: Ray collects them from a process every ten seconds and when it leaves in order, so that what a worker
counted itself would be lost when it is killed at the end. The tag is called ``command`` because Prometheus itself puts ``job``
on everything. docs/operating.md says what to watch and how.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)

ANY_STATUS = "any"
"""Status of images where a command does not tell them apart."""

COUNTERS = {
    "agegender_images_total": ("images finished, by status", ("command", "status")),
    "agegender_train_images_total": ("images trained on, each once in every epoch", ("command",)),
    "agegender_units_total": ("units of work finished", ("command",)),
    "agegender_worker_seconds_total": ("time of the workers, by what they did with it", ("command", "activity")),
    "agegender_unit_retries_total": ("units that were started again because their process ended", ("command",)),
    "agegender_workers_lost_total": ("processes that ended while they had work", ("command",)),
    "agegender_isolated_images_total": ("images left undecoded because they end their process", ("command",)),
    "agegender_storage_retries_total": ("requests to S3 that were made again", ("command",)),
}
"""Name -> what it counts, and its tags."""

GAUGES = {
    "agegender_images_open": "images that are listed and not finished",
    "agegender_units_open": "units of work that are listed and not finished",
    "agegender_train_loss": "loss of the last step",
    "agegender_train_step": "steps since the beginning of the run",
    "agegender_train_epoch": "epoch that is under way, from 1",
}
"""Name -> what it is; all are tagged with the command."""


def count(name: str, value: float, command: str, **tags: str) -> None:
    """Raise a counter of ``COUNTERS``; 0 changes nothing."""
    described, keys = COUNTERS[name]
    if value > 0 and _has_endpoint():
        with _never_fatal(name):
            _counter(name, described, keys).inc(value, {"command": command, **tags})


def set_gauge(name: str, value: float, command: str) -> None:
    """Set a gauge of ``GAUGES``; it is gone twenty seconds after its process."""
    if _has_endpoint():
        with _never_fatal(name):
            _gauge(name, GAUGES[name]).set(value, {"command": command})


@cache
def _counter(name: str, described: str, tags: tuple[str, ...]) -> Any:
    from ray.util.metrics import Counter

    return Counter(name, described, tags)


@cache
def _gauge(name: str, described: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(name, described, ("command",))


def _has_endpoint() -> bool:
    """Ray's metrics endpoint is there only where Ray is in use; a job that needs no cluster does not import it."""
    return "ray" in sys.modules


@contextmanager
def _never_fatal(name: str) -> Iterator[None]:
    """A job matters more than its metrics."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (see above)
        logger.debug("%s: %r", name, error)
