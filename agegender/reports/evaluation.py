"""The report of an evaluation: key metrics with bounds, error by group, calibration, example images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agegender.reports import figures
from agegender.reports.page import Cell, Figure, GridImage, ImageGrid, Section, Table, render_page
from agegender.reports.slice_tables import (
    cell,
    intersections_section,
    race_and_age_section,
    rows_of,
    slice_table,
    sources_section,
    span,
)
from agegender.schema import AGE_GROUPS, GENDERS

Row = Mapping[str, Any]
Histogram = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
Ages = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]

_EXAMPLE_TITLES = {
    "random": "Random sample.",
    "best": "Smallest age error.",
    "worst": "Largest age error; includes wrong labels.",
    "gender_mistakes": "Wrong gender, most confident first.",
}


@dataclass(frozen=True)
class Example:
    """One image with labels and estimates; ages in years (the labelled one as text, a range too), gender codes."""

    jpeg: bytes
    uri: str
    age_true: str | None
    age_pred: float
    age_low: float
    age_high: float
    gender_true: int | None
    female_probability: float


def evaluation_page(
    metrics: Mapping[str, Any],
    slices: Sequence[Row],
    *,
    ages: Ages,
    error_histogram: Histogram,
    confusion: npt.NDArray[np.int64],
    reliability: Sequence[Row],
    examples: Mapping[str, Sequence[Example]] | None,
) -> str:
    """Render report.html.

    Args:
        metrics: the content of metrics.json.
        slices: rows of slices.parquet.
        ages: float32[N] true (NaN where unlabelled) and float32[N] estimated, in years.
        error_histogram: float64[K] images and float64[K + 1] edges in years, of estimated less true age.
        confusion: int64[11, 11], true by estimated age group.
        reliability: rows of ``evaluation.calibration.reliability``.
        examples: category -> images; None: show no faces.

    Returns:
        A self-contained HTML page.
    """
    sections = [
        _findings(metrics),
        *([sources_section(slices)] if rows_of(slices, "source") else []),
        *([_by("Error by age", "age_group", slices)] if rows_of(slices, "age_group") else []),
        *([_ranges(metrics, slices)] if metrics["n_age_range"] else []),
        *([_errors(ages, error_histogram)] if metrics["n_age"] else []),
        *([_by("Error by gender", "gender", slices)] if rows_of(slices, "gender") else []),
        *([_by("Error by race", "race", slices)] if rows_of(slices, "race") else []),
        *(
            [race_and_age_section(slices)]
            if rows_of(slices, "age_group x race") or rows_of(slices, "age_range x race")
            else []
        ),
        *([intersections_section(slices)] if rows_of(slices, "age_group x gender") else []),
        *([_confusion(confusion)] if metrics["n_age"] else []),
        _interval(metrics["interval_by_age_group"], float(metrics["interval_coverage_promised"])),
        *([_selective(metrics["selective_prediction"])] if metrics["selective_prediction"] else []),
        *([_gender_calibration(metrics, reliability)] if reliability else []),
        *([] if metrics["robustness"] is None else [_robustness(metrics)]),
        _age_assurance(metrics["age_assurance"]),
        *([] if examples is None else [_examples(examples)]),
        _images(metrics),
    ]
    model = metrics["model"]
    return render_page(
        "Evaluation",
        f"{metrics['n']:,} labelled images, scored by model {model['model_id']} ({model['backbone']}). "
        "Values in brackets are 95% confidence bounds.",
        sections,
        warnings=_warnings(metrics),
        facts=_key_metrics(metrics),
        footer=f"agegender {metrics['agegender_version']} · model {model['address']} · bounds: {metrics['bounds']}",
    )


def _key_metrics(metrics: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    named = (
        ("age_mae_years", "mean absolute age error, years", False),
        ("age_median_error_years", "median absolute age error, years", False),
        ("age_bias_years", "age bias, years", False),
        ("age_within_5_years", "age within 5 years", True),
        ("gender_accuracy", "gender accuracy", True),
        ("interval_coverage", f"{metrics['interval_coverage_promised']:.0%} interval coverage", True),
        ("interval_width_years", "mean width of the interval, years", False),
        ("age_in_range", "age inside the labelled range", True),
        ("age_mae_to_range_years", "mean distance to the labelled range, years", False),
    )
    facts: list[tuple[str, Cell]] = []
    ranges = ("age_in_range", "age_mae_to_range_years")
    for key, name, share in named:
        if key in ranges and not metrics["n_age_range"]:
            continue
        value, _, bounds = (_bounded(metrics[key], share) or "").partition(" ")
        facts.append((f"{name} {bounds}".strip(), value or None))
    return facts


def _bounded(value: Mapping[str, float | None], share: bool = False) -> str | None:
    if value["value"] is None:
        return None
    number = "{:.1%}" if share else "{:.2f}"
    low, high = (number.format(value[end]).rstrip("%") for end in ("low", "high"))
    return f"{number.format(value['value'])} ({span(low, high)})"


def _warnings(metrics: Mapping[str, Any]) -> list[str]:
    seen = metrics["seen_in_training"]
    if not seen["images"]:
        return []
    return [
        f"Data leakage: this model was trained on {seen['images']:,} of the {metrics['n']:,} images ({seen['share']:.1%}), so "
        "that the metrics are optimistic. For metrics on held-out images, evaluate with --split split.parquet --part test "
        "of the training run."
    ]


def _findings(metrics: Mapping[str, Any]) -> Section:
    sentences = list(metrics["findings"])
    text = "\n\n".join(sentences) or "No group of 30 or more images differs significantly from the whole set."
    return Section("Findings", text)


def _by(title: str, by: str, slices: Sequence[Row]) -> Section:
    """Charts of error and bias with bounds, and the table, for one attribute."""
    rows = rows_of(slices, by)
    aged = [row for row in rows if row["age_mae_years"] is not None]
    name = by.replace("_", " ")
    charts = []
    if aged:
        charts = [
            Figure(_bars(aged, by, "age_mae_years", "mean absolute error, years"), "Mean absolute age error.", f"MAE by {name}"),
            Figure(
                _bars(aged, by, "age_bias_years", "mean signed error, years"),
                "Signed error: above 0 people are estimated too old, below 0 too young.", f"Bias by {name}",
            ),
        ]  # fmt: skip
    return Section(title, figures=charts, tables=[slice_table(rows, (by,))])


def _bars(rows: Sequence[Row], by: str, metric: str, axis: str) -> bytes:
    values, low, high = ([float(row[f"{metric}{end}"]) for row in rows] for end in ("", "_low", "_high"))
    return figures.bars([row[by] for row in rows], values, x=by.replace("_", " "), y=axis, low=low, high=high)


def _ranges(metrics: Mapping[str, Any], slices: Sequence[Row]) -> Section:
    columns = (
        ("inside the range", "age_in_range", True),
        ("distance to the range, years", "age_mae_to_range_years", False),
        ("same bucket", "age_bucket_accuracy", True),
        ("same or next bucket", "age_within_one_bucket", True),
        ("interval meets the range", "interval_meets_range", True),
    )
    rows = rows_of(slices, "age_range")
    cells: list[list[Cell]] = [
        ["all", metrics["n_age_range"], *(_bounded(metrics[metric], share) for _, metric, share in columns)]
    ]
    cells += [
        [str(row["age_range"]), row["n"], *(cell(row, metric, share) for _, metric, share in columns)] for row in rows
    ]
    return Section(
        "Ages labelled as ranges",
        "20-29 lasts to just before the 30th birthday. The distance is to the nearest end of the range and 0 inside, so that "
        "it is no MAE. Buckets are there where no two ranges of the set overlap.",
        tables=[Table(["range", "n", *(name for name, _, _ in columns)], cells)],
    )


def _errors(ages: Ages, error_histogram: Histogram) -> Section:
    true, estimated = (values[~np.isnan(ages[0])].astype(np.float64) for values in ages)
    return Section(
        "Estimated against true age",
        figures=[
            Figure(
                figures.scatter(true, estimated, x="true age, years", y="estimated age, years", diagonal=True, limit=110),
                "One dot per image, or cells shaded by count; the line is a perfect estimate.",
                "Estimated against true age",
            ),
            Figure(
                figures.histogram(*error_histogram, x="estimated less true age, years", y="images"),
                "Signed errors, clipped to 40 years.",
                "Histogram of signed age errors",
            ),
        ],
    )  # fmt: skip


def _confusion(confusion: npt.NDArray[np.int64]) -> Section:
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    written = np.where(confusion > 0, confusion, np.nan).astype(np.float64)
    chart = figures.heatmap(written, AGE_GROUPS, AGE_GROUPS, x="estimated age group", y="true age group", shade=shares)
    return Section(
        "Confusion of age groups",
        figures=[Figure(chart, "Images by true and estimated group, shaded by share of the true group.",
                        "Confusion matrix of age groups", wide=True)],
    )  # fmt: skip


def _interval(coverage: Mapping[str, Sequence[Row]], promised: float) -> Section:
    charts = []
    for by, note in (
        ("estimated", "By estimated group, for which the interval is calibrated."),
        ("true", "By true group, for which coverage is not guaranteed: it is not known beforehand."),
        (
            "estimated_of_ranges",
            "Of ages labelled as ranges, which an interval covers if they meet; by estimated group.",
        ),
    ):
        rows = coverage[by]
        if not rows:
            continue
        values, low, high = ([row[name] for row in rows] for name in ("coverage", "low", "high"))
        names = [row["age_group"] for row in rows]
        chart = figures.bars(
            names, values, x=f"{by.removesuffix('_of_ranges')} age group", y="share covered", low=low, high=high
        )
        charts.append(
            Figure(chart, f"{note} Target: {promised:.0%}.", f"Interval coverage by age group: {by.replace('_', ' ')}")
        )
    cells = [
        [r["age_group"], label, r["n"], 100 * r["coverage"], r["width_years"]]
        for by, label in (("estimated", "age"), ("estimated_of_ranges", "range"))
        for r in coverage[by]
    ]
    header = ["estimated age group", "label", "n", "covered, %", "width, years"]
    return Section(
        "Coverage of the age interval",
        f"The interval should cover the true age in {promised:.0%} of all cases and be as narrow as possible.",
        figures=charts,
        tables=[Table(header, cells, digits=1)],
    )


def _gender_calibration(metrics: Mapping[str, Any], rows: Sequence[Row]) -> Section:
    stated, observed, counts = ([row[name] for row in rows] for name in ("stated", "observed", "n"))
    chart = figures.reliability(
        stated, observed, counts, x="stated probability of female", y="share that is female"
    )  # fmt: skip
    error = metrics["gender_calibration_error"]
    return Section(
        "Calibration of the gender probability",
        f"Of images with a predicted probability of female of 0.8, 80% should be female. Expected calibration error over "
        f"{len(rows)} bins of equal size: {error:.3f}.",
        figures=[Figure(chart, "On the line the probability is calibrated.", "Reliability of the gender probability")],
    )


def _selective(rows: Sequence[Row]) -> Section:
    answered = [100 * row["answered"] for row in rows]
    errors = [row["age_mae_years"] for row in rows]
    chart = figures.lines(
        {"": (answered, errors)}, x="faces answered, %", y="mean absolute error, years", zero_based=True, markers=True
    )
    cells: list[list[Cell]] = [
        [100 * row["answered"], row["width_limit_years"], row["age_mae_years"], 100 * row["interval_coverage"]]
        for row in rows
        if round(20 * row["answered"]) % 2 == 0
    ]
    return Section(
        "Selective prediction",
        "Metrics of the faces with the narrowest intervals. predict --abstain-above WIDTH marks the others.",
        figures=[Figure(chart, "Error over the faces that are answered.", "Error against the share of faces answered")],
        tables=[Table(["answered, %", "width up to, years", "MAE, years", "interval coverage, %"], cells, digits=1)],
    )


def _robustness(metrics: Mapping[str, Any]) -> Section:
    kinds = {"not corrupted": metrics} | {each["what"]: each for each in metrics["robustness"].values()}
    rows: list[list[Cell]] = [
        [
            what,
            _bounded(values["age_mae_years"]),
            _bounded(values["gender_accuracy"], share=True),
            _bounded(values["interval_coverage"], share=True),
            values["interval_width_years"]["value"],
            None if values["gender_calibration_error"] is None else f"{values['gender_calibration_error']:.3f}",
        ]
        for what, values in kinds.items()
    ]
    measures = ["MAE, years", "gender accuracy", "interval coverage", "mean width, years", "gender calibration error"]
    header = ["face crops", *measures]
    return Section(
        "Robustness to corruptions",
        "The same images, corrupted before scoring. Calibration covers small faces, and none of the others.",
        tables=[Table(header, rows, digits=1)],
    )


def _age_assurance(assurance: Mapping[str, Any]) -> Section:
    minors, adults = assurance["minors_13_17"], assurance["adults"]
    rows: list[list[Cell]] = [
        ["13-17 estimated 18 or older", minors["n"], _bounded(minors["estimated_18_or_over"], share=True)],
        ["13-17 estimated 25 or older", minors["n"], _bounded(minors["estimated_25_or_over"], share=True)],
        ["adults estimated under 18", adults["n"], _bounded(adults["estimated_under_18"], share=True)],
        ["adults estimated under 25", adults["n"], _bounded(adults["estimated_under_25"], share=True)],
    ]
    return Section(
        "As an age check",
        "How often the point estimate would accept a minor or reject an adult, at a limit of 18 and at 25. This is a "
        "measurement, not advice: the model is not intended for decisions about people.",
        tables=[Table(["error", "n", "share"], rows)],
    )


def _examples(examples: Mapping[str, Sequence[Example]]) -> Section:
    grids = [
        ImageGrid([_grid_image(example) for example in examples[why]], title, beside=True)
        for why, title in _EXAMPLE_TITLES.items()
        if examples.get(why)
    ]
    return Section("Example images", "Each with label and estimate.", grids=grids)


def _grid_image(example: Example) -> GridImage:
    age = "age not labelled" if example.age_true is None else f"true {example.age_true} years"
    female = example.female_probability >= 0.5
    confidence = max(example.female_probability, 1 - example.female_probability)
    gender = "gender not labelled" if example.gender_true is None else f"true {GENDERS[example.gender_true]}"
    return GridImage(
        example.jpeg,
        [
            f"{age}, estimated {example.age_pred:.1f}",
            f"interval {example.age_low:.0f} to {example.age_high:.0f}",
            f"{gender}, estimated {GENDERS[female]} {confidence:.0%}",
            example.uri.rsplit("/", 1)[-1],
        ],
    )


def _images(metrics: Mapping[str, Any]) -> Section:
    images = metrics["images"]
    rows: list[list[Cell]] = [
        ["listed", images["listed"]],
        ["repeated in the listing, counted once", images["repeated"]],
        *([f"ignored: {kind}", n] for kind, n in images["ignored_files"].items()),
    ]
    if metrics["split"] is not None:
        rows.append([f"in part {metrics['split']['part']} of the split", images["in_part"]])
    rows += [[f"status {status}", n] for status, n in images["by_status"].items()]
    rows += [["readable, without a label", images["unlabelled"]], ["evaluated", metrics["n"]]]
    rows += [["with a known age", metrics["n_age"]], ["with a range of ages", metrics["n_age_range"]]]
    rows += [["with a known gender", metrics["n_gender"]]]
    return Section("Which images", "From " + ", ".join(metrics["input"]), tables=[Table(["", "images"], rows)])
