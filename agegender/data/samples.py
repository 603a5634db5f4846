"""A mergeable random sample of a set: per key, the k images with the smallest hash of seed and uri.

The sample depends only on the seed and the set, not on how the set is partitioned or ordered.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from agegender.data import images
from agegender.data.images import Pixels
from agegender.schema import AGE_GROUPS, age_group_of_range

ALL = "all"
"""The key of the sample over all images; the other keys are the age groups."""


@dataclass(frozen=True)
class Sample:
    """One sampled image; ``rank`` orders, the uri breaks ties."""

    rank: int
    uri: str
    age_low_years: float | None
    age_high_years: float | None
    gender: int | None
    jpeg: bytes


@dataclass
class SampleSet:
    """The k lowest ranked images per key.

    Attributes:
        seed: of the sampling.
        overall: k of the key ``ALL``.
        per_group: k of each age group.
        by_key: key -> samples, ascending by rank.
    """

    seed: int = 0
    overall: int = 24
    per_group: int = 6
    by_key: dict[str, list[Sample]] = field(default_factory=dict)

    def add(
        self,
        uri: str,
        age_years: tuple[float | None, float | None],
        gender: int | None,
        jpeg: Callable[[], bytes],
    ) -> None:
        """Consider one image; ``age_years`` are its lowest and highest age, equal if it has one.

        ``jpeg`` makes its thumbnail and is only called if the image is sampled.
        """
        rank = _rank(self.seed, uri)
        keys = [key for key in self._keys(age_years) if self._enters(key, rank, uri)]
        if keys:
            sample = Sample(rank, uri, *age_years, gender, jpeg())
            for key in keys:
                self.by_key[key] = _lowest([*self.by_key.get(key, []), sample], self._size(key))

    def merged(self, other: Self) -> "SampleSet":
        """The sample of both parts together."""
        both = {
            key: _lowest([*self.by_key.get(key, []), *other.by_key.get(key, [])], self._size(key))
            for key in (ALL, *AGE_GROUPS)
            if key in self.by_key or key in other.by_key
        }
        return SampleSet(self.seed, self.overall, self.per_group, both)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        drawn = {
            key: [
                [s.rank, s.uri, s.age_low_years, s.age_high_years, s.gender, base64.b64encode(s.jpeg).decode()]
                for s in samples
            ]
            for key, samples in self.by_key.items()
        }
        return {"seed": self.seed, "overall": self.overall, "per_group": self.per_group, "drawn": drawn}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``."""
        drawn = {
            key: [
                Sample(rank, uri, low, high, gender, base64.b64decode(jpeg))
                for rank, uri, low, high, gender, jpeg in samples
            ]
            for key, samples in values["drawn"].items()
        }
        return cls(values["seed"], values["overall"], values["per_group"], drawn)

    def _keys(self, age_years: tuple[float | None, float | None]) -> list[str]:
        group = age_group_of_range(*age_years)
        return [ALL] if group is None else [ALL, group]

    def _size(self, key: str) -> int:
        return self.overall if key == ALL else self.per_group

    def _enters(self, key: str, rank: int, uri: str) -> bool:
        current = self.by_key.get(key, [])
        if not self._size(key):
            return False
        return len(current) < self._size(key) or (rank, uri) < (current[-1].rank, current[-1].uri)


def _rank(seed: int, uri: str) -> int:
    # 53 bits, which every JSON reader represents exactly.
    return int.from_bytes(hashlib.blake2b(f"{seed}|{uri}".encode(), digest_size=8).digest()) >> 11


def _lowest(samples: Sequence[Sample], size: int) -> list[Sample]:
    unique = {sample.uri: sample for sample in samples}
    return sorted(unique.values(), key=lambda sample: (sample.rank, sample.uri))[:size]


def thumbnail_jpeg(pixels: Pixels, side_px: int = 112) -> bytes:
    """A small JPEG of the middle square of an image.

    Args:
        pixels: uint8[H, W, 3], RGB.
        side_px: side of the result.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return images.encode_jpeg(images.resize(square, side_px), quality=85)
