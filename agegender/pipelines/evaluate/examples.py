"""The example images of a report: a few dozen, chosen by index and read again."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agegender.config import EvaluateConfig
from agegender.data.face_searches import FaceSearches
from agegender.data.images import Pixels, decode, encode_jpeg, resize
from agegender.evaluation.examples import choose_examples
from agegender.option_groups import ImageLimits
from agegender.pipelines.evaluate.gather import Gathered, rows_at, source_of
from agegender.pipelines.source.fetch import fetch, read_unit
from agegender.pipelines.source.listing import Listing
from agegender.reports.evaluation import Example
from agegender.schema import age_text

EXAMPLES_OF_EACH = 12
SIDE_PX = 128


def show_examples(
    config: EvaluateConfig, searches: FaceSearches, listing: Listing, gathered: Gathered
) -> dict[str, list[Example]]:
    """Read the chosen images again; images that are gone are skipped.

    Returns:
        Reason -> examples, in the order of ``choose_examples``.
    """
    chosen = choose_examples(gathered.observations, config.seed, EXAMPLES_OF_EACH)
    indices_to_read = np.unique(np.concatenate(list(chosen.values())))
    limits = config.limits()
    cutter, whole = searches.croppers(SIDE_PX), partial(resize, side_px=SIDE_PX)
    examples: dict[int, Example] = {}
    for unit in np.unique(gathered.unit[indices_to_read]):
        indices = indices_to_read[gathered.unit[indices_to_read] == unit]
        uris = rows_at(config.output, listing, int(unit), gathered.row[indices].tolist()).column("uri")
        listed = read_unit(listing.units[unit])
        pictures = _pictures(listed, uris.to_pylist(), limits, cutter(source_of(listed)) or whole)
        for index, uri in zip(indices.tolist(), uris.to_pylist(), strict=True):
            if uri in pictures:
                examples[index] = _example(gathered, index, uri, pictures[uri])
    return {reason: [examples[i] for i in indices.tolist() if i in examples] for reason, indices in chosen.items()}


def _pictures(
    listed: pa.Table, uris: list[str], limits: ImageLimits, cut: Callable[[Pixels], Pixels | None]
) -> dict[str, bytes]:
    """Small JPEGs by uri."""
    listed = listed.filter(pc.is_in(listed.column("uri"), pa.array(uris)))
    pictures = {}
    for uri, fetched in zip(listed.column("uri").to_pylist(), fetch(listed, limits), strict=True):
        decoded = (
            decode(fetched.data, limits.max_image_pixels, allow_truncated=limits.allow_truncated)
            if fetched.data
            else None
        )
        face = cut(decoded.pixels) if decoded is not None and decoded.pixels is not None else None
        if face is not None:
            pictures[uri] = encode_jpeg(face)
    return pictures


def _age_text(gathered: Gathered, index: int) -> str | None:
    observations = gathered.observations
    if observations.range_labelled[index]:
        return age_text(float(observations.range_low[index]), float(observations.range_high[index]))
    return f"{observations.age_true[index]:.0f}" if observations.age_labelled[index] else None


def _example(gathered: Gathered, index: int, uri: str, jpeg: bytes) -> Example:
    observations = gathered.observations
    return Example(
        jpeg=jpeg,
        uri=uri,
        age_true=_age_text(gathered, index),
        age_pred=float(observations.age_pred[index]),
        age_low=float(observations.age_low[index]),
        age_high=float(observations.age_high[index]),
        gender_true=None if observations.gender_true[index] < 0 else int(observations.gender_true[index]),
        female_probability=float(observations.female_probability[index]),
    )
