"""Arrow tables in Parquet files, whole or absent."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from agegender.errors import InputError, ResourceError
from agegender.storage.files import open_for_reading, read_bytes, write_bytes


def write_table(uri: str, table: pa.Table) -> int:
    """Write a table as one Parquet file, zstd-compressed, its Arrow schema and metadata kept.

    Args:
        uri: local path or ``s3://``.
        table: any table that fits into memory twice.

    Returns:
        Bytes written.

    Raises:
        ResourceError: the disk is full or storage does not answer; nothing is written then.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    write_bytes(uri, data)
    return len(data)


def read_table(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or only some of its columns.

    Raises:
        ObjectAnswer: not there, or may not be read.
        InputError: no Parquet, damaged, or without one of the columns.
        ResourceError: storage does not answer.
    """
    # All columns are all of the file: on S3 one request, where a stream takes three, for its size, its end and the rest.
    with io.BytesIO(read_bytes(uri)) if columns is None else open_for_reading(uri) as stream:
        try:
            with pq.ParquetFile(stream, page_checksum_verification=True) as file:
                absent = sorted(set(columns or ()) - set(file.schema_arrow.names))
                if absent:
                    raise InputError(
                        f"{uri}: has no column {', '.join(absent)}. It has: {', '.join(file.schema_arrow.names)}."
                    )
                return file.read(columns=None if columns is None else list(columns))
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # the disk's word; Arrow's own have no number
                raise ResourceError(
                    f"{uri}: {error}. Mend the disk or the mount and run the same command again."
                ) from error
            raise InputError(
                f"{uri}: damaged, or not Parquet ({error}). Take the file that the job wrote, or make it again."
            ) from error
