"""The images in archives: tar shards. No Ray."""

import tarfile
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from agegender.config import SourceOptions
from agegender.pipelines.source.listed_image import ListedImage, extension, label_of_name, labelled
from agegender.schema import IMAGE_EXTENSIONS
from agegender.storage import files


class ArchiveReader:
    """Lists the members of archives.

    Args:
        options: the source.
        ignored: counts, by kind, of members that are not images.
    """

    def __init__(self, options: SourceOptions, ignored: Counter[str]) -> None:
        self.options, self.ignored = options, ignored

    def images(self, found: files.FileInfo) -> Iterator[ListedImage]:
        """The images of one archive, in its order; a damaged archive becomes a row itself."""
        with files.open_for_reading(found.uri) as stream:
            try:
                yield from self._members(stream, found)
            except tarfile.TarError:
                # The damaged archive becomes a row itself, whose status will be that of a file that is not an image.
                yield ListedImage(uri=found.uri, size_bytes=found.size_bytes, etag=found.etag)

    def _members(self, stream: BinaryIO, found: files.FileInfo) -> Iterator[ListedImage]:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every member: memory would grow with the shard
                if not member.isfile():
                    continue
                suffix = extension(member.name)
                if suffix in IMAGE_EXTENSIONS:
                    uri = f"{found.uri}#{member.name}"
                    yield labelled(
                        uri,
                        label_of_name(self.options, uri),
                        container=found.uri,
                        offset=member.offset_data,
                        size_bytes=member.size,
                        etag=found.etag,
                    )
                else:
                    self.ignored[suffix] += 1
