"""The record of a run in its OUTPUT: its identity, config and result."""

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from agegender import __version__
from agegender.errors import ConfigError
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.schema import CONTRACT_VERSION
from agegender.storage import files

RUNNING, DONE = "running", "done"


def read_record(output: str, job: str) -> dict[str, Any] | None:
    """The record in OUTPUT, or None."""
    uri = OutputLayout(output).record(job)
    return dict(files.read_json(uri)) if files.exists(uri) else None


def claim_output(output: str, job: str, config: BaseModel, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Claim OUTPUT for this run, or find the record of an earlier start of the same run.

    Args:
        output: folder or s3:// prefix of the run.
        job: name of the job.
        config: resolved config, recorded.
        identity: all settings that change the rows or the model; plain JSON values.

    Returns:
        The earlier record if the same run was started or finished here, else None.

    Raises:
        ConfigError: OUTPUT holds the output of another job or of a run with another identity; nothing was changed.
    """
    for other in ("predict", job):
        earlier = read_record(output, other)
        if earlier is not None:
            _refuse_foreign(output, job, earlier, identity)
            return earlier
    _write(output, job, config, identity, RUNNING, {})
    return None


def reopen_record(output: str, job: str, config: BaseModel, identity: dict[str, Any]) -> None:
    """Mark a finished run as running again, until ``finish_record``."""
    _write(output, job, config, identity, RUNNING, {})


def finish_record(output: str, job: str, config: BaseModel, identity: dict[str, Any], result: dict[str, Any]) -> None:
    """Write the result; the run is finished from here on."""
    _write(output, job, config, identity, DONE, result)


def _write(
    output: str, job: str, config: BaseModel, identity: dict[str, Any], state: str, result: dict[str, Any]
) -> None:
    record = {
        "job": job,
        "state": state,
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
        raise ConfigError(
            f"{output} holds the output of `agegender {earlier.get('job')}`. Give this {job} run another --output"
        )
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
