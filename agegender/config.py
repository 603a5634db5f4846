"""One validated config per job, for flags, config file, environment and the record of a run.

Pure: it checks types and ranges, never the disk, the network or the machine. Field docstrings are the help texts of the
flags; the class docstring is the description in ``agegender JOB --help``.
"""

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg

from agegender.option_groups import (
    BoxedSource,
    BoxOptions,
    ClusterOptions,
    FaceOptions,
    ImageLimits,
    LabelledSources,
    ReportOptions,
    ScoringOptions,
    SourceOptions,
)
from agegender.options import (
    DERIVED,
    NOTHING,
    OUTPUT,
    REPORT,
    Fraction,
    Options,
    Positive,
)

RetryStatus = Literal[
    "no_face", "missing", "empty", "truncated", "not_an_image", "unsupported", "too_large", "too_small", "unreadable"
]
"""``schema.Status`` without ``ok``, whose module imports too much for parsing a command line."""

RELEASED_MODELS = ("fast", "accurate", "open")
"""The addresses of the models that come with the package, valid on every node; ``./fast`` is a folder."""

RELEASED_MODEL = RELEASED_MODELS[0]
"""The one that is used where none is given."""


class SampleConfig(Options):
    """Draw faces with known age and gender: a small labelled set that needs no download.

    The drawings vary in the visible signs of age and gender, with noise. File names have UTKFace's format.

    Example:
      agegender sample --output faces --count 1500
    """

    output: Annotated[str, NOTHING]
    """folder for the drawings"""

    count: Annotated[Positive, NOTHING] = 1000
    """number of drawings"""

    seed: Annotated[int, OUTPUT] = 0
    """same seed, same drawings"""

    size_px: Annotated[int, Field(ge=32, le=1024), OUTPUT] = 128
    """side of a drawing in pixels"""

    num_workers: Annotated[Positive | None, NOTHING] = None
    """processes that draw; default: all CPUs"""


class EdaConfig(LabelledSources, ClusterOptions, ReportOptions):
    """Describe an image set: counts, ages, genders, sizes, bad files, label problems, duplicates.

    Writes summary.json, tables/*.parquet, figures/*.png and report.html.

    Example:
      agegender eda --input UTKFace/ --output out/eda
    """

    output: Annotated[str, NOTHING]
    """folder or s3:// prefix for what is written"""

    seed: Annotated[int, REPORT] = 0
    """seed for the images of the grids"""

    near_duplicate_bits: Annotated[int, Field(ge=0, le=16), OUTPUT] = 8
    """images are near duplicates if at most this many of the 64 bits of their perceptual hashes differ and their thumbnails
    match"""

    def opened_by_workers(self) -> dict[str, list[str]]:
        """Flag -> addresses that workers open."""
        return {"output": [self.output], "input": self.input}


class EvaluateConfig(LabelledSources, ClusterOptions, ReportOptions, ScoringOptions):
    """Evaluate a trained model on labelled images, overall and by age group, gender and race.

    Writes metrics.json, slices.parquet, predictions.parquet and report.html. Images that the model was trained on are
    counted and reported; --split restricts the evaluation to held-out images.

    Example:
      agegender evaluate --input UTKFace/ --model out/train/model --split out/train/split.parquet --part test --output out/eval
    """

    output: Annotated[str, NOTHING]
    """folder or s3:// prefix for what is written"""

    model: Annotated[str, DERIVED] = RELEASED_MODEL
    """trained model: fast, accurate or open, which come with the package, or a folder or s3:// prefix that train wrote"""

    split: Annotated[str | None, DERIVED] = None
    """split.parquet of a training run: only its images of --part are evaluated"""

    part: Annotated[Literal["train", "val", "test"], OUTPUT] = "test"
    """part of --split to evaluate"""

    seed: Annotated[int, OUTPUT] = 0
    """seed for the bootstrap and the examples of the report"""

    robustness: Annotated[bool, OUTPUT] = False
    """also report the metrics on corrupted faces (blur, noise, darkening, compression, 20 to 48 pixels): nine times the work"""

    bootstrap_rounds: Annotated[int, Field(ge=100), OUTPUT] = 1000
    """bootstrap resamples for the 95 % bounds"""

    precision: Annotated[Literal["auto", "float32", "int8"], OUTPUT] = "float32"
    """of the network. float32: the same metrics on every CPU; auto and int8: as for predict"""

    def opened_by_workers(self) -> dict[str, list[str]]:
        """Flag -> addresses that workers open; only the driver reads a split."""
        return {"output": [self.output], "input": self.input, **_model_address(self.model)}


class PredictConfig(SourceOptions, FaceOptions, BoxOptions, ClusterOptions, ScoringOptions):
    """Score every image of a source and write one row per face to Parquet.

    Writes part-*.parquet, which readers see as one table; _run.json; _work/. The output has each listed image exactly once. The
    same command resumes an interrupted run. A bad file is a row with its status, never an exception.

    Examples:
      agegender predict --input photos/ --output out/predictions
      agegender predict --input s3://bucket/photos --model s3://bucket/model --output s3://bucket/out --dry-run
    """

    output: Annotated[str, NOTHING]
    """folder or s3:// prefix for what is written"""

    model: Annotated[str, DERIVED] = RELEASED_MODEL
    """trained model: fast, accurate or open, which come with the package, or a folder or s3:// prefix that train wrote"""

    faces: Annotated[Literal["none", "detect", "boxes"], OUTPUT] = "detect"
    """detect: images are photographs, whose faces are detected, aligned and scored; none: each image is one face crop, scored
    whole; boxes: photographs with your own boxes, in columns of a manifest or in JSON beside the image: one row for each box"""

    use_gpu: Annotated[bool, NOTHING] = False
    """score on GPUs, in bfloat16, while CPUs decode for them; as many processes decode as keep the GPUs busy"""

    max_faces: Annotated[int, Field(ge=1, le=5000), DERIVED] = 1000
    """detect: maximum number of faces per image; the largest are kept"""

    save_crops: Annotated[bool, NOTHING] = False
    """write each scored face crop to OUTPUT/_crops/"""

    limit: Annotated[Positive | None, OUTPUT] = None
    """score only this many images, the first of the listing"""

    dry_run: Annotated[bool, NOTHING] = False
    """count the images and estimate the time from a timed sample; write nothing"""

    keep_columns: Annotated[list[str], OUTPUT] = Field([])
    """manifest columns to keep in the output, e.g. ids and dates"""

    age_distribution: Annotated[bool, OUTPUT] = False
    """add age_probabilities, 121 numbers per row"""

    abstain_above: Annotated[Annotated[float, Field(gt=0)] | None, OUTPUT] = None
    """mark rows as abstained if their 90 % interval is wider than this many years, too; doubtful faces always are"""

    max_bad_fraction: Annotated[Fraction, NOTHING] = 0.05
    """share of bad files above which the job ends with exit code 3; the output is kept"""

    def source(self) -> SourceOptions:
        """Only the source options, without labels, which scoring does not need."""
        kind = BoxedSource if self.faces == "boxes" else SourceOptions
        return kind.part_of(self).model_copy(update={"labels": "none"})

    def opened_by_workers(self) -> dict[str, list[str]]:
        """Flag -> addresses that workers open."""
        return {"output": [self.output], "input": self.input, **_model_address(self.model)}


def _model_address(model: str) -> dict[str, list[str]]:
    return {} if model in RELEASED_MODELS else {"model": [model]}


class RescoreConfig(ClusterOptions):
    """Score some images of a finished predict run again: replaced files, or images with a status.

    Each part with such rows is replaced atomically. The same command resumes an interrupted one; without --changed and
    --status it only finishes an earlier one.

    Examples:
      agegender rescore out/predictions --changed
      agegender rescore out/predictions --status missing --status unreadable
    """

    output: CliPositionalArg[str]
    """the OUTPUT of the predict run"""

    changed: bool = False
    """images that were replaced under the same name since they were listed: size, or time or etag, differ"""

    status: list[RetryStatus] = Field([])
    """images with this status, e.g. missing; may be given more than once"""

    num_workers: Positive | None = None
    """scoring processes; default: as for predict"""


class PreviewConfig(FaceOptions, BoxOptions, ImageLimits):
    """Draw predictions on photographs: for each face a box, age with its interval, and gender.

    To inspect a model on a few images, in this process, before an archive is scored.

    Example:
      agegender preview holiday.jpg photos/ --output out/preview
    """

    photographs: Annotated[CliPositionalArg[list[str]], Field(min_length=1)]
    """IMAGE, a folder of images, or any other source that predict takes"""

    model: str = RELEASED_MODEL
    """trained model: fast, accurate or open, which come with the package, or a folder or s3:// prefix that train wrote"""

    output: str = "preview"
    """folder or s3:// prefix for the pictures"""

    faces: Literal["none", "detect", "boxes"] = "detect"
    """detect: find the faces; none: each image is one face crop; boxes: your own boxes, in columns of a manifest or in JSON
    beside the image"""

    max_faces: Annotated[int, Field(ge=1, le=5000)] = 1000
    """maximum number of faces per image; the largest are drawn"""

    limit: Positive | None = None
    """draw only this many images, the first of the source"""

    max_side_px: Annotated[int, Field(ge=100)] = 1600
    """larger pictures are scaled down"""

    style: Literal["simple", "detailed"] = "simple"
    """simple: age, gender in one line; detailed: also the interval's ends, each probability, face_index and detection score"""

    sheet: bool = False
    """also write contact sheets: all pictures, small, on pages sheet-001.jpg ..."""

    def source(self, unit_images: int) -> SourceOptions:
        """The photographs as a source.

        Args:
            unit_images: in one table of the listing.
        """
        given: dict[str, Any] = {"input": self.photographs, "labels": "none", "unit_images": unit_images}
        given |= self.limits().model_dump()
        if self.faces == "boxes":
            return BoxedSource(**given, box_columns=self.box_columns, box_format=self.box_format)
        return SourceOptions(**given)


class ExportConfig(Options):
    """Copy the ONNX graph of a trained model to one file: uint8 images in, ages, intervals and gender out.

    Example:
      agegender export --model out/train/model --output agegender.onnx
      agegender export --model out/train/model --precision int8 --output agegender.int8.onnx
    """

    model: str = RELEASED_MODEL
    """trained model: fast, accurate or open, which come with the package, or a folder or s3:// prefix that train wrote"""

    output: str
    """file to write, local or s3://"""

    precision: Literal["float32", "int8"] = "float32"
    """int8: the graph whose backbone is quantised to 8 bits, if the model has one; images in and predictions out are the same"""


class StatusConfig(Options):
    """Show the progress of a predict run, its failures with reasons, and the remaining images.

    Example:
      agegender status out/predictions
    """

    output: CliPositionalArg[str]
    """the OUTPUT of the predict run"""
