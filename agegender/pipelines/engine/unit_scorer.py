"""One unit of listed images -> rows of predictions; shared by evaluate and predict. No Ray.

    fetch -> decode -> crops of the image -> scored in batches over many images -> columns

An image is one crop, or a photograph with a crop of each face; its pixels are released once the crops are cut.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from agegender.data import boxes
from agegender.data.boxes import GivenBox
from agegender.data.duplicates import content_hash
from agegender.data.face_geometry import Face
from agegender.data.face_quality import doubt, face_px_of_crop, sharpness, yaw
from agegender.data.faces import FaceSearch
from agegender.data.images import Pixels, decode, resize
from agegender.data.photograph import Photograph, open_photograph
from agegender.option_groups import ImageLimits
from agegender.options import ScoringPrecision, ScoringPrecisionOrAuto
from agegender.pipelines.runtime.stage_clock import StageClock
from agegender.pipelines.source.fetch import Fetched, fetch
from agegender.schema import (
    AGE_BINS,
    AGE_GROUPS,
    BOX,
    BOXES,
    GENDERS,
    LISTING,
    YAWS,
    Status,
    age_group_index,
    prediction_schema,
)
from agegender.scoring.load import LocalModel
from agegender.scoring.predictions import Predictions, for_face_sizes

if TYPE_CHECKING:
    from agegender.data.corruptions import Corruption  # evaluate passes them

Submit = Callable[[Pixels], Callable[[], Predictions]]
"""Submits a batch, uint8[N, S, S, 3], and returns a function that waits for its predictions."""

_STATUSES = tuple(status.value for status in Status)

CONTENT_HASH = pa.field("content_hash", pa.binary(16))
"""Optional last column: the first half of the SHA-256 of the image's bytes; null if there are none."""


@dataclass(slots=True)
class _Row:
    """One future row: an image without a usable face, or one face of an image with its pixels to score."""

    image: int
    face: int
    status: Status
    error: str | None = None
    warning: str | None = None
    width: int | None = None
    height: int | None = None
    box: dict[str, float | None] | None = None
    detection_score: float | None = None
    face_px: float | None = None
    roll_degrees: float | None = None
    yaw: str | None = None
    sharpness: float | None = None
    is_doubtful: bool = False
    content_hash: bytes | None = None
    crop: npt.NDArray[np.uint8] | None = None


class UnitScorer:
    """Scores units of a listing with a model that is loaded once.

    Args:
        model: to score with.
        limits: maximum sizes, and the name of the bytes column.
        threads: threads of the forward pass.
        batch_size: images per forward pass; also bounds the decoded images in memory.
        precision: of the network, if scored in this process.
        age_distribution: whether the rows carry ``age_probabilities``.
        abstain_above_years: rows with a wider interval are marked as abstained, as doubtful faces are; None: these alone.
        search: finds the faces of a photograph; None: images are face crops, scored whole.
        submit: scores batches in another process; None: the model's ONNX graph scores them in this process.
        clock: measures the stages fetch, decode, find and score.

    Raises:
        InputError: this machine cannot run the model's graph.
    """

    precision: ScoringPrecision = "bfloat16"
    """Precision of the network; on GPUs always this one."""

    def __init__(
        self,
        model: LocalModel,
        limits: ImageLimits,
        threads: int = 1,
        batch_size: int = 64,
        *,
        precision: ScoringPrecisionOrAuto = "float32",
        age_distribution: bool = False,
        abstain_above_years: float | None = None,
        search: FaceSearch | None = None,
        submit: Submit | None = None,
        clock: StageClock | None = None,
    ) -> None:
        self._side_px = model.info.network.image_size_px
        self._calibration = model.info.calibration
        if submit is None:
            from agegender.scoring.cpu import CpuScorer  # ONNX Runtime takes 0.1 s to import; drivers do not need it

            scorer = CpuScorer(model, threads, batch_size, precision)
            submit, self.precision = score_at_once(scorer), scorer.precision
        self._submit = submit
        self._clock = clock or StageClock()
        self._limits = limits
        self._batch_size = batch_size
        self._age_distribution = age_distribution
        self._abstain_above_years = abstain_above_years
        self._search = search
        self._finder = None if search is None else search.finder()
        self._in_boxes = search is not None and search.in_boxes

    def score_unit(
        self,
        listing: pa.Table,
        *,
        with_content_hash: bool = False,
        include: Callable[[bytes], bool] | None = None,
        keep_crop: Callable[[int, int, Pixels], None] | None = None,
        corruption: "Corruption | None" = None,
        poison_rows: Container[int] = (),
    ) -> pa.Table:
        """Read and score the images of a unit.

        Args:
            listing: rows of ``schema.LISTING``; further columns are kept in the result.
            with_content_hash: see ``score_images``, like all that follow.
            include: see there.
            keep_crop: see there.
            corruption: see there.
            poison_rows: see there.

        Raises:
            ResourceError: storage does not answer; the unit stays pending.
        """
        return self.score_images(
            listing,
            self._clock.each("fetch", fetch(listing, self._limits)),
            keep_columns=[name for name in listing.column_names[len(LISTING) :] if name != BOXES.name],
            with_content_hash=with_content_hash,
            include=include,
            keep_crop=keep_crop,
            corruption=corruption,
            poison_rows=poison_rows,
        )

    def score_images(
        self,
        listing: pa.Table,
        images: Iterable[Fetched],
        *,
        keep_columns: Sequence[str] = (),
        with_content_hash: bool = False,
        include: Callable[[bytes], bool] | None = None,
        keep_crop: Callable[[int, int, Pixels], None] | None = None,
        corruption: "Corruption | None" = None,
        poison_rows: Container[int] = (),
    ) -> pa.Table:
        """Score images from their bytes.

        Args:
            listing: a row for each image, with its ``uri``.
            images: the bytes of each row's image, or the status of a failed read; consumed one by one.
            keep_columns: columns of the listing to keep in the result.
            with_content_hash: whether to append the column ``content_hash``.
            keep_crop: called with each crop before it is scored: row of its image in the listing, face_index,
                uint8[S, S, 3].
            corruption: done to each crop before it is scored; None: nothing.
            include: selects images to decode and score by content hash (16 bytes); others give no row. Images without
                bytes then give no row either, as they have no hash.
            poison_rows: rows of the listing whose images killed a process: they are unreadable, and not decoded again.

        Returns:
            One row per face or per image without one, in listing order: ``schema.prediction_schema`` of the kept
            columns.
        """
        hashed = with_content_hash or include is not None
        rows: list[_Row] = []
        scored: list[Callable[[], Predictions]] = []
        given = listing.column(BOXES.name).to_pylist() if self._in_boxes else [None] * listing.num_rows
        found_rows = self._rows(zip(images, given, strict=True), hashed, include, corruption, poison_rows)
        for batch in _batches(found_rows, self._batch_size):
            if keep_crop is not None:
                for row in batch:
                    if row.crop is not None:
                        keep_crop(row.image, row.face, row.crop)
            rows.extend(batch)
            with self._clock.stage("score"):
                scored.append(self._submit(self._crops(batch)))
        with self._clock.stage("score"):
            predictions = _concatenate([wait() for wait in scored])
            face_px = [row.face_px for row in rows if row.crop is not None and row.face_px is not None]
            predictions = for_face_sizes(predictions, face_px, self._calibration)
        kept = _kept(listing, rows, keep_columns, of_boxes=self._in_boxes)
        schema = prediction_schema([pa.field(name, kept[name].type) for name in keep_columns], self._age_distribution)
        columns = self._columns(rows, predictions) | _kept(listing, rows, ["uri"]) | kept
        if with_content_hash:
            schema = schema.append(CONTENT_HASH)
            columns["content_hash"] = pa.array([row.content_hash for row in rows], CONTENT_HASH.type)
        return pa.table([columns[field.name] for field in schema], schema=schema)

    def _rows(
        self,
        images: Iterable[tuple[Fetched, list[GivenBox] | None]],
        hashed: bool,
        include: Callable[[bytes], bool] | None,
        corruption: "Corruption | None",
        poison_rows: Container[int],
    ) -> Iterator[_Row]:
        for image, (found, given) in enumerate(images):
            fetched = _POISON if image in poison_rows else found
            digest = content_hash(fetched.data) if hashed and fetched.data else None
            if include is not None and (digest is None or not include(digest)):
                continue
            for row in self._faces(image, fetched, given):
                row.content_hash = digest
                if corruption is not None and row.crop is not None and row.face_px is not None:
                    row.crop = corruption.apply(row.crop)
                    row.face_px = min(row.face_px, corruption.face_px)
                if row.crop is not None:
                    row.sharpness = sharpness(row.crop)
                yield row

    def _faces(self, image: int, fetched: Fetched, given: list[GivenBox] | None) -> list[_Row]:
        """The rows of one image, with crops of the network's input size; one for each given box.

        A list, because a generator would keep the photograph in memory until a batch is full.
        """
        if fetched.data is None:
            return _unscored(image, given, fetched.status, fetched.error)
        if self._finder is None or self._search is None:
            return [self._whole(image, fetched.data)]
        with self._clock.stage("decode"):
            decoded, photo = open_photograph(
                fetched.data,
                self._limits.max_image_pixels,
                self._finder.search_scale,
                allow_truncated=self._limits.allow_truncated,
            )
        known: dict[str, Any] = {"warning": decoded.warning, "width": decoded.width, "height": decoded.height}
        if photo is None:
            return _unscored(image, given, decoded.status, decoded.error, **known)
        with self._clock.stage("find"):
            if given is not None:
                return [self._in_box(image, index, box, photo, known) for index, box in enumerate(given)]
            found = [
                self._found(_Row(image, index, Status.OK, **known), face, photo)
                for index, face in enumerate(self._finder.find(photo))
            ]
        return found or [_Row(image, 0, Status.NO_FACE, self._search.no_face_message, **known)]

    def _whole(self, image: int, data: bytes) -> _Row:
        """The row of an image that is a crop."""
        with self._clock.stage("decode"):
            decoded = decode(
                data,
                self._limits.max_image_pixels,
                self._side_px,
                allow_truncated=self._limits.allow_truncated,
            )
            known: dict[str, Any] = {"warning": decoded.warning, "width": decoded.width, "height": decoded.height}
            if decoded.pixels is None:
                return _Row(image, 0, decoded.status, decoded.error, **known)
            face_px = face_px_of_crop(decoded.width or 0, decoded.height or 0)
            return _Row(image, 0, decoded.status, **known, face_px=face_px, crop=resize(decoded.pixels, self._side_px))

    def _in_box(self, image: int, index: int, box: GivenBox, photo: Photograph, known: dict[str, Any]) -> _Row:
        """The row of a given box, which stays as it was given: by it the user joins."""
        assert self._finder is not None
        error = boxes.problem_in(box, photo.width, photo.height)
        if error is None:
            (face,) = self._finder.find_in(photo, [boxes.sides(box)])
            if face is not None:
                row = self._found(_Row(image, index, Status.OK, **known), face, photo)
                row.box = _box(box)
                return row
            error = f"no face of score {self._finder.min_score:g} with its centre in {boxes.shown_box(box)}"
        return _Row(image, index, Status.NO_FACE, error, **known, box=_box(box))

    def _found(self, row: _Row, face: Face, photo: Photograph) -> _Row:
        """The row of a face that was found in a photograph."""
        row.box = {"x": face.x, "y": face.y, "width": face.width, "height": face.height}
        row.detection_score, row.face_px = face.score, face.shorter_side_px
        row.roll_degrees, row.yaw = face.roll_degrees, yaw(face.landmarks)
        if why := doubt(face, row.width or 0, row.height or 0):  # known of every image with pixels
            row.is_doubtful, row.warning = True, why if row.warning is None else f"{row.warning}; {why}"
        row.crop = photo.align(face.landmarks, self._side_px)
        return row

    def _crops(self, batch: list[_Row]) -> Pixels:
        """The crops to score, uint8[N, S, S, 3]; they are removed from the rows."""
        crops = [row.crop for row in batch if row.crop is not None]
        for row in batch:
            row.crop = _SCORED if row.crop is not None else None
        return np.stack(crops) if crops else np.empty((0, self._side_px, self._side_px, 3), np.uint8)

    def _columns(self, rows: list[_Row], scored: Predictions) -> dict[str, pa.Array]:
        """Every column except those of the listing; scores are null in rows without a crop."""
        unscored = np.array([row.crop is None for row in rows], dtype=bool)
        columns = _image_columns(rows)
        for name in ("age_years", "age_low_years", "age_high_years", "female_probability"):
            columns[name] = _scatter(getattr(scored, name), unscored, pa.float32())
        female = scored.female_probability
        columns["gender_probability"] = _scatter(np.maximum(female, 1 - female), unscored, pa.float32())
        columns["age_group"] = _categorical(age_group_index(scored.age_years), unscored, AGE_GROUPS)
        columns["gender"] = _categorical((female >= 0.5).astype(np.int64), unscored, GENDERS)
        width_years = scored.age_high_years - scored.age_low_years
        limit = np.inf if self._abstain_above_years is None else self._abstain_above_years
        doubtful = np.array([row.is_doubtful for row in rows if row.crop is not None], dtype=bool)
        columns["abstained"] = _scatter(doubtful | (width_years > limit), unscored, pa.bool_())
        if self._age_distribution:
            columns["age_probabilities"] = _scatter_lists(scored.age_probabilities, unscored)
        return columns


class Scores(Protocol):
    """Interface of ``CpuScorer`` and ``TorchScorer``."""

    def score(self, images: Pixels) -> Predictions:
        """Predict uint8[N, S, S, 3]."""
        ...


def score_at_once(scorer: Scores) -> Submit:
    """A ``Submit`` for ``UnitScorer`` that scores synchronously in this process."""

    def submit(crops: Pixels) -> Callable[[], Predictions]:
        predictions = scorer.score(crops)
        return lambda: predictions

    return submit


_POISON = Fetched(None, Status.UNREADABLE, "decoding it ended the process, each time that it was tried")

_SCORED: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
"""Placeholder for a scored crop, so that its pixels can be released."""


def _batches(rows: Iterable[_Row], size: int) -> Iterator[list[_Row]]:
    """Lists of rows with at most ``size`` crops each; at least one list, so that an empty unit has its columns."""
    batch: list[_Row] = []
    crops = 0
    for row in rows:
        batch.append(row)
        crops += row.crop is not None
        if crops == size:
            yield batch
            batch, crops = [], 0
    yield batch


def _concatenate(parts: list[Predictions]) -> Predictions:
    def join(name: str) -> Any:  # arrays, or None if the model has no distribution
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else np.concatenate(values)

    names = ("age_years", "age_low_years", "age_high_years", "female_probability", "age_probabilities")
    return Predictions(**{name: join(name) for name in names})


def _image_columns(rows: list[_Row]) -> dict[str, pa.Array]:
    no_nulls = np.zeros(len(rows), dtype=bool)
    return {
        "face_index": pa.array([row.face for row in rows], pa.int16()),
        "status": _categorical(np.array([_STATUSES.index(row.status) for row in rows], np.int64), no_nulls, _STATUSES),
        "error": pa.array([row.error for row in rows], pa.string()),
        "warning": pa.array([row.warning for row in rows], pa.string()),
        "width": pa.array([row.width for row in rows], pa.int32()),
        "height": pa.array([row.height for row in rows], pa.int32()),
        "box": pa.array([row.box for row in rows], BOX),
        "detection_score": pa.array([row.detection_score for row in rows], pa.float32()),
        "face_px": pa.array([row.face_px for row in rows], pa.float32()),
        "roll_degrees": pa.array([row.roll_degrees for row in rows], pa.float32()),
        "yaw": _categorical(
            np.array([YAWS.index(row.yaw) for row in rows if row.yaw], np.int64),
            np.array([not row.yaw for row in rows], bool),
            YAWS,
        ),
        "sharpness": pa.array([row.sharpness for row in rows], pa.float32()),
    }


def _kept(listing: pa.Table, rows: list[_Row], names: Sequence[str], *, of_boxes: bool = False) -> dict[str, pa.Array]:
    """Columns of the listing by row; with ``of_boxes`` a column of lists has a value for each box of an image."""
    index = pa.array([row.image for row in rows], pa.int64())
    kept = {name: listing.column(name).combine_chunks() for name in names}
    for name, column in kept.items():
        if of_boxes and pa.types.is_list(column.type):
            places = column.offsets.take(index).to_numpy() + [row.face for row in rows]
            kept[name] = column.values.take(pa.array(places, pa.int64()))
        else:
            kept[name] = column.take(index)
    return kept


def _unscored(image: int, given: list[GivenBox] | None, status: Status, error: str | None, **known: Any) -> list[_Row]:
    """The row of an image that cannot be scored, or a row for each of its given boxes."""
    if given is None:
        return [_Row(image, 0, status, error, **known)]
    return [_Row(image, index, status, error, **known, box=_box(box)) for index, box in enumerate(given)]


def _box(box: GivenBox) -> dict[str, float | None] | None:
    """The value of the column ``box``; None if the user gave no numbers."""
    numbers = {name: box[name] for name in ("x", "y", "width", "height")}
    return None if set(numbers.values()) == {None} else numbers


def _scatter(values: npt.NDArray[Any], unscored: npt.NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    """Values in scored rows, null in others."""
    full = np.zeros(unscored.size, dtype=values.dtype)
    full[~unscored] = values
    return pa.array(full, kind, mask=unscored)


def _categorical(codes: npt.NDArray[np.int64], unscored: npt.NDArray[np.bool_], names: tuple[str, ...]) -> pa.Array:
    """Codes as a dictionary column with all names, so that every file has the same dictionary."""
    return pa.DictionaryArray.from_arrays(
        _scatter(codes.astype(np.int8), unscored, pa.int8()), pa.array(names, pa.string())
    )


def _scatter_lists(values: npt.NDArray[np.float32] | None, unscored: npt.NDArray[np.bool_]) -> pa.Array:
    """``age_probabilities``: null no_nulls for a network with a scalar age head."""
    if values is None:
        return pa.nulls(unscored.size, pa.list_(pa.float32(), AGE_BINS))
    full = np.zeros((unscored.size, AGE_BINS), dtype=np.float32)
    full[~unscored] = values
    return pa.FixedSizeListArray.from_arrays(pa.array(full.ravel()), AGE_BINS, mask=pa.array(unscored))
