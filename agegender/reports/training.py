"""The report of a training run: metrics per epoch, split and settings."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from agegender.reports import figures
from agegender.reports.page import Cell, Figure, GridImage, ImageGrid, Section, Table, render_page
from agegender.schema import GENDERS, SPLIT_PARTS, age_text

Row = Mapping[str, Any]


def training_page(
    result: Row, history: Sequence[Row], split: pa.Table, settings: Row, examples: Sequence[Row] | None
) -> str:
    """Render report.html of a training run.

    Args:
        result: what ``run_train`` returns.
        history: rows of metrics.jsonl.
        split: rows of ``schema.SPLIT``.
        settings: the resolved config.
        examples: validation images with jpeg, true and estimated age and gender; None: show no faces.

    Returns:
        HTML.
    """
    sections = [_curves(history), *_sources(history, split), _parts(split), _speed(history)]
    if examples:
        sections.append(_examples(examples))
    sections += [_epochs(history), _settings(settings)]
    return render_page(
        "Training report",
        f"{result['epochs']} epochs on {result['train_images']:,} images; model {result['model_id']}. The metrics are those of the "
        "last epoch's averaged weights on the validation part, which also calibrates the intervals. For metrics on held-out "
        "images, run `agegender evaluate` on the test part.",
        sections,
        warnings=_warnings(result),
        facts=[
            *_age_facts(result),
            ("Gender accuracy, validation", _percent(result["gender_accuracy"])),
            ("Images per second", round(result["images_per_s"])),
            ("Training time", _duration(result["training_s"])),
        ],
        footer=f"{result['model']} · precision {result['precision']}",
    )


def _age_facts(result: Row) -> list[tuple[str, Cell]]:
    exact, ranged = result["age_mae_years"], result["age_mae_to_range_years"]
    facts: list[tuple[str, Cell]] = [("Distance to the range of ages, validation (years)", ranged)]
    return [("Age MAE, validation (years)", exact), *(facts if ranged is not None else [])]


def _warnings(result: Row) -> list[str]:
    seen = {part: result.get(f"{part}_images_seen_by_init", 0) for part in ("val", "test")}
    return [
        f"The --init model was trained on {count:,} images of the {part} part: metrics on them are optimistic (data leakage)."
        for part, count in seen.items()
        if count
    ]


def _curve(history: Sequence[Row], series: Mapping[str, str], y: str, scale: float = 1.0) -> bytes | None:
    epochs = np.array([row["epoch"] for row in history], dtype=float)
    curves = {}
    for name, key in series.items():
        values = np.array([np.nan if row[key] is None else scale * row[key] for row in history], dtype=float)
        if np.isfinite(values).any():
            curves[name] = (epochs, values)
    return figures.lines(curves, x="epoch", y=y, markers=True) if curves else None


def _curves(history: Sequence[Row]) -> Section:
    charts = [
        (
            _curve(history, {"training": "train_loss", "validation": "val_loss"}, "loss"),
            "Loss: training with augmentation and current weights, validation with averaged weights.",
        ),
        (
            _curve(history, {"validation": "age_mae_years"}, "age MAE (years)"),
            "Mean absolute error of age on the validation part.",
        ),
        (
            _curve(history, {"validation": "age_mae_to_range_years"}, "years to the range"),
            "Mean distance of the estimate to the labelled range of ages on the validation part, 0 inside.",
        ),
        (
            _curve(history, {"validation": "gender_accuracy"}, "gender accuracy (%)", 100),
            "Share of validation images with the correct gender.",
        ),
        (
            _curve(history, {"learning rate": "learning_rate"}, "learning rate"),
            "Learning rate at the end of each epoch.",
        ),
    ]
    return Section(
        "Training curves", figures=[Figure(png, caption, caption) for png, caption in charts if png is not None]
    )


def _sources(history: Sequence[Row], split: pa.Table) -> list[Section]:
    """Curves and the last epoch of each source, where there are several."""
    last = history[-1].get("by_source")
    if last is None:
        return []
    charts = []
    for metric, y, scale, caption in (
        ("age_mae_years", "age MAE (years)", 1, "Mean absolute error of exact ages."),
        ("age_mae_to_range_years", "years to the range", 1, "Mean distance to the labelled range of ages."),
        ("gender_accuracy", "gender accuracy (%)", 100, "Share with the correct gender."),
    ):
        rows = [row for row in history if "by_source" in row]  # epochs of an earlier release have none
        flat = [{"epoch": row["epoch"]} | {name: row["by_source"][name][metric] for name in last} for row in rows]
        png = _curve(flat, {name: name for name in last}, y, scale)
        charts += [] if png is None else [Figure(png, caption, f"{y} by source")]
    counts = Counter(zip(split["source"].to_pylist(), split["part"].to_pylist(), strict=True))
    cells: list[list[Cell]] = [
        [
            *(name, *(counts[name, part] for part in SPLIT_PARTS)),
            *(last[name]["age_mae_years"], last[name]["age_mae_to_range_years"]),
            _percent(last[name]["gender_accuracy"]),
        ]
        for name in last
    ]
    header = ["source", *SPLIT_PARTS, "age MAE (years)", "distance to the range (years)", "gender"]
    text = "Validation images of each source; the table is of the last epoch."
    return [Section("By source", text=text, figures=charts, tables=[Table(header, cells)])]


def _parts(split: pa.Table) -> Section:
    rows = split.select(["part", "group", "age_years", "age_low_years", "gender"]).to_pylist()
    cells: list[list[Cell]] = []
    for part in SPLIT_PARTS:
        mine = [row for row in rows if row["part"] == part]
        ages = [row["age_years"] for row in mine if row["age_years"] is not None]
        ranges = sum(row["age_years"] is None and row["age_low_years"] is not None for row in mine)
        genders = Counter(row["gender"] for row in mine)
        groups = len({row["group"] for row in mine})
        median = float(np.median(ages)) if ages else None
        cells.append([part, len(mine), groups, *(genders[code] for code in range(len(GENDERS))), median, ranges])
    header = ["part", "images", "groups", *GENDERS, "median age (years)", "ages as ranges"]
    text = "Duplicates (same bytes, similar, or same capture stamp) form a group, and each group is in one part only."
    return Section("The split", text=text, tables=[Table(header, cells, digits=1)])


def _speed(history: Sequence[Row]) -> Section:
    chart = _curve(history, {"training": "images_per_s"}, "images per second")
    waited = np.mean([row["data_wait_share"] for row in history if row["data_wait_share"] is not None] or [0.0])
    caption = "Training images per second, over all workers."
    return Section(
        "Speed",
        text=f"{100 * waited:.1f} % of the training time was spent waiting for data.",
        figures=[Figure(chart, caption, caption)] if chart else [],
    )


def _examples(examples: Sequence[Row]) -> Section:
    images = [
        GridImage(
            row["jpeg"],
            [
                f"{row['estimated_age_years']:.0f}, {GENDERS[row['estimated_gender']]}",
                f"true: {_true(row)}",
            ],
        )
        for row in examples
    ]
    return Section(
        "Validation images",
        grids=[ImageGrid(images, "Random sample, as the network sees them: estimate above, label below.")],
    )


def _true(row: Row) -> str:
    age = "age unknown" if row["age_years"] is None else f"{row['age_years']:.0f}"
    if row["age_low_years"] is not None:
        age = age_text(row["age_low_years"], row["age_high_years"])
    return f"{age}, {'gender unknown' if row['gender'] is None else GENDERS[row['gender']]}"


def _epochs(history: Sequence[Row]) -> Section:
    header = ["epoch", "steps", "train loss", "val loss", "age MAE", "gender", "learning rate", "images/s", "seconds"]
    rows: list[list[Cell]] = [
        [
            *(row[key] for key in ("epoch", "step", "train_loss", "val_loss", "age_mae_years")),
            _percent(row["gender_accuracy"]),
            f"{row['learning_rate']:.1e}",
            *(None if row[key] is None else round(row[key]) for key in ("images_per_s", "seconds")),
        ]
        for row in history
    ]
    return Section("All epochs", tables=[Table(header, rows, digits=3)])


def _settings(settings: Row) -> Section:
    flat = {key: value for key, value in settings.items() if not isinstance(value, dict)}
    flat |= {
        f"{key}.{name}": value
        for key, inner in settings.items()
        if isinstance(inner, dict)
        for name, value in inner.items()
    }
    return Section(
        "Settings", tables=[Table(["setting", "value"], [[key, str(value)] for key, value in sorted(flat.items())])]
    )


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
