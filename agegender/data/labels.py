"""Read age, gender and race from a file name, a folder name or the values of a manifest.

Anything ambiguous is a ``problem`` with a reason, never a guess.
"""

import re
from dataclasses import dataclass
from typing import Any

from agegender.schema import GENDERS, MAX_AGE_YEARS, RACES

_EXTENSION = r"(?:jpe?g|jpe|jfif|png|webp|bmp|gif|tiff?|avif|jp2|hei[cf])"
_NAME = re.compile(rf"(?P<stem>[^.]*\d)\s*\.?\s*(?:{_EXTENSION}(?:\.chip)?(?:\.{_EXTENSION})?)?\s*", re.IGNORECASE)
_STAMP = re.compile(
    r"\d{14,20}"
)  # date and time, to the second or finer; UTKFace has 17 digits, sometimes 16 or 18 by mistake
_LAST_PART = re.compile(r"[/\\]|\.(?:tar|tar\.gz|tgz|parquet)#")  # between folders, and between ARCHIVE and MEMBER
_GENDER_WORDS = {"male": 0, "m": 0, "man": 0, "female": 1, "f": 1, "woman": 1}
_MISSING_WORDS = {"", "nan", "na", "n/a", "null", "none"}


@dataclass(frozen=True, slots=True)
class Label:
    """The label of one face; ``problem`` says why an expected label could not be read.

    ``Label()`` is an unlabelled image without a problem. Age and gender may be missing independently.
    """

    age_years: float | None = None
    """0-120."""

    gender: int | None = None
    """Index into ``schema.GENDERS``."""

    race: int | None = None
    """Index into ``schema.RACES``."""

    problem: str | None = None
    """Why there is no label; the other fields are then None."""


def from_filename(name: str) -> Label:
    """Read ``AGE_GENDER_RACE_STAMP.jpg.chip.jpg`` or ``AGE_GENDER_RACE_STAMP.jpg``, UTKFace's names.

    Tolerates mistakes that leave the fields unambiguous: extra blanks, a missing dot, a stamp of 14 to 20 digits.

    Args:
        name: a file name, path, ``s3://`` address or ``ARCHIVE#MEMBER``; only its last part is read.

    Returns:
        The label, or one whose problem ends with the name, e.g.
        ``3 fields expected before the stamp, 2 found: 39_1_20170116174525125.jpg.chip.jpg``.
    """
    last = _last_part(name)
    fields = _fields(last)
    if _STAMP.fullmatch(fields[-1]) is None:
        return Label(problem=f"not a name like AGE_GENDER_RACE_STAMP.jpg: {last}")
    if len(fields) != 4:
        return Label(problem=f"3 fields expected before the stamp, {len(fields) - 1} found: {last}")
    for field, what in zip(fields, ("age", "gender", "race"), strict=False):
        if not (field.isascii() and field.isdigit()):
            return Label(problem=f"{what} {field!r} is not a whole number: {last}")
    label = from_values(*(int(field) for field in fields[:3]))
    return Label(problem=f"{label.problem}: {last}") if label.problem else label


def from_folder(uri: str) -> Label:
    """Read the name of the file's folder: an age, a gender, or both in either order.

    ``31_female``, ``female-31``, ``31`` and ``female`` are valid; separators are ``_``, ``-`` and blanks. The gender must
    be a word, because a second number could mean anything: ``31_1`` is a problem.

    Args:
        uri: path, ``s3://`` address or ``ARCHIVE#MEMBER`` of the image.
    """
    parts = _LAST_PART.split(uri)
    folder = parts[-2] if len(parts) > 1 else ""
    words = [word for word in re.split(r"[_\-\s]+", folder.strip()) if word]
    genders = [word for word in words if word.lower() in _GENDER_WORDS]
    ages = [word for word in words if re.fullmatch(r"\d+(?:\.\d+)?", word)]
    if not words or len(genders) + len(ages) != len(words) or len(genders) > 1 or len(ages) > 1:
        return Label(problem=f"not a folder like 31_female, female_31, 31 or female: {folder!r}")
    label = from_values(ages[0] if ages else None, genders[0] if genders else None, None)
    return Label(problem=f"{label.problem}: folder {folder!r}") if label.problem else label


def from_values(age: Any, gender: Any, race: Any) -> Label:
    """Read the values of a manifest's columns.

    Args:
        age: years as a number or text, 0-120.
        gender: 0 or 1, or male/female, m/f, man/woman in any case.
        race: 0-4 or a name of ``schema.RACES``.

    Each may be missing (None, NaN, empty text) without a problem. One value that is unreadable or out of range makes the whole
    label a problem: a row with one wrong column is not trusted in the others.
    """
    try:
        return Label(_age(age), _code(gender, "gender", GENDERS, _GENDER_WORDS), _code(race, "race", RACES, {}))
    except _UnreadableError as unreadable:
        return Label(problem=str(unreadable))


def capture_stamp(name: str) -> str | None:
    """UTKFace's time stamp field, shared by images from one photograph; also read if other fields are missing.

    Args:
        name: as for ``from_filename``.

    Returns:
        The digits, or None if the name is not like UTKFace's: numbers before the stamp, joined by ``_``.
    """
    fields = _fields(_last_part(name))
    numbers = len(fields) > 1 and all(re.fullmatch(r"[0-9]{0,3}", field) for field in fields[:-1])
    return fields[-1] if numbers and _STAMP.fullmatch(fields[-1]) else None


class _UnreadableError(Exception):
    """A value that is not an age, gender or race."""


def _last_part(name: str) -> str:
    return _LAST_PART.split(name)[-1]


def _fields(last: str) -> list[str]:
    match = _NAME.fullmatch(last)
    return [field.strip() for field in match["stem"].split("_")] if match else [""]


def _age(value: Any) -> float | None:
    number = _number(value, "age")
    if number is not None and not 0 <= number <= MAX_AGE_YEARS:
        raise _UnreadableError(f"age {value} is outside 0-{MAX_AGE_YEARS}")
    return number


def _code(value: Any, what: str, names: tuple[str, ...], words: dict[str, int]) -> int | None:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in words:
            return words[word]
        if word in names:
            return names.index(word)
    number = _number(value, what)
    if number is not None and number not in range(len(names)):
        known = ", ".join(f"{code} {name}" for code, name in enumerate(names))
        raise _UnreadableError(f"{what} {value} is none of {known}")
    return None if number is None else int(number)


def _number(value: Any, what: str) -> float | None:
    """The number in a value; None if it is missing."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _MISSING_WORDS):
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise _UnreadableError(f"{what} {value!r} is not a number" + (" or a name" if what != "age" else "")) from None
    return None if number != number else number  # only NaN differs from itself
