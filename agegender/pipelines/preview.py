"""``agegender preview``: draw the estimates of each face on photographs. Runs in this process, without Ray.

OUTPUT holds the pictures of the last preview: those of an earlier one that were not drawn again are deleted at the end.
"""

import logging
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from agegender.config import PreviewConfig, SourceOptions
from agegender.data.annotate import Annotation, draw_annotations
from agegender.data.images import Pixels, decode, encode_jpeg, resize_to_fit
from agegender.errors import InputError
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

_JOB = "preview"


def run_preview(config: PreviewConfig) -> dict[str, Any]:
    """Write each photograph with boxes, ages, genders and scores to OUTPUT.

    Returns:
        Images, faces, images by status, and the output folder.

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
    by_status: dict[str, int] = {}
    counts = SourceCounts()
    faces = images = 0
    earlier = claim_output(output, _JOB, config, {}) or {}
    pictures: list[str] = []
    with failure_recorded(output, _JOB), Progress(None, "images", "preview") as progress:
        for listing in list_source(source, counts=counts, limit=config.limit):
            rows = scorer.score_unit(listing).to_pylist()
            for status, name in _draw(listing, rows, source, config, output, images):
                by_status[status] = by_status.get(status, 0) + 1
                pictures += [name] if name else []
            faces += sum(row["status"] == Status.OK for row in rows)
            images += listing.num_rows
            progress.update(listing.num_rows)
        if not images:
            raise InputError(f"no images in {', '.join(config.photographs)}. Name photographs or a folder of them")
        for name in set(earlier.get("result", {}).get("pictures", ())).difference(pictures):
            files.delete(files.join(output, name))
    ignored = {"ignored_files": dict(counts.ignored)}
    result = {"images": images, "faces": faces, "by_status": by_status, **ignored, "output": output}
    finish_record(output, _JOB, config, {}, result | {"pictures": pictures})
    return result


def _draw(
    listing: pa.Table, rows: list[dict[str, Any]], source: SourceOptions, config: PreviewConfig, output: str, first: int
) -> Iterator[tuple[str, str | None]]:
    """Draw the images of one listing; yields the status of each, and the name of its picture."""
    rows_by_uri: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        rows_by_uri.setdefault(row["uri"], []).append(row)
    for number, (uri, fetched) in enumerate(
        zip(listing.column("uri").to_pylist(), fetch(listing, source), strict=True)
    ):
        image_rows = rows_by_uri[uri]
        decoded = decode(fetched.data, source.max_image_pixels) if fetched.data else None
        if decoded is None or decoded.pixels is None:
            logger.warning("%s: %s (%s)", uri, image_rows[0]["status"], image_rows[0]["error"])
            yield image_rows[0]["status"], None
            continue
        if decoded.warning is not None:
            logger.warning("%s: %s", uri, decoded.warning)
        stem = re.sub(r"[^\w.-]+", "_", uri.rsplit("/", 1)[-1].rsplit(".", 1)[0])[-80:]
        picture = draw_annotations(*_to_draw(decoded.pixels, image_rows, config.max_side_px))
        name = f"{first + number:05d}-{stem}.jpg"
        files.write_bytes(files.join(output, name), encode_jpeg(picture))
        yield image_rows[0]["status"], name


def _to_draw(pixels: Pixels, rows: list[dict[str, Any]], max_side_px: int) -> tuple[Pixels, list[Annotation]]:
    shown = resize_to_fit(pixels, max_side_px)
    return shown, [_annotation(row, shown.shape[1] / pixels.shape[1]) for row in rows]


def _annotation(row: dict[str, Any], scale: float) -> Annotation:
    if row["status"] != Status.OK:
        return Annotation(None, [str(row["error"])])
    age = f"{row['age_years']:.0f} ({row['age_low_years']:.0f}-{row['age_high_years']:.0f}) years"
    lines = [age, f"{row['gender']} {row['gender_probability']:.0%}"]
    if row["box"] is None:
        return Annotation(None, lines)
    box = {name: value * scale for name, value in row["box"].items()}
    corners = (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])
    return Annotation(corners, [*lines, f"face {row['face_index']}: {row['detection_score']:.2f}"])
