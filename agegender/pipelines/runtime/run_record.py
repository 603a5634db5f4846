"""The record of a run in its OUTPUT: its identity, config, state and result."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from agegender import __version__
from agegender.errors import AgegenderError, ConfigError
from agegender.pipelines.runtime.layout import OutputLayout, listing_index
from agegender.schema import CONTRACT_VERSION
from agegender.storage import files

RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"
"""States of a run. A run that was killed stays ``running``; the same command resumes it from any of them but ``done``."""


def read_record(output: str, job: str) -> dict[str, Any] | None:
    """The record in OUTPUT, or None."""
    uri = OutputLayout(output).record(job)
    if not files.exists(uri):
        return None
    record = files.read_json(uri)
    return record if isinstance(record, dict) else {}


def claim_output(output: str, job: str, config: BaseModel, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Claim OUTPUT for this run, or find the record of an earlier start of the same run.

    The record is the first file of a run, so that whatever an interrupted one left is beside a record.

    Args:
        output: folder or s3:// prefix of the run.
        job: name of the job.
        config: resolved config, recorded.
        identity: all settings that change the rows or the model; plain JSON values.

    Returns:
        The earlier record if the same run was started or finished here, else None.

    Raises:
        ConfigError: OUTPUT holds files without a record, the output of another job, or a run with another identity;
            nothing was changed.
    """
    for other in ("predict", "eda"):  # the two names that a record may have
        earlier = read_record(output, other)
        if earlier is not None:
            _refuse_foreign(output, job, earlier, identity)
            if earlier["state"] in (FAILED, INTERRUPTED):
                files.write_json(OutputLayout(output).record(job), earlier | {"state": RUNNING, "error": None})
            return earlier
    if others := files.peek(output):
        raise ConfigError(
            f"{output} has other files, e.g. {', '.join(others)}, and no record of a run: what reads it would take them for the "
            f"output of {job}. Nothing was changed. Choose another --output, or empty this one"
        )
    _write(output, job, config, identity, RUNNING, {})
    return None


def reopen_record(output: str, job: str, config: BaseModel, identity: dict[str, Any]) -> None:
    """Mark a finished run as running again, until ``finish_record``."""
    _write(output, job, config, identity, RUNNING, {})


def finish_record(output: str, job: str, config: BaseModel, identity: dict[str, Any], result: dict[str, Any]) -> None:
    """Write the result; the run is finished from here on."""
    _write(output, job, config, identity, DONE, result)


def discard_run(output: str, job: str) -> None:
    """Delete the record and the work of a run that has no result: a corrected command may use the same OUTPUT.

    The listing's index goes first, so that a partly deleted listing does not look complete.
    """
    layout = OutputLayout(output)
    files.delete(listing_index(layout.listing))
    files.delete_folder(layout.work())
    files.delete(layout.record(job))


@contextlib.contextmanager
def failure_recorded(output: str, job: str, check: Callable[[], None] | None = None) -> Iterator[None]:
    """Record the exception that ends the block, which begins after ``claim_output``: a run that ended is not ``running``.

    Args:
        output: folder or s3:// prefix of the run.
        job: name of the job.
        check: raises if another driver has taken over, whose record is left alone.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        with contextlib.suppress(AgegenderError):  # of the storage: the job raises its own error
            if check is not None:
                check()
            record = read_record(output, job)
            if record is not None and record["state"] == RUNNING:
                state = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
                message = None if state == INTERRUPTED else str(error) or type(error).__name__
                files.write_json(OutputLayout(output).record(job), record | {"state": state, "error": message})
        raise


def _write(
    output: str, job: str, config: BaseModel, identity: dict[str, Any], state: str, result: dict[str, Any]
) -> None:
    record = {
        "job": job,
        "state": state,
        "error": None,
        "agegender_version": __version__,
        "contract_version": CONTRACT_VERSION,
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": identity,
        "config": config.model_dump(mode="json"),
        "result": result,
    }
    files.write_json(OutputLayout(output).record(job), record)


def _refuse_foreign(output: str, job: str, earlier: dict[str, Any], identity: dict[str, Any]) -> None:
    if earlier.get("job") != job:
        found = (
            f"the output of `agegender {earlier['job']}`"
            if "job" in earlier
            else "a run.json that is no record of a run"
        )
        raise ConfigError(f"{output} holds {found}. Give this {job} run another --output")
    before = earlier.get("identity", {})
    differing = sorted(key for key in before.keys() | identity.keys() if before.get(key) != identity.get(key))
    if differing:
        parts = "; ".join(
            f"{key} was {_short(before.get(key))}, is now {_short(identity.get(key))}" for key in differing
        )
        raise ConfigError(
            f"{output} holds another {job} run: {parts}. Nothing was changed. "
            "Use the earlier settings to resume it, or give another --output"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
