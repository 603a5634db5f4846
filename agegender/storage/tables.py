"""Read and write Arrow tables as Parquet files, atomically."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from agegender.errors import InputError, ResourceError
from agegender.storage.files import open_for_reading, read_bytes, write_bytes


def write_table(uri: str, table: pa.Table) -> int:
    """Write a table as one Parquet file, zstd-compressed, with its Arrow schema and metadata.

    Args:
        uri: local path or ``s3://``.
        table: must fit into memory twice.

    Returns:
        Bytes written.

    Raises:
        ResourceError: the disk is full or storage does not answer; nothing is written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()
    write_bytes(uri, data)
    return len(data)


def read_table(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some of its columns.

    Raises:
        ObjectAnswer: missing or not readable.
        InputError: not Parquet, damaged, or without one of the columns.
        ResourceError: storage does not answer.
    """
    # Without column selection read the whole file: one S3 request, where a stream takes three (size, footer, data).
    with io.BytesIO(read_bytes(uri)) if columns is None else open_for_reading(uri) as stream:
        try:
            with pq.ParquetFile(stream, page_checksum_verification=True) as file:
                missing = sorted(set(columns or ()) - set(file.schema_arrow.names))
                if missing:
                    raise InputError(
                        f"{uri}: has no column {', '.join(missing)}. It has: {', '.join(file.schema_arrow.names)}."
                    )
                return file.read(columns=None if columns is None else list(columns))
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno:  # from the disk; Arrow's own errors have no errno
                raise ResourceError(
                    f"{uri}: {error}. Repair the disk or the mount, and run the same command again."
                ) from error
            raise InputError(
                f"{uri}: damaged, or not Parquet ({error}). Restore the file that the job wrote, or run the job again."
            ) from error
