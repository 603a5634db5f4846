"""Mergeable summaries of an image set: parts are summarised where they lie and added up in any order.

Sums are whole numbers (colour values in fixed point), so that every order of merging gives the same summary, bit for bit.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

import pyarrow as pa

from agegender.data.samples import SampleSet
from agegender.schema import AGE_GROUPS, GENDERS, RACES, Status, age_group

EXAMPLES_PER_KIND = 5
_FIXED_POINT = 2**20
_COUNTED = ("images", "labelled", "size_bytes")
_COUNTERS = ("statuses", "labels", "formats", "sizes", "problems")

LabelKey = tuple[int | None, int | None, int | None]
"""Age in whole years, gender, race; None where unknown."""


@dataclass
class SetStatistics:
    """What is in an image set; holds at most one number for each kind of label, size, format, status and problem.

    Attributes:
        images: all that were listed.
        labelled: with an age or a gender.
        size_bytes: of all files that were read.
        statuses: status -> images.
        labels: (age, gender, race) -> images; everything about ages and genders follows from it.
        formats: decoder's name -> images.
        sizes: (width, height) in pixels as shown -> images whose size is known, which those cut short may be, too.
        colour_sums: over decoded images, of the mean and the mean square of R, G, B in units of 2^-20.
        problems: kind of label problem -> images.
        examples: kind of problem, or bad status -> a few of them, smallest addresses first, as (uri, words).
        samples: images to look at.
    """

    images: int = 0
    labelled: int = 0
    size_bytes: int = 0
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
        """Summarise rows of ``schema.FACTS``."""
        summary = cls(samples=samples or SampleSet())
        for row in facts.drop_columns(["content_hash", "perceptual_hash", "thumbnail"]).to_pylist():
            summary._add(row)
        return summary

    def _add(self, row: dict[str, Any]) -> None:
        age, gender = row["age_years"], row["gender"]
        self.images += 1
        self.labelled += age is not None or gender is not None
        self.size_bytes += row["size_bytes"] or 0
        self.statuses[row["status"]] += 1
        self.labels[(None if age is None else whole_years(age), gender, row["race"])] += 1
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
            self._note(kind, row["uri"], row["label_problem"])
        if Status(row["status"]).is_bad:
            self._note(row["status"], row["uri"], row["error"] or "")

    def _note(self, kind: str, uri: str, words: str) -> None:
        self.examples[kind] = sorted([*self.examples.get(kind, []), (uri, words)])[:EXAMPLES_PER_KIND]

    def merged(self, other: Self) -> "SetStatistics":
        """The summary of both parts together."""
        kinds = sorted(self.examples.keys() | other.examples.keys())
        sums: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in (*_COUNTED, *_COUNTERS)}
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
        """JSON, so that a part can travel or lie on storage."""
        values: dict[str, Any] = {name: getattr(self, name) for name in (*_COUNTED, "colour_sums", "examples")}
        for name in _COUNTERS:
            values[name] = list(getattr(self, name).items())
        return json.dumps(values | {"samples": self.samples.to_dict()}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of ``to_bytes``."""
        values = json.loads(data)
        counters: dict[str, Any] = {name: Counter({_hashable(key): n for key, n in values[name]}) for name in _COUNTERS}
        examples = {kind: [(uri, words) for uri, words in found] for kind, found in values["examples"].items()}
        plain = {name: values[name] for name in (*_COUNTED, "colour_sums")}
        return cls(**plain, **counters, examples=examples, samples=SampleSet.from_dict(values["samples"]))

    def by_status(self) -> dict[str, int]:
        """Status -> images, ``ok`` always there."""
        return {status.value: self.statuses[status] for status in Status if self.statuses[status] or status == "ok"}

    def by_age(self) -> dict[int, int]:
        """Whole years -> images, ascending, ages without images left out."""
        return dict(sorted(_grouped((age, n) for (age, _, _), n in self.labels.items()).items()))

    def by_age_group(self) -> dict[str, int]:
        """Ten-year group -> images, all groups."""
        found = _grouped((age_group(age), n) for age, n in self.by_age().items())
        return {group: found[group] for group in AGE_GROUPS}

    def by_gender(self) -> dict[str, int]:
        """male, female -> images."""
        found = _grouped((gender, n) for (_, gender, _), n in self.labels.items())
        return {name: found[code] for code, name in enumerate(GENDERS)}

    def by_race(self) -> dict[str, int]:
        """Race -> images; empty where none is known."""
        found = _grouped((race, n) for (_, _, race), n in self.labels.items())
        return {name: found[code] for code, name in enumerate(RACES)} if found else {}

    def by_gender_and_age_group(self) -> dict[str, dict[str, int]]:
        """Ten-year group -> gender -> images with both."""
        known = ((age, gender, n) for (age, gender, _), n in self.labels.items() if age is not None)
        found = _grouped(((age_group(age), gender), n) for age, gender, n in known if gender is not None)
        return {group: {name: found[group, code] for code, name in enumerate(GENDERS)} for group in AGE_GROUPS}

    def most_frequent_age_group(self) -> str | None:
        """The group with most images, the youngest of equals; None without ages."""
        groups = self.by_age_group()
        return max(groups, key=lambda group: groups[group]) if any(groups.values()) else None

    def channel_mean(self) -> list[float] | None:
        """Mean of R, G, B, 0-255, every image counting the same whatever its size; None without images."""
        decoded = self.statuses[Status.OK]
        return [total / _FIXED_POINT / decoded for total in self.colour_sums[:3]] if decoded else None

    def channel_std(self) -> list[float] | None:
        """Standard deviation of R, G, B over all pixels, every image counting the same; None without images."""
        means, decoded = self.channel_mean(), self.statuses[Status.OK]
        if means is None:
            return None
        squares = [total / _FIXED_POINT / decoded for total in self.colour_sums[3:]]
        return [math.sqrt(max(square - mean**2, 0.0)) for mean, square in zip(means, squares, strict=True)]


def ranked(counts: Counter[Any]) -> list[tuple[Any, int]]:
    """Keys and counts, largest first, equal ones by key: the same for every order of merging."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def whole_years(age_years: float) -> int:
    """An age in whole years, rounded half up."""
    return math.floor(age_years + 0.5)


def problem_kind(problem: str) -> str:
    """What label problems have in common: their words up to the colon, with the values that were seen left out."""
    words = problem.partition(":")[0]
    return re.sub(r"^(age|gender|race) ('.*?'|\S+)", r"\1", words)


def _grouped(pairs: Iterable[tuple[Any, int]]) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for key, count in pairs:
        if key is not None:
            found[key] += count
    return found


def _hashable(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key
