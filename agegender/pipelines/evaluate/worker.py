"""The units of an evaluation on Ray Data: each is scored in an actor and written to storage as one table.

Separate from ``run``, so that the actors do not import the report code.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import ray

from agegender.config import EvaluateConfig
from agegender.data.corruptions import CORRUPTIONS
from agegender.data.face_searches import FaceSearches
from agegender.pipelines.engine.unit_scorer import UnitScorer
from agegender.pipelines.evaluate.gather import Keys, is_among, source_of, with_label_columns
from agegender.pipelines.runtime import metrics
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.pipelines.runtime.placement import Placement, pool_shape
from agegender.pipelines.runtime.progress import Progress
from agegender.pipelines.runtime.session import restore_default_signal_handlers
from agegender.pipelines.source.datasource import unit_dataset
from agegender.pipelines.source.fetch import read_unit
from agegender.pipelines.source.listing import Listing
from agegender.storage import files, tables


class _EvaluatingActor:
    """One process of the pool: writes a table of predictions and labels per unit.

    It loads the model once, and once more if there are both sources of photographs and of face crops.
    """

    def __init__(self, config: EvaluateConfig, searches: FaceSearches, part: Keys | None) -> None:
        restore_default_signal_handlers()
        self._config, self._searches = config, searches
        self._layout, self._part = OutputLayout(config.output), part
        self._corruptions = tuple(CORRUPTIONS) if config.robustness else ()
        self._scorers: dict[bool, UnitScorer] = {}

    def _scorer(self, source: str | None) -> UnitScorer:
        """For the units of a source."""
        search, config = self._searches.of(source), self._config
        if (search is None) not in self._scorers:
            self._scorers[search is None] = UnitScorer(
                *(localize_model(config.model), config.limits(), config.threads_per_worker, config.batch_size),
                precision=config.precision,
                search=search,
            )
        return self._scorers[search is None]

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        unit = str(batch["unit"][0])
        listed = with_label_columns(read_unit(unit))
        include = None if self._part is None else functools.partial(is_among, self._part)
        scorer = self._scorer(source_of(listed))
        scored = scorer.score_unit(listed, with_content_hash=True, include=include)
        # Images of other parts are known now and are not read again for each corruption.
        chosen = listed.filter(pc.is_in(listed["uri"], value_set=scored["uri"].combine_chunks()))
        for name in self._corruptions:
            corrupted = scorer.score_unit(chosen, corruption=CORRUPTIONS[name])
            tables.write_table(self._layout.evaluated(unit, name), corrupted)
        # Last, because this table marks the unit as done.
        tables.write_table(self._layout.evaluated(unit), scored)
        return {"images": np.array([listed.num_rows]), "evaluated": np.array([scored.num_rows])}


def score_units(
    config: EvaluateConfig, searches: FaceSearches, listing: Listing, part: Keys | None, placement: Placement
) -> None:
    """Write the table of predictions and labels of every unit; units that have one are skipped.

    Args:
        config: of the run.
        searches: find the largest face of each photograph.
        listing: of the run.
        part: keys of the images to evaluate; None: all.
        placement: where the actors may run.

    Raises:
        ResourceError: storage or cluster failed; finished units are kept.
    """
    layout = OutputLayout(config.output)
    pending = [unit for unit in listing.units if not files.exists(layout.evaluated(unit))]
    if not pending:
        return
    actors, cpus = pool_shape(config.num_workers, config.threads_per_worker, placement.cpus())
    counted = unit_dataset(pending).map_batches(
        _EvaluatingActor,
        batch_size=1,
        fn_constructor_args=(config, searches, part),
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(pending))),
        num_cpus=cpus,
        **placement.options(),
    )
    total = listing.images if len(pending) == len(listing.units) else None
    with Progress(total, "images", "evaluate") as progress:
        for row in counted.iter_rows():
            progress.update(int(row["images"]))
            metrics.count("agegender_images_total", int(row["images"]), "evaluate", status=metrics.ANY_STATUS)
            metrics.count("agegender_units_total", 1, "evaluate")
