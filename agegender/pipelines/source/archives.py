"""The images in archives: tar, compressed tar and zip; WebDataset's labels beside them. No Ray.

The rules are those of folders: hidden names, folders of the system, ``--exclude`` and ``--include``. A hard or symbolic link
to a member of the same archive is an image of its own; any other link is left out and counted.
"""

import json
import posixpath
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa

from agegender.data import labels
from agegender.data.boxes import without_numbers
from agegender.data.labels import Label
from agegender.option_groups import SourceOptions
from agegender.pipelines.source import containers
from agegender.pipelines.source.boxes import beside_kept, in_values
from agegender.pipelines.source.columns import AGE_NAMES, GENDER_NAMES, RACE_NAMES, required
from agegender.pipelines.source.listed_image import ListedImage, extension, label_of_name, labelled
from agegender.pipelines.source.selection import SourceSelection
from agegender.schema import IMAGE_EXTENSIONS
from agegender.storage import files
from agegender.storage.addresses import member_uri

MAX_LABEL_BYTES = 1 << 20
MAX_SAMPLE_IMAGES = 1000
MAX_KEYS = 1000
MAX_LINKS = 100_000
"""So many links of one archive are followed; the others are left out and counted."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A file in an archive."""

    name: str
    offset: int
    size_bytes: int
    read: Callable[[], bytes]


@dataclass
class _Sample:
    """Members that share their name up to the first dot of its last part."""

    key: str
    images: list[_Member] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    """Of ``.json``, and the texts of ``.cls`` and ``.txt`` by their extension."""
    boxes: Any = None
    """What ``.json`` holds, if boxes are read."""
    problem: str | None = None


class ArchiveReader:
    """Lists the members of archives.

    Args:
        options: the source.
        keep_columns: keys of the JSON beside an image to keep, as text.
        ignored: counts, by kind, of members that are not images.
    """

    def __init__(self, options: SourceOptions, keep_columns: tuple[str, ...], ignored: Counter[str]) -> None:
        self.options, self.keep_columns, self.ignored = options, keep_columns, ignored
        self.keep_fields = [pa.field(name, pa.string()) for name in keep_columns]
        self._keys: set[str] = set()
        """Of the labels in the archive that is being read, up to ``MAX_KEYS``."""

        reads_labels = options.labels in ("auto", "manifest")
        named = {*keep_columns}
        if reads_labels:
            named |= {name for name in (options.age_column, options.gender_column, options.race_column) if name}
        self._label_extensions = {f".{key}" for key in ("cls", "txt") if key in named}
        if reads_labels or keep_columns or options.boxes is not None:
            self._label_extensions.add(".json")

    def images(self, found: files.FileInfo) -> Iterator[ListedImage]:
        """The images of one archive, in its order, links last; a damaged archive becomes a row itself."""
        options = self.options
        selection = SourceSelection(options.exclude, options.include, self.ignored)
        of_labels = SourceSelection(options.exclude, (), self.ignored)
        with files.open_for_reading(found.uri) as stream:
            try:
                members = self._zip(stream) if containers.is_zip(found.uri) else self._tar(stream, found.uri)
                wanted = (
                    member
                    for member in members
                    if not (of_labels if self._is_label(member) else selection).skips(member.name)
                )
                self._keys = set()
                for sample in self._samples(wanted):
                    if len(self._keys) < MAX_KEYS:
                        self._keys.update(sample.values)
                    yield from self._labelled(sample, found)
                self._check_named_keys(found.uri)
            except containers.DAMAGED as error:
                containers.check_damage(error)
                # The damaged archive becomes a row itself, whose status will be that of a file that is not an image.
                kept: tuple[Any, ...] = (None,) * len(self.keep_columns)
                kept = kept if options.boxes is None else beside_kept([], kept)
                yield ListedImage(uri=found.uri, size_bytes=found.size_bytes, etag=found.etag, kept=kept)

    def _zip(self, stream: BinaryIO) -> Iterator[_Member]:
        with zipfile.ZipFile(stream) as archive:
            for number, info in enumerate(archive.infolist()):
                if info.is_dir():
                    continue
                if stat.S_ISLNK(info.external_attr >> 16):
                    self.ignored["link"] += 1
                    continue
                yield _Member(_zip_name(info), number, info.file_size, lambda info=info: archive.read(info))  # type: ignore[misc]

    def _tar(self, stream: BinaryIO, uri: str) -> Iterator[_Member]:
        with containers.tar_stream(stream, uri) as plain:
            links: dict[str, str] = {}
            for member in _tar_members(plain):
                name = _relative(member.name)
                if member.isfile():
                    yield _Member(name, member.offset_data, member.size, lambda m=member: _read_at(plain, m))  # type: ignore[misc]
                elif member.islnk() or member.issym():
                    target = (
                        member.linkname if member.islnk() else posixpath.join(posixpath.dirname(name), member.linkname)
                    )
                    if len(links) < MAX_LINKS:
                        links[name] = _relative(target)
                    else:
                        self.ignored["link"] += 1
                elif not member.isdir():
                    self.ignored["pipe, socket or device"] += 1
            if links:
                plain.seek(0)
                yield from self._followed(plain, links)

    def _followed(self, plain: BinaryIO, links: dict[str, str]) -> Iterator[_Member]:
        """Links to files of the same archive, by a second look at it; links to links are not followed."""
        targets = dict.fromkeys(links.values(), (-1, 0))
        for member in _tar_members(plain):
            name = _relative(member.name)
            if member.isfile() and name in targets:
                targets[name] = (member.offset_data, member.size)
        for name, target in links.items():
            offset, size_bytes = targets[target]
            if offset < 0:
                self.ignored["link"] += 1
            else:
                yield _Member(name, offset, size_bytes, bytes)

    def _samples(self, members: Iterator[_Member]) -> Iterator[_Sample]:
        sample = _Sample("")
        for member in members:
            folder, slash, name = member.name.rpartition("/")
            key = folder + slash + name.partition(".")[0]
            if key != sample.key:
                yield sample
                sample = _Sample(key)
            elif len(sample.images) == MAX_SAMPLE_IMAGES:  # names like photo.1.jpg, photo.2.jpg, ...
                yield sample
                sample = _Sample(key, values=sample.values, boxes=sample.boxes, problem=sample.problem)
            suffix = extension(member.name)
            if suffix in IMAGE_EXTENSIONS:
                sample.images.append(member)
            elif self._is_label(member):
                self._add_values(sample, suffix, member)
            else:
                self.ignored[suffix] += 1
        yield sample

    def _is_label(self, member: _Member) -> bool:
        return extension(member.name) in self._label_extensions and member.size_bytes <= MAX_LABEL_BYTES

    def _add_values(self, sample: _Sample, suffix: str, member: _Member) -> None:
        try:
            text = member.read().decode("utf-8-sig").strip()
            if suffix != ".json":
                sample.values[suffix[1:]] = text
                return
            values = json.loads(text)
            if "\\ud" in text.lower():  # perhaps half a character, which is no text
                values = json.loads(json.dumps(values, ensure_ascii=False).encode(errors="replace"))
            if self.options.boxes is not None:
                sample.boxes = values
            elif not isinstance(values, dict):
                raise TypeError("it is no object of names and values")
            sample.values = (values if isinstance(values, dict) else {}) | sample.values
        except (ValueError, TypeError, RuntimeError) as error:  # the last: nested too deep, or encrypted
            sample.problem = f"{files.name(member.name)}: {error}".encode(errors="backslashreplace").decode()

    def _labelled(self, sample: _Sample, found: files.FileInfo) -> Iterator[ListedImage]:
        kept: tuple[Any, ...] = tuple(_as_text(sample.values.get(name)) for name in self.keep_columns)
        if sample.images and self.options.boxes is not None:
            problem = sample.problem
            boxes = (
                in_values(sample.boxes, self.options.boxes, found.uri)
                if problem is None
                else [without_numbers(problem)]
            )
            kept = beside_kept(boxes, kept)
        for member in sample.images:
            uri = member_uri(found.uri, member.name)
            yield labelled(
                uri,
                self._label(sample, uri.removeprefix(found.uri).lstrip("#")),
                container=found.uri,
                offset=member.offset,
                size_bytes=member.size_bytes,
                etag=found.etag,
                kept=kept,
            )

    def _check_named_keys(self, uri: str) -> None:
        options = self.options
        named = dict.fromkeys(self.keep_columns, "--keep-columns")
        if options.labels in ("auto", "manifest"):
            columns = (options.age_column, options.gender_column, options.race_column)
            flags = ("--age-column", "--gender-column", "--race-column")
            named |= {name: flag for name, flag in zip(columns, flags, strict=True) if name is not None}
        if 0 < len(self._keys) < MAX_KEYS:  # all are known
            keys = pa.schema([(name, pa.string()) for name in sorted(self._keys)])
            for name, flag in named.items():
                required(uri, keys, name, flag)

    def _label(self, sample: _Sample, name: str) -> Label:
        if self.options.labels not in ("auto", "manifest"):
            return label_of_name(self.options, name)
        if sample.problem is not None:
            return Label(problem=sample.problem)
        age, gender, race = (
            _value(sample.values, column, usual)
            for column, usual in (
                (self.options.age_column, AGE_NAMES),
                (self.options.gender_column, GENDER_NAMES),
                (self.options.race_column, RACE_NAMES),
            )
        )
        if age is None and gender is None:
            return label_of_name(self.options, name) if self.options.labels == "auto" else Label()
        return labels.from_values(age, gender, race, self.options.gender_codes)


def _value(values: dict[str, Any], named: str | None, usual: tuple[str, ...]) -> Any:
    """The value under the named key, else under the first usual one, which is compared without case."""
    if named is not None:
        return values.get(named)
    lower = {key.lower(): value for key, value in values.items()}
    return next((lower[name] for name in usual if lower.get(name) is not None), None)


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tar_members(stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every member: memory would grow with the shard
            yield member


def _read_at(stream: BinaryIO, member: tarfile.TarInfo) -> bytes:
    stream.seek(member.offset_data)
    return stream.read(member.size)


def _relative(name: str) -> str:
    """The name of a member without ``./`` before it."""
    return posixpath.normpath(name).lstrip("/")


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name of a member; one that is not marked as UTF-8 may be in it nevertheless, as in archives of macOS."""
    if info.flag_bits & 0x800:
        return _relative(info.filename)
    return _relative(info.filename.encode("cp437", "surrogateescape").decode("utf-8", "surrogateescape"))
