"""Find duplicate images: by bytes, by perceptual similarity, or by capture stamp.

Perceptual similarity has two stages. A 64-bit hash of the lowest frequencies (pHash) finds candidates fast, and a grey
thumbnail confirms them: on centred faces the hash alone has false matches. Measured in docs/duplicates.md.

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
Mask = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]

THUMBNAIL_SIDE_PX = 16
MIN_CORRELATION = 0.95
"""Minimum correlation of thumbnails that match; docs/duplicates.md compares thresholds."""

_SIDE_PX = 2 * THUMBNAIL_SIDE_PX
_FREQUENCIES = 8
_FLAT_GREY_LEVELS = 1.0
"""Images whose thumbnails have a smaller standard deviation get no hash: that of a blank page would be noise."""

_TILE = 1024
_CONFIRM_BATCH = 65536
_LUMA = np.array([0.299, 0.587, 0.114])
_COSINES = np.cos(np.pi * np.arange(_FREQUENCIES)[:, None] * (2 * np.arange(_SIDE_PX)[None] + 1) / (2 * _SIDE_PX))


def content_hash(data: bytes) -> bytes:
    """First half of the SHA-256 of a file's bytes: 16 bytes."""
    return hashlib.sha256(data).digest()[:16]


def perceptual_fingerprint(pixels: Pixels) -> tuple[int | None, Pixels]:
    """Perceptual hash and thumbnail of one image, in one pass over its pixels.

    Args:
        pixels: uint8[H, W, 3], RGB.

    Returns:
        The hash (64 bit; None for an image without structure) and the thumbnail, uint8[T, T] grey.
    """
    grey = images.resize(pixels, _SIDE_PX) @ _LUMA
    thumbnail = grey.reshape(THUMBNAIL_SIDE_PX, 2, THUMBNAIL_SIDE_PX, 2).mean(axis=(1, 3)).round().astype(np.uint8)
    if thumbnail.std() < _FLAT_GREY_LEVELS:
        return None, thumbnail
    spectrum = (_COSINES @ grey @ _COSINES.T * _scale()).ravel()
    return int(np.packbits(spectrum > np.median(spectrum)).view(">u8")[0]), thumbnail


def perceptual_hash(pixels: Pixels) -> int | None:
    """pHash: 64 bits, one for each of the 8 x 8 lowest DCT coefficients, whether it is above their median.

    Args:
        pixels: uint8[H, W, 3], RGB.

    Returns:
        The hash, or None for an image without structure (a blank page).
    """
    return perceptual_fingerprint(pixels)[0]


def _scale() -> npt.NDArray[np.float64]:
    first = np.where(np.arange(_FREQUENCIES) == 0, np.sqrt(0.5), 1.0)
    return np.outer(first, first)


def near_pairs(hashes: Hashes, max_bits: int) -> Indices:
    """All pairs of hashes within a Hamming distance; exact.

    Args:
        hashes: uint64[N].
        max_bits: maximum Hamming distance, 0-63.

    Returns:
        int64[M, 2], each pair once, smaller index first, ascending.
    """
    chunks = [np.empty((0, 2), np.int64), *near_pair_chunks(hashes, max_bits)]
    pairs = np.concatenate(chunks)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def near_pair_chunks(hashes: Hashes, max_bits: int) -> Iterator[Indices]:
    """``near_pairs`` in chunks, in bounded memory.

    Two hashes that differ in at most k of 64 bits agree on at least one of k + 1 bands of bits (pigeonhole principle), so only
    hashes that share a band are compared; a pair that shares several is yielded for the first.

    Args:
        hashes: uint64[N].
        max_bits: maximum Hamming distance, 0-63.

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
                new = pairs[~np.any(earlier, axis=0)] if earlier else pairs
                if len(new):
                    yield np.sort(new, axis=1)


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


def thumbnails_match(left: Pixels, right: Pixels) -> npt.NDArray[np.bool_]:
    """Whether thumbnails match: their correlation is at least ``MIN_CORRELATION``.

    Args:
        left: uint8[M, T, T].
        right: uint8[M, T, T].

    Returns:
        bool[M]; False if one is constant.
    """
    return correlation(left, right) >= MIN_CORRELATION


def correlation(left: Pixels, right: Pixels) -> npt.NDArray[np.float32]:
    """Pearson correlation of the grey levels of pairs of thumbnails; invariant to brightness and contrast.

    Args:
        left: uint8[M, T, T].
        right: uint8[M, T, T].

    Returns:
        float32[M], -1 to 1; 0 if one is constant.
    """
    a, b = (_centred(side) for side in (left, right))
    norm = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.asarray((a * b).sum(axis=1) / np.maximum(norm, 1e-6), dtype=np.float32)


def _centred(thumbnails: Pixels) -> npt.NDArray[np.float32]:
    flat = thumbnails.reshape(len(thumbnails), THUMBNAIL_SIDE_PX**2).astype(np.float32)
    return np.asarray(flat - flat.mean(axis=1, keepdims=True), dtype=np.float32)


def equal_groups(keys: Hashes, known: Mask) -> Indices:
    """Group images with equal keys.

    Args:
        keys: uint64[N].
        known: bool[N]; an image without a key is a group of its own.

    Returns:
        int64[N]: the smallest index of the group.
    """
    groups = np.arange(len(keys), dtype=np.int64)
    rows = np.flatnonzero(known)
    _, first, inverse = np.unique(keys[rows], return_index=True, return_inverse=True)
    groups[rows] = rows[first[inverse]]
    return groups


def similar_pairs(perceptual: Hashes, known: Mask, thumbnails: Pixels | None, max_bits: int) -> Indices:
    """Pairs of perceptually similar images.

    Args:
        perceptual: uint64[N].
        known: bool[N]; images without a hash are in no pair.
        thumbnails: uint8[N, T, T], may be memory-mapped; None: compare hashes only.
        max_bits: maximum Hamming distance of hashes.

    Returns:
        int64[M, 2].
    """
    rows = np.flatnonzero(known)
    confirmed = [np.empty((0, 2), np.int64)]
    for chunk in near_pair_chunks(perceptual[rows], max_bits):
        pairs = rows[chunk]
        if thumbnails is None:
            confirmed.append(pairs)
            continue
        parts = np.array_split(pairs, len(pairs) // _CONFIRM_BATCH + 1)
        confirmed.extend(part[thumbnails_match(thumbnails[part[:, 0]], thumbnails[part[:, 1]])] for part in parts)
    return np.concatenate(confirmed)


def merge_groups(groupings: Sequence[Indices], pairs: Indices) -> Indices:
    """Merge groupings and pairs into connected components (union-find).

    Args:
        groupings: int64[N] each: the index of one image of the group.
        pairs: int64[M, 2].

    Returns:
        int64[N]: the smallest index of the group.
    """
    merged = np.arange(len(groupings[0]), dtype=np.int64)
    parent: dict[int, int] = {}  # only of images in a pair: most have no duplicate

    def root(index: int) -> int:
        while (above := parent.get(index, index)) != index:  # path halving
            parent[index] = index = parent.get(above, above)
        return index

    for grouping in groupings:
        members = np.flatnonzero(grouping != merged)
        pairs = np.concatenate([pairs, np.column_stack([grouping[members], members])])
    for a, b in pairs.tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    for index in list(parent):
        merged[index] = root(index)
    return merged


def group_ids(
    content: Sequence[bytes | None],
    perceptual: Sequence[int | None] | Hashes,
    stamps: Sequence[str | None] | None,
    max_bits: int,
    thumbnails: Pixels | None = None,
) -> Indices:
    """Group ids of duplicates that must stay in one part: same bytes, similar, or same capture stamp, transitively.

    Args:
        content: [N] ``content_hash`` of each; None: no bytes.
        perceptual: [N] 64-bit hashes; None: no hash.
        stamps: [N] capture stamps or None each; None: ignore stamps.
        max_bits: maximum Hamming distance of perceptual hashes.
        thumbnails: uint8[N, T, T] to confirm candidates; None: compare hashes only.

    Returns:
        int64[N]: the smallest index of the image's group.
    """
    same = [equal_groups(*content_keys(content))] + ([equal_groups(*stamp_keys(stamps))] if stamps is not None else [])
    return merge_groups(same, similar_pairs(*_keys(perceptual), thumbnails, max_bits))


def content_keys(content: Sequence[bytes | None]) -> tuple[Hashes, Mask]:
    """First 64 bits of each content hash, and which are known; a collision among a million files has probability 3e-8."""
    return _keys([None if value is None else int.from_bytes(value[:8]) for value in content])


def stamp_keys(stamps: Sequence[str | None]) -> tuple[Hashes, Mask]:
    """64-bit hash of each capture stamp, and which are known."""
    return content_keys([None if stamp is None else content_hash(stamp.encode()) for stamp in stamps])


def _keys(values: Sequence[int | None] | Hashes) -> tuple[Hashes, Mask]:
    known = np.array([value is not None for value in values], dtype=np.bool_)
    return np.array([value or 0 for value in values], dtype=np.uint64), known
