"""``agegender.predict``: score every image of a source; the result is an object with the rows."""

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agegender.api.crops import cut_crops
from agegender.api.keywords import build_config, keywords_of
from agegender.api.results import Output, dataset, read_rows, run_job, to_pandas
from agegender.api.sources import PreparedSource
from agegender.config import RELEASED_MODEL, PredictConfig
from agegender.reports.notebook import FaceRow, faces_html
from agegender.schema import AGE_GROUPS, GENDERS, Status

if TYPE_CHECKING:
    import pandas as pd

    from agegender.api.sources import Source

SHOWN_ROWS = 8
"""Rows that a notebook shows."""

_WITHOUT = ("dry_run",)
_DEFAULTS = {"max_bad_fraction": 1.0}
"""An error would hide the rows that name the bad files."""


@keywords_of(PredictConfig, _WITHOUT, _DEFAULTS)
def predict(
    source: "Source",
    *,
    output: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] = RELEASED_MODEL,
    show_images: bool = True,
    **options: Any,
) -> "Faces":
    """Estimate the age and gender of every face of a source.

    The same job as ``agegender predict``: the result has each image once, and a bad image is a row with its status. With
    ``output``, the same call resumes an interrupted run, also for a source in memory.

    Args:
        source: an address (folder, image, manifest, Parquet, tar; local or ``s3://``) or a list of them; or a source
            in memory: an encoded image as bytes, a uint8[H, W, 3] RGB array, a PIL image, a list of those, a uint8[N, H, W, 3]
            array; or a pyarrow or pandas table with a column ``bytes`` of image files or ``uri`` of addresses, whose other
            columns are kept, as ``source_NAME`` if the result has a column of that name. Images without a name are called
            ``image-000000`` and so on, by position. A repeated ``uri`` is scored once.
        output: folder or ``s3://`` prefix for the rows; None: a temporary folder, deleted with the object.
        model: ``"fast"``, ``"accurate"`` or ``"open"``, which come with the package; or the folder or ``s3://`` prefix
            of a trained model.
        show_images: whether a notebook shows the faces of the first rows; they are saved in the notebook.
        **options: the flags of ``agegender predict`` with ``_`` for ``-``, listed below. ``max_bad_fraction`` is 1 by
            default here: bad files are counted in ``summary`` and raise no error.

    Returns:
        The rows: ``.table``, ``.df``, ``.summary``.

    Raises:
        ConfigError: an option is unknown or out of bounds, or ``output`` holds another run.
        InputError: no image, an array of another shape or type, no usable model, more bad files than allowed.
        ResourceError: storage or the cluster failed; with ``output`` the same call resumes.

    Example:
        >>> faces = agegender.predict("photos/")
        >>> faces.df[["uri", "age_years", "gender"]]
        >>> faces = agegender.predict([array, pil_image, jpeg_bytes], faces="none")
    """
    given = {**_DEFAULTS, **options, "input": ["-"], "output": "-", "model": model}
    config = build_config(PredictConfig, "predict", given, _WITHOUT)
    from agegender.pipelines.predict.launch import launch_predict  # a call with a wrong option fails before

    place = Output.at(output)
    config, summary = run_job(launch_predict, config, source, place, _kept, rename=True)
    return Faces(place, summary, config, show_images)


def _kept(config: PredictConfig, source: PreparedSource) -> dict[str, Any]:
    """The columns of a table to keep, the given ones or all; and its columns of boxes by their new names."""
    keep = config.keep_columns if "keep_columns" in config.model_fields_set else None
    kept = {"keep_columns": list(source.columns) if keep is None else [source.renamed.get(name, name) for name in keep]}
    boxes = config.box_names or (["box"] if config.faces == "boxes" and "box" in source.renamed else [])
    return kept | ({"box_columns": ",".join(source.renamed.get(name, name) for name in boxes)} if boxes else {})


class Faces:
    """The rows of a predict run.

    Attributes:
        output: folder or ``s3://`` prefix of the rows, ``part-*.parquet``.
        summary: the closing summary: ``images``, ``faces``, ``rows``, ``by_status``, ``images_per_s``, ...
        show_images: whether a notebook shows faces.

    Example:
        >>> faces = agegender.predict("photos/", faces="none")
        >>> len(faces), faces.summary["by_status"]
        >>> faces.table.filter(pc.field("status") == "ok")
    """

    def __init__(self, output: Output, summary: dict[str, Any], config: PredictConfig, show_images: bool) -> None:
        self._output, self._config = output, config
        self.output = output.uri
        self.summary = summary
        self.show_images = show_images

    @cached_property
    def table(self) -> pa.Table:
        """All rows in the schema of docs/predictions.md: one per face, or one for an image without a usable face.

        Sorted by ``uri`` and ``face_index``. Read lazily into memory; query a larger result in place, e.g. with
        DuckDB: ``read_parquet(f"{faces.output}/*.parquet")``.
        """
        return read_rows(self.output).sort_by([("uri", "ascending"), ("face_index", "ascending")])

    @cached_property
    def df(self) -> "pd.DataFrame":
        """``table`` as a pandas DataFrame; ``status``, ``gender`` and ``age_group`` are categories."""
        return to_pandas(self.table)

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.summary["rows"])

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} {status}" for status, n in self.summary["by_status"].items())
        where = "a temporary folder" if self._output.is_temporary else self.output
        return f"<Faces: {self.summary['faces']:,} in {self.summary['images']:,} images ({counts}), in {where}>"

    def _repr_html_(self) -> str:
        first = dataset(self.output).head(SHOWN_ROWS).to_pylist()
        crops = cut_crops(self.output, self._config.source(), first) if self.show_images else [None] * len(first)
        return faces_html(
            self.summary["by_status"],
            faces=self.summary["faces"],
            images=self.summary["images"],
            rows=[_shown(row, crop) for row, crop in zip(first, crops, strict=True)],
            pyramid=self._pyramid(),
            of_rows=len(self),
        )

    def _pyramid(self) -> dict[str, tuple[int, int]]:
        """Age group -> faces by gender, counted in batches."""
        counts = np.zeros((len(AGE_GROUPS), len(GENDERS)), np.int64)
        only_faces = pc.field("status") == Status.OK.value
        for batch in dataset(self.output).to_batches(columns=["age_group", "gender"], filter=only_faces):
            group, gender = (
                np.array(pc.index_in(batch.column(name).cast(pa.string()), pa.array(names)), np.int64)
                for name, names in (("age_group", AGE_GROUPS), ("gender", GENDERS))
            )
            np.add.at(counts, (group, gender), 1)
        return {group: (int(male), int(female)) for group, (male, female) in zip(AGE_GROUPS, counts, strict=True)}


def _shown(row: dict[str, Any], jpeg: bytes | None) -> FaceRow:
    return FaceRow(
        uri=row["uri"],
        jpeg=jpeg,
        status=row["status"],
        error=row["error"],
        age_years=row["age_years"],
        age_low_years=row["age_low_years"],
        age_high_years=row["age_high_years"],
        gender=row["gender"],
        gender_probability=row["gender_probability"],
    )
