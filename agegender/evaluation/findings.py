"""The most important results of an evaluation, as sentences."""

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]

MIN_IMAGES = 30
"""Smaller slices are ignored: they would rank first by chance."""


def findings(metrics: dict[str, Any], rows: list[Row]) -> list[str]:
    """The findings, worst first, one sentence each.

    Args:
        metrics: the content of metrics.json.
        rows: of ``slices.slice_rows``.
    """
    sentences = [
        *_age_errors(metrics, rows),
        *_ranges(metrics, rows),
        *_biases(rows),
        *_gender(metrics, rows),
        *_races(rows),
    ]
    return [*sentences, *_coverage(metrics, rows), *_minors(metrics), *_robustness(metrics)]


def slice_name(row: Row) -> str:
    """Description of a slice, e.g. ``asian female, aged 61-70``."""
    who = " ".join(str(row[name]) for name in ("race", "gender") if row[name] is not None)
    age = f"aged {row['age_group']}" if row["age_group"] is not None else ""
    return ", ".join(part for part in (who, age) if part)


def _of(rows: list[Row], by: str, metric: str, counted: str = "n_age") -> list[Row]:
    return [row for row in rows if row["slice"] == by and row[counted] >= MIN_IMAGES and row[metric] is not None]


def _age_errors(metrics: Row, rows: list[Row]) -> Iterable[str]:
    overall = metrics["age_mae_years"]["value"]
    for by in ("age_group", "age_group x gender", "age_group x gender x race"):
        worst = max(_of(rows, by, "age_mae_years"), key=lambda row: float(row["age_mae_years"]), default=None)
        if worst is not None and worst["age_mae_years_low"] > overall:
            yield (
                f"MAE is {worst['age_mae_years']:.1f} years ({worst['age_mae_years_low']:.1f} to "
                f"{worst['age_mae_years_high']:.1f}) for those {slice_name(worst)}, n = {worst['n_age']:,}, "
                f"against {overall:.1f} over all: the worst by {by.replace(' x ', ' and ').replace('_', ' ')}."
            )


def _ranges(metrics: Row, rows: list[Row]) -> Iterable[str]:
    """The labelled range of ages whose share inside is the lowest, if it is apart from the whole."""
    overall = metrics["age_in_range"]["value"]
    ranges = _of(rows, "age_range", "age_in_range", "n_age_range")
    worst = min(ranges, key=lambda row: float(row["age_in_range"]), default=None)
    if worst is not None and worst["age_in_range_high"] < overall:
        yield (
            f"The estimate is inside the labelled range for {worst['age_in_range']:.0%} ({worst['age_in_range_low']:.0%} to "
            f"{worst['age_in_range_high']:.0%}) of those labelled {worst['age_range']}, n = {worst['n_age_range']:,}, "
            f"against {overall:.0%} over all: the worst of the ranges."
        )


def _biases(rows: list[Row]) -> Iterable[str]:
    """The groups with the largest bias in each direction, if the bounds exclude 0."""
    groups = _of(rows, "age_group", "age_bias_years")
    for sign, word in ((-1, "young"), (1, "old")):
        clear = [row for row in groups if min(sign * row["age_bias_years_low"], sign * row["age_bias_years_high"]) > 0]
        worst = max(clear, key=lambda row: abs(float(row["age_bias_years"])), default=None)
        if worst is not None and abs(worst["age_bias_years"]) >= 1:
            years = abs(worst["age_bias_years"])
            yield f"Those {slice_name(worst)} are estimated {years:.1f} years too {word} on average, n = {worst['n_age']:,}."


def _gender(metrics: Row, rows: list[Row]) -> Iterable[str]:
    overall = metrics["gender_accuracy"]["value"]
    for by in ("age_group", "age_group x gender"):
        worst = min(
            _of(rows, by, "gender_accuracy", "n_gender"), key=lambda row: float(row["gender_accuracy"]), default=None
        )
        if worst is not None and worst["gender_accuracy_high"] < overall:
            yield (
                f"Gender is right for {worst['gender_accuracy']:.1%} ({worst['gender_accuracy_low']:.1%} to "
                f"{worst['gender_accuracy_high']:.1%}) of those {slice_name(worst)}, n = {worst['n_gender']:,}, "
                f"against {overall:.1%} over all."
            )


def _races(rows: list[Row]) -> Iterable[str]:
    """The best and the worst group, if their bounds do not overlap."""
    for metric, counted, form, name in (
        ("age_mae_years", "n_age", "{:.1f} years", "MAE"),
        ("age_in_range", "n_age_range", "{:.1%}", "The share of ages inside the labelled range"),
        ("gender_accuracy", "n_gender", "{:.1%}", "Gender accuracy"),
    ):
        known = sorted(_of(rows, "race", metric, counted), key=lambda row: float(row[metric]))
        if len(known) >= 2 and known[0][f"{metric}_high"] < known[-1][f"{metric}_low"]:
            low, high = (f"{form.format(row[metric])} for {row['race']}" for row in (known[0], known[-1]))
            yield f"{name} differs by race beyond chance: {low}, {high}."


def _coverage(metrics: Row, rows: list[Row]) -> Iterable[str]:
    promised = metrics["interval_coverage_promised"]
    short = [r for r in _of(rows, "age_group", "interval_coverage") if r["interval_coverage_high"] < promised]
    if short:
        parts = (f"{row['interval_coverage']:.0%} of those aged {row['age_group']}" for row in short)
        yield f"The {promised:.0%} interval covers fewer true ages than promised: {', '.join(parts)}."
    for metric, what in (("interval_coverage", "true ages"), ("interval_meets_range", "labelled ranges")):
        counted = "n_age" if metric == "interval_coverage" else "n_age_range"
        short = [row for row in _of(rows, "source", metric, counted) if row[f"{metric}_high"] < promised]
        if short:
            named = ", ".join(f"{row[metric]:.0%} of {row['source']}" for row in short)
            yield f"The {promised:.0%} interval covers fewer {what} than promised in some sources: {named}."


def _minors(metrics: Row) -> Iterable[str]:
    minors = metrics["age_assurance"]["minors_13_17"]
    if minors["n"] >= MIN_IMAGES:
        share = minors["estimated_18_or_over"]
        yield (
            f"{share['value']:.0%} ({share['low']:.0%} to {share['high']:.0%}) of those aged 13-17 are estimated 18 or "
            f"older, n = {minors['n']:,}."
        )


def _robustness(metrics: Row) -> Iterable[str]:
    """The corruptions under which the interval does not reach its coverage."""
    promised = metrics["interval_coverage_promised"]
    for worse in (metrics["robustness"] or {}).values():
        held, error = worse["interval_coverage"], worse["age_mae_years"]
        if worse["n"] >= MIN_IMAGES and held["value"] is not None and held["high"] < promised:
            yield (
                f"The {promised:.0%} interval loses coverage on corrupted images ({worse['what']}): it covers {held['value']:.0%} "
                f"({held['low']:.0%} to {held['high']:.0%}), and MAE is {error['value']:.1f} years."
            )
