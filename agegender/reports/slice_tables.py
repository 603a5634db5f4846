"""Tables of the slices of an evaluation: by source, by race and age, and intersections."""

from collections.abc import Mapping, Sequence
from typing import Any

from agegender.reports.page import Cell, Section, Table

Row = Mapping[str, Any]

INTERSECTIONS_SHOWN = 15


def rows_of(slices: Sequence[Row], by: str) -> list[Row]:
    """The rows of one slicing that have images."""
    return [row for row in slices if row["slice"] == by and row["n"]]


def sources_section(slices: Sequence[Row]) -> Section:
    """Each source by itself."""
    columns = (
        ("MAE, years", "age_mae_years", False),
        ("age inside the range", "age_in_range", True),
        ("same or next bucket", "age_within_one_bucket", True),
        ("gender accuracy", "gender_accuracy", True),
        ("interval covers the age", "interval_coverage", True),
        ("interval meets the range", "interval_meets_range", True),
    )
    rows: list[list[Cell]] = [
        [
            *(str(row["source"]), row["n"], *(cell(row, metric, share) for _, metric, share in columns)),
            None if row["gender_calibration_error"] is None else f"{row['gender_calibration_error']:.3f}",
        ]
        for row in rows_of(slices, "source")
    ]
    header = ["source", "n", *(name for name, _, _ in columns), "gender calibration error"]
    return Section("By source", "Each input by itself.", tables=[Table(header, rows)])


def race_and_age_section(slices: Sequence[Row]) -> Section:
    """The cells of race and age with the lowest gender accuracy, by exact ages and by ranges."""
    tables = []
    for age in ("age_group", "age_range"):
        rows = [row for row in rows_of(slices, f"{age} x race") if row["gender_accuracy"] is not None]
        worst = sorted(rows, key=lambda row: float(row["gender_accuracy"]))[:INTERSECTIONS_SHOWN]
        if worst:
            caption = f"Of {len(rows)} cells with 100 or more images, those with the lowest gender accuracy."
            tables.append(slice_table(worst, (age, "race"), caption))
    return Section("By race and age", tables=tables)


def intersections_section(slices: Sequence[Row]) -> Section:
    """Groups of age and gender, and the worst of those by race as well."""
    tables = [slice_table(rows_of(slices, "age_group x gender"), ("age_group", "gender"))]
    three = [row for row in rows_of(slices, "age_group x gender x race") if row["age_mae_years"] is not None]
    if three:
        worst = sorted(three, key=lambda row: float(row["age_mae_years"]), reverse=True)[:INTERSECTIONS_SHOWN]
        caption = "Intersections of all three with 30 or more images, by largest error; slices.parquet has all."
        tables.append(slice_table(worst, ("age_group", "gender", "race"), caption))
    return Section("Intersections of groups", tables=tables)


def slice_table(rows: Sequence[Row], by: Sequence[str], caption: str = "") -> Table:
    """All metrics with bounds; intersections leave out one column, so that the table fits the page."""
    columns = [("MAE, years", "age_mae_years", False), ("bias, years", "age_bias_years", False)]
    columns += [("within 5 years", "age_within_5_years", True)] if len(by) < 2 else []
    columns += [("gender accuracy", "gender_accuracy", True), ("interval coverage", "interval_coverage", True)]
    return Table(
        [*(name.replace("_", " ") for name in by), "n", *(name for name, _, _ in columns)],
        [
            [*(str(row[name]) for name in by), row["n"], *(cell(row, metric, share) for _, metric, share in columns)]
            for row in rows
        ],
        caption=caption,
    )


def cell(row: Row, metric: str, share: bool = False) -> str | None:
    """A metric with its bounds in brackets; None if no image has its label."""
    if row[metric] is None:
        return None
    scale, digits = (100, 0) if share else (1, 1)
    value, low, high = (f"{row[f'{metric}{end}'] * scale:.{digits}f}" for end in ("", "_low", "_high"))
    return f"{value}{'%' if share else ''} ({span(low, high)})"


def span(low: str, high: str) -> str:
    """Bounds as a short text; "to" if one is negative, because a dash would look like a minus sign."""
    return f"{low} to {high}" if "-" in low + high else f"{low}\N{EN DASH}{high}"
