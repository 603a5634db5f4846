"""Every path under the OUTPUT of a run. Addresses only; nothing is read or written here.

    predict    part-FIRST-LAST.parquet   _run.json   _crops/   _work/{listing,scored,rescore}/   _work/driver.json
    eda        summary.json   report.html   tables/   figures/   run.json   _work/{listing,summaries}/
    evaluate   metrics.json   report.html   slices.parquet   predictions.parquet   run.json   _work/{listing,scored_*}/
    preview    NUMBER-NAME.jpg   _run.json
    train      model/   metrics.jsonl   report.html   split.parquet   tensorboard/   run.json   _work/...

Readers of a Parquet folder ignore names that begin with ``_``, so they read predict's OUTPUT as one table.
"""

import re
from dataclasses import dataclass

from agegender.storage import files

_PART_NAME = re.compile(r"part-(\d{7})-(\d{7})\.parquet")


def unit_stem(number: int) -> str:
    """``unit-0000012``: file name stem of everything derived from a unit."""
    return f"unit-{number:07d}"


def unit_name(uri: str) -> str:
    """``unit-0000012`` of the address of a unit's listing."""
    return files.name(uri).removesuffix(".parquet")


def unit_number(uri: str) -> int:
    """12 for ``.../unit-0000012.parquet``, or for another file named after the unit."""
    return int(files.name(uri).removeprefix("unit-").partition(".")[0])


def unit_uri(listing_uri: str, number: int) -> str:
    """Address of a unit of the listing in a folder."""
    return files.join(listing_uri, f"{unit_stem(number)}.parquet")


def listing_index(listing_uri: str) -> str:
    """The counts of the listing in a folder; written when the listing is complete."""
    return files.join(listing_uri, "listing.json")


def part_units(uri: str) -> tuple[int, int] | None:
    """First and last unit of a part, from its name; None for any other file."""
    match = _PART_NAME.fullmatch(files.name(uri))
    return (int(match[1]), int(match[2])) if match else None


@dataclass(frozen=True)
class OutputLayout:
    """Addresses under one OUTPUT, local or s3://."""

    output: str

    def path(self, *names: str) -> str:
        """Any file of the run, such as ``summary.json`` or ``tables/ages.parquet``."""
        return files.join(self.output, *names)

    def work(self, *names: str) -> str:
        """An internal file of the jobs."""
        return files.join(self.output, "_work", *names)

    def record(self, job: str) -> str:
        """The record of the run; hidden if OUTPUT is read as one table or one image set."""
        return self.path("_run.json" if job in ("predict", "sample", "preview") else "run.json")

    @property
    def report(self) -> str:
        """The report page."""
        return self.path("report.html")

    @property
    def listing(self) -> str:
        """Folder of the units of the listing."""
        return self.work("listing")

    @property
    def lease(self) -> str:
        """The lease of the driver."""
        return self.work("driver.json")

    # predict

    @property
    def scored(self) -> str:
        """Folder of the units that are scored and not yet in a part."""
        return self.work("scored")

    def scored_rows(self, number: int) -> str:
        """Rows of a scored unit."""
        return files.join(self.scored, f"{unit_stem(number)}.parquet")

    def scored_counts(self, number: int) -> str:
        """Counts of a scored unit; written after its rows, so that this file marks the unit as done."""
        return files.join(self.scored, f"{unit_stem(number)}.json")

    def part(self, first: int, last: int) -> str:
        """The published rows of the units FIRST to LAST."""
        return self.path(f"part-{first:07d}-{last:07d}.parquet")

    def crops(self, unit: str) -> str:
        """Folder of the faces of a unit, with ``--save-crops``."""
        return self.path("_crops", unit_name(unit))

    @property
    def rescore(self) -> "OutputLayout":
        """The nested run that scores some images again."""
        return OutputLayout(self.work("rescore"))

    @property
    def rescore_index(self) -> str:
        """Counts of the units and images that ``rescore`` collected; written when collecting is complete."""
        return self.rescore.path("rescore.json")

    # eda and train

    @property
    def facts(self) -> str:
        """Folder of eda's facts of each image; readers see one table."""
        return self.path("tables", "images")

    # evaluate

    def evaluated(self, unit: str, corruption: str | None = None) -> str:
        """Predictions and labels of a unit, or of its corrupted images, until they are gathered."""
        return self.work(f"scored_{corruption or 'plain'}", f"{unit_name(unit)}.parquet")

    @property
    def predictions(self) -> str:
        """Predictions and labels of all evaluated images."""
        return self.path("predictions.parquet")

    # train

    @property
    def model(self) -> str:
        """Folder of the trained model."""
        return self.path("model")

    @property
    def split(self) -> str:
        """The assignment of images to parts."""
        return self.path("split.parquet")

    @property
    def history(self) -> str:
        """Metrics of each epoch."""
        return self.path("metrics.jsonl")

    @property
    def tensorboard(self) -> str:
        """Folder of TensorBoard's files."""
        return self.path("tensorboard")

    @property
    def examples(self) -> str:
        """Validation images for train's report."""
        return self.work("examples.parquet")

    @property
    def attempts(self) -> str:
        """Folder of the checkpoints, one folder for each process of the driver."""
        return self.work("attempts")
