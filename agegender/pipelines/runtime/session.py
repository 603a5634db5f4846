"""One Ray per job: connect to the user's, or start one of our own, and stop only what was started here.

Ray is imported where it is used: its import takes a second, which a job that needs no cluster does not pay.
"""

import faulthandler
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from agegender.errors import AgegenderError, ResourceError

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 1_000_000_000
"""Enough for a Ray of our own: images never pass through the object store, only unit addresses and counts do."""


START_ATTEMPTS = 3


@contextmanager
def ray_session(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """Make sure that Ray is there for the time of the block.

    Args:
        address: cluster to connect to; None: ``RAY_ADDRESS`` where set (as inside a submitted job), else a Ray of our own.
        num_cpus: CPUs of a Ray of our own; None: all.

    Raises:
        ResourceError: no cluster answers at the address.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    _quieten()
    _start(address, num_cpus)
    try:
        yield
    finally:
        ray.shutdown()


def ensure_ray() -> None:
    """Make sure that Ray is there until this process ends: the one that is connected, the one of ``RAY_ADDRESS``, or one of its own.

    For the Python API, whose datasets outlive the call that makes them. Ray's own progress bars stay as they are.

    Raises:
        ResourceError: no cluster answers at the address.
    """
    import ray

    if not ray.is_initialized():
        _start(None, None, object_store_bytes=None)


def _start(address: str | None, num_cpus: int | None, object_store_bytes: int | None = OBJECT_STORE_BYTES) -> None:
    import ray

    address = cluster_address(address)
    try:
        with _kept_sigterm_handler():
            if address:
                ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
            else:
                _start_own(num_cpus, object_store_bytes)
    except (ConnectionError, RuntimeError, TimeoutError, OSError) as error:
        where = f"at {address}" if address else "on this machine"
        raise ResourceError(
            f"Ray does not answer {where}: {error}. Check `ray status` there, or leave --address out"
        ) from error


def cluster_address(address: str | None) -> str | None:
    """The cluster that a job is to connect to, inside a submitted job the one that runs it; None: a Ray of our own."""
    return address or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def _kept_sigterm_handler() -> Iterator[None]:
    """Ray puts handlers of its own in place of ours, under which `ray job stop` would end in a stack trace and exit code 15."""
    ours = signal.getsignal(signal.SIGTERM)
    yield
    if ours is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ours)


def _start_own(num_cpus: int | None, object_store_bytes: int | None) -> None:
    """Start Ray on this machine; a busy one may need more than the 30 s that Ray allows itself."""
    import ray

    for left in reversed(range(START_ATTEMPTS)):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=object_store_bytes,
                logging_level=logging.WARNING,
                log_to_driver=logger.isEnabledFor(logging.DEBUG),
            )
            return
        except Exception as error:  # Ray raises the bare class here, so it can only be told by its words
            if type(error) is not Exception or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if not left:
                raise ResourceError(f"Ray did not start on this machine: {error} Is the machine overloaded?") from error
            logger.warning("Ray did not start in time; trying again (%d times left)", left)


def _quieten() -> None:
    """Ray's own bars and start-up chatter would hide ours; each stays settable by its variable."""
    for name, value in {
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DATA_LOG_LEVEL": "ERROR",
        "RAY_BACKEND_LOG_LEVEL": "fatal",  # each pool of actors prints a line at level error about Ray issue 53727
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", module="ray")


def restore_default_signal_handlers() -> None:
    """To be called in a process of Ray's that runs decoders: what would be a crash anywhere else is to be one there, too.

    Ray's own handler prints a stack on the small one that Python keeps for such moments. Where that overflows, as it does now
    and then in a process that computes with AVX-512, the handler crashes within itself forever, and the process lives on.
    Python's alone prints the Python stack and ends.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # Python sets handlers in the main thread alone
    faulthandler.disable()
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT):
        signal.signal(number, signal.SIG_DFL)
    faulthandler.enable(all_threads=False)


@contextmanager
def own_errors() -> Iterator[None]:
    """Let an error that a worker raised on purpose come out as itself, and a lost worker as a lost resource.

    Raises:
        AgegenderError: as raised in the worker.
        ResourceError: Ray lost a process or node more often than it retries.
    """
    try:
        yield
    except AgegenderError:
        raise
    except Exception as error:
        _raise_as_ours(error)
        raise


def _raise_as_ours(error: Exception) -> None:
    """Raise what stands for an error of Ray's; nothing for any other error, which is a defect."""
    from ray import exceptions

    if not isinstance(error, exceptions.RayError):
        return
    causes = list(_causes(error))
    ours = next((cause for cause in causes if isinstance(cause, AgegenderError)), None)
    if ours is not None:
        raise ours from error
    lost = [getattr(exceptions, name) for name in LOST]
    if isinstance(causes[-1], tuple(lost)):
        raise ResourceError(f"the cluster failed: {causes[-1]}. Run the same command again to resume") from error


LOST = (
    *("RayActorError", "NodeDiedError", "WorkerCrashedError"),
    *("OutOfMemoryError", "ObjectLostError", "RaySystemError"),
)
"""What Ray raises where a process, a node or memory is gone; everything else that comes out of a task is a defect."""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from; Ray Data hangs an empty one of its own below what it raises, which says nothing."""
    while error is not None:
        if type(error).__module__ != "ray.data.exceptions":
            yield error
        error = getattr(error, "cause", None) or error.__cause__
