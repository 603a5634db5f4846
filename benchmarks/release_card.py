"""The text of MODEL_CARD.md and WEIGHTS_LICENSE.md of a released model, from what `agegender evaluate` measured."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from release_sets import SETS
from safetensors.numpy import load_file

from agegender import released
from agegender.scoring.load import open_model, training_images, weight_training_images

Row = Mapping[str, Any]
"""Of slices.parquet, with ``METRIC``, ``METRIC_low``, ``METRIC_high``; or of metrics.json, with ``METRIC: {value, low, high}``."""

CELL_IMAGES = 100
"""A cell of race and age with fewer is not judged: its bounds are too wide."""

CELL_GAP = 0.10
"""A cell is named whose genders are right by more than this less often than those of its whole source."""

CHILDREN = ("1-10", "0-2", "3-9")
"""Groups and ranges of ages of those who are ten or younger."""

Columns = Sequence[tuple[str, str, str]]
"""Title, metric, and format of a value and its bounds: years, share or error."""

LEAD: Columns = (
    ("age, mean absolute error, years", "age_mae_years", "years"),
    ("age, median error, years", "age_median_error_years", "years"),
    ("age, bias, years", "age_bias_years", "years"),
    ("age within 5 years", "age_within_5_years", "share"),
    ("age in the right bucket", "age_bucket_accuracy", "share"),
    ("age in it or in the next", "age_within_one_bucket", "share"),
    ("gender accuracy", "gender_accuracy", "share"),
    ("coverage of the 90 % interval", "interval_coverage", "share"),
    ("the 90 % interval meets the labelled range", "interval_meets_range", "share"),
    ("mean width of the interval, years", "interval_width_years", "years"),
)

GROUP: Columns = (
    ("MAE, years", "age_mae_years", "years"),
    ("bias, years", "age_bias_years", "years"),
    ("within 5 years", "age_within_5_years", "share"),
    ("bucket right", "age_bucket_accuracy", "share"),
    ("or the next", "age_within_one_bucket", "share"),
    ("gender right", "gender_accuracy", "share"),
    ("interval holds", "interval_coverage", "share"),
    ("meets the range", "interval_meets_range", "share"),
    ("gender calibration error", "gender_calibration_error", "error"),
)

WORSE: Columns = (
    ("MAE, years", "age_mae_years", "years"),
    ("bucket right", "age_bucket_accuracy", "share"),
    ("gender right", "gender_accuracy", "share"),
    ("interval holds", "interval_coverage", "share"),
    ("meets the range", "interval_meets_range", "share"),
    ("mean width, years", "interval_width_years", "years"),
    ("gender calibration error", "gender_calibration_error", "error"),
)

CHILD: Columns = (("gender right", "gender_accuracy", "share"), ("MAE, years", "age_mae_years", "years"))

INTERVAL: Columns = (("holds", "coverage", "share"), ("mean width, years", "width_years", "years"))

INTERVAL_BOUNDS = ("coverage",)
"""Of ``interval_by_age_group``, whose bounds are called low and high."""

GROUPINGS = (
    ("age group", "age_group"),
    ("labelled range of ages", "age_range"),
    ("gender", "gender"),
    ("race", "race"),
    ("estimated age group", "estimated_age_group"),
    ("estimated gender", "estimated_gender"),
)

INTERVALS = (
    ("estimated age, where the true one is known", "estimated"),
    ("estimated age, where a range is known, which the interval meets or not", "estimated_of_ranges"),
    ("true age", "true"),
)


@dataclass(frozen=True)
class Made:
    """A released model and what it was made of."""

    name: str
    """``open`` is offered under CC BY 4.0, the others for research."""

    folder: Path
    sets: Sequence[str]
    """Keys of ``SETS``, in the order of the inputs."""

    flags: str
    """That train was given, beside its inputs."""

    pretrained: str = ""
    """What is said of networks of others that it has learnt from; empty: there is none."""

    @property
    def command(self) -> str:
        """The command that trains it, wherever the sets lie."""
        return " ".join(("agegender train", *(SETS[each].flags for each in self.sets), self.flags)).strip()


def card(made: Made, metrics: dict[str, Any], slices: Sequence[Row], split: Sequence[Row]) -> str:
    """The text of MODEL_CARD.md.

    Args:
        made: the model.
        metrics: metrics.json of its evaluation.
        slices: rows of slices.parquet.
        split: rows of split.parquet of its training.
    """
    model, sets = made.folder, made.sets
    info = open_model(model)
    rows = with_titles(slices, metrics["input"], sets)
    parts = Counter((row["source"], row["part"]) for row in with_titles(split, metrics["input"], sets))
    return _template("model_card.md.j2").render(
        made=made,
        m=metrics,
        info=info,
        parameters=sum(value.size for value in load_file(model / "weights.safetensors").values()),
        sizes={path.name: path.stat().st_size for path in sorted(model.iterdir())},
        weight_training_images=len(weight_training_images(model)),
        seen_images=len(training_images(model)),
        sets=[(SETS[each], [parts[SETS[each].title, part] for part in ("train", "val", "test")]) for each in sets],
        open_is_here="open" in released.installed(),
        teachers=len(info.config.get("teacher", [])),
        lead=[(title, *texts) for title, metric, unit in LEAD if (texts := value_and_bounds(metrics, metric, unit))],
        by_source=grid("source", sliced(rows, "source") or [{"source": SETS[sets[0]].title, **metrics}], GROUP),
        groups=[
            (title, grid(column, members, GROUP, title))
            for title, column in GROUPINGS
            if (members := sliced(rows, column))
        ],
        children=(young := children(rows)) and grid("age", young, CHILD),
        worst_cells=worst_cells(rows, metrics),
        cells=len(race_and_age(rows)),
        cell_images=CELL_IMAGES,
        intervals=[
            (title, grid("age_group", members, INTERVAL, "age group"))
            for title, by in INTERVALS
            if (members := metrics["interval_by_age_group"].get(by))
        ],
        conditions=grid(
            "what",
            [{"what": "as they are", **metrics}, *(metrics["robustness"] or {}).values()],
            WORSE,
            "face crops",
            bounds=False,
        ),
        bounded=lambda share: "{} ({})".format(*value_and_bounds({"share": share}, "share", "share") or ("", "none")),
    )


def weights_license(made: Made) -> str:
    """The text of WEIGHTS_LICENSE.md."""
    return _template("weights_license.md.j2").render(made=made, sets=[SETS[each] for each in made.sets])


def with_titles(rows: Iterable[Row], inputs: Sequence[str], sets: Sequence[str]) -> list[dict[str, Any]]:
    """Rows with the titles of the sets as ``source``, in the place of names that depend on where the sets lay.

    Args:
        rows: with a column ``source``, which names inputs by the ends of their addresses; of one input it may be absent.
        inputs: as the evaluation lists them.
        sets: keys of ``SETS``, in the same order.
    """
    titles = [SETS[each].title for each in sets]
    if len(sets) == 1:
        return [{**row, "source": titles[0]} for row in rows]

    def title(source: str | None) -> str | None:
        found = [name for name, address in zip(titles, inputs, strict=True) if _ends_with(address, source)]
        if source is not None and len(found) != 1:
            raise SystemExit(f"source {source} of the evaluation is not one of its inputs, {', '.join(inputs)}")
        return found[0] if source is not None else None

    return [{**row, "source": title(row.get("source"))} for row in rows]


def _ends_with(address: str, source: str | None) -> bool:
    return source is not None and f"/{address.strip('/')}".endswith(f"/{source.strip('/')}")


def sliced(rows: Iterable[Row], *by: str) -> list[Row]:
    """The rows of the slices by exactly these columns."""
    return [row for row in rows if set(row["slice"].split(" x ")) == set(by)]


def children(rows: Sequence[Row]) -> list[Row]:
    """The groups and ranges of ages of those who are ten or younger, each with its name as ``age``."""
    found = [(row, row[age]) for age in ("age_group", "age_range") for row in sliced(rows, age)]
    return [{**row, "age": name} for row, name in found if name in CHILDREN and row["n_gender"]]


def worst_cells(rows: Sequence[Row], metrics: dict[str, Any]) -> list[str]:
    """The cells of race and age whose genders are right clearly less often than over all, as sentences, worst first.

    Cells of ranges are compared with the source whose ages are ranges, if there is one such source among several.
    """
    overall = metrics["gender_accuracy"]["value"]
    ranged = [row["gender_accuracy"] for row in sliced(rows, "source") if row["n_age_range"]]
    against = {"age_group": overall, "age_range": ranged[0] if len(ranged) == 1 else overall}
    found: list[tuple[float, str]] = []
    for row, age in race_and_age(rows):
        share, whole = row["gender_accuracy"], against[age]
        if share < whole - CELL_GAP:
            bounds = f"{row['gender_accuracy_low']:.0%} to {row['gender_accuracy_high']:.0%}"
            who = f"{row['race']}, aged {row[age]}, n = {row['n_gender']:,}"
            found.append((share - whole, f"{who}: {share:.0%} ({bounds}), against {whole:.0%}"))
    return [sentence for _, sentence in sorted(found)]


def race_and_age(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    """The cells of race and age that are large enough to be judged, each with the column of its age."""
    cells = [(row, age) for age in ("age_group", "age_range") for row in sliced(rows, "race", age)]
    return [(row, age) for row, age in cells if row["n_gender"] >= CELL_IMAGES]


def grid(key: str, rows: Sequence[Row], columns: Columns, title: str | None = None, bounds: bool = True) -> str:
    """A table in Markdown with a line for each row, without the columns that no row has.

    Args:
        key: column of the rows with their names.
        rows: at least one.
        columns: beside ``n``.
        title: of the first column; None: the key.
        bounds: whether values have theirs beside them.
    """
    shown = [column for column in columns if any(cell(row, *column[1:]) for row in rows)]
    lines = [[title or key, "n", *(each[0] for each in shown)], ["---"] * (len(shown) + 2)]
    lines += [[str(row[key]), str(row["n"]), *(cell(row, *each[1:], bounds) for each in shown)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(row: Row, metric: str, unit: str, bounds: bool = True) -> str:
    """A value with its bounds, short: shares without their sign; empty where there is none."""
    value, low, high = _numbers(row, metric)
    if value is None:
        return ""
    scale, digits = {"years": (1, 1), "share": (100, 0 if bounds else 1), "error": (1, 3)}[unit]
    texts = [f"{scale * each:.{digits}f}" for each in (value, low, high) if each is not None]
    return f"{texts[0]} ({texts[1]} to {texts[2]})" if bounds and len(texts) == 3 else texts[0]


def value_and_bounds(row: Row, metric: str, unit: str) -> tuple[str, str] | tuple[()]:
    """A value and its bounds, each as text; empty where there is none."""
    value, low, high = _numbers(row, metric)
    if value is None:
        return ()
    if low is None or high is None:
        return number(value, unit), ""
    return number(value, unit), f"{number(low, unit)} to {number(high, unit)}"


def number(value: float, unit: str) -> str:
    """Two digits for years, a percentage for shares."""
    return f"{100 * value:.1f} %" if unit == "share" else f"{value:.2f}"


def _numbers(row: Row, metric: str) -> tuple[float | None, float | None, float | None]:
    found = row.get(metric)
    if isinstance(found, Mapping):
        return found["value"], found["low"], found["high"]
    if metric in INTERVAL_BOUNDS:
        return found, row.get("low"), row.get("high")
    return found, row.get(f"{metric}_low"), row.get(f"{metric}_high")


def _template(name: str) -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.get_template(name)
