"""Prometheus metrics of a job: counters and gauges on Ray's metrics endpoint of each node, with the prefix ``ray_``.

A few calls per unit of work, never per image. Nearly all values are counted on the driver, from the workers' results:
Ray collects metrics from a process every ten seconds and at a clean exit, so the counts of a killed worker would be lost.
The tag is called ``command`` because Prometheus reserves ``job``. docs/operating.md explains what to monitor.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)

ANY_STATUS = "any"
"""Status tag of commands that do not count by status."""

COUNTERS = {
    "agegender_images_total": ("images finished, by status", ("command", "status")),
    "agegender_train_images_total": ("images trained on, each once in every epoch", ("command",)),
    "agegender_units_total": ("units of work finished", ("command",)),
    "agegender_worker_seconds_total": ("time of the workers, by activity", ("command", "activity")),
    "agegender_unit_retries_total": ("retries of units because their process ended", ("command",)),
    "agegender_workers_lost_total": ("processes that ended while they had work", ("command",)),
    "agegender_isolated_images_total": ("images that are not decoded because they kill their process", ("command",)),
    "agegender_storage_retries_total": ("retried requests to S3", ("command",)),
}
"""Name -> (description, tags)."""

GAUGES = {
    "agegender_images_open": "listed images that are not finished",
    "agegender_units_open": "listed units of work that are not finished",
    "agegender_train_loss": "loss of the last step",
    "agegender_train_step": "steps since the beginning of the run",
    "agegender_train_epoch": "current epoch, from 1",
}
"""Name -> description; all are tagged with the command."""


def count(name: str, value: float, command: str, **tags: str) -> None:
    """Increment a counter of ``COUNTERS``; 0 changes nothing."""
    description, keys = COUNTERS[name]
    if value > 0 and _has_endpoint():
        with _log_errors(name):
            _counter(name, description, keys).inc(value, {"command": command, **tags})


def set_gauge(name: str, value: float, command: str) -> None:
    """Set a gauge of ``GAUGES``; it expires twenty seconds after its process has ended."""
    if _has_endpoint():
        with _log_errors(name):
            _gauge(name, GAUGES[name]).set(value, {"command": command})


@cache
def _counter(name: str, description: str, tags: tuple[str, ...]) -> Any:
    from ray.util.metrics import Counter

    return Counter(name, description, tags)


@cache
def _gauge(name: str, description: str) -> Any:
    from ray.util.metrics import Gauge

    return Gauge(name, description, ("command",))


def _has_endpoint() -> bool:
    """Whether Ray is in use: a local job does not import it, and has no metrics endpoint."""
    return "ray" in sys.modules


@contextmanager
def _log_errors(name: str) -> Iterator[None]:
    """Log errors of metrics: they must not fail the job."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (see above)
        logger.debug("%s: %r", name, error)
