"""Mergeable statistics of an image set: computed per part, merged in any order.

Sums are integers (colour values in fixed point), so that any order of merging gives bitwise the same result.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa

from agegender.data.races import MAX_NAMES, OTHER_GROUPS, largest_groups
from agegender.data.samples import SampleSet
from agegender.schema import AGE_GROUPS, GENDERS, Status, age_group_of_range

EXAMPLES_PER_KIND = 5
WARNING = "warning"
"""Key of the examples of images with a warning."""

_FIXED_POINT = 2**20
_TOTALS = ("images", "labelled", "size_bytes", "images_with_warning")
_COUNTERS = ("statuses", "labels", "formats", "sizes", "problems")

LabelKey = tuple[int | None, int | None, int | None, str | None]
"""Lowest and highest age in whole years, equal where it is exact, gender, race; None where unknown."""


@dataclass
class SetStatistics:
    """Statistics of an image set; memory is bounded by the distinct labels, sizes, formats, statuses and problems.

    Attributes:
        images: all listed images.
        labelled: images with an age, a range of ages or a gender.
        size_bytes: of all files read.
        images_with_warning: decoded, but not quite whole, or doubtful.
        statuses: status -> images.
        labels: ``LabelKey`` -> images; all counts of ages, genders and races are derived from it.
        formats: decoder's name -> images.
        sizes: (width, height) in pixels, upright -> images; includes truncated ones whose size is known.
        colour_sums: over decoded images, of the mean and the mean square of R, G, B in units of 2^-20.
        problems: kind of label problem -> images.
        examples: kind of problem, status of an unusable file or ``WARNING`` -> a few as (uri, message), smallest uris first.
        samples: random sample of images for the report.
    """

    images: int = 0
    labelled: int = 0
    size_bytes: int = 0
    images_with_warning: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    labels: Counter[LabelKey] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    colour_sums: list[int] = field(default_factory=lambda: [0] * 6)
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    samples: SampleSet = field(default_factory=SampleSet)

    @classmethod
    def of_facts(cls, facts: pa.Table, samples: SampleSet | None = None) -> Self:
        """Compute the statistics of rows of ``schema.FACTS``."""
        summary = cls(samples=samples or SampleSet())
        for row in facts.drop_columns(["content_hash", "perceptual_hash", "thumbnail"]).to_pylist():
            summary._add(row)
        summary.labels = _bounded(summary.labels)
        return summary

    def _add(self, row: dict[str, Any]) -> None:
        low, high, gender = row["age_low_years"], row["age_high_years"], row["gender"]
        self.images += 1
        self.labelled += low is not None or gender is not None
        self.size_bytes += row["size_bytes"] or 0
        self.statuses[row["status"]] += 1
        self.labels[(_whole(low), _whole(high), gender, row["race"])] += 1
        if row["format"] is not None:
            self.formats[row["format"]] += 1
        if row["width"] is not None:
            self.sizes[(row["width"], row["height"])] += 1
        if row["channel_mean"] is not None:
            values = (*row["channel_mean"], *row["channel_mean_square"])
            self.colour_sums = [s + round(v * _FIXED_POINT) for s, v in zip(self.colour_sums, values, strict=True)]
        if row["label_problem"] is not None:
            kind = problem_kind(row["label_problem"])
            self.problems[kind] += 1
            self._add_example(kind, row["uri"], row["label_problem"])
        if row["warning"] is not None:
            self.images_with_warning += 1
            self._add_example(WARNING, row["uri"], row["warning"])
        if row["status"] not in (Status.OK, Status.NO_FACE):
            self._add_example(row["status"], row["uri"], row["error"] or "")

    def _add_example(self, kind: str, uri: str, message: str) -> None:
        self.examples[kind] = sorted([*self.examples.get(kind, []), (uri, message)])[:EXAMPLES_PER_KIND]

    def merged(self, other: Self) -> "SetStatistics":
        """The statistics of both parts together."""
        kinds = sorted(self.examples.keys() | other.examples.keys())
        sums: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in (*_TOTALS, *_COUNTERS)}
        sums["labels"] = _bounded(sums["labels"])
        return SetStatistics(
            **sums,
            colour_sums=[a + b for a, b in zip(self.colour_sums, other.colour_sums, strict=True)],
            examples={
                kind: sorted([*self.examples.get(kind, []), *other.examples.get(kind, [])])[:EXAMPLES_PER_KIND]
                for kind in kinds
            },
            samples=self.samples.merged(other.samples),
        )

    def to_bytes(self) -> bytes:
        """Serialize as JSON."""
        values: dict[str, Any] = {name: getattr(self, name) for name in (*_TOTALS, "colour_sums", "examples")}
        for name in _COUNTERS:
            values[name] = list(getattr(self, name).items())
        return json.dumps(values | {"samples": self.samples.to_dict()}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of ``to_bytes``."""
        values = json.loads(data)
        counters: dict[str, Any] = {name: Counter({_hashable(key): n for key, n in values[name]}) for name in _COUNTERS}
        examples = {kind: [(uri, message) for uri, message in pairs] for kind, pairs in values["examples"].items()}
        plain = {name: values[name] for name in (*_TOTALS, "colour_sums")}
        return cls(**plain, **counters, examples=examples, samples=SampleSet.from_dict(values["samples"]))

    def by_status(self) -> dict[str, int]:
        """Status -> images; ``ok`` is always present."""
        return {status.value: self.statuses[status] for status in Status if self.statuses[status] or status == "ok"}

    def by_age(self) -> dict[int, int]:
        """Whole years -> images with an exact age, ascending, ages without images left out."""
        counts = _grouped((low if low == high else None, n) for (low, high, _, _), n in self.labels.items())
        return dict(sorted(counts.items()))

    def by_age_range(self) -> dict[tuple[int, int], int]:
        """(First, last year) -> images that are labelled with a range, ascending."""
        ranges = ((None if low == high else (low, high), n) for (low, high, _, _), n in self.labels.items())
        return dict(sorted(_grouped(ranges).items()))

    def by_age_group(self) -> dict[str, int]:
        """Ten-year group -> images, all groups; a range counts if it lies within one."""
        counts = _grouped((age_group_of_range(low, high), n) for (low, high, _, _), n in self.labels.items())
        return {group: counts[group] for group in AGE_GROUPS}

    def by_gender(self) -> dict[str, int]:
        """male, female -> images."""
        counts = _grouped((gender, n) for (_, _, gender, _), n in self.labels.items())
        return {name: counts[code] for code, name in enumerate(GENDERS)}

    def by_race(self) -> dict[str, int]:
        """Race -> images, as ``largest_groups`` gives them; empty where none is known."""
        return largest_groups(_grouped((race, n) for (_, _, _, race), n in self.labels.items()))

    def by_gender_and_age_group(self) -> dict[str, dict[str, int]]:
        """Ten-year group -> gender -> images with both."""
        known = ((age_group_of_range(low, high), gender, n) for (low, high, gender, _), n in self.labels.items())
        counts = _grouped(((group, gender), n) for group, gender, n in known if group and gender is not None)
        return {group: {name: counts[group, code] for code, name in enumerate(GENDERS)} for group in AGE_GROUPS}

    def age_labels(self) -> dict[str, int]:
        """How ages are labelled: images with an ``exact`` age, with a ``range``, and ranges that ``spans_groups``."""
        ranges = self.by_age_range()
        spanning = sum(n for (low, high), n in ranges.items() if age_group_of_range(low, high) is None)
        return {"exact": sum(self.by_age().values()), "range": sum(ranges.values()), "spans_groups": spanning}

    def most_frequent_age_group(self) -> str | None:
        """The group with most images, the youngest on a tie; None without ages, or if ranges that span groups may change it."""
        groups = self.by_age_group()
        first, second = sorted(groups.values(), reverse=True)[:2]
        if not first or first < second + self.age_labels()["spans_groups"]:
            return None
        return max(groups, key=lambda group: groups[group])

    def channel_mean(self) -> list[float] | None:
        """Mean of R, G, B, 0-255, each image weighted equally; None without images."""
        decoded = self.statuses[Status.OK]
        return [total / _FIXED_POINT / decoded for total in self.colour_sums[:3]] if decoded else None

    def channel_std(self) -> list[float] | None:
        """Standard deviation of R, G, B over all pixels, each image weighted equally; None without images."""
        means, decoded = self.channel_mean(), self.statuses[Status.OK]
        if means is None:
            return None
        squares = [total / _FIXED_POINT / decoded for total in self.colour_sums[3:]]
        return [math.sqrt(max(square - mean**2, 0.0)) for mean, square in zip(means, squares, strict=True)]


def ranked(counts: Counter[Any]) -> list[tuple[Any, int]]:
    """Keys and counts, largest first, ties by key: independent of the order of merging."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def whole_years(age_years: float) -> int:
    """An age in whole years, rounded half up."""
    return math.floor(age_years + 0.5)


def problem_kind(problem: str) -> str:
    """The kind of a label problem: its message up to the colon, without the value."""
    kind = problem.partition(":")[0]
    return re.sub(r"^(age|gender|race) ('.*?'|\".*?\"|\S+)", r"\1", kind)


def _whole(age_years: float | None) -> int | None:
    return None if age_years is None else whole_years(age_years)


def _bounded(labels: Counter[LabelKey]) -> Counter[LabelKey]:
    """The labels with at most ``MAX_NAMES`` races: the first by name, others together, whatever the order of merging."""
    names = sorted({race for _, _, _, race in labels if race is not None and race != OTHER_GROUPS})
    if len(names) <= MAX_NAMES:
        return labels
    kept = {None, *names[:MAX_NAMES]}
    bounded: Counter[LabelKey] = Counter()
    for (low, high, gender, race), count in labels.items():
        bounded[low, high, gender, race if race in kept else OTHER_GROUPS] += count
    return bounded


def _grouped(pairs: Iterable[tuple[Any, int]]) -> Counter[Any]:
    counts: Counter[Any] = Counter()
    for key, count in pairs:
        if key is not None:
            counts[key] += count
    return counts


def _hashable(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key
