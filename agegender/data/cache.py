"""Decode training images once per node, into a memory-mapped file that all processes of the node share.

A cache is two files: ``NAME.npy`` with uint8[N, S, S, 3] RGB, written atomically, and ``NAME.usable.npy`` with bool[N], which
rows hold an image. The files belong to one run: it builds them, reuses them after a restart, and deletes them at its end.
Files of killed runs are deleted when a later run needs the space.
"""

import logging
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agegender.data.face_searches import Cut
from agegender.data.images import decode, resize
from agegender.errors import ResourceError

logger = logging.getLogger(__name__)

GIGABYTE = 1_000_000_000

ABANDONED_AFTER_S = 3600.0
"""An unfinished cache that was not written to for this long is from a killed run."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DecodedImages:
    """An open cache."""

    pixels: Pixels
    """uint8[N, S, S, 3], memory-mapped read-only; pages are loaded on use and shared by the processes of a node."""

    usable: npt.NDArray[np.bool_]
    """bool[N]; a row without an image holds zeros."""


def cache_size_bytes(images: int, side_px: int) -> int:
    """Bytes on disk of this many decoded images."""
    return images * side_px * side_px * 3


def open_cache(path: Path) -> DecodedImages | None:
    """Open a complete cache; None if there is none.

    Args:
        path: ``NAME.npy``.
    """
    if not path.exists():
        return None
    return DecodedImages(np.load(path, mmap_mode="r"), np.load(_usable_path(path)))


def build_cache(
    path: Path,
    encoded: Iterable[tuple[int, bytes]],
    images: int,
    side_px: int,
    *,
    max_pixels: int,
    threads: int,
    limit_bytes: int,
    cut_of: Callable[[int], Cut | None] = lambda _row: None,
    allow_truncated: bool = False,
) -> DecodedImages:
    """Decode images into a new cache; rows without an image, or whose image does not decode, are not usable.

    Args:
        path: ``NAME.npy``; its folder is created.
        encoded: (row, bytes of an image file), in any order.
        images: rows, N.
        side_px: S.
        max_pixels: images with more are not decoded.
        threads: of decoding.
        cut_of: row -> what crops the face of its image, uint8[S, S, 3]; thread-safe; None: the image is the face.
        allow_truncated: see ``images.decode``.
        limit_bytes: older caches in the folder are deleted until they and this one fit.

    Raises:
        ResourceError: not enough disk space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    needed_bytes = cache_size_bytes(images, side_px)
    make_room(path.parent, limit_bytes - needed_bytes)
    _check_disk(path.parent, needed_bytes)
    logger.info("decoding %d images into %s, %.2f GB", images, path, needed_bytes / GIGABYTE)
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    usable = np.zeros(images, np.bool_)
    try:
        pixels = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(images, side_px, side_px, 3))
        face_of = partial(_face_of, side_px=side_px, max_pixels=max_pixels, allow_truncated=allow_truncated)
        for row, face in _decoded(encoded, face_of, cut_of, threads):
            pixels[row], usable[row] = face, True
        pixels.flush()
        np.save(_usable_path(path), usable)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return DecodedImages(np.load(path, mmap_mode="r"), usable)


def remove_cache(path: Path) -> None:
    """Delete a cache; processes that have it mapped can still read it."""
    path.unlink(missing_ok=True)
    _usable_path(path).unlink(missing_ok=True)


def make_room(folder: Path, limit_bytes: int) -> None:
    """Delete the caches in a folder, oldest first, until the rest takes at most ``limit_bytes``."""
    abandoned = [part for part in folder.glob("*.part") if time.time() - _modified_s(part) > ABANDONED_AFTER_S]
    complete = [file for file in folder.glob("*.npy") if not file.name.endswith(".usable.npy")]
    caches = sorted(abandoned + complete, key=_modified_s)
    total_bytes = sum(_size_bytes(file) for file in caches)
    for file in caches:
        if total_bytes <= limit_bytes:
            return
        total_bytes -= _size_bytes(file)
        logger.info("deleting %s of another run to free disk space", file)
        remove_cache(file)


def _decoded(
    encoded: Iterable[tuple[int, bytes]],
    face_of: Callable[[bytes, Cut | None], Pixels | None],
    cut_of: Callable[[int], Cut | None],
    threads: int,
) -> Iterator[tuple[int, Pixels]]:
    """Decode ahead of the consumer; only the calling thread iterates over ``encoded``."""
    pending: deque[tuple[int, Future[Pixels | None]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for row, data in encoded:
            pending.append((row, pool.submit(face_of, data, cut_of(row))))
            if len(pending) >= 8 * threads:
                yield from _results(pending, 1)
        yield from _results(pending, len(pending))


def _results(pending: "deque[tuple[int, Future[Pixels | None]]]", count: int) -> Iterator[tuple[int, Pixels]]:
    for _ in range(count):
        row, future = pending.popleft()
        face = future.result()
        if face is not None:
            yield row, face


def _face_of(
    data: bytes,
    cut: Cut | None,
    side_px: int,
    max_pixels: int,
    allow_truncated: bool,
) -> Pixels | None:
    enough_px = side_px if cut is None else None
    pixels = decode(data, max_pixels, enough_px, allow_truncated=allow_truncated).pixels
    if pixels is None:
        return None
    return resize(pixels, side_px) if cut is None else cut(pixels)


def _check_disk(folder: Path, needed_bytes: int) -> None:
    # Check before: writing to a memory map on a full disk kills the process (SIGBUS).
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise ResourceError(
            f"{folder} has {free_bytes / GIGABYTE:.2f} GB free, the decoded images need {needed_bytes / GIGABYTE:.2f} GB: "
            "free disk space, or choose another folder with --cache-dir"
        )


def _usable_path(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.npy')}.usable.npy")


def _modified_s(file: Path) -> float:
    return file.stat().st_mtime if file.exists() else 0.0


def _size_bytes(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
