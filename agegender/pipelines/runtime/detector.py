"""The face detector's file: where it is found, how it comes here once, and what it says about a run. No Ray."""

import hashlib
import logging
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from agegender.artifact import FRAMING, ModelInfo
from agegender.config import FaceOptions
from agegender.data.faces import FaceSearch
from agegender.errors import InputError, ResourceError
from agegender.storage import files

logger = logging.getLogger(__name__)

DETECTOR_URL = "https://github.com/ShiqiYu/libfacedetection.train/raw/dca340aa082c71081a68d17db8e58b33a58a914b/onnx/yunet_n_dynamic.onnx"
"""YuNet with dynamic shapes as its author publishes it, Apache-2.0; OpenCV's model zoo has its files from there."""

DETECTOR_SHA256 = "104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12"
DETECTOR_FILE = "face_detection_yunet_n_dynamic.onnx"
DETECTOR_VARIABLE = "AGEGENDER_DETECTOR_MODEL"

DOWNLOAD_TIMEOUT_S = 30.0
MAX_DETECTOR_BYTES = 100_000_000


def face_search(options: FaceOptions, max_faces: int = 1) -> FaceSearch | None:
    """What the workers need to find faces, or None for ``--faces none``.

    Args:
        options: of the job.
        max_faces: of one image; 1 where a label belongs to the image, and so to its largest face.

    Raises:
        InputError: the file that was named is missing or no detector.
        ResourceError: there is no file and it cannot be downloaded.
    """
    if options.faces == "none":
        return None
    path = detector_model(options.detector_model)
    search = FaceSearch(path.read_bytes(), options.min_detection_score, options.min_face_px, max_faces)
    search.finder()  # a wrong file is refused here, before a cluster is asked
    return search


def search_identity(search: FaceSearch | None) -> dict[str, Any]:
    """Everything about finding faces that, were it different, would give other rows."""
    if search is None:
        return {}
    return {
        "detector_sha256": hashlib.sha256(search.model).hexdigest(),
        "min_detection_score": search.min_score,
        "min_face_px": search.min_face_px,
        "max_faces": search.max_faces,
    }


def check_framing(info: ModelInfo, uri: str) -> None:
    """Refuse a model that learnt another framing than the one that is cut here.

    Args:
        info: of the model.
        uri: its address, for the message.

    Raises:
        InputError: names both.
    """
    if info.framing != FRAMING:
        raise InputError(
            f"{uri}: this model learnt faces framed as {info.framing!r}, this release frames them as {FRAMING!r}: its ages would "
            f"be wrong. Use the release that wrote it ({info.created_by or 'unknown'}), or train it again"
        )


def detector_model(path: str | None = None, url: str = DETECTOR_URL) -> Path:
    """The face detector's file on this machine; downloaded once into the user's cache where there is none.

    Args:
        path: what the user named; None: ``AGEGENDER_DETECTOR_MODEL``, else the cache.
        url: where it comes from.

    Raises:
        InputError: a file that was named is not there.
        ResourceError: not in the cache, and the download failed.
    """
    named = path or os.environ.get(DETECTOR_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise InputError(
                f"{'--detector-model' if path else DETECTOR_VARIABLE} {named}: there is no such file. Leave it out to have the "
                "detector downloaded, or use --faces none where the images are face crops"
            )
        return Path(named)
    cached = cache_folder() / DETECTOR_FILE
    if not (cached.is_file() and _is_ours(cached.read_bytes())):
        _download(url, cached)
    return cached


def cache_folder() -> Path:
    """``agegender`` in ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agegender"


def _is_ours(data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == DETECTOR_SHA256


def _download(url: str, to: Path) -> None:
    where = (
        f"Download it yourself, put it at {to}, or name it with --detector-model or {DETECTOR_VARIABLE}; where the images are face "
        "crops, --faces none needs no detector"
    )
    logger.info("downloading the face detector from %s to %s", url, to)
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as answer:
            data = answer.read(MAX_DETECTOR_BYTES)
    except (OSError, urllib.error.URLError) as error:
        raise ResourceError(f"the face detector cannot be downloaded from {url}: {error}. {where}") from error
    if not _is_ours(data):
        seen = hashlib.sha256(data).hexdigest()
        raise ResourceError(
            f"{url} gave another file than the face detector: SHA-256 {seen[:12]}..., expected {DETECTOR_SHA256[:12]}.... {where}"
        )
    files.write_bytes(str(to), data)
