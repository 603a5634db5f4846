"""Open a model by its address on this node; for the driver and for every process that loads it."""

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

from agegender import released
from agegender.artifact import INFO_FILE
from agegender.config import RELEASED_MODELS
from agegender.errors import InputError, ResourceError
from agegender.scoring.load import LocalModel
from agegender.storage import files
from agegender.storage.answers import ObjectAnswer

logger = logging.getLogger(__name__)


def model_address(model: str) -> str:
    """The absolute address of a model; a released model is addressed by its name, which is valid on every node.

    Raises:
        InputError: a released model that is not in this installation.
    """
    if model not in RELEASED_MODELS:
        return files.absolute(model)
    _released_folder(model)
    return model


def localize_model(uri: str) -> LocalModel:
    """Open a trained model on this node and verify it.

    A local folder is used where it is. A model on S3 is downloaded once per node, into a temporary folder that is named
    by its address and version; concurrent downloads are safe.

    Args:
        uri: local folder or s3:// prefix that train wrote, or a name of ``RELEASED_MODELS``.

    Raises:
        InputError: missing, damaged or not a model; the message names the file.
        ResourceError: storage does not answer.
    """
    if not files.is_s3(uri):
        return LocalModel.open(_released_folder(uri) if uri in RELEASED_MODELS else Path(uri))
    cached = _cache_folder() / _version_key(uri)
    return (cached.is_dir() and _open_copy(cached)) or _download(uri, cached)


def _released_folder(name: str) -> Path:
    if name not in released.installed():
        raise InputError(
            f"{name}: a model of agegender that is not in this installation, which has {', '.join(released.installed())}. "
            f"Use one of those, or give the folder agegender/released/{name}/model of a checkout of the project, or that "
            f"which `make release MODEL={name}` makes there. ./{name} is a folder of your own"
        )
    return released.folder(name)


def _version_key(uri: str) -> str:
    try:
        info = files.stat(files.join(uri, INFO_FILE))
    except ObjectAnswer as error:
        raise InputError(
            f"{uri}: no permission to read the model: {error}. Check the permissions of your keys"
        ) from error
    if info is None:
        raise InputError(
            f"no model at {uri}: {INFO_FILE} is missing. Give --model the OUTPUT/model of `agegender train`"
        )
    return hashlib.sha256(f"{uri}\n{info.etag}\n{info.size_bytes}".encode()).hexdigest()[:20]


def _cache_folder() -> Path:
    """A folder that only this user can write to, because models are loaded from it."""
    folder = Path(tempfile.gettempdir()) / f"agegender-models-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ResourceError(f"{folder} belongs to another user. Remove it, or set TMPDIR to your own folder")
    return folder


def _open_copy(folder: Path) -> LocalModel | None:
    try:
        return LocalModel.open(folder)
    except InputError:
        logger.warning("the copy of the model in %s is damaged; downloading it again", folder)
        return None


def _download(uri: str, cached: Path) -> LocalModel:
    """Download next to the final place, verify, then rename, which is atomic for other processes."""
    fresh = Path(tempfile.mkdtemp(prefix=f"{cached.name}.", dir=cached.parent))
    try:
        files.download_folder(uri, fresh)
        return _put_in_place(LocalModel.open(fresh), cached)
    except InputError as error:
        raise InputError(str(error).replace(str(fresh), uri)) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put_in_place(fresh: LocalModel, cached: Path) -> LocalModel:
    try:
        fresh.folder.rename(cached)
    except OSError:  # another process was first, or a damaged copy is there
        if model := _open_copy(cached):
            return model
        shutil.rmtree(cached, ignore_errors=True)
        fresh.folder.rename(cached)
    return LocalModel(cached, fresh.info)
