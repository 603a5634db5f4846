"""Where a training run left its checkpoints. Each process of the driver is one attempt with a folder of its own.

Ray Train keeps an index of an attempt's checkpoints and could go on from it, but does not write it whole-or-absent, and
reads only the index of its own release. So a new attempt looks at the checkpoints themselves.
"""

import logging
import tempfile
from pathlib import Path

from agegender.errors import InputError
from agegender.model.checkpoint import STATE_FILE, load_training_state
from agegender.pipelines.train.job import WORK_FOLDER
from agegender.storage import files

logger = logging.getLogger(__name__)

_ATTEMPTS = "attempts"


def attempts_uri(output: str) -> str:
    """The folder of all attempts."""
    return files.join(output, WORK_FOLDER, _ATTEMPTS)


def newest_checkpoint(output: str, split_hash: str) -> tuple[str | None, int]:
    """The newest checkpoint that is whole, and the number of the next attempt.

    Args:
        output: of the run.
        split_hash: of its split; a checkpoint of another one does not count.

    Returns:
        The address of its folder or None, and a number above those of all earlier attempts.
    """
    found = [info.uri for info in files.list_files(attempts_uri(output), allow_empty=True, hidden=True)]
    numbers = [int(_attempt(uri, output)) for uri in found]
    # Both names sort by time: attempts by number, Ray's checkpoints by the date in their name.
    for state in sorted((uri for uri in found if files.name(uri) == STATE_FILE), reverse=True):
        folder = files.parent(state)
        if _is_whole(folder, split_hash):
            return folder, max(numbers) + 1
    return None, max(numbers, default=-1) + 1


def delete_attempts_before(output: str, number: int, keep: str | None) -> None:
    """Drop the checkpoints of earlier attempts, but for the one that this attempt goes on from."""
    for info in list(files.list_files(attempts_uri(output), allow_empty=True, hidden=True)):
        if int(_attempt(info.uri, output)) < number and (keep is None or not info.uri.startswith(f"{keep}/")):
            files.delete(info.uri)


def attempt_name(number: int) -> str:
    """A name that sorts by number."""
    return f"{number:06d}"


def _attempt(uri: str, output: str) -> str:
    return uri.removeprefix(f"{attempts_uri(output)}/").partition("/")[0]


def _is_whole(folder: str, split_hash: str) -> bool:
    with tempfile.TemporaryDirectory() as temporary:
        files.download_folder(folder, Path(temporary))
        try:
            state = load_training_state(Path(temporary), split_hash)
        except InputError as error:
            logger.info("%s is passed over: %s", folder, error)
            return False
    logger.info("going on from step %d, in epoch %d", state.step, state.epoch + 1)
    return True
