"""``agegender preview``: draw the estimates of each face on photographs. Runs in this process, without Ray.

OUTPUT holds the pictures of the last preview: those of an earlier one that were not drawn again are deleted at the end.
"""

import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from agegender.config import PreviewConfig
from agegender.data.annotate import (
    SHEET_CELLS,
    THUMBNAIL_PX,
    Annotation,
    Rectangle,
    Thumbnail,
    add_caption,
    contact_sheet,
    draw_annotations,
    fit,
)
from agegender.data.images import Pixels, decode, encode_jpeg
from agegender.errors import InputError
from agegender.option_groups import SourceOptions
from agegender.pipelines.engine.unit_scorer import UnitScorer
from agegender.pipelines.runtime.detector import check_framing, face_search
from agegender.pipelines.runtime.model_cache import localize_model, model_address
from agegender.pipelines.runtime.progress import Progress
from agegender.pipelines.runtime.run_record import claim_output, failure_recorded, finish_record
from agegender.pipelines.source.fetch import fetch
from agegender.pipelines.source.inputs import check_inputs
from agegender.pipelines.source.listing import SourceCounts, list_source
from agegender.schema import Status
from agegender.storage import files

logger = logging.getLogger(__name__)

BATCH_IMAGES = 32

MIN_WIDTH_PX = 320
"""Narrower pictures, such as face crops, are enlarged to this: a line of text needs it."""

SURE_GENDER_PERCENT = 95
"""From here on the gender stands without its probability."""

_JOB = "preview"


def run_preview(config: PreviewConfig) -> dict[str, Any]:
    """Write each photograph with boxes, ages and genders to OUTPUT, and contact sheets of all if asked to.

    Returns:
        Images, faces, images by status, the numbers of files written, and the output folder.

    Raises:
        ConfigError: OUTPUT holds something else than an earlier preview; nothing was changed.
        InputError: no images, or no usable model.
        ResourceError: storage does not answer, or the face detector is not available.
    """
    output, address = files.absolute(config.output), model_address(config.model)
    check_inputs(config.photographs)
    model = localize_model(address)
    check_framing(model.info, address)
    source = config.source(BATCH_IMAGES)
    scorer = UnitScorer(model, source.limits(), search=face_search(config, config.max_faces))
    look = _Look(config, _notes(config, model.info.calibration.interval_coverage))
    by_status: dict[str, int] = {}
    counts = SourceCounts()
    sheets = _Sheets(output, look)
    earlier = claim_output(output, _JOB, config, {}) or {}
    pictures: list[str] = []
    images = faces = 0
    with failure_recorded(output, _JOB), Progress(None, "images", "preview") as progress:
        for listing in list_source(source, counts=counts, limit=config.limit):
            rows = scorer.score_unit(listing).to_pylist()
            for uri, pixels, image_rows in _images(listing, rows, source):
                status = _status(image_rows)
                by_status[status] = by_status.get(status, 0) + 1
                faces += sum(row["status"] == Status.OK for row in image_rows)
                if pixels is not None:
                    stem = re.sub(r"[^\w.-]+", "_", _file_name(uri).rsplit(".", 1)[0])[-80:]
                    pictures.append(f"{images:05d}-{stem}.jpg")
                    files.write_bytes(files.join(output, pictures[-1]), encode_jpeg(look.picture(pixels, image_rows)))
                if config.sheet:
                    sheets.add(uri, pixels, image_rows)
                images += 1
            progress.update(listing.num_rows)
        if not images:
            raise InputError(f"no images in {', '.join(config.photographs)}. Name photographs or a folder of them")
        sheets.write()
        for name in set(earlier.get("result", {}).get("pictures", ())).difference(pictures, sheets.names):
            files.delete(files.join(output, name))
    ignored = {"ignored_files": dict(counts.ignored)}
    written = {"pictures": len(pictures)} | ({"sheets": len(sheets.names)} if config.sheet else {})
    result = {"images": images, "faces": faces, "by_status": by_status, **ignored, "written": written, "output": output}
    finish_record(output, _JOB, config, {}, result | {"pictures": pictures + sheets.names})
    return result


def _images(
    listing: pa.Table, rows: list[dict[str, Any]], source: SourceOptions
) -> Iterator[tuple[str, Pixels | None, list[dict[str, Any]]]]:
    """The address, pixels and rows of each image of one listing; what was doubtful about it is logged."""
    rows_by_uri: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        rows_by_uri.setdefault(row["uri"], []).append(row)
    for uri, fetched in zip(listing.column("uri").to_pylist(), fetch(listing, source), strict=True):
        image_rows = rows_by_uri[uri]
        allow_truncated = source.allow_truncated
        decoded = decode(fetched.data or b"", source.max_image_pixels, allow_truncated=allow_truncated)
        if decoded.pixels is None:
            logger.warning("%s: %s (%s)", uri, image_rows[0]["status"], image_rows[0]["error"])
        elif decoded.warning is not None:
            logger.warning("%s: %s", uri, decoded.warning)
        yield uri, decoded.pixels, image_rows


@dataclass
class _Look:
    """How rows become pictures."""

    config: PreviewConfig
    notes: list[str]
    """What the texts mean."""

    def picture(self, pixels: Pixels, rows: list[dict[str, Any]]) -> Pixels:
        """A photograph with its faces, and a caption."""
        enlarged = max(1.0, MIN_WIDTH_PX / pixels.shape[1])
        drawn, left_out = self.faces(pixels, rows, min(self.config.max_side_px / max(pixels.shape), enlarged))
        notes = self.notes if _status(rows) == Status.OK else [rows[0]["error"]]
        notes = [*notes, *([f"{left_out} without text, for want of room"] if left_out else [])]
        return add_caption(drawn, notes, doubtful=_any_doubtful(rows))

    def faces(self, pixels: Pixels, rows: list[dict[str, Any]], scale: float) -> tuple[Pixels, int]:
        """A photograph at a scale, with its faces; and how many of them have no text."""
        shown = fit(pixels, scale)
        in_detail = self.config.style == "detailed"
        faces = [
            Annotation(
                box=_corners(row["box"], shown.shape[1] / pixels.shape[1]),
                texts=_in_detail(row) if in_detail else _in_one_line(row),
                doubtful=_is_doubtful(row),
            )
            for row in rows
            if row["status"] == Status.OK or _corners(row["box"])
        ]
        return draw_annotations(shown, faces, always=in_detail)


@dataclass
class _Sheets:
    """Contact sheets; each is written when it is full, so that memory holds one."""

    output: str
    look: _Look
    names: list[str] = field(default_factory=list)
    cells: list[Thumbnail] = field(default_factory=list)
    rows: list[list[dict[str, Any]]] = field(default_factory=list)
    """Of each image."""

    def add(self, uri: str, pixels: Pixels | None, rows: list[dict[str, Any]]) -> None:
        """Append an image."""
        if len(self.cells) == SHEET_CELLS:
            self.write()
        thumbnail = None
        if pixels is not None:
            scale = min(THUMBNAIL_PX[0] / pixels.shape[1], THUMBNAIL_PX[1] / pixels.shape[0])
            thumbnail, _ = self.look.faces(pixels, rows, scale)
        status = _status(rows)
        note = "" if status == Status.OK else status.replace("_", " ")
        self.cells.append(Thumbnail(thumbnail, _file_name(uri), note))
        self.rows.append(rows)

    def write(self) -> None:
        """Write what was added since the last sheet."""
        if not self.cells:
            return
        self.names.append(f"sheet-{len(self.names) + 1:03d}.jpg")
        title = f"Sheet {len(self.names)}: {_counted(self.rows)}"
        page = contact_sheet(self.cells, title, self.look.notes, doubtful=any(map(_any_doubtful, self.rows)))
        files.write_bytes(files.join(self.output, self.names[-1]), encode_jpeg(page))
        self.cells, self.rows = [], []


def _notes(config: PreviewConfig, coverage: float) -> list[str]:
    """What the texts mean, in words."""
    if config.style == "detailed":
        return [f"age ({round(100 * coverage)} % interval)", "face: detection score"]
    interval = f"age ± half of its {round(100 * coverage)} % interval"
    return [interval, f"gender with its probability if under {SURE_GENDER_PERCENT} %"]


def _counted(images: list[list[dict[str, Any]]]) -> str:
    """How many images and faces there are, in words."""
    statuses = [_status(rows) for rows in images]
    counts = {
        "images": len(images),
        "faces": sum(row["status"] == Status.OK for rows in images for row in rows),
        "without a face": statuses.count(Status.NO_FACE),
        "not scored": sum(status not in (Status.OK, Status.NO_FACE) for status in statuses),
    }
    return ", ".join(
        f"{count} {noun if count > 1 else noun.removesuffix('s')}" for noun, count in counts.items() if count
    )


def _status(rows: list[dict[str, Any]]) -> str:
    """Of an image: that of its first row, but ``ok`` if only some of the user's own boxes have no face."""
    statuses = [str(row["status"]) for row in rows]
    return Status.OK.value if Status.OK in statuses else statuses[0]


def _is_doubtful(row: dict[str, Any]) -> bool:
    return row["status"] != Status.OK or bool(row["abstained"])


def _any_doubtful(rows: list[dict[str, Any]]) -> bool:
    return any(_is_doubtful(row) for row in rows if row["status"] == Status.OK or _corners(row["box"]))


def _corners(box: dict[str, float | None] | None, scale: float = 1) -> Rectangle | None:
    """None: there is no box, or the user's own cannot be drawn."""
    sides = [(box or {}).get(name) for name in ("x", "y", "width", "height")]
    x, y, width, height = (math.nan if side is None else side * scale for side in sides)
    corners = (x, y, x + width, y + height)
    return corners if all(map(math.isfinite, corners)) and min(width, height) > 0 else None


def _in_one_line(row: dict[str, Any]) -> list[str]:
    """``34 ±6  female 82 %``, or less where there is no room for it."""
    if row["status"] != Status.OK:
        return ["no face"]
    age = f"{row['age_years']:.0f}"
    with_interval = f"{age} ±{(row['age_high_years'] - row['age_low_years']) / 2:.0f}"
    percent = round(100 * row["gender_probability"])
    probability = f" {percent} %" if percent < SURE_GENDER_PERCENT else ""
    return [f"{with_interval}  {row['gender']}{probability}", with_interval, age]


def _in_detail(row: dict[str, Any]) -> list[str]:
    if row["status"] != Status.OK:
        return [f"no face\nface {row['face_index']}"]
    age = f"{row['age_years']:.0f} ({row['age_low_years']:.0f}-{row['age_high_years']:.0f}) years"
    score = "" if row["box"] is None else f"\nface {row['face_index']}: {row['detection_score']:.2f}"
    return [f"{age}\n{row['gender']} {row['gender_probability']:.0%}{score}"]


def _file_name(uri: str) -> str:
    return uri.rsplit("/", 1)[-1]
