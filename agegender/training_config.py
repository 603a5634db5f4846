"""The configs of training: ``train``, and ``pack`` and ``train-packed`` for a machine without Ray.

As in ``config``: pure, with the help texts of the flags as field docstrings.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from agegender.option_groups import ClusterOptions, ReportOptions, WeightedSources
from agegender.options import NOTHING, OUTPUT, Fraction, Options, Positive
from agegender.recipe import PRESETS, Recipe, learning_rate_for


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
        weights = {"weights": [self.weights_file]} if self.weights_file else {}
        return {"output": [self.output], "input": self.input, **weights}

    @property
    def weights_file(self) -> str | None:
        """The file of ``weights``; None without one, or if it is the name of published weights."""
        return self.weights if self.weights is not None and self.weights.endswith((".pth", ".safetensors")) else None

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
