"""The report of eda, from ``summary.json`` and example images."""

from collections.abc import Mapping, Sequence
from typing import Any

from agegender.reports import figures
from agegender.reports.page import Cell, Figure, GridImage, ImageGrid, Section, Table, render_page
from agegender.schema import AGE_GROUPS, GENDERS, age_text

Samples = Mapping[str, Sequence[tuple[str, float | None, float | None, int | None, bytes]]]
"""``all`` or age group -> (uri, lowest and highest age in years, gender, JPEG)."""

Examples = Mapping[str, Sequence[tuple[str, str]]]
"""Status or kind of label problem -> (uri, message)."""

MANY_BAD = 0.05

STATUS_MEANINGS = {
    "missing": "listed, but missing when it was read",
    "empty": "zero bytes",
    "truncated": "the file ends before the image does",
    "not_an_image": "not image data",
    "unsupported": "an image format that is not supported",
    "too_large": "more pixels or bytes than the limits allow",
    "too_small": "under 16 pixels: too small to hold a face",
    "unreadable": "no permission to read it, or damaged inside",
    "no_face": "a photograph in which no face was found",
}

DUPLICATE_MEANINGS = {
    "exact": "identical bytes under several names",
    "near": "the same image re-encoded, resized or slightly cropped",
    "stamp": "the same capture stamp in the name: often several faces of one photograph",
}


def eda_page(
    summary: Mapping[str, Any],
    *,
    source: Sequence[str],
    examples: Examples,
    samples: Samples,
    age_ranges: Mapping[tuple[int, int], int],
    seed: int,
    near_duplicate_bits: int,
    version: str,
) -> tuple[str, dict[str, bytes]]:
    """Render the page.

    Args:
        summary: content of summary.json.
        source: addresses of the inputs.
        examples: of bad files and label problems.
        samples: faces to show; empty: no faces.
        age_ranges: (first, last year) -> images that are labelled with a range.
        seed: of the sampling.
        near_duplicate_bits: maximum Hamming distance that was used.
        version: of the package.

    Returns:
        HTML, and the PNG bytes of its charts by name.
    """
    charts = _charts(summary, age_ranges)
    sections = [
        _ages(summary, charts),
        _genders(summary),
        *_races(summary, charts),
        _heaping(summary),
        _labels(summary, examples),
        _bad_files(summary, examples),
        _duplicates(summary, near_duplicate_bits),
        _pixels(summary),
        *_faces(samples, seed),
    ]
    page = render_page(
        "What is in this image set",
        f"{summary['images']:,} images from {', '.join(source)}.",
        [section for section in sections if section is not None],
        warnings=_warnings(summary),
        facts=_key_facts(summary),
        footer=f"agegender {version} eda. The numbers are in summary.json and tables/.",
    )
    return page, {name: chart.png for name, chart in charts.items()}


def _warnings(summary: Mapping[str, Any]) -> list[str]:
    images = summary["images"]
    warnings = []
    bad = images - summary["by_status"]["ok"]
    if bad > MANY_BAD * images:
        warnings.append(f"{bad:,} of {images:,} images cannot be used: see Unusable files.")
    if not summary["labelled"]:
        warnings.append("No image has a label: this set cannot be used for training or evaluation. See Labels.")
    return warnings


def _key_facts(summary: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    duplicates = summary["duplicates"]
    return [
        ("images", summary["images"]),
        ("labelled", summary["labelled"]),
        ("cannot be used", summary["images"] - summary["by_status"]["ok"]),
        ("most frequent age group", summary["most_frequent_age_group"]),
        ("female share", _percent(_share(summary["by_gender"], "female"))),
        ("exact duplicate groups", duplicates["exact"]["groups"]),
        ("near duplicate groups", duplicates["near"]["groups"]),
    ]


def _charts(summary: Mapping[str, Any], age_ranges: Mapping[tuple[int, int], int]) -> dict[str, Figure]:
    charts = {}
    if age_ranges:
        charts["ages_by_range"] = _ages_by_range(age_ranges)
    if summary["by_age"]:
        charts["ages_by_year"] = _ages_by_year(summary)
    crossed = summary["by_gender_and_age_group"]
    if _groups_hold_most(summary):
        series = {gender: [crossed[group][gender] for group in AGE_GROUPS] for gender in GENDERS}
        charts["gender_by_age_group"] = Figure(
            figures.stacked_bars(AGE_GROUPS, series, x="age group", y="images", wide=True),
            "Images by ten-year group and gender, where one group holds the age.",
            "Stacked bars of images by age group and gender.",
            wide=True,
        )
    races = summary["by_race"]
    if races:
        charts["races"] = Figure(
            figures.bars(list(races), list(races.values()), x="race as labelled", y="images"),
            "Images by race as the data set labels it.",
            "Bars of images by race: " + ", ".join(f"{name} {count:,}" for name, count in races.items()) + ".",
        )
    return charts


def _groups_hold_most(summary: Mapping[str, Any]) -> bool:
    """Whether ten-year groups describe the ages: not where most ages are ranges that span several of them."""
    return bool(sum(summary["by_age_group"].values()) > summary["age_labels"]["spans_groups"])


def _ages_by_year(summary: Mapping[str, Any]) -> Figure:
    counts = {int(age): images for age, images in summary["by_age"].items()}
    ages = list(range(max(counts) + 1))
    heaped = [int(age) for age in summary["age_heaping"]["standing_out"]]
    note = f" In the second colour: ages at least twice as frequent as their neighbours ({_listed(heaped)})."
    return Figure(
        figures.bars(
            ages, [counts.get(age, 0) for age in ages], x="age in years", y="images", highlight=heaped, wide=True
        ),
        "Images by year of age." + (note if heaped else ""),
        f"Bars of images by year of age, from {min(counts)} to {max(counts)} years.",
        wide=True,
    )


def _ages_by_range(age_ranges: Mapping[tuple[int, int], int]) -> Figure:
    low, high = zip(*age_ranges, strict=True)
    ends = [last + 1 for last in high]  # 20-29 lasts to the 30th birthday
    density = [count / (end - first) for first, end, count in zip(low, ends, age_ranges.values(), strict=True)]
    return Figure(
        figures.range_bars(low, ends, density, x="age in years", y="images per year of age"),
        "Images labelled with a range of ages: each bar is as wide as its range, and its area is the number of images.",
        f"Bars over ranges of ages, from {min(low)} to {max(high)} years.",
        wide=True,
    )


def _ages(summary: Mapping[str, Any], charts: Mapping[str, Figure]) -> Section:
    groups, crossed = summary["by_age_group"], summary["by_gender_and_age_group"]
    total, labels = sum(groups.values()), summary["age_labels"]
    rows = [
        [group, count, _percent(count / total if total else None), *(crossed[group][gender] for gender in GENDERS)]
        for group, count in groups.items()
    ]
    shown = [charts[name] for name in ("ages_by_year", "ages_by_range", "gender_by_age_group") if name in charts]
    if not labels["exact"] + labels["range"]:
        return Section("Ages", "No image has an age.")
    text = f"{labels['exact'] + labels['range']:,} images have an age"
    text += f", {labels['range']:,} of them as a range." if labels["range"] else "."
    if labels["spans_groups"]:
        text += f" {labels['spans_groups']:,} of the ranges span several ten-year groups and are in none of them."
    ranged = [[name, count] for name, count in summary["by_age_range"].items()]
    tables = (
        [Table(["Range", "Images"], ranged, "Ages that are labelled as a range, in whole years.")] if ranged else []
    )
    if not _groups_hold_most(summary):
        return Section("Ages", text, figures=shown, tables=tables)
    if summary["most_frequent_age_group"]:
        text += f" The most frequent ten-year group is {summary['most_frequent_age_group']} with "
        text += f"{groups[summary['most_frequent_age_group']]:,}."
    table = Table(["Age group", "Images", "Share", "Male", "Female"], rows, "Age 0 counts to 1-10.")
    return Section("Ages", text, figures=shown, tables=[table, *tables])


def _genders(summary: Mapping[str, Any]) -> Section:
    counts = summary["by_gender"]
    if not sum(counts.values()):
        return Section("Gender", "No image has a gender.")
    rows = [[gender, count, _percent(_share(counts, gender))] for gender, count in counts.items()]
    return Section("Gender", tables=[Table(["Gender", "Images", "Share"], rows)])


def _races(summary: Mapping[str, Any], charts: Mapping[str, Figure]) -> list[Section]:
    counts = summary["by_race"]
    if not counts:
        return []
    rows = [[race, count, _percent(_share(counts, race))] for race, count in counts.items()]
    text = "From the labels, and only used to compare errors between groups. It is never predicted."
    return [Section("Race", text, figures=[charts["races"]], tables=[Table(["Race", "Images", "Share"], rows)])]


def _heaping(summary: Mapping[str, Any]) -> Section:
    heaping = summary["age_heaping"]
    text = (
        "Annotators round ages. Both indices cover ages 23 to 62 and are 100 without a preferred final digit; at 500 every "
        "age is a multiple of 5, at 1,000 every age is a multiple of 10."
    )
    rows = [[int(age), summary["by_age"][age], times] for age, times in heaping["standing_out"].items()]
    header = ["Age in years", "Images", "Ratio to the median of its neighbours"]
    return Section(
        "Age heaping", text,
        facts=[("index, multiples of 5", _rounded(heaping["index_5"])), ("index, multiples of 10", _rounded(heaping["index_10"]))],
        tables=[Table(header, rows, "Outliers", digits=1)] if rows else [],
    )  # fmt: skip


def _labels(summary: Mapping[str, Any], examples: Examples) -> Section:
    problems = summary["label_problems"]
    unlabelled = summary["images"] - summary["labelled"]
    text = f"{summary['labelled']:,} images have an age or a gender, {unlabelled:,} have neither."
    if not problems:
        return Section("Labels", text)
    rows = [
        [kind, count, _joined(message for _, message in examples.get(kind, []))] for kind, count in problems.items()
    ]
    more = " Ambiguous names are reported, never guessed; tables/label_problems.parquet lists all of them."
    return Section("Labels", text + more, tables=[Table(["Problem", "Images", "Examples"], rows)])


def _bad_files(summary: Mapping[str, Any], examples: Examples) -> Section:
    bad = {status: count for status, count in summary["by_status"].items() if status != "ok"}
    warned = summary["images_with_warning"]
    notes = []
    if warned:
        shown = _joined(f"{uri}: {message}" for uri, message in examples.get("warning", []))
        have = "image has" if warned == 1 else "images have"
        notes.append(f"{warned:,} decoded {have} a warning, in tables/images/. For example: {shown}.")
    if not bad:
        return Section("Unusable files", "None: every image could be decoded.", notes=notes)
    rows = [
        [status, count, STATUS_MEANINGS.get(status, ""), _joined(f"{uri}: {message}" for uri, message in examples.get(status, []))]
        for status, count in bad.items()
    ]  # fmt: skip
    table = Table(["Status", "Images", "Meaning", "Examples"], rows, "tables/bad_files.parquet lists all of them.")
    return Section("Unusable files", notes=notes, tables=[table])


def _duplicates(summary: Mapping[str, Any], near_duplicate_bits: int) -> Section:
    counts = summary["duplicates"]
    rows = [
        [kind, meaning, counts[kind]["groups"], counts[kind]["images"], counts[kind]["contradicting_groups"]]
        for kind, meaning in DUPLICATE_MEANINGS.items()
    ]
    contradicting = counts["exact"]["contradicting_groups"]
    notes = [
        f"{contradicting:,} groups of identical files have different ages or genders: at least one label in each is wrong."
    ]
    text = (
        f"Near duplicates differ in at most {near_duplicate_bits} of the 64 bits of a perceptual hash, confirmed by their "
        "thumbnails; such a group has at least two different files. Training keeps all images of a group, of any kind, in "
        "one part of the split. tables/duplicates.parquet lists the groups."
    )
    header = ["Kind", "Meaning", "Groups", "Images in them", "Groups with contradicting labels"]
    return Section("Duplicates", text, notes=notes if contradicting else [], tables=[Table(header, rows)])


def _pixels(summary: Mapping[str, Any]) -> Section:
    sizes, formats = summary["by_size"], summary["by_format"]
    rest = summary["distinct_sizes"] - len(sizes)
    more = f" The {len(sizes)} most frequent of {summary['distinct_sizes']:,}." if rest else ""
    tables = [
        Table(["Width x height", "Images"], list(sizes.items()), "Sizes in pixels, after EXIF orientation." + more),
        Table(["Format", "Images"], list(formats.items()), "File formats, by content."),
    ]
    if summary["channel_mean"] is not None:
        rows = list(zip(("red", "green", "blue"), summary["channel_mean"], summary["channel_std"], strict=True))
        caption = "Colour values, 0-255, each image weighted equally."
        tables.append(Table(["Channel", "Mean", "Standard deviation"], rows, caption, digits=1))
    return Section("Sizes, formats and colours", tables=tables, facts=[("all files, MB", summary["size_bytes"] / 1e6)])


def _faces(samples: Samples, seed: int) -> list[Section]:
    if not samples:
        return []
    grids = [ImageGrid([_face(*sample) for sample in samples.get("all", [])], "Random sample of all images")]
    grids += [
        ImageGrid([_face(*sample) for sample in samples[group]], f"{group} years")
        for group in AGE_GROUPS
        if group in samples
    ]
    text = f"Sampled with seed {seed}; the same set and seed give the same faces. Below each is its label."
    return [Section("Faces and their labels", text, grids=grids)]


def _face(uri: str, low_years: float | None, high_years: float | None, gender: int | None, jpeg: bytes) -> GridImage:
    age = "no age" if low_years is None or high_years is None else f"{age_text(low_years, high_years)} years"
    lines = [age, "no gender" if gender is None else GENDERS[gender]]
    return GridImage(jpeg, lines, alt=f"Face labelled {', '.join(lines)}: {uri.rsplit('/', 1)[-1]}")


def _share(counts: Mapping[str, int], name: str) -> float | None:
    total = sum(counts.values())
    return counts[name] / total if total else None


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)


def _joined(messages: Any) -> str:
    return "; ".join(messages)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
