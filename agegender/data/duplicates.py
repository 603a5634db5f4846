"""Which images are the same: by their bytes, by their looks, or by their capture stamp.

Looks are compared twice. A 64-bit hash of the lowest frequencies finds candidates fast, and a grey thumbnail confirms them:
in a set of centred faces the hash alone takes strangers for each other. Measured in docs/duplicates.md.

Shapes: N images, M pairs, T = ``THUMBNAIL_SIDE_PX``.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from agegender.data import images

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]

THUMBNAIL_SIDE_PX = 16
MIN_CORRELATION = 0.94
"""Of two thumbnails that confirm each other; see docs/duplicates.md for what other bounds give."""

_SIDE_PX = 2 * THUMBNAIL_SIDE_PX
_FREQUENCIES = 8
_FLAT_GREY_LEVELS = 1.0
"""Images whose thumbnails vary less have no looks to compare: a hash of blank pages would be noise."""

_TILE = 1024
_LUMA = np.array([0.299, 0.587, 0.114])
_COSINES = np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * (2 * np.arange(_SIDE_PX)[None] + 1) / (2 * _SIDE_PX))


def content_hash(data: bytes) -> bytes:
    """First half of the SHA-256 of a file's bytes: 16 bytes."""
    return hashlib.sha256(data).digest()[:16]


def looks(pixels: Pixels) -> tuple[int | None, Pixels]:
    """Perceptual hash and thumbnail of one image, in one pass over its pixels.

    Args:
        pixels: uint8[H, W, 3], RGB.

    Returns:
        The hash (64 bit; None for an image without structure) and uint8[T, T], grey.
    """
    grey = images.resize(pixels, _SIDE_PX) @ _LUMA
    thumbnail = grey.reshape(THUMBNAIL_SIDE_PX, 2, THUMBNAIL_SIDE_PX, 2).mean(axis=(1, 3)).round().astype(np.uint8)
    if thumbnail.std() < _FLAT_GREY_LEVELS:
        return None, thumbnail
    spectrum = (_COSINES @ grey @ _COSINES.T * _scale()).ravel()
    return int(np.packbits(spectrum > np.median(spectrum)).view(">u8")[0]), thumbnail


def perceptual_hash(pixels: Pixels) -> int | None:
    """64 bits, one for each of the 8 x 8 lowest cosine frequencies: whether it is above their median (pHash).

    Args:
        pixels: uint8[H, W, 3], RGB.

    Returns:
        The hash, or None for an image without structure (a blank page).
    """
    return looks(pixels)[0]


def _scale() -> npt.NDArray[np.float64]:
    first = np.where(np.arange(_FREQUENCIES) == 0, np.sqrt(0.5), 1.0)
    return np.outer(first, first)


def near_pairs(hashes: Hashes, max_bits: int) -> Indices:
    """All pairs of hashes that differ in few bits; exact.

    Args:
        hashes: uint64[N].
        max_bits: most bits that may differ, 0-63.

    Returns:
        int64[M, 2], each pair once, smaller index first, ascending.
    """
    chunks = [np.empty((0, 2), np.int64), *near_pair_chunks(hashes, max_bits)]
    pairs = np.concatenate(chunks)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def near_pair_chunks(hashes: Hashes, max_bits: int) -> Iterator[Indices]:
    """``near_pairs`` piece by piece, in bounded memory.

    Two hashes that differ in at most k of 64 bits agree wholly on one of k + 1 bands of bits (pigeonhole), so only hashes
    that share a band are compared; a pair that shares several counts in the first.

    Args:
        hashes: uint64[N].
        max_bits: most bits that may differ, 0-63.

    Yields:
        int64[m, 2], smaller index first; m up to a million.
    """
    if not len(hashes):
        return
    masks = _band_masks(max_bits + 1)
    for band, mask in enumerate(masks):
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order], prepend=~keys[order[:1]]))
        ends = np.append(starts[1:], len(order))
        for start, end in zip(starts[ends - starts > 1], ends[ends - starts > 1], strict=True):
            for pairs in _close_in_bucket(hashes, order[start:end], max_bits):
                differing = hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]
                earlier = [(differing & other) == 0 for other in masks[:band]]
                fresh = pairs[~np.any(earlier, axis=0)] if earlier else pairs
                if len(fresh):
                    yield np.sort(fresh, axis=1)


def _band_masks(bands: int) -> list[np.uint64]:
    bounds = [round(64 * band / bands) for band in range(bands + 1)]
    return [np.uint64((1 << high) - (1 << low)) for low, high in itertools.pairwise(bounds)]


def _close_in_bucket(hashes: Hashes, members: Indices, max_bits: int) -> Iterator[Indices]:
    for row in range(0, len(members), _TILE):
        for column in range(row, len(members), _TILE):
            left, right = members[row : row + _TILE], members[column : column + _TILE]
            close = np.bitwise_count(hashes[left][:, None] ^ hashes[right][None]) <= max_bits
            if row == column:
                close = np.triu(close, 1)
            if close.any():
                i, j = np.nonzero(close)
                yield np.column_stack([left[i], right[j]])


def alike(left: Pixels, right: Pixels) -> npt.NDArray[np.bool_]:
    """Whether thumbnails confirm each other: their correlation reaches ``MIN_CORRELATION``.

    Args:
        left: uint8[M, T, T].
        right: uint8[M, T, T].

    Returns:
        bool[M]; False where one is flat.
    """
    return correlation(left, right) >= MIN_CORRELATION


def correlation(left: Pixels, right: Pixels) -> npt.NDArray[np.float32]:
    """Correlation of the grey levels of two thumbnails each; blind to brightness and contrast.

    Args:
        left: uint8[M, T, T].
        right: uint8[M, T, T].

    Returns:
        float32[M], -1 to 1; 0 where one is flat.
    """
    a, b = (_centred(side) for side in (left, right))
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.asarray((a * b).sum(axis=1) / np.maximum(norm, 1e-6), dtype=np.float32)


def _centred(thumbnails: Pixels) -> npt.NDArray[np.float32]:
    flat = thumbnails.reshape(len(thumbnails), THUMBNAIL_SIDE_PX**2).astype(np.float32)
    return np.asarray(flat - flat.mean(axis=1, keepdims=True), dtype=np.float32)


def exact_groups(content: Sequence[bytes | None]) -> Indices:
    """Smallest index of the images with the same bytes.

    Args:
        content: [N] ``content_hash`` of each; None: alone.

    Returns:
        int64[N].
    """
    return _groups_of_values(content)


def stamp_groups(stamps: Sequence[str | None]) -> Indices:
    """Smallest index of the images with the same capture stamp; None: alone. Returns int64[N]."""
    return _groups_of_values(stamps)


def _groups_of_values(values: Sequence[bytes | str | None]) -> Indices:
    first: dict[bytes | str, int] = {}
    return np.array([i if v is None else first.setdefault(v, i) for i, v in enumerate(values)], dtype=np.int64)


def look_pairs(perceptual: Sequence[int | None] | Hashes, thumbnails: Pixels | None, max_bits: int) -> Indices:
    """Pairs of images that look the same.

    Args:
        perceptual: [N] 64-bit hashes; None: alone.
        thumbnails: uint8[N, T, T], a memory map for instance; None: the hash alone decides.
        max_bits: most bits of the hash that may differ.

    Returns:
        int64[M, 2].
    """
    known = np.array([i for i, value in enumerate(perceptual) if value is not None], dtype=np.int64)
    hashes = np.array([perceptual[i] for i in known], dtype=np.uint64)
    kept = [np.empty((0, 2), np.int64)]
    for chunk in near_pair_chunks(hashes, max_bits):
        pairs = known[chunk]
        for part in np.array_split(pairs, len(pairs) // 65536 + 1):
            confirmed = thumbnails is None or alike(thumbnails[part[:, 0]], thumbnails[part[:, 1]])
            kept.append(part[confirmed] if thumbnails is not None else part)
    return np.concatenate(kept)


def group_ids(
    content: Sequence[bytes | None],
    perceptual: Sequence[int | None] | Hashes,
    stamps: Sequence[str | None] | None,
    max_bits: int,
    thumbnails: Pixels | None = None,
) -> Indices:
    """One number per group of images that must not be parted: same bytes, same looks, same capture stamp, transitively.

    Args:
        content: [N] ``content_hash`` of each; None: no bytes.
        perceptual: [N] 64-bit hashes; None: no looks to compare.
        stamps: [N] capture stamps, None each where there is none; None: do not look at stamps.
        max_bits: most bits of the perceptual hash that may differ.
        thumbnails: uint8[N, T, T] that confirm what the hash suggests; None: the hash alone decides.

    Returns:
        int64[N]: the smallest index of the image's group.
    """
    parts = [exact_groups(content)] + ([stamp_groups(stamps)] if stamps is not None else [])
    return merge_groups(parts, look_pairs(perceptual, thumbnails, max_bits))


def merge_groups(groupings: Sequence[Indices], pairs: Indices) -> Indices:
    """The finest grouping that keeps together what any of the given ones keeps together.

    Args:
        groupings: int64[N] each: the index of one image of the group.
        pairs: int64[M, 2].

    Returns:
        int64[N]: the smallest index of the group.
    """
    count = len(groupings[0])
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for grouping in groupings:
        moved = np.flatnonzero(grouping != np.arange(count))
        pairs = np.concatenate([pairs, np.column_stack([grouping[moved], moved])])
    for a, b in pairs.tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(index) for index in range(count)], dtype=np.int64)


def contradicts(ages_years: npt.NDArray[np.floating], genders: npt.NDArray[np.floating]) -> bool:
    """Whether labels of one group cannot all be right: ages or genders differ.

    Args:
        ages_years: float[G]; NaN where unlabelled.
        genders: float[G]; NaN where unlabelled.
    """
    return any(len(np.unique(values[~np.isnan(values)])) > 1 for values in (ages_years, genders))
