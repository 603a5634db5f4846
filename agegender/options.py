"""Shared types and the base class of all configs."""

from collections.abc import Mapping
from enum import Enum, auto
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]

Precision = Literal["float32", "bfloat16"]
"""Floating-point type of the network's computation."""

PrecisionOrAuto = Literal["auto", "float32", "bfloat16"]
"""``Precision`` as an option; auto: bfloat16 if the processor is faster in it, else float32."""

ScoringPrecision = Literal["float32", "bfloat16", "int8"]
"""Arithmetic of a network that is scored with; int8 needs a graph that was quantised after training."""

ScoringPrecisionOrAuto = Literal["auto", "float32", "bfloat16", "int8"]
"""``ScoringPrecision`` as an option; auto: what the processor is fastest in, of what costs the model no accuracy."""

DetectorName = Literal["yunet", "centerface"]
"""Name of a face detector, as an option."""


BoxFormat = Literal["xywh", "xyxy"]
"""What four numbers of a box are: x, y and width, height, or x, y and the right and lower edge."""

UTKFACE_GENDER_CODES = "0=male,1=female"

_GENDER_MEANINGS = ("male", "female", "unknown")


@lru_cache
def parse_gender_codes(text: str) -> dict[str, str]:
    """The codes of ``--gender-codes``, in lower case -> ``male``, ``female`` or ``unknown``.

    Raises:
        ValueError: not like ``1=male,0=female``.
    """
    pairs = [part.partition("=") for part in text.lower().split(",")]
    codes = {code.strip(): meaning.strip() for code, _, meaning in pairs}
    if "" in codes or len(codes) < len(pairs) or not set(codes.values()) <= set(_GENDER_MEANINGS):
        raise ValueError(
            f"{text!r} is not like 1=male,0=female: each code once, with one of {', '.join(_GENDER_MEANINGS)}"
        )
    return codes


def _gender_codes(value: Any) -> Any:
    text = ",".join(f"{code}={meaning}" for code, meaning in value.items()) if isinstance(value, Mapping) else value
    if isinstance(text, str):
        parse_gender_codes(text)
    return text


GenderCodes = Annotated[str, BeforeValidator(_gender_codes)]
"""Text like ``1=male,0=female``; a mapping of codes is taken as well."""


class Affects(Enum):
    """What another value of an option would change; every option of a job that writes a run is marked with one.

    The identity of a run is derived from the marks (``Options.identity``), so that a run is never resumed under options
    that give other rows. A test fails for an option without a mark.
    """

    OUTPUT = auto()
    """Rows, statistics or weights."""

    LABELS = auto()
    """Which labels the images have: output of the jobs that read labels, nothing to the others."""

    REPORT = auto()
    """What the page of the run shows."""

    DERIVED = auto()
    """Rows, but what counts is not the value itself: the job adds the hash of a file, or what a search is made of."""

    NOTHING = auto()
    """Where, how fast or how long a job runs."""


OUTPUT, LABELS, REPORT, DERIVED, NOTHING = Affects


class Options(BaseModel):
    """Base of all groups of options: unknown names are errors, field docstrings are help texts."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True)

    @classmethod
    def marked(cls, *marks: Affects) -> set[str]:
        """Names of the options that carry one of the marks."""
        return {name for name, field in cls.model_fields.items() if any(mark in field.metadata for mark in marks)}

    def identity(self, *marks: Affects) -> dict[str, Any]:
        """The options that carry one of the marks, as plain JSON values."""
        return self.model_dump(mode="json", include=self.marked(*marks))

    @classmethod
    def part_of(cls, whole: BaseModel) -> Self:
        """This group of options alone, out of a config that has it among others."""
        return cls(**{name: getattr(whole, name) for name in cls.model_fields})
