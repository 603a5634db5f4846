"""A pack: the decoded training and validation images of a run, compressed, in a few files that are carried to another machine.

A pack is a folder::

    images-0000.parquet   rows of the split with the image of each, in the split's order; at most so many bytes per file
    initial.safetensors   initial weights; absent where the network begins with random ones
    teachers/0/           model folders to learn from; absent without teachers
    pack.json             ``PackInfo``: config of the run, network, split, and the SHA-256 of the other files

Images of the test part are not in it, and neither are the names of the others.
"""

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, ValidationError

from agegender.artifact import NetworkConfig
from agegender.errors import InputError

FORMAT_VERSION = 1
INFO_FILE = "pack.json"
INITIAL_FILE = "initial.safetensors"

ImageFormat = Literal["webp", "jpeg", "lossless"]
"""How an image is compressed; lossless: WebP without loss."""

Pixels = npt.NDArray[np.uint8]

NOT_PACKED = ("uri", "group")
"""Columns of the split that a training does not need; the first would tell paths of the machine that packed."""

ROW_BYTES = 256
"""Upper bound of what a row takes beside its image."""

FILE_BYTES = 65_536
"""Upper bound of what a file takes beside its rows: the schema and the footer."""


class PackInfo(BaseModel):
    """The content of ``pack.json``."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = FORMAT_VERSION
    config: dict[str, Any]
    """Resolved ``TrainConfig`` of the run."""

    network: NetworkConfig
    split_hash: str
    images: dict[str, int]
    """Part -> images that are packed."""

    image_format: ImageFormat
    teachers: list[str] = []
    """Folders of the teachers in the pack, in the order of the config."""

    files: dict[str, str]
    """Path in the pack -> SHA-256; in the order of the split."""

    created_by: str


@dataclass(frozen=True)
class Pack:
    """An open pack."""

    folder: Path
    info: PackInfo
    rows: pa.Table
    """N rows of ``schema.SPLIT`` without ``NOT_PACKED``."""

    pixels: Pixels
    """uint8[N, S, S, 3] RGB."""


def encode(pixels: Pixels, image_format: ImageFormat, quality: int) -> bytes:
    """Compress uint8[S, S, 3] RGB.

    Args:
        pixels: one image.
        image_format: how.
        quality: 1-100; has no effect on ``lossless``.
    """
    target = io.BytesIO()
    if image_format == "jpeg":
        Image.fromarray(pixels).save(target, "JPEG", quality=quality)
    else:
        Image.fromarray(pixels).save(target, "WEBP", quality=quality, lossless=image_format == "lossless")
    return target.getvalue()


def packed_files(
    rows: pa.Table,
    pixels: Pixels,
    usable: npt.NDArray[np.bool_],
    image_format: ImageFormat,
    quality: int,
    file_bytes: int,
    threads: int,
) -> Iterator[tuple[str, bytes]]:
    """Compress images into Parquet files; yields the name and the bytes of each.

    Args:
        rows: N rows of the split.
        pixels: uint8[N, S, S, 3].
        usable: bool[N]; the others are left out.
        image_format: of the images.
        quality: of ``encode``.
        file_bytes: bound of a file.
        threads: that compress.
    """
    labels = rows.drop_columns([name for name in NOT_PACKED if name in rows.column_names])
    chosen = np.flatnonzero(usable)
    bound, start, held, size_bytes, number = file_bytes - FILE_BYTES, 0, list[bytes](), 0, 0
    with ThreadPoolExecutor(threads) as pool:
        # in blocks: the pool's map would take all images at once
        blocks = (chosen[first : first + 4096] for first in range(0, len(chosen), 4096))
        compress = partial(_encoded_row, pixels, image_format, quality)
        for index, image in enumerate(image for block in blocks for image in pool.map(compress, block)):
            if held and size_bytes + len(image) + ROW_BYTES > bound:
                yield _file(number, labels.take(chosen[start:index]), held)
                start, held, size_bytes, number = index, [], 0, number + 1
            held.append(image)
            size_bytes += len(image) + ROW_BYTES
    if held:
        yield _file(number, labels.take(chosen[start:]), held)


def _encoded_row(pixels: Pixels, image_format: ImageFormat, quality: int, row: int) -> bytes:
    return encode(np.ascontiguousarray(pixels[row]), image_format, quality)


def _file(number: int, labels: pa.Table, images: list[bytes]) -> tuple[str, bytes]:
    table = labels.append_column("image", pa.array(images, pa.binary()))
    target = io.BytesIO()
    pq.write_table(
        table,
        target,
        compression={name: "none" if name == "image" else "zstd" for name in table.column_names},
        use_dictionary=[name for name in ("part", "source") if name in table.column_names],
        write_statistics=False,
        store_schema=False,
    )
    return f"images-{number:04d}.parquet", target.getvalue()


def read_info(folder: Path) -> PackInfo:
    """The content of ``pack.json``.

    Raises:
        InputError: missing, damaged, or of another format version.
    """
    path = folder / INFO_FILE
    try:
        info = PackInfo.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path}: not a pack ({error}); give the pack/ folder that `agegender pack` wrote") from error
    if info.format_version != FORMAT_VERSION:
        raise InputError(
            f"{path}: format version {info.format_version}, this release reads {FORMAT_VERSION}; pack again with this release"
        )
    return info


def open_pack(folder: Path) -> Pack:
    """Read a pack and decode its images.

    Args:
        folder: local.

    Raises:
        InputError: not a pack, or a file of it is missing or damaged.
    """
    info = read_info(folder)
    _check_files(folder, info)
    names = [name for name in info.files if name.startswith("images-")]
    side_px, count = info.network.image_size_px, sum(info.images.values())
    pixels, done, labels = np.empty((count, side_px, side_px, 3), np.uint8), 0, list[pa.Table]()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name in names:
            table = pq.read_table(folder / name)
            for image in pool.map(partial(_decoded, folder / name, side_px), table["image"].to_pylist()):
                pixels[done] = image
                done += 1
            labels.append(table.drop_columns(["image"]))
    return Pack(folder, info, pa.concat_tables(labels), pixels)


def _check_files(folder: Path, info: PackInfo) -> None:
    missing = [name for name in info.files if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder}: {', '.join(_some(missing))} of {len(info.files)} files of the pack are missing: copy them beside {INFO_FILE}"
        )
    for name, expected in info.files.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise InputError(
                    f"{folder / name}: damaged (SHA-256 differs from the one in {INFO_FILE}): copy it again"
                )


def _decoded(path: Path, side_px: int, data: bytes) -> Pixels:
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP", "JPEG")) as image:
            if image.size == (side_px, side_px):
                return np.asarray(image.convert("RGB"))
            found = f"{image.width} x {image.height} pixels, {side_px} x {side_px} expected"
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise InputError(f"{path}: an image does not decode ({error}): pack again") from error
    raise InputError(f"{path}: an image of {found}: pack again")


def _some(names: Sequence[str], most: int = 3) -> list[str]:
    return [*names[:most], *(["..."] if len(names) > most else [])]
