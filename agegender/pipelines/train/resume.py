"""Find the checkpoint to resume from, or take the state of a training without Ray. Each driver process is one attempt.

Each attempt has its own folder.

Ray Train keeps an index of an attempt's checkpoints, but does not write it atomically and reads only the index of its own
release. So a new attempt reads the checkpoints themselves.
"""

import logging
import tempfile
from pathlib import Path

from agegender.errors import ConfigError, InputError
from agegender.model.checkpoint import STATE_FILE, TrainingState, load_training_state
from agegender.options import LABELS, OUTPUT
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.storage import files
from agegender.training_config import TrainConfig

logger = logging.getLogger(__name__)


def attempts_uri(output: str) -> str:
    """The folder of all attempts."""
    return OutputLayout(output).attempts


def newest_checkpoint(output: str, split_hash: str, given: str | None = None) -> tuple[str | None, int]:
    """The newest valid checkpoint, and the number of the next attempt.

    Args:
        output: of the run.
        split_hash: of its split; checkpoints of another split are skipped.
        given: folder with a state of another process, which counts if none of the run's own is as new.

    Returns:
        The address of its folder or None, and a number higher than that of any earlier attempt.
    """
    uris = [info.uri for info in files.list_files(attempts_uri(output), allow_empty=True, hidden=True)]
    next_number = max((int(_attempt(uri, output)) for uri in uris), default=-1) + 1
    # Names sort by time: attempts by number, Ray's checkpoints by the date in their name.
    folders = [files.parent(uri) for uri in sorted(uris, reverse=True) if files.name(uri) == STATE_FILE]
    valid = ((folder, at) for folder in folders if (at := _place_of(folder, split_hash)) is not None)
    newest, place = next(valid, (None, (-1, -1)))
    if given is not None and (given_place := _place_of(given, split_hash)) is not None and given_place > place:
        newest, place = given, given_place
    if newest is not None:
        logger.info("resuming from step %d, epoch %d", place[0], place[1] + 1)
    return newest, next_number


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


def _place_of(folder: str, split_hash: str) -> tuple[int, int] | None:
    """Step and epoch of a valid state; None for any other."""
    with tempfile.TemporaryDirectory() as temporary:
        files.download_folder(folder, Path(temporary))
        try:
            state = load_training_state(Path(temporary), split_hash)
        except InputError as error:
            logger.info("skipping checkpoint %s: %s", folder, error)
            return None
    return state.step, state.epoch


def copy_state(given: str, to: str, config: TrainConfig, split_hash: str) -> None:
    """Copy a state of ``train-packed`` to where all workers can read it.

    Args:
        given: folder of the state.
        to: folder that is written.
        config: of this run, with ``init`` as it was given.
        split_hash: of this run.

    Raises:
        ConfigError: the state is of other options; the message says which.
        InputError: no state, damaged, or of other images.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if files.is_s3(given) else Path(files.absolute(given))
        if files.is_s3(given):
            files.download_folder(given, folder)
        check_same_options(load_training_state(folder, split_hash), config, f"--resume-from {given}")
        files.upload_folder(folder, to, last=STATE_FILE)


def check_same_options(state: TrainingState, config: TrainConfig, what: str) -> None:
    """Refuse a state that was trained with other options.

    Args:
        state: with its config.
        config: of this run.
        what: the state, for the message.

    Raises:
        ConfigError: names the options that differ.
    """
    ours = config.identity(OUTPUT, LABELS)
    if ours["precision"] == "auto":  # resolved in the state
        del ours["precision"]
    differing = {
        name: value
        for name, value in ours.items()
        if name in state.config and name not in _OF_THE_SPLIT and state.config[name] != value
    }
    if differing:
        said = "; ".join(f"{name} was {state.config[name]!r}, is now {value!r}" for name, value in differing.items())
        raise ConfigError(f"{what}: a state of another training: {said}. Give the options that it was packed with")


_OF_THE_SPLIT = ("input", "unit_images")
"""Options that may differ: the split's hash says whether the images are the same, wherever they lie."""
