"""One validated config per job, for flags, config file, environment and the record of a run.

Pure: it checks types and ranges, never the disk, the network or the machine. Field docstrings are the help texts of the
flags; the class docstring is the description in ``agegender JOB --help``.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator
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
    WeightedSources,
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
from agegender.recipe import PRESETS, Recipe, learning_rate_for

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


class TrainConfig(Recipe, WeightedSources, ClusterOptions, ReportOptions):
    """Train the age and gender network on a labelled image set.

    Writes model/ (for predict and evaluate), metrics.jsonl, split.parquet, tensorboard/, report.html and run.json.
    The same command resumes an interrupted run.

    Examples:
      agegender train --input UTKFace/ --output out/train
      agegender train --input UTKFace/ --output out/notebook --preset notebook
      agegender train --input my.csv --output out/mine --init out/train/model --epochs 5 --learning-rate 2e-4
      agegender train --input UTKFace/ --faces none --input photos.csv --faces detect --output out/both
    """

    output: Annotated[str, NOTHING]
    """folder or s3:// prefix for what is written"""

    preset: Annotated[Literal["compact", "large", "mobilenet", "notebook"], OUTPUT] = "compact"
    """compact: our network for CPUs; large: a larger one for GPUs; mobilenet: tunes the pretrained mobilenet_v1 that you give
    as --weights; notebook: the plain CNN that the project started from. Flags override the preset"""

    init: Annotated[str | None, OUTPUT] = None
    """trained model to start from (fine-tuning): a folder, or fast, accurate or open; the network is that of the model"""

    teacher: Annotated[list[str], OUTPUT] = Field([])
    """trained model to learn from beside the labels (distillation): a folder, or fast, accurate or open; may be given more
    than once: the mean of all. It is asked in each step about the augmented images, scaled up from --image-size-px if it takes
    larger ones. It must not have been trained on images of this run's val or test part"""

    num_workers: Annotated[Positive, NOTHING] = 1
    """training processes; the global batch is divided among them. On CPUs one per core is faster than one with all cores"""

    min_workers: Annotated[Positive | None, NOTHING] = None
    """elastic: start with this many if the cluster has no capacity for --num-workers, continue with fewer after a node is lost, and
    use new nodes up to --num-workers; default: always --num-workers, and wait for a replacement of a lost node"""

    accumulate: Annotated[Positive, NOTHING] = 1
    """gradient accumulation: micro-batches per worker and step, for batches larger than memory; the gradients are those of the
    undivided batch"""

    use_gpu: Annotated[bool, NOTHING] = False
    """one GPU per worker"""

    val_fraction: Annotated[Fraction, OUTPUT] = 0.1
    """share of the groups for validation after each epoch and for calibration of the intervals"""

    test_fraction: Annotated[Fraction, OUTPUT] = 0.1
    """share of the groups held out from training"""

    near_duplicate_bits: Annotated[int, Field(ge=0, le=16), OUTPUT] = 8
    """near duplicates, which stay in the same part of the split: at most this many bits of 64 differ and the thumbnails match"""

    cache_dir: Annotated[str | None, NOTHING] = None
    """folder on each node for the cache of decoded images; default: the system's temporary folder"""

    cache_limit_gb: Annotated[float, Field(gt=0), NOTHING] = 16.0
    """maximum size of the cache of decoded images on one node, in GB"""

    checkpoint_interval_steps: Annotated[Positive, NOTHING] = 200
    """steps between checkpoints, besides one at the end of each epoch: the most work that a kill can lose"""

    max_failures: Annotated[int, Field(ge=0), NOTHING] = 3
    """lost workers or nodes after which training still resumes"""

    resume_from: Annotated[str | None, NOTHING] = None
    """state/ folder that train-packed wrote for the same images and options: go on from there; if all epochs are done, only
    calibrate and write the model"""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:  # Any: the caller's value, not yet validated
        """Replace defaults by the preset's values; the learning rate is set later, because it depends on the batch size."""
        if not isinstance(given, dict):
            return given
        preset = PRESETS.get(given.get("preset", "compact"), {})
        preset = {name: value for name, value in preset.items() if name != "learning_rate"}
        augment = {**preset.get("augment", {}), **_as_dict(given.get("augment", {}))}
        return {**preset, **given, **({"augment": augment} if augment else {})}

    @model_validator(mode="after")
    def _scale_learning_rate(self) -> Self:
        if "learning_rate" not in self.model_fields_set:
            self.learning_rate = learning_rate_for(self.batch_size, self.preset)
        return self

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is above num_workers {self.num_workers}, the maximum")
        return self

    @model_validator(mode="after")
    def _check_fractions(self) -> Self:
        if self.val_fraction <= 0 or self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction {self.val_fraction} + test_fraction {self.test_fraction}: val must be above 0 and train must keep a share"
            )
        return self

    def opened_by_workers(self) -> dict[str, list[str]]:
        """Flag -> addresses that workers open; files that only the driver reads, such as teachers, are not listed."""
        is_file = self.weights is not None and self.weights.endswith((".pth", ".safetensors"))  # else a published name
        weights = {"weights": [self.weights]} if self.weights and is_file else {}
        return {"output": [self.output], "input": self.input, **weights}

    def recipe(self) -> Recipe:
        """The part of the config that the trainer needs."""
        return Recipe.part_of(self)


class PackConfig(TrainConfig):
    """Pack the images of a training for a machine with a GPU, but without Ray, the images or a network.

    Takes the options of train, makes its split, and writes pack/: the decoded training and validation images, compressed,
    and all else that train-packed needs there. Test images are not in it.

    Example:
      agegender pack --input UTKFace/ --output out/packed
    """

    image_format: Annotated[Literal["webp", "jpeg", "lossless"], OUTPUT] = "webp"
    """how images are compressed; lossless (WebP) gives the very pixels that train sees, at eight times the size"""

    image_quality: Annotated[int, Field(ge=1, le=100), OUTPUT] = 80
    """webp, jpeg: quality of the compression"""

    pack_file_mb: Annotated[float, Field(gt=0), OUTPUT] = 64.0
    """largest size of one file of images in MB, e.g. what one transfer takes"""

    @model_validator(mode="after")
    def _check_no_state(self) -> Self:
        if self.resume_from is not None:
            raise ValueError("resume_from is for train and train-packed; leave it out")
        return self

    def training(self) -> TrainConfig:
        """The options of the training alone."""
        return TrainConfig.model_validate(self.model_dump(mode="json", include=set(TrainConfig.model_fields)))


class TrainPackedConfig(Options):
    """Train on a pack, on one device of this machine, without Ray.

    Writes state/ and metrics.jsonl at the end of each epoch. The same command resumes an interrupted run. Where the images
    are, `agegender train --resume-from OUTPUT/state` with the options of pack makes the model of it.

    Example:
      agegender train-packed --pack pack/ --output out/trained --device cuda
    """

    pack: str
    """local folder that pack wrote: pack/ in its OUTPUT"""

    output: str
    """local folder for what is written"""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: cuda if there is a GPU"""

    accumulate: Positive = 1
    """gradient accumulation: micro-batches per step, for batches larger than the memory of the device"""

    checkpoint_interval_steps: Positive = 1000
    """steps between states, besides one at the end of each epoch: the most work that a kill can lose"""


def _as_dict(value: Any) -> dict[str, Any]:
    return value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else dict(value)


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
