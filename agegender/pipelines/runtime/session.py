"""One Ray session per job: connect to a cluster, or start a local Ray and stop it at the end.

Ray is imported lazily: its import takes a second, which a local job does not pay.
"""

import faulthandler
import logging
import os
import signal
import sysconfig
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agegender.errors import AgegenderError, ConfigError, ResourceError

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 1_000_000_000
"""Enough for a local Ray: only unit addresses and counts pass through the object store, never images."""

START_ATTEMPTS = 3

SOCKET_BYTES = 107
"""Longest path of a socket on Linux."""

SOCKET_NAME = "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"
"""The longest that Ray appends to its temporary folder."""


@contextmanager
def ray_session(address: str | None = None, num_cpus: int | None = None) -> Iterator[None]:
    """Initialize Ray for the duration of the block.

    Args:
        address: cluster to connect to; None: ``RAY_ADDRESS`` if set (as inside a submitted job), else a local Ray.
        num_cpus: CPUs of a local Ray; None: all.

    Raises:
        ResourceError: no cluster answers at the address.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    set_quiet_defaults()
    _start(address, num_cpus)
    try:
        yield
    finally:
        ray.shutdown()


def ensure_ray() -> None:
    """Initialize Ray until this process ends: use the current connection, ``RAY_ADDRESS``, or start a local Ray.

    For the Python API, whose datasets outlive the call that creates them. Ray's progress bars stay enabled.

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
                ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING, **_job_config(address))
            else:
                _start_local(num_cpus, object_store_bytes)
    except (ConnectionError, RuntimeError, TimeoutError, OSError) as error:
        where = f"at {address}" if address else "on this machine"
        raise ResourceError(
            f"Ray does not answer {where}: {error}. Check `ray status` there, or leave --address out"
        ) from error


def cluster_address(address: str | None) -> str | None:
    """The cluster to connect to: the given one, or that of ``RAY_ADDRESS``, as in a submitted job; None: a local Ray."""
    return address or os.environ.get("RAY_ADDRESS") or None


@contextmanager
def _kept_sigterm_handler() -> Iterator[None]:
    """Restore our handler after Ray replaced it: with Ray's, `ray job stop` would end in a stack trace and exit code 15."""
    ours = signal.getsignal(signal.SIGTERM)
    yield
    if ours is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ours)


def _start_local(num_cpus: int | None, object_store_bytes: int | None) -> None:
    """Start Ray on this machine; retry, because a busy machine may need longer than Ray's 30 s timeout."""
    import ray

    for attempts_left in reversed(range(START_ATTEMPTS)):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=object_store_bytes,
                _temp_dir=_short_temp_dir(),
                **_job_config(None),
                logging_level=logging.WARNING,
                log_to_driver=logger.isEnabledFor(logging.DEBUG),
            )
            return
        except Exception as error:  # Ray raises the bare class here, so only the message identifies it
            if type(error) is not Exception or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            if not attempts_left:
                raise ResourceError(f"Ray did not start on this machine: {error} Is the machine overloaded?") from error
            logger.warning("Ray did not start in time; trying again (%d attempts left)", attempts_left)


def _job_config(address: str | None) -> dict[str, Any]:
    """Argument of ``ray.init``: workers search the folder of this package, and not the working directory, for modules.

    Ray would put the working directory first, so that a user's ``numpy.py`` there would be every worker's numpy. A job that
    was submitted (``ray job submit --working-dir``), or runs through Ray's client, has a path of its own.
    """
    from ray.job_config import JobConfig

    if "RAY_JOB_CONFIG_JSON" in os.environ or (address or "").startswith("ray://"):
        return {}
    home = str(Path(__file__).parents[3])
    installed = home in (
        sysconfig.get_path("purelib"),
        sysconfig.get_path("platlib"),
    )  # every process searches it anyway
    return {"job_config": JobConfig(_client_job=True, _py_driver_sys_path=[] if installed else [home])}


def _short_temp_dir() -> str | None:
    """A folder for Ray's session if the default one is too long for the paths of its sockets, else None.

    Raises:
        ConfigError: no other folder can be written.
    """
    default = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    if len(os.fsencode(default + SOCKET_NAME)) <= SOCKET_BYTES:
        return None
    for folder in ("/tmp", os.environ.get("XDG_RUNTIME_DIR", ""), "/var/tmp", "/dev/shm"):
        fits = folder and len(os.fsencode(folder + SOCKET_NAME)) <= SOCKET_BYTES
        if fits and os.access(folder, os.W_OK | os.X_OK):
            logger.info("%s is too long for Ray's sockets: its session is in %s/ray", default, folder)
            return f"{folder}/ray"
    raise ConfigError(f"{default}: too long for Ray's sockets. Set RAY_TMPDIR to a folder of a shorter name")


def set_quiet_defaults() -> None:
    """Turn off Ray's progress bars and start-up logs, which would hide ours; its environment variables take precedence.

    Ray Data reads them when it is imported: call it before a job's module is.
    """
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
    """Restore the default handlers of fatal signals; call it in Ray workers that run image decoders.

    Ray's handler prints a stack trace on Python's small alternate signal stack. If that overflows, as sometimes happens in a
    process that uses AVX-512, the handler crashes recursively and the process never ends. Python's handler prints the Python
    stack and ends the process.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # Python sets handlers only in the main thread
    faulthandler.disable()
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT):
        signal.signal(number, signal.SIG_DFL)
    faulthandler.enable(all_threads=False)


@contextmanager
def own_errors() -> Iterator[None]:
    """Unwrap our errors that a worker raised, and raise a lost worker as ResourceError.

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
    """Raise our error for an error of Ray's; return for any other error, which is a defect."""
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
"""Ray's exceptions for a lost process, node or memory; any other exception of a task is a defect."""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its chain of causes, without the empty exception that Ray Data adds at the end."""
    while error is not None:
        if type(error).__module__ != "ray.data.exceptions":
            yield error
        error = getattr(error, "cause", None) or error.__cause__
