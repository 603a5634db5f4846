"""Read age, gender and race from a file name, a folder name or the values of a table; docs/labels.md has the words.

Anything ambiguous is a ``problem`` with a reason, never a guess.
"""

import datetime
import re
from dataclasses import dataclass
from typing import Any

from agegender.options import UTKFACE_GENDER_CODES, parse_gender_codes
from agegender.schema import GENDERS, MAX_AGE_YEARS, RACES

_EXTENSION = r"(?:jpe?g|jpe|jfif|png|webp|bmp|gif|tiff?|avif|jp2|hei[cf])"
_NAME = re.compile(rf"(?P<stem>[^.]*\d)\s*\.?\s*(?:{_EXTENSION}(?:\.chip)?(?:\.{_EXTENSION})?)?\s*", re.IGNORECASE)
_STAMP = re.compile(
    r"\d{14,20}"
)  # date and time, to the second or finer; UTKFace has 17 digits, sometimes 16 or 18 by mistake
_ARCHIVE = r"\.(?:tar(?:\.(?:gz|bz2|xz))?|tgz|tbz2|txz|zip|parquet)"
_LAST_PART = re.compile(rf"[/\\]|{_ARCHIVE}##?", re.IGNORECASE)  # between folders, and between ARCHIVE and MEMBER
_GENDER_WORDS = {"male": 0, "m": 0, "man": 0, "boy": 0, "female": 1, "f": 1, "woman": 1, "girl": 1}
_MISSING_WORDS = {"", "nan", "na", "n/a", "null", "none", "unknown"}

MAX_PROBLEM_CHARACTERS = 200

_WHOLE = r"(\d{1,3})(?:\.0*)?"
_UNIT = r"(?:\s*(?:years?|yrs?|y)(?:[\s-]*old)?)?"
_BETWEEN = re.compile(rf"{_WHOLE}\s*(?:-|~|\bto\b)\s*{_WHOLE}{_UNIT}")  # 20-29
_PAIR = re.compile(rf"([(\[])\s*{_WHOLE}\s*[,;-]\s*{_WHOLE}\s*([)\]])")  # (25, 32)
_FROM = re.compile(
    rf"(?:more than|over|above|older than|at least|>=?)\s*{_WHOLE}{_UNIT}"
    rf"|{_WHOLE}{_UNIT}\s*(?:\+|(?:and|or) (?:over|above|older|more|up)){_UNIT}"
)
_UNDER = re.compile(rf"(?:less than|under|below|younger than|<)\s*{_WHOLE}{_UNIT}")
_NUMBER = re.compile(rf"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?inf){_UNIT}")
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"))

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"({'|'.join(_MONTHS)})[a-z]*"
_DAY_AND_MONTH = re.compile(rf"(\d{{1,2}})[\s./-]*{_MONTH}|{_MONTH}[\s./-]*(\d{{1,2}})")  # 3-Sep, Oct-19
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[t ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}")

_FOLDER_GENDERS = "|".join(_GENDER_WORDS)
_FOLDER = re.compile(
    rf"(?:(?P<first>{_FOLDER_GENDERS})(?:[_\-\s]+|$))?(?P<age>.*?)(?:(?:^|[_\-\s]+)(?P<last>{_FOLDER_GENDERS}))?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Label:
    """The label of one face; ``problem`` says why an expected label could not be read.

    ``Label()`` is an unlabelled image without a problem. Age and gender may be missing independently.
    """

    age_years: float | None = None
    """0-120; None also where the age is a range."""

    gender: int | None = None
    """Index into ``schema.GENDERS``."""

    race: str | None = None
    """A name of ``schema.RACES``, or another as it was written."""

    problem: str | None = None
    """Why there is no label; the other fields are then None."""

    age_range_years: tuple[int, int] | None = None
    """First and last whole year of a range, the last included: 20-29 is (20, 29), all ages from 20 to just before 30."""

    @property
    def age_low_years(self) -> float | None:
        """The age, or the first year of its range."""
        return self.age_years if self.age_range_years is None else float(self.age_range_years[0])

    @property
    def age_high_years(self) -> float | None:
        """The age, or the last whole year of its range; ``MAX_AGE_YEARS`` where the range is open."""
        return self.age_years if self.age_range_years is None else float(self.age_range_years[1])


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
    age, gender, race = (int(field) for field in fields[:3])
    label = from_values(age, gender, race)
    if race not in range(len(RACES)) and not label.problem:
        known = ", ".join(f"{code} {name}" for code, name in enumerate(RACES))
        return Label(problem=f"race {race} is none of {known}: {last}")
    return Label(problem=f"{label.problem}: {last}") if label.problem else label


def from_folder(uri: str) -> Label:
    """Read the name of the file's folder: an age or a range of ages, a gender, or both in either order.

    ``31_female``, ``female-31``, ``20-29_female``, ``(25, 32)``, ``31`` and ``female`` are valid; separators are ``_``, ``-``
    and blanks. The gender must be a word, because a second number could mean anything: ``31_1`` is a problem.

    Args:
        uri: path, ``s3://`` address or ``ARCHIVE#MEMBER`` of the image.
    """
    parts = _LAST_PART.split(uri)
    folder = parts[-2].strip() if len(parts) > 1 else ""
    found = _FOLDER.fullmatch(folder)
    unknown = Label(problem=f"not a folder like 31_female, female_31, 20-29_female, 31 or female: {folder!r}")
    if not folder or found is None or (found["first"] and found["last"]):
        return unknown
    try:
        age, age_range = _age(found["age"].replace("_", " "))
    except _NotAnAgeError:
        return unknown
    except _UnreadableError as unreadable:
        return Label(problem=f"{unreadable}: folder {folder!r}")
    gender = found["first"] or found["last"]
    return Label(age, _GENDER_WORDS[gender.lower()] if gender else None, age_range_years=age_range)


def from_values(age: Any, gender: Any, race: Any, gender_codes: str = UTKFACE_GENDER_CODES) -> Label:
    """Read the values of a table's columns, or of the JSON beside an image.

    Args:
        age: years as a number or text, 0-120, or a range: ``20-29``, ``(25, 32)``, ``more than 70``, ``60+``, [25, 32].
        gender: male/female, m/f, man/woman, boy/girl in any case, or a code of ``gender_codes``.
        race: 0-4, which are UTKFace's, or any name.
        gender_codes: what the codes of a gender mean, e.g. ``1=male,0=female``.

    Each may be missing (None, NaN, empty text, unknown) without a problem. An age or gender that is unreadable or out of
    range makes the whole label a problem: a row with one wrong column is not trusted in the other. A race never does.
    """
    try:
        years, years_range = _age(age)
        return Label(years, _gender(gender, gender_codes), _race(race), age_range_years=years_range)
    except _UnreadableError as unreadable:
        said = str(unreadable)
        return Label(problem=said if len(said) <= MAX_PROBLEM_CHARACTERS else f"{said[:MAX_PROBLEM_CHARACTERS]}...")


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
    """A value that is not an age or a gender."""


class _NotAnAgeError(_UnreadableError):
    """A text that is not even like an age."""


def _last_part(name: str) -> str:
    return _LAST_PART.split(name)[-1]


def _fields(last: str) -> list[str]:
    match = _NAME.fullmatch(last)
    return [field.strip() for field in match["stem"].split("_")] if match else [""]


def _age(value: Any) -> tuple[float | None, tuple[int, int] | None]:
    """The age, or the range."""
    if isinstance(value, (datetime.date, datetime.timedelta)):
        raise _UnreadableError(
            f"age {str(value)!r} is a date: a spreadsheet made it of a range? restore the column as text"
        )
    if isinstance(value, str):
        return _age_of_text(value)
    pair = _pair(value)
    if pair is not None:
        return _range(*pair, str(value))
    number = _number(value)
    return (None if number is None else _checked_age(number, value)), None


def _age_of_text(value: str) -> tuple[float | None, tuple[int, int] | None]:
    text = " ".join(value.translate(_DASHES).lower().split())
    if text in _MISSING_WORDS:
        return None, None
    if found := _NUMBER.fullmatch(text):
        return _checked_age(float(found[1]), value.strip()), None
    if found := _BETWEEN.fullmatch(text):
        return _range(int(found[1]), int(found[2]), value)
    if found := _PAIR.fullmatch(text):
        opens, low, high, closes = found.groups()
        mixed = (opens, closes) in (("(", "]"), ("[", ")"))  # intervals as in mathematics; (25, 32) is Adience's
        return _range(int(low) + (mixed and opens == "("), int(high) - (mixed and closes == ")"), value)
    if found := _FROM.fullmatch(text):
        return _range(int(found[1] or found[2]), MAX_AGE_YEARS, value)
    if found := _UNDER.fullmatch(text):
        return _range(0, int(found[1]) - 1, value)
    if found := _DAY_AND_MONTH.fullmatch(text):
        day, month = int(found[1] or found[4]), _MONTHS.index(found[2] or found[3]) + 1
        low, high = sorted((day, month))
        raise _UnreadableError(
            f"age {value!r} is a date: Excel made it of the range {low}-{high}? restore the column as text"
        )
    if _DATE.fullmatch(text):
        raise _UnreadableError(f"age {value!r} is a date: a spreadsheet made it of a range? restore the column as text")
    raise _NotAnAgeError(f"age {value!r} is not a number or a range")


def _pair(value: Any) -> tuple[int, int] | None:
    """The two whole years of a list, tuple or array."""
    if isinstance(value, (bytes, dict)) or not hasattr(value, "__len__"):
        return None
    ends = list(value)
    if len(ends) != 2 or any(isinstance(end, (bool, str)) or end is None or end != end // 1 for end in ends):
        raise _UnreadableError(f"age {str(value)!r} is not a number or a range of two whole years")
    return int(ends[0]), int(ends[1])


def _range(low: int, high: int, value: str) -> tuple[float | None, tuple[int, int] | None]:
    _checked_age(low, repr(value))
    _checked_age(high, repr(value))
    if low > high:
        raise _UnreadableError(f"age {value!r} is a range that ends before it begins")
    return (float(low), None) if low == high else (None, (low, high))


def _checked_age(years: float, value: Any) -> float | None:
    if years != years:
        return None
    if not 0 <= years <= MAX_AGE_YEARS:
        raise _UnreadableError(f"age {value} is outside 0-{MAX_AGE_YEARS}")
    return years


def _number(value: Any) -> float | None:
    """The number in a value that is not text; None if it is missing."""
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise _UnreadableError(f"age {str(value)[:100]!r} is not a number or a range") from None


def _gender(value: Any, gender_codes: str) -> int | None:
    text, is_number = _code(value)
    codes = parse_gender_codes(gender_codes)
    word = codes.get(text) or text
    if word in _MISSING_WORDS or word == "u":
        return None
    if word in _GENDER_WORDS:
        return _GENDER_WORDS[word]
    if is_number:
        known = ", ".join(f"{code} {meaning}" for code, meaning in codes.items())
        raise _UnreadableError(f"gender {text} is none of {known}")
    raise _UnreadableError(f"gender {str(value)!r} is neither {' nor '.join(GENDERS)} nor a code of --gender-codes")


def _race(value: Any) -> str | None:
    text, is_number = _code(value)
    if text in _MISSING_WORDS:
        return None
    if is_number:
        return RACES[int(text)] if text in map(str, range(len(RACES))) else text
    return text if text in RACES else str(value).strip()


def _code(value: Any) -> tuple[str, bool]:
    """A value as text in lower case, whole numbers without a fraction; and whether it is a number."""
    text = "" if value is None else str(value).strip().lower()
    found = _NUMBER.fullmatch(text) if not isinstance(value, bool) else None
    if found is None or found[0] != found[1]:
        return text, False
    number = float(text)
    return (str(int(number)) if number.is_integer() else text), True
