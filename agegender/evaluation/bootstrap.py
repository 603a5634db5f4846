"""95 % bounds by resampling images with replacement: the percentile bootstrap (Efron and Tibshirani, 1993, ch. 13)."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BOUNDS = (2.5, 97.5)
"""Percentiles of a 95 % interval."""

_CHUNK_CELLS = 4_000_000
"""Resample weights in memory, 8 bytes each: memory does not grow with rounds times images."""


def mean_bounds(values: Floats, rounds: int, seed: int) -> tuple[Floats, Floats]:
    """Bounds of column means; all columns share each resample of images.

    Args:
        values: float64[N, M]; NaN cells are ignored.
        rounds: resamples.
        seed: same seed, same bounds.

    Returns:
        float64[M] lower and float64[M] upper bounds; NaN for a column without a value.
    """
    present = ~np.isnan(values)
    filled = np.where(present, values, 0.0)
    means = []
    for weights in _resample_weights(len(values), rounds, seed):
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((weights @ filled) / (weights @ present.astype(np.float64)))
    return _percentiles(np.concatenate(means) if means else np.full((1, values.shape[1]), np.nan))


def median_bounds(values: Floats, rounds: int, seed: int) -> tuple[float, float]:
    """Bounds of a median.

    Args:
        values: float64[N] without NaN, N >= 1.
        rounds: resamples.
        seed: same seed, same bounds.
    """
    ordered = np.sort(values)
    medians = []
    for weights in _resample_weights(len(values), rounds, seed):
        below = np.cumsum(weights, axis=1)
        medians.append(ordered[np.argmax(below * 2 >= len(values), axis=1)])
    low, high = _percentiles(np.concatenate(medians)[:, None])
    return float(low[0]), float(high[0])


def share_bounds(hits: int, n: int) -> tuple[float, float]:
    """95 % bounds of a share: Wilson's (1927) score interval, valid also for few images and shares of 0 or 1.

    Args:
        hits: images for which it is true.
        n: all images, >= 1.
    """
    z = 1.959964
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _resample_weights(n: int, rounds: int, seed: int) -> Iterator[Floats]:
    """How often each of ``n`` images is resampled, float64[chunk, n], ``rounds`` rows in all."""
    generator = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_CELLS // max(n, 1))
    for first in range(0, rounds if n else 0, chunk):
        rows = min(chunk, rounds - first)
        indices = generator.integers(0, n, (rows, n), dtype=np.int64)
        indices += np.arange(rows, dtype=np.int64)[:, None] * n
        yield np.bincount(indices.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _percentiles(samples: Floats) -> tuple[Floats, Floats]:
    """Percentiles of each column, ignoring NaN."""
    bounds = np.full((2, samples.shape[1]), np.nan)
    for column in range(samples.shape[1]):
        values = samples[:, column][~np.isnan(samples[:, column])]
        if values.size:
            bounds[:, column] = np.percentile(values, BOUNDS)
    return bounds[0], bounds[1]
