"""The images that a report shows: chosen by number, then read again, a few dozen out of however many."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agegender.config import EvaluateConfig, ImageLimits
from agegender.data.faces import FaceSearch, largest_face_cropper
from agegender.data.images import Pixels, decode, encode_jpeg, resize
from agegender.evaluation.examples import choose_examples
from agegender.pipelines.evaluate.gather import Gathered, rows_at
from agegender.pipelines.source.listing import Listing, fetch, read_unit
from agegender.reports.evaluation import Example

EXAMPLES_OF_EACH = 12
SIDE_PX = 128


def show_examples(
    config: EvaluateConfig, search: FaceSearch | None, listing: Listing, gathered: Gathered
) -> dict[str, list[Example]]:
    """Read the chosen images once more; one that has vanished meanwhile is left out.

    Returns:
        Why they are shown -> examples, in the order of ``choose_examples``.
    """
    chosen = choose_examples(gathered.seen, config.seed, EXAMPLES_OF_EACH)
    wanted = np.unique(np.concatenate(list(chosen.values())))
    limits = config.limits()
    cut = partial(resize, side_px=SIDE_PX) if search is None else largest_face_cropper(search, SIDE_PX)
    made: dict[int, Example] = {}
    for unit in np.unique(gathered.unit[wanted]):
        indices = wanted[gathered.unit[wanted] == unit]
        uris = rows_at(config.output, listing, int(unit), gathered.row[indices].tolist()).column("uri")
        pictures = _pictures(read_unit(listing.units[unit]), uris.to_pylist(), limits, cut)
        for index, uri in zip(indices.tolist(), uris.to_pylist(), strict=True):
            if uri in pictures:
                made[index] = _example(gathered, index, uri, pictures[uri])
    return {why: [made[i] for i in indices.tolist() if i in made] for why, indices in chosen.items()}


def _pictures(
    listed: pa.Table, uris: list[str], limits: ImageLimits, cut: Callable[[Pixels], Pixels | None]
) -> dict[str, bytes]:
    """Small JPEGs by uri."""
    listed = listed.filter(pc.is_in(listed.column("uri"), pa.array(uris)))
    pictures = {}
    for uri, fetched in zip(listed.column("uri").to_pylist(), fetch(listed, limits), strict=True):
        decoded = decode(fetched.data, limits.max_image_pixels) if fetched.data else None
        face = cut(decoded.pixels) if decoded is not None and decoded.pixels is not None else None
        if face is not None:
            pictures[uri] = encode_jpeg(face)
    return pictures


def _example(gathered: Gathered, index: int, uri: str, jpeg: bytes) -> Example:
    seen = gathered.seen
    return Example(
        jpeg=jpeg,
        uri=uri,
        age_true=None if np.isnan(seen.age_true[index]) else float(seen.age_true[index]),
        age_pred=float(seen.age_pred[index]),
        age_low=float(seen.age_low[index]),
        age_high=float(seen.age_high[index]),
        gender_true=None if seen.gender_true[index] < 0 else int(seen.gender_true[index]),
        female_probability=float(seen.female_probability[index]),
    )
