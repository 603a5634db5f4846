"""Which columns of a table hold what: found by their usual names and types, or named by the options. No Ray.

Pure functions of a schema: the listing and the workers that fetch agree because they ask the same ones.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from agegender.data.boxes import BOX_NAMES, PREFIXES, SIDE_NAMES, box_name, side_names
from agegender.errors import InputError
from agegender.option_groups import SourceOptions
from agegender.options import BoxFormat
from agegender.schema import LISTING, SOURCE, SPLIT, prediction_schema

URI_NAMES = (
    "uri", "file_name", "filename", "file", "path", "image_path", "file_path", "filepath", "img_path", "image_file", "image",
    "img", "image_url", "url",
)  # fmt: skip
AGE_NAMES = ("age_years", "age")
GENDER_NAMES = ("gender", "sex")
RACE_NAMES = ("race", "ethnicity")
BYTES_NAMES = ("bytes", "image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "img_bytes", "content")
"""Usual names of columns, the first that exists wins; compared without case."""

MAX_NAMES_SHOWN = 40

_PREDICTIONS = frozenset(prediction_schema(age_distribution=True).names)
_OUR_METADATA = b"agegender."
_BRACES = re.compile(r"\{([^{}]*)\}")


class BytesColumn(NamedTuple):
    """The column with the image files: a column of bytes, or a struct with a field of bytes."""

    name: str
    field: str | None = None
    has_path: bool = False
    """Whether the struct also has a field ``path`` of text, as Hugging Face writes it."""

    @property
    def address(self) -> str:
        """Parquet's name for the column."""
        return f"{self.name}.{self.field}" if self.field else self.name


class BoxColumns(NamedTuple):
    """The columns with the boxes of faces: one with whole boxes, or the four with the sides of one box."""

    names: tuple[str, ...]
    form: BoxFormat | None
    """What four numbers without names are; known of four columns."""


@dataclass(frozen=True)
class Columns:
    """The columns of one table that a listing reads."""

    uri: tuple[str, ...] = ()
    """The uri: text at even positions, names of columns at odd ones; empty: the table does not say it."""

    name: str | None = None
    """Table of bytes: column, or ``COLUMN.path``, with the names of its images."""

    bytes: BytesColumn | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """age, gender, race -> column."""

    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """age, gender, race -> names of the class labels, where the column holds their numbers."""

    keep: tuple[str, ...] = ()
    boxes: "BoxColumns | None" = None

    @property
    def needed(self) -> list[str]:
        """All that are read, each once."""
        name = () if self.name is None else (self.name,)
        boxes = () if self.boxes is None else self.boxes.names
        return list(dict.fromkeys((*self.uri[1::2], *name, *self.labels.values(), *boxes, *self.keep)))


def columns_of(
    uri: str, schema: pa.Schema, options: SourceOptions, keep: Sequence[str], *, text: bool = False
) -> Columns:
    """Find the columns of a table.

    Args:
        uri: of the table, for messages.
        schema: of the table, with its metadata.
        options: the source.
        keep: columns to keep.
        text: the table is a text file, which holds no bytes.

    Raises:
        InputError: a named column is absent or there twice, no column has the addresses, a type that cannot be read,
            or our own predictions as labels.
    """
    if text and options.bytes_column is not None:
        raise InputError(f"{uri} is a text file, which holds no bytes of images: --bytes-column is for Parquet")
    found = None if text else bytes_column(uri, schema, options.bytes_column)
    if found is not None and options.bytes_column is None and found.name == options.uri_column:
        found = None  # named as the column of addresses, which Parquet may store as bytes
    labels = _labels(uri, schema, options)
    for kept in keep:
        required(uri, schema, kept, "--keep-columns")
    address, name = _addresses(uri, schema, options, found)
    return Columns(
        uri=address,
        name=name,
        bytes=found,
        labels=labels,
        classes=_class_names(schema, labels),
        keep=tuple(keep),
        boxes=_boxes(uri, schema, options),
    )


def bytes_column(uri: str, schema: pa.Schema, option: str | None) -> BytesColumn | None:
    """The column with the image files; None if the table has none.

    Args:
        uri: of the table, for messages.
        schema: of the table.
        option: ``ImageLimits.bytes_column``: a column, ``STRUCT.FIELD``, or None: a ``struct<bytes, path>``, or bytes in a
            column with a usual name.

    Raises:
        InputError: the named column is absent, the type cannot be read, or two columns fit.
    """
    if option is not None:
        return _named_bytes(uri, schema, option)
    readable = {f.name: column for f in schema if (column := _as_bytes(f)) and (column.field or _usual(f, BYTES_NAMES))}
    structs = [name for name, column in readable.items() if column.field]
    for name in _in_order(readable, BYTES_NAMES):
        return readable[name]
    if len(structs) > 1:
        raise InputError(f"{uri} holds images in several columns: {', '.join(structs)}. Name one with --bytes-column")
    if structs:
        return readable[structs[0]]
    for f in schema:
        if (pa.types.is_list(f.type) and pa.types.is_integer(f.type.value_type) and _usual(f, BYTES_NAMES)) or (
            f.name.lower() == "bytes" and _is_text(_plain(f.type))
        ):
            raise _unreadable_bytes(uri, f)
    return None


def own_kind(schema: pa.Schema) -> str | None:
    """What a table is that one of our jobs wrote, in words; None if it is someone else's."""
    if (predictions := predictions_in(schema)) is not None:
        return predictions
    names = set(schema.names)
    split = set(SPLIT.names) - {SOURCE.name}  # which earlier releases did not write
    if set(LISTING.names) <= names or split <= names or {"content_hash", "perceptual_hash"} <= names:
        return "a table of an agegender job"
    return None


def predictions_in(schema: pa.Schema) -> str | None:
    """Whose predictions a table holds, in words, by its metadata or by its columns; None if it holds none."""
    metadata = schema.metadata or {}
    if model := metadata.get(b"agegender.model_id"):
        return f"predictions of the model {model.decode(errors='replace')}"
    if any(key.startswith(_OUR_METADATA) for key in metadata):
        return "predictions of agegender"
    names = {name.strip().lower() for name in schema.names}
    marks = sorted({"face_index", "gender_probability", "female_probability"} & names)
    return f"predictions (it has the columns {', '.join(marks)})" if "face_index" in marks and len(marks) > 1 else None


def known_names(options: SourceOptions, keep: Sequence[str]) -> set[str]:
    """Names, in lower case, that a listing looks for."""
    named = (options.uri_column, options.age_column, options.gender_column, options.race_column, *keep)
    pattern = _BRACES.findall(options.uri_column or "")
    usual = [*URI_NAMES, *AGE_NAMES, *GENDER_NAMES, *RACE_NAMES]
    if options.boxes is not None:
        usual += BOX_NAMES + tuple(prefix + side for prefix in PREFIXES for _, sides in SIDE_NAMES for side in sides)
        named = (*named, *options.boxes.box_names)
    return {name.lower() for name in (*usual, *pattern, *filter(None, named))}


def _addresses(
    uri: str, schema: pa.Schema, options: SourceOptions, found: BytesColumn | None
) -> tuple[tuple[str, ...], str | None]:
    """The values of ``Columns.uri`` and ``Columns.name``."""
    option = options.uri_column
    if option is not None:
        pattern = ("", option, "") if option in schema.names else tuple(_BRACES.split(option))
        if len(pattern) == 1:
            pattern = ("", option, "")
        for name in pattern[1::2]:
            _checked(uri, required(uri, schema, name, "--uri-column"), _is_address, "--uri-column", "text")
        return pattern, None
    usable = [f.name for f in schema if _is_address(_plain(f.type)) and (found is None or f.name != found.name)]
    names = _in_order(usable, URI_NAMES)
    if found is None and not names:
        raise InputError(
            f"{uri} has no column of addresses under a usual name ({', '.join(URI_NAMES)}); {_its_columns(schema)}. "
            "Name it with --uri-column"
        )
    if found is None or (names and names[0].lower() == "uri"):
        return ("", _once(uri, schema, names[0]), ""), None
    if found.has_path:
        return (), f"{found.name}.path"
    return (), _once(uri, schema, names[0]) if names else None


def _boxes(uri: str, schema: pa.Schema, options: SourceOptions) -> BoxColumns | None:
    if options.boxes is None:
        return None
    named, form = tuple(options.boxes.box_names), options.boxes.box_format
    for name in named:
        required(uri, schema, name, "--box-columns")
    sides = side_names(named or schema.names)
    if len(named) == 4:
        if form is None and (sides is None or sides[0] != named):
            raise InputError(
                f"{uri}: the names of the columns {', '.join(named)} do not say what they hold: --box-format xywh says that the "
                "last two are width and height, --box-format xyxy that they are the right and lower edge"
            )
        return BoxColumns(named, form or (sides and sides[1]))
    if one := next(iter(named), None) or box_name(schema.names):
        return BoxColumns((_once(uri, schema, one),), form)
    if sides is None:
        raise InputError(
            f"{uri} has no column of boxes under a usual name ({', '.join(BOX_NAMES[:4])}; x, y, width, height; xmin, ymin, xmax, "
            f"ymax; ...); {_its_columns(schema)}. Name one, or four, with --box-columns, or use --faces detect"
        )
    return BoxColumns(tuple(_once(uri, schema, name) for name in sides[0]), sides[1])


def _labels(uri: str, schema: pa.Schema, options: SourceOptions) -> dict[str, str]:
    if options.labels not in ("auto", "manifest"):
        return {}
    roles = {
        "age": (options.age_column, AGE_NAMES, "--age-column"),
        "gender": (options.gender_column, GENDER_NAMES, "--gender-column"),
        "race": (options.race_column, RACE_NAMES, "--race-column"),
    }
    labels: dict[str, str] = {}
    for role, (option, usual, flag) in roles.items():
        name = option or next(iter(_in_order(schema.names, usual)), None)
        if name is not None:
            labels[role] = _checked(uri, required(uri, schema, name, flag), _is_label, flag, "text or numbers").name
    if options.labels == "manifest" and not {"age", "gender"} & labels.keys():
        raise InputError(
            f"{uri} has no column of ages or genders under a usual name ({', '.join((*AGE_NAMES, *GENDER_NAMES))}); "
            f"{_its_columns(schema)}. Name them with --age-column and --gender-column"
        )
    _refuse_predictions(uri, schema, {labels[role]: roles[role][0] for role in ("age", "gender") if role in labels})
    return labels


def _refuse_predictions(uri: str, schema: pa.Schema, taken: Mapping[str, str | None]) -> None:
    """Estimates are no truth: measured against themselves, every model is perfect."""
    predicted = [name for name, option in taken.items() if option is None or name in _PREDICTIONS]
    if predicted and (whose := predictions_in(schema)) is not None:
        raise InputError(
            f"{uri} holds {whose}; its columns {', '.join(predicted)} are estimates, not labels. Give the labelled set, or "
            "--labels filename if the names of the files say age and gender. Columns of labels that you added to it are "
            "named with --age-column and --gender-column"
        )


def _class_names(schema: pa.Schema, labels: Mapping[str, str]) -> dict[str, Sequence[str]]:
    """Names of class labels in the metadata that Hugging Face writes."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        described = {
            role: features[name]["names"] for role, name in labels.items() if "names" in features.get(name, {})
        }
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}
    return {
        role: names
        for role, names in described.items()
        if isinstance(names, list) and pa.types.is_integer(schema.field(labels[role]).type)
    }


def _named_bytes(uri: str, schema: pa.Schema, option: str) -> BytesColumn:
    name, _, child = option.rpartition(".")
    if option not in schema.names and name in schema.names and pa.types.is_struct(schema.field(name).type):
        found = _as_bytes(schema.field(name), child)
        if found is None:
            raise _unreadable_bytes(uri, schema.field(name), f" without a field {child!r} of bytes")
        return found
    column = required(uri, schema, option, "--bytes-column")
    found = _as_bytes(column)
    if found is None:
        raise _unreadable_bytes(uri, column)
    return found


def _as_bytes(column: pa.Field, child: str = "bytes") -> BytesColumn | None:
    """How to read a column as image files; None if its type does not hold them."""
    kind = _plain(column.type)
    if _is_binary(kind):
        return BytesColumn(column.name)
    if not pa.types.is_struct(kind):
        return None
    fields = {kind.field(i).name: _plain(kind.field(i).type) for i in range(kind.num_fields)}
    if child not in fields or not _is_binary(fields[child]):
        return None
    return BytesColumn(column.name, child, has_path="path" in fields and _is_text(fields["path"]))


def _unreadable_bytes(uri: str, column: pa.Field, what: str = "") -> InputError:
    return InputError(
        f"{uri}: the column {column.name!r} is of type {column.type}{what}, which does not hold image files. They are read "
        "from a column of bytes (binary) or a struct<bytes, path>: decode base64 text and lists of numbers to bytes first, "
        "or name another column with --bytes-column"
    )


def required(uri: str, schema: pa.Schema, name: str, flag: str) -> pa.Field:
    """The field of a named column.

    Raises:
        InputError: absent, with the nearest names, or there twice.
    """
    if name not in schema.names:
        lower = {each.lower(): each for each in schema.names}
        near = [lower[each] for each in difflib.get_close_matches(name.lower(), lower)]
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise InputError(f"{uri} has no column {name!r}, which {flag} names.{hint} I{_its_columns(schema)[1:]}")
    return schema.field(_once(uri, schema, name))


def _once(uri: str, schema: pa.Schema, name: str) -> str:
    if schema.names.count(name) > 1:
        raise InputError(f"{uri} has the column {name!r} {schema.names.count(name)} times. Rename or remove one")
    return name


def _checked(uri: str, column: pa.Field, fits: Callable[[pa.DataType], bool], flag: str, wanted: str) -> pa.Field:
    if not fits(_plain(column.type)):
        raise InputError(
            f"{uri}: the column {column.name!r} is of type {column.type}; {flag} needs {wanted}. Name another column, or "
            "convert it"
        )
    return column


def _its_columns(schema: pa.Schema) -> str:
    shown = ", ".join(map(repr, schema.names[:MAX_NAMES_SHOWN]))
    more = len(schema.names) - MAX_NAMES_SHOWN
    return f"its columns are {shown}" + (f" and {more} more" if more > 0 else "")


def _in_order(names: Iterable[str], usual: Sequence[str]) -> list[str]:
    """The names that are usual, in the order of the usual ones; exact ones before those in another case."""
    rank = {name: index for index, name in enumerate(usual)}
    return sorted(
        (name for name in names if name.lower() in rank), key=lambda name: (rank[name.lower()], name not in rank)
    )


def _usual(column: pa.Field, usual: Sequence[str]) -> bool:
    return column.name.lower() in usual


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _is_binary(kind: pa.DataType) -> bool:
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view()) or bool(pa.types.is_fixed_size_binary(kind))


def _is_address(kind: pa.DataType) -> bool:
    return _is_text(kind) or _is_binary(kind) or bool(pa.types.is_integer(kind) or pa.types.is_null(kind))


def _is_label(kind: pa.DataType) -> bool:
    return _is_address(kind) or bool(pa.types.is_floating(kind) or pa.types.is_decimal(kind))
