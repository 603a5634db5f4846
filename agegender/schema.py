"""Column names, Arrow schemas and closed vocabularies of the data contract."""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa

CONTRACT_VERSION = 2
"""Increased when the same image and model give other rows or columns."""

MAX_AGE_YEARS = 120
AGE_BINS = MAX_AGE_YEARS + 1
"""One bin per whole year, 0 to 120."""

GENDERS = ("male", "female")
"""Index is the data set's code: 0 male, 1 female."""

RACES = ("white", "black", "asian", "indian", "other")
"""UTKFace's names, by its codes 0-4; a set may have others. Only for disaggregated evaluation; never predicted."""

AGE_GROUPS = ("1-10", *(f"{low}-{low + 9}" for low in range(11, 101, 10)), "101+")
"""Ten-year groups; age 0 counts to the first."""


IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2"}
    | {".ppm", ".pgm", ".heic", ".heif", ".avif", ".tga", ".ico"}
)
"""In a folder or archive, files with these extensions or without one are images; the decoder determines the format."""


YAWS = ("frontal", "half_left", "half_right", "profile_left", "profile_right")
"""Where a face looks, as seen in the straightened image; half: a half profile, with both eyes."""


class Status(StrEnum):
    """Outcome for one image. Documented and closed: readers can rely on there being no other value."""

    OK = "ok"
    NO_FACE = "no_face"
    MISSING = "missing"
    EMPTY = "empty"
    TRUNCATED = "truncated"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED = "unsupported"
    TOO_LARGE = "too_large"
    TOO_SMALL = "too_small"
    UNREADABLE = "unreadable"

    @property
    def is_bad(self) -> bool:
        """Whether it counts towards ``--max-bad-fraction``: everything but ``ok``, and whole files without a face in them."""
        return self not in (Status.OK, Status.NO_FACE, Status.TOO_SMALL)


def age_group_index(age_years: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Index into ``AGE_GROUPS`` of each age, rounded half up to whole years.

    Args:
        age_years: float[N], years, >= 0, no NaN.

    Returns:
        int64[N].
    """
    whole = np.floor(np.asarray(age_years, dtype=np.float64) + 0.5)
    index: npt.NDArray[np.int64] = np.clip((whole - 1) // 10, 0, len(AGE_GROUPS) - 1).astype(np.int64)
    return index


def age_end_years(low_years: npt.ArrayLike, high_years: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """The last moment of each age or range: 20-29 lasts to just before the 30th birthday, an exact age is one moment.

    Args:
        low_years: float[N].
        high_years: float[N], last whole year of the range; equal to ``low_years`` for an exact age.

    Returns:
        float32[N]; NaN where unlabelled.
    """
    low, high = np.asarray(low_years, dtype=np.float32), np.asarray(high_years, dtype=np.float32)
    end: npt.NDArray[np.float32] = np.where(low == high, high, np.nextafter(high + 1, np.float32(0)))
    return end


def age_text(low_years: float, high_years: float) -> str:
    """An age or a range of ages in words: ``31``, ``20-29``, ``70+``."""
    if low_years == high_years:
        return f"{low_years:g}"
    return f"{low_years:g}+" if high_years >= MAX_AGE_YEARS else f"{low_years:g}-{high_years:g}"


def age_group_of_range(low_years: float | None, high_years: float | None) -> str | None:
    """The ten-year group that holds a whole range; None if none does, or without an age."""
    if low_years is None or high_years is None or age_group(low_years) != age_group(high_years):
        return None
    return age_group(low_years)


def age_group(age_years: float) -> str:
    """The ten-year group of one age, e.g. ``21-30``."""
    return AGE_GROUPS[int(age_group_index(age_years))]


LABEL_FIELDS = (
    pa.field("age_years", pa.float32()),  # null also where the age is a range
    pa.field("age_low_years", pa.float32()),  # the age, or the first year of its range
    pa.field("age_high_years", pa.float32()),  # the age, or the last whole year of its range: 29 of 20-29
    pa.field("gender", pa.int8()),
    pa.field("race", pa.string()),
)
"""The label of an image, null where unlabelled."""

SOURCE = pa.field("source", pa.string())
"""Name of the input that an image is of, where labels are read; null in what an earlier release wrote."""

LISTING = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("container", pa.string()),  # tar or Parquet file that holds the bytes; null: the uri is the file
        pa.field("offset", pa.int64()),  # byte offset of a tar member, row number in a Parquet file
        pa.field("size_bytes", pa.int64()),
        pa.field("etag", pa.string()),  # changes when the content changes; local: modification time in ns
        *LABEL_FIELDS,
        pa.field("label_problem", pa.string()),  # why age and gender are null; null: labelled, or labels were not read
    ]
)
"""One row per listed image; ``--keep-columns`` follow, or ``SOURCE`` in the jobs that read labels."""

TRUE_LABELS = {
    "true_age_years": "age_years",
    "true_age_low_years": "age_low_years",
    "true_age_high_years": "age_high_years",
    "true_gender": "gender",
    "true_race": "race",
    "unlabelled_because": "label_problem",
}
"""Name of a label beside predictions, whose columns have the names of the labels -> its column in the listing."""

FACTS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("warning", pa.string()),  # what was lost or is doubtful; null if nothing
        pa.field("width", pa.int32()),  # as shown: EXIF orientation applied
        pa.field("height", pa.int32()),
        pa.field("format", pa.string()),  # the decoder's name: JPEG, PNG, ...
        pa.field("size_bytes", pa.int64()),
        pa.field("content_hash", pa.binary(16)),  # first half of the SHA-256 of the bytes; null if there were none
        pa.field("perceptual_hash", pa.uint64()),  # null if not ok, or blank
        pa.field("thumbnail", pa.binary(256)),  # uint8[16, 16] grey, confirms near-duplicates by hash; null if not ok
        pa.field("channel_mean", pa.list_(pa.float64(), 3)),  # RGB, 0-255
        pa.field("channel_mean_square", pa.list_(pa.float64(), 3)),
        *LABEL_FIELDS,
        pa.field("label_problem", pa.string()),
        SOURCE,
    ]
)
"""One row per image, for eda and train."""

BOX = pa.struct([(name, pa.float32()) for name in ("x", "y", "width", "height")])

BOXES = pa.field(
    "agegender_boxes",
    pa.list_(pa.struct([*((name, pa.float64()) for name in ("x", "y", "width", "height")), ("problem", pa.string())])),
)
"""Of a listing with ``--faces boxes``, after ``LISTING``: a row for each of these, so at least one; ``problem`` says why one is
no box. The kept columns that follow are lists, too, with a value for each."""


def prediction_schema(keep: Sequence[pa.Field] = (), age_distribution: bool = False) -> pa.Schema:
    """The Arrow schema of predict's output.

    Args:
        keep: fields of ``--keep-columns``, after the contract's own.
        age_distribution: include ``age_probabilities``.
    """
    label = pa.dictionary(pa.int8(), pa.string())
    fields = [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("face_index", pa.int16(), nullable=False),
        pa.field("status", label, nullable=False),
        pa.field("error", pa.string()),
        pa.field("warning", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("box", BOX),
        pa.field("detection_score", pa.float32()),
        pa.field("face_px", pa.float32()),
        pa.field("roll_degrees", pa.float32()),
        pa.field("yaw", label),
        pa.field("sharpness", pa.float32()),
        pa.field("age_years", pa.float32()),
        pa.field("age_low_years", pa.float32()),
        pa.field("age_high_years", pa.float32()),
        pa.field("age_group", label),
        pa.field("gender", label),
        pa.field("gender_probability", pa.float32()),
        pa.field("female_probability", pa.float32()),
        pa.field("abstained", pa.bool_()),
    ]
    if age_distribution:
        fields.append(pa.field("age_probabilities", pa.list_(pa.float32(), AGE_BINS)))
    return pa.schema([*fields, *keep])


SPLIT_PARTS = ("train", "val", "test")

SPLIT = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("content_hash", pa.binary(16), nullable=False),
        pa.field("group", pa.binary(16), nullable=False),  # smallest content hash of its duplicates
        pa.field("part", pa.string(), nullable=False),
        *LABEL_FIELDS,
        SOURCE,
    ]
)
"""One row per usable labelled image of a training run; keyed by content, so that files may move."""
