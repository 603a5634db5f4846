"""A good image in damaged wrapping: what ``images.decode`` tries with a file that its decoder refuses. Pure bytes.

Only files that fail come here; each function is linear in the size of the file, and takes any bytes.
"""

import itertools
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import simplejpeg
from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
JPEG_END = b"\xff\xd9"

MAX_MISSING_SHARE = 0.05
"""A JPEG that lacks at most this share of its area is ``ok``, with a warning. Faces are rarely at the very bottom of an image,
and a face crop without its last twentieth is estimated as the whole one is: docs/predictions.md has the measurement."""

SEARCHED_BYTES = 65_536
"""Bytes before an image that are skipped at most."""

_MAX_CHUNKS = 100_000
_MAX_SCANS = 100
"""Far above what encoders write; more would only cost time."""

_KEPT_METADATA = (b"tRNS", b"eXIf")
"""Of PNG's ancillary chunks, those that change what is shown: transparency and orientation."""

_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_TAIL = np.random.default_rng(0).integers(0, 255, 256, np.uint8).tobytes()  # no 255: it would begin a marker


def bytes_before_image(data: bytes) -> int | None:
    """Number of bytes in front of a JPEG or PNG that reaches to the end of the file; None if there is no such image.

    A document, an archive or a recording that merely contains an image does not end with it.
    """
    for start, end, padding in ((JPEG_START, JPEG_END, b"\0\r\n\t "), (PNG_START, b"IEND\xaeB`\x82", b"\0\r\n\t ")):
        at = data.find(start, 1, SEARCHED_BYTES)
        if at > 0 and data[-4096:].rstrip(padding).endswith(end):
            return at
    return None


def png_without_metadata(data: bytes) -> tuple[bytes, list[str]] | None:
    """A PNG without the chunks that no pixel depends on, and a few names of those left out, damaged ones if any are.

    Damaged chunks that pixels depend on stay, for the decoder to refuse. None: nothing can be left out.
    """
    kept, left_out, damaged = [PNG_START], list[str](), list[str]()
    at = len(PNG_START)
    for _ in range(_MAX_CHUNKS):
        name = data[at + 4 : at + 8]
        if not name.isalpha() or len(name) < 4:
            break
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        is_whole = data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[at + 4 : end - 4]))
        if name[:1].isupper() or (is_whole and name in _KEPT_METADATA):
            kept.append(data[at:end])
        else:
            (left_out if is_whole else damaged).append(name.decode("ascii"))
        at = end
    else:
        return None
    names = list(dict.fromkeys(damaged or left_out))[:5]
    return (b"".join([*kept, data[at:]]), names) if names else None


def is_padded_jpeg(data: bytes) -> bool:
    """Whether zeros stand where a JPEG's end marker should be, as in a file that was allotted and never filled."""
    return data.endswith(b"\0\0") and JPEG_END not in data.rstrip(b"\0")[-4096:]


@dataclass(frozen=True, slots=True)
class RescuedJpeg:
    """What there is of a JPEG that ends early."""

    image: Image.Image
    """Loaded; grey where it is missing."""

    is_nearly_whole: bool
    """At most ``MAX_MISSING_SHARE`` is missing, or detail that hardly shows."""

    loss: str
    """One clause for people."""

    missing_share: float | None = None
    """Share of the area that is missing; None: detail is missing everywhere, or not known."""


def jpeg_without_end(data: bytes) -> RescuedJpeg | None:
    """Decode a JPEG whose last bytes are missing, or were replaced by zeros, and say what was lost.

    The end is found by decoding twice, with two different continuations: pixels that differ were not in the file.

    Args:
        data: of a size that the caller has checked.

    Returns:
        None if there are no pixels at all.
    """
    data = _without_padding(data)
    layout = _read_layout(data)
    if layout is None:
        return None
    data = data[: layout.size_bytes]
    image = _load(data + JPEG_END)
    if layout.is_complete(layout.scans, last_bit=True):
        first = _first_difference(image, _load(data + _TAIL + JPEG_END), layout.block_px)
        if first is None:
            doubt = _decoders_warning(image, data + JPEG_END)
            return RescuedJpeg(image, doubt is None, f"the end marker is missing; {doubt or 'every pixel is there'}")
        if not layout.is_complete(layout.finished, last_bit=False):
            return _cut(image, layout, first)
    if layout.is_complete(layout.finished, last_bit=False):
        return RescuedJpeg(image, True, "the end of this progressive JPEG is missing: its finest detail is lost")
    return RescuedJpeg(image, False, "scans of this progressive JPEG are missing: its detail is lost")


def _without_padding(data: bytes) -> bytes:
    """Without zeros and a half marker at the end; a last byte of 255 is stored as 255, 0."""
    ended = data.rstrip(b"\0")
    if ended.endswith(b"\xff"):
        return ended + b"\0" if len(ended) < len(data) else ended[:-1]
    return ended


def _cut(image: Image.Image, layout: "_Layout", first: tuple[int, int]) -> RescuedJpeg:
    """What is missing from a block (row, column) on, in the order in which blocks are stored."""
    width, height = image.size
    across_px, down_px = layout.block_px
    row = first[0] * down_px
    there = row * width + min(down_px, height - row) * first[1] * across_px
    share = 1 - there / (width * height)
    loss = f"the last {max(share, 0.001):.1%} of the image are missing (below row {row} of {height})"
    return RescuedJpeg(image, share <= MAX_MISSING_SHARE, loss, share)


def _load(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data), formats=("JPEG",))
    image.load()
    return image


def _decoders_warning(image: Image.Image, data: bytes) -> str | None:
    """What libjpeg says of damage inside, which Pillow does not pass on."""
    if image.mode == "RGB":
        try:
            simplejpeg.decode_jpeg(data, "RGB", strict=True)
        except ValueError as error:
            return str(error)
    return None


def _first_difference(one: Image.Image, other: Image.Image, block_px: tuple[int, int]) -> tuple[int, int] | None:
    """(row, column) of the first block that differs."""
    (width, height), (across_px, down_px) = one.size, block_px
    for row in range(-(-height // down_px)):
        box = (0, row * down_px, width, min((row + 1) * down_px, height))
        differs = (np.asarray(one.crop(box)) != np.asarray(other.crop(box))).reshape(box[3] - box[1], width, -1).any(-1)
        # Colours are smoothed over one pixel beyond their block, so the blocks above and to the left seem to differ there.
        columns = np.flatnonzero((differs if box[3] == height else differs[:-1]).any(0))
        if columns.size:
            return row, (int(columns[0]) + 1) // across_px
    return None


@dataclass(frozen=True, slots=True)
class _Scan:
    components: tuple[int, ...]
    coefficients: tuple[int, int]
    """First and last of 0-63."""
    missing_bits: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """Of a JPEG: its components, the size of its blocks and the scans that have begun."""

    components: tuple[int, ...]
    block_px: tuple[int, int]
    """Width and height of what is stored together."""
    scans: Sequence[_Scan]
    finished: Sequence[_Scan]
    """All, or all but the last."""
    size_bytes: int
    """Of the file, without the piece of a header with which it ends."""

    def is_complete(self, scans: Sequence[_Scan], *, last_bit: bool) -> bool:
        """Whether the scans have every coefficient of every component, to its last bit or to the one before."""
        needed = set(itertools.product(self.components, range(64)))
        for scan in scans:
            if scan.missing_bits <= (0 if last_bit else 1):
                first, last = scan.coefficients
                needed -= set(itertools.product(scan.components, range(first, last + 1)))
        return not needed


def _read_layout(data: bytes) -> _Layout | None:
    """None if no scan has begun, or the markers make no sense."""
    components: tuple[int, ...] = ()
    block_px, scans, at, size_bytes = (8, 8), list[_Scan](), 2, 0
    while len(scans) <= _MAX_SCANS:
        found = _NEXT_MARKER.search(data, at)
        if found is None:
            size_bytes = 0
            break
        marker, at, size_bytes = data[found.end() - 1], found.end(), found.start()
        if marker == 0xD9:
            break
        if marker in (0x01, 0xD8):  # no length follows
            continue
        end = at + int.from_bytes(data[at : at + 2], "big")
        if end > len(data) or len(data) < at + 2:
            break
        body, at = data[at + 2 : end], max(end, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if len(body) < 6 or len(body) < 6 + 3 * body[5]:
                return None
            parts = [body[6 + 3 * index : 9 + 3 * index] for index in range(body[5])]
            components = tuple(part[0] for part in parts)
            sampling = [(part[1] >> 4, part[1] & 15) for part in parts]
            if len(sampling) > 1:  # a single component is stored in blocks of 8 x 8, whatever it says
                block_px = (8 * max(s[0] for s in sampling), 8 * max(s[1] for s in sampling))
        elif marker == 0xDA:
            if not body or len(body) < 4 + 2 * body[0]:
                break
            chosen = tuple(body[1 + 2 * index] for index in range(body[0]))
            first, last, bits = body[1 + 2 * body[0] : 4 + 2 * body[0]]
            scans.append(_Scan(chosen, (first, min(last, 63)), bits & 15))
    is_sane = components and scans and len(scans) <= _MAX_SCANS and min(block_px) > 0
    if not is_sane:
        return None
    if size_bytes:
        return _Layout(components, block_px, scans, scans, size_bytes)
    return _Layout(components, block_px, scans, scans[:-1], len(data))
