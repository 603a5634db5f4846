"""One image of a source, as listed. No Ray."""

from dataclasses import dataclass
from typing import Any

from agegender.data import labels
from agegender.data.labels import Label
from agegender.option_groups import SourceOptions
from agegender.storage import files

UNLABELLED = Label()


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One row of ``schema.LISTING``, with the kept columns."""

    uri: str
    container: str | None = None
    offset: int | None = None
    size_bytes: int | None = None
    etag: str | None = None
    age_years: float | None = None
    age_low_years: float | None = None
    age_high_years: float | None = None
    gender: int | None = None
    race: str | None = None
    label_problem: str | None = None
    kept: tuple[Any, ...] = ()


def labelled(uri: str, label: Label, **rest: Any) -> ListedImage:
    """A listed image with its label."""
    return ListedImage(
        uri=uri,
        age_years=label.age_years,
        age_low_years=label.age_low_years,
        age_high_years=label.age_high_years,
        gender=label.gender,
        race=label.race,
        label_problem=label.problem,
        **rest,
    )


def label_of_name(options: SourceOptions, path: str) -> Label:
    """The label in the name of a file or of its folder, as ``--labels`` says.

    Args:
        options: the source.
        path: of the file, or of a member within its archive.
    """
    if options.labels in ("auto", "filename"):
        return labels.from_filename(files.name(path))
    return labels.from_folder(path) if options.labels == "folder" else UNLABELLED


def extension(uri: str) -> str:
    """The extension of a file's name in lower case, with its dot; empty if it has none."""
    stem, dot, suffix = files.name(uri).rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""
