"""A model's address -> a verified folder on this node, for the driver and for every actor that loads it."""

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from agegender import released
from agegender.artifact import INFO_FILE
from agegender.config import RELEASED_MODEL
from agegender.errors import InputError, ResourceError
from agegender.scoring.load import open_model
from agegender.storage import files
from agegender.storage.answers import ObjectAnswer

logger = logging.getLogger(__name__)


def model_address(said: str) -> str:
    """The absolute address of a model as a user names it; that of the released one is its name, for any node."""
    return said if said == RELEASED_MODEL else files.absolute(said)


def localize_model(uri: str) -> Path:
    """The folder of a trained model on this node, whole and verified.

    A local folder is used where it is. A model on S3 is downloaded once per node, into a temporary folder that is named
    by its address and version; processes that need it at once do not disturb each other.

    Args:
        uri: local folder or s3:// prefix that train wrote, or ``released``.

    Raises:
        InputError: missing, damaged or foreign; says which file and what to do.
        ResourceError: storage does not answer.
    """
    if not files.is_s3(uri):
        folder = released.FOLDER if uri == RELEASED_MODEL else Path(uri)
        open_model(folder)
        return folder
    cached = _cache_folder() / _version_key(uri)
    if cached.is_dir() and _is_whole(cached):
        return cached
    return _download(uri, cached)


def _version_key(uri: str) -> str:
    try:
        info = files.stat(files.join(uri, INFO_FILE))
    except ObjectAnswer as error:
        raise InputError(f"{uri}: the model may not be read: {error}. Check the rights of your keys") from error
    if info is None:
        raise InputError(
            f"no model at {uri}: {INFO_FILE} is not there. Give --model what `agegender train` wrote, OUTPUT/model"
        )
    return hashlib.sha256(f"{uri}\n{info.etag}\n{info.size_bytes}".encode()).hexdigest()[:20]


def _cache_folder() -> Path:
    """Ours alone: what lies there is loaded, so nobody else may write to it."""
    folder = Path(tempfile.gettempdir()) / f"agegender-models-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ResourceError(f"{folder} belongs to another user. Remove it, or set TMPDIR to a folder of your own")
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        open_model(folder)
    except InputError:
        logger.warning("the copy of the model in %s is damaged; downloading it again", folder)
        return False
    return True


def _download(uri: str, cached: Path) -> Path:
    """Download beside the final place, verify, then rename: other processes see all of it or nothing."""
    fresh = Path(tempfile.mkdtemp(prefix=f"{cached.name}.", dir=cached.parent))
    try:
        files.download_folder(uri, fresh)
        open_model(fresh)
        return _put_in_place(fresh, cached)
    except InputError as error:
        raise InputError(str(error).replace(str(fresh), uri)) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put_in_place(fresh: Path, cached: Path) -> Path:
    try:
        fresh.rename(cached)
    except OSError:  # another process was first, or a damaged copy lies there
        if _is_whole(cached):
            return cached
        shutil.rmtree(cached, ignore_errors=True)
        fresh.rename(cached)
    return cached
