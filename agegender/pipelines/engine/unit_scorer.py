"""One unit of listed images -> rows of predictions: the step that evaluate and predict share. No Ray.

    fetch -> decode -> crops of the image -> scored in batches over many images -> columns

An image is one crop, or a photograph that gives a crop of each face; its own pixels go as soon as its crops are cut.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from agegender.config import ImageLimits
from agegender.data.duplicates import content_hash
from agegender.data.face_geometry import Face
from agegender.data.faces import FaceSearch, align
from agegender.data.images import Decoded, Pixels, decode, resize
from agegender.options import Precision, PrecisionOrAuto
from agegender.pipelines.runtime.stage_clock import StageClock
from agegender.pipelines.source.listing import Fetched, fetch
from agegender.schema import AGE_BINS, AGE_GROUPS, BOX, GENDERS, LISTING, Status, age_group_index, prediction_schema
from agegender.scoring.load import LocalModel
from agegender.scoring.predictions import Predictions

Submit = Callable[[Pixels], Callable[[], Predictions]]
"""Takes a batch, uint8[N, S, S, 3], and gives what waits for its predictions."""

_STATUSES = tuple(status.value for status in Status)

CONTENT_HASH = pa.field("content_hash", pa.binary(16))
"""Optional last column: the first half of the SHA-256 of the image's bytes; null where there were none."""


@dataclass(slots=True)
class _Row:
    """One row to be: an image without a usable face, or one face of an image with its pixels to score."""

    image: int
    face: int
    status: Status
    error: str | None = None
    width: int | None = None
    height: int | None = None
    box: dict[str, float] | None = None
    detection_score: float | None = None
    content_hash: bytes | None = None
    crop: npt.NDArray[np.uint8] | None = None


class UnitScorer:
    """A model loaded once, and what it takes to score units of a listing with it.

    Args:
        model: at work.
        limits: how the images of the listing are read.
        threads: threads of the forward pass.
        batch_size: images per forward pass; also bounds the decoded images that are held at once.
        precision: of the network, where it is scored here.
        age_distribution: whether the rows carry ``age_probabilities``.
        abstain_above_years: width of the interval above which a row is marked as abstained; None: none is.
        search: how the faces of a photograph are found; None: images are face crops, scored whole.
        submit: what scores batches elsewhere; None: they are scored here, by the model's graph.
        clock: is told where the time goes: fetch, decode, find, score.

    Raises:
        InputError: this machine cannot run the model's graph.
    """

    precision: Precision = "bfloat16"
    """In which the network computes; elsewhere than here, on GPUs, always this."""

    def __init__(
        self,
        model: LocalModel,
        limits: ImageLimits,
        threads: int = 1,
        batch_size: int = 64,
        *,
        precision: PrecisionOrAuto = "float32",
        age_distribution: bool = False,
        abstain_above_years: float | None = None,
        search: FaceSearch | None = None,
        submit: Submit | None = None,
        clock: StageClock | None = None,
    ) -> None:
        self._side_px = model.info.network.image_size_px
        if submit is None:
            from agegender.scoring.cpu import CpuScorer  # ONNX Runtime takes a tenth of a second; drivers do without

            here = CpuScorer(model, threads, batch_size, precision)
            submit, self.precision = score_at_once(here), here.precision
        self._submit = submit
        self._clock = clock or StageClock()
        self._limits = limits
        self._batch_size = batch_size
        self._age_distribution = age_distribution
        self._abstain_above_years = abstain_above_years
        self._search = search
        self._finder = None if search is None else search.finder()

    def score_unit(
        self,
        listing: pa.Table,
        *,
        with_content_hash: bool = False,
        wanted: Callable[[bytes], bool] | None = None,
        keep_crop: Callable[[int, int, Pixels], None] | None = None,
        alter: Callable[[Pixels], Pixels] | None = None,
        poison_rows: Container[int] = (),
    ) -> pa.Table:
        """Read and score the images of a unit.

        Args:
            listing: rows of ``schema.LISTING``; columns after those are carried into the result.
            with_content_hash: as for ``score_images``, like all that follow.
            wanted: see there.
            keep_crop: see there.
            alter: see there.
            poison_rows: see there.

        Raises:
            ResourceError: storage does not answer; the unit is undone.
        """
        return self.score_images(
            listing,
            self._clock.each("fetch", fetch(listing, self._limits)),
            keep_columns=listing.column_names[len(LISTING) :],
            with_content_hash=with_content_hash,
            wanted=wanted,
            keep_crop=keep_crop,
            alter=alter,
            poison_rows=poison_rows,
        )

    def score_images(
        self,
        listing: pa.Table,
        images: Iterable[Fetched],
        *,
        keep_columns: Sequence[str] = (),
        with_content_hash: bool = False,
        wanted: Callable[[bytes], bool] | None = None,
        keep_crop: Callable[[int, int, Pixels], None] | None = None,
        alter: Callable[[Pixels], Pixels] | None = None,
        poison_rows: Container[int] = (),
    ) -> pa.Table:
        """Score images whose bytes were read.

        Args:
            listing: a row for each image, with its ``uri``.
            images: the bytes of each row's image, or why there are none; taken one by one.
            keep_columns: of the listing, to be carried into the result.
            with_content_hash: whether ``content_hash`` follows as the last column.
            keep_crop: is handed each crop before it is scored: row of its image in the listing, face_index, uint8[S, S, 3].
            alter: is handed each crop, and gives what is scored in its place, of the same shape.
            wanted: by content hash (16 bytes), which images to decode and score; others leave no row. Images without
                bytes leave no row either then, as nobody can say whether they are meant.
            poison_rows: rows of the listing whose images ended a process: they are unreadable, and not decoded again.

        Returns:
            One row per face or per image without one, in listing order: ``schema.prediction_schema`` of the kept
            columns.
        """
        hashed = with_content_hash or wanted is not None
        rows: list[_Row] = []
        scored: list[Callable[[], Predictions]] = []
        for batch in _batches(self._rows(images, hashed, wanted, alter, poison_rows), self._batch_size):
            if keep_crop is not None:
                for row in batch:
                    if row.crop is not None:
                        keep_crop(row.image, row.face, row.crop)
            rows.extend(batch)
            with self._clock.stage("score"):
                scored.append(self._submit(self._crops(batch)))
        with self._clock.stage("score"):
            predictions = _joined([fetched() for fetched in scored])
        keep = [listing.schema.field(name) for name in keep_columns]
        schema = prediction_schema(keep, self._age_distribution)
        columns = self._columns(rows, predictions) | _kept(listing, rows, ["uri", *keep_columns])
        if with_content_hash:
            schema = schema.append(CONTENT_HASH)
            columns["content_hash"] = pa.array([row.content_hash for row in rows], CONTENT_HASH.type)
        return pa.table([columns[field.name] for field in schema], schema=schema)

    def _rows(
        self,
        images: Iterable[Fetched],
        hashed: bool,
        wanted: Callable[[bytes], bool] | None,
        alter: Callable[[Pixels], Pixels] | None,
        poison_rows: Container[int],
    ) -> Iterator[_Row]:
        for image, found in enumerate(images):
            fetched = _POISON if image in poison_rows else found
            digest = content_hash(fetched.data) if hashed and fetched.data else None
            if wanted is not None and (digest is None or not wanted(digest)):
                continue
            for row in self._faces(image, fetched):
                row.content_hash = digest
                if alter is not None and row.crop is not None:
                    row.crop = alter(row.crop)
                yield row

    def _faces(self, image: int, fetched: Fetched) -> list[_Row]:
        """The rows of one image, with what is to be scored cut out and brought to the network's size.

        A list, not a generator: that would hold the photograph while its crops wait for a batch to fill.
        """
        if fetched.data is None:
            return [_Row(image, 0, fetched.status, fetched.error)]
        enough_px = self._side_px if self._finder is None else None
        with self._clock.stage("decode"):
            decoded = decode(fetched.data, self._limits.max_image_pixels, enough_px)
        if decoded.pixels is None:
            return [_Row(image, 0, decoded.status, decoded.error, decoded.width, decoded.height)]
        if self._finder is None or self._search is None:
            with self._clock.stage("decode"):
                crop = resize(decoded.pixels, self._side_px)
            return [_Row(image, 0, decoded.status, None, decoded.width, decoded.height, crop=crop)]
        with self._clock.stage("find"):
            faces = self._finder.find(decoded.pixels)
            found = [self._face_row(image, index, face, decoded, decoded.pixels) for index, face in enumerate(faces)]
        if not found:
            return [_Row(image, 0, Status.NO_FACE, self._search.no_face_message, decoded.width, decoded.height)]
        return found

    def _face_row(self, image: int, index: int, face: Face, decoded: Decoded, pixels: Pixels) -> _Row:
        box = {"x": face.x, "y": face.y, "width": face.width, "height": face.height}
        crop = align(pixels, face.landmarks, self._side_px)
        return _Row(image, index, Status.OK, None, decoded.width, decoded.height, box, face.score, crop=crop)

    def _crops(self, batch: list[_Row]) -> Pixels:
        """What is to be scored, uint8[N, S, S, 3]; the rows need it no longer."""
        crops = [row.crop for row in batch if row.crop is not None]
        for row in batch:
            row.crop = _SCORED if row.crop is not None else None
        return np.stack(crops) if crops else np.empty((0, self._side_px, self._side_px, 3), np.uint8)

    def _columns(self, rows: list[_Row], scored: Predictions) -> dict[str, pa.Array]:
        """Every column but those that the listing gives; scores stand at the rows that have a crop."""
        holes = np.array([row.crop is None for row in rows], dtype=bool)
        columns = _image_columns(rows)
        for name in ("age_years", "age_low_years", "age_high_years", "female_probability"):
            columns[name] = _spread(getattr(scored, name), holes, pa.float32())
        female = scored.female_probability
        columns["gender_probability"] = _spread(np.maximum(female, 1 - female), holes, pa.float32())
        columns["age_group"] = _named(age_group_index(scored.age_years), holes, AGE_GROUPS)
        columns["gender"] = _named((female >= 0.5).astype(np.int64), holes, GENDERS)
        width_years = scored.age_high_years - scored.age_low_years
        limit = np.inf if self._abstain_above_years is None else self._abstain_above_years
        columns["abstained"] = _spread(width_years > limit, holes, pa.bool_())
        if self._age_distribution:
            columns["age_probabilities"] = _spread_lists(scored.age_probabilities, holes)
        return columns


class Scores(Protocol):
    """What ``CpuScorer`` and ``TorchScorer`` both are."""

    def score(self, images: Pixels) -> Predictions:
        """Predict uint8[N, S, S, 3]."""
        ...


def score_at_once(scorer: Scores) -> Submit:
    """For ``UnitScorer``: a scorer of this process, whose predictions are there when it was called."""

    def submit(crops: Pixels) -> Callable[[], Predictions]:
        predictions = scorer.score(crops)
        return lambda: predictions

    return submit


_POISON = Fetched(None, Status.UNREADABLE, "decoding it ended the process, each time that it was tried")

_SCORED: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
"""Stands for a crop that was scored, so that its pixels can go while the row stays."""


def _batches(rows: Iterable[_Row], size: int) -> Iterator[list[_Row]]:
    """Lists of rows with at most ``size`` crops each; there is at least one, so that an empty unit has its columns."""
    batch: list[_Row] = []
    crops = 0
    for row in rows:
        batch.append(row)
        crops += row.crop is not None
        if crops == size:
            yield batch
            batch, crops = [], 0
    yield batch


def _joined(parts: list[Predictions]) -> Predictions:
    def join(name: str) -> Any:  # arrays, or None where the model has no distribution
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else np.concatenate(values)

    names = ("age_years", "age_low_years", "age_high_years", "female_probability", "age_probabilities")
    return Predictions(**{name: join(name) for name in names})


def _image_columns(rows: list[_Row]) -> dict[str, pa.Array]:
    everywhere = np.zeros(len(rows), dtype=bool)
    return {
        "face_index": pa.array([row.face for row in rows], pa.int16()),
        "status": _named(np.array([_STATUSES.index(row.status) for row in rows], np.int64), everywhere, _STATUSES),
        "error": pa.array([row.error for row in rows], pa.string()),
        "width": pa.array([row.width for row in rows], pa.int32()),
        "height": pa.array([row.height for row in rows], pa.int32()),
        "box": pa.array([row.box for row in rows], BOX),
        "detection_score": pa.array([row.detection_score for row in rows], pa.float32()),
    }


def _kept(listing: pa.Table, rows: list[_Row], names: list[str]) -> dict[str, pa.Array]:
    index = pa.array([row.image for row in rows], pa.int64())
    return {name: listing.column(name).take(index).combine_chunks() for name in names}


def _spread(values: npt.NDArray[Any], holes: npt.NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    """Values at the rows that were scored, null at the others."""
    full = np.zeros(holes.size, dtype=values.dtype)
    full[~holes] = values
    return pa.array(full, kind, mask=holes)


def _named(codes: npt.NDArray[np.int64], holes: npt.NDArray[np.bool_], names: tuple[str, ...]) -> pa.Array:
    """Codes as a dictionary column that always carries all of its names, so that every file has the same dictionary."""
    return pa.DictionaryArray.from_arrays(
        _spread(codes.astype(np.int8), holes, pa.int8()), pa.array(names, pa.string())
    )


def _spread_lists(values: npt.NDArray[np.float32] | None, holes: npt.NDArray[np.bool_]) -> pa.Array:
    """``age_probabilities``: null everywhere for a network with a scalar age head."""
    if values is None:
        return pa.nulls(holes.size, pa.list_(pa.float32(), AGE_BINS))
    full = np.zeros((holes.size, AGE_BINS), dtype=np.float32)
    full[~holes] = values
    return pa.FixedSizeListArray.from_arrays(pa.array(full.ravel()), AGE_BINS, mask=pa.array(holes))
