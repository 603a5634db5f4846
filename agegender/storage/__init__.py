"""Local disk and ``s3://``: list, read, write atomically, and tell definite answers from outages."""

from agegender.storage.answers import FileInfo, ObjectAnswer
from agegender.storage.files import (
    absolute,
    arrow_filesystem,
    delete,
    download_folder,
    exists,
    is_s3,
    join,
    list_files,
    name,
    open_for_reading,
    parent,
    read_bytes,
    read_json,
    read_many,
    stat,
    upload_folder,
    write_bytes,
    write_json,
)
from agegender.storage.tables import read_table, write_table

__all__ = [
    "FileInfo",
    "ObjectAnswer",
    "absolute",
    "arrow_filesystem",
    "delete",
    "download_folder",
    "exists",
    "is_s3",
    "join",
    "list_files",
    "name",
    "open_for_reading",
    "parent",
    "read_bytes",
    "read_json",
    "read_many",
    "read_table",
    "stat",
    "upload_folder",
    "write_bytes",
    "write_json",
    "write_table",
]
