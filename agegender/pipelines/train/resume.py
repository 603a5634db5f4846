"""Find the checkpoint to resume from. Each driver process is one attempt and has its own folder.

Ray Train keeps an index of an attempt's checkpoints, but does not write it atomically and reads only the index of its own
release. So a new attempt reads the checkpoints themselves.
"""

import logging
import tempfile
from pathlib import Path

from agegender.errors import InputError
from agegender.model.checkpoint import STATE_FILE, load_training_state
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.storage import files

logger = logging.getLogger(__name__)


def attempts_uri(output: str) -> str:
    """The folder of all attempts."""
    return OutputLayout(output).attempts


def newest_checkpoint(output: str, split_hash: str) -> tuple[str | None, int]:
    """The newest valid checkpoint, and the number of the next attempt.

    Args:
        output: of the run.
        split_hash: of its split; checkpoints of another split are skipped.

    Returns:
        The address of its folder or None, and a number higher than that of any earlier attempt.
    """
    uris = [info.uri for info in files.list_files(attempts_uri(output), allow_empty=True, hidden=True)]
    numbers = [int(_attempt(uri, output)) for uri in uris]
    # Names sort by time: attempts by number, Ray's checkpoints by the date in their name.
    for state in sorted((uri for uri in uris if files.name(uri) == STATE_FILE), reverse=True):
        folder = files.parent(state)
        if _is_valid(folder, split_hash):
            return folder, max(numbers) + 1
    return None, max(numbers, default=-1) + 1


def delete_attempts_before(output: str, number: int, keep: str | None) -> None:
    """Delete the checkpoints of earlier attempts, except the one to resume from."""
    for info in list(files.list_files(attempts_uri(output), allow_empty=True, hidden=True)):
        if int(_attempt(info.uri, output)) < number and (keep is None or not info.uri.startswith(f"{keep}/")):
            files.delete(info.uri)


def attempt_name(number: int) -> str:
    """A name that sorts by number."""
    return f"{number:06d}"


def _attempt(uri: str, output: str) -> str:
    return uri.removeprefix(f"{attempts_uri(output)}/").partition("/")[0]


def _is_valid(folder: str, split_hash: str) -> bool:
    with tempfile.TemporaryDirectory() as temporary:
        files.download_folder(folder, Path(temporary))
        try:
            state = load_training_state(Path(temporary), split_hash)
        except InputError as error:
            logger.info("skipping checkpoint %s: %s", folder, error)
            return False
    logger.info("resuming from step %d, epoch %d", state.step, state.epoch + 1)
    return True
