"""Parquet files with a document a row, as Wikipedia stands on the Hugging Face hub (columns id, url, title, text)."""

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from mergedistill_jax.corpus.reading import CorpusError, paragraphs

ROWS = 64
BATCH_BYTES = 2**24
"""Rows decoded at a time: so many, or fewer where that many would be larger; one row at least."""
BUFFER_BYTES = 2**20
"""Bytes of a column read at a time. pyarrow would hold the whole column of a file in memory (`pre_buffer`)."""


def parquet_documents(path: str, *, field: str = "text") -> Iterator[str]:
    """The documents of one column, in the order of the rows; a line of the text is a paragraph.

    Args:
        path: a parquet file.
        field: the column with the text; strings of any layout (string, large_string, string_view, dictionary).

    Raises:
        CorpusError: no such file, no parquet file, no such column, a row without text, a page of the file that is too
            large, or damaged data.
    """
    row = 0
    try:
        stream = epath.Path(path).open("rb")
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: not found, expected a parquet file") from error
    with stream as raw:
        try:
            file = pq.ParquetFile(
                _Stream(raw), pre_buffer=False, buffer_size=BUFFER_BYTES, page_checksum_verification=True
            )
            _check_column(path, file.schema_arrow, field)
            for batch in file.iter_batches(_batch_rows(file, field), columns=[field], use_threads=False):
                column = batch.column(0)
                # A dictionary's one long string many times is small in the file, and large as Python's strings.
                texts = column.to_pylist() if batch.nbytes <= BATCH_BYTES else (value.as_py() for value in column)
                for text in texts:
                    if text is None:
                        raise CorpusError(f"{path}: row {row}: field {field}: found null, expected a string")
                    if document := paragraphs(text.splitlines()):
                        yield document
                    row += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CorpusError(f"{path}: from row {row} on: found {reason}, expected a whole parquet file") from error


def _batch_rows(file: pq.ParquetFile, field: str) -> int:
    """How many rows of the largest row group fit into BATCH_BYTES."""
    rows = ROWS
    for index in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(index)
        sizes = [
            column.total_uncompressed_size
            for column in map(group.column, range(group.num_columns))
            if column.path_in_schema == field
        ]
        rows = min(rows, BATCH_BYTES * group.num_rows // max(sum(sizes), 1))
    return max(rows, 1)


def _check_column(path: str, schema: pa.Schema, field: str) -> None:
    if schema.names.count(field) != 1:
        raise CorpusError(f"{path}: columns: found {schema.names}, expected one named {field!r}")
    kind = schema.field(field).type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not any(is_text(values) for is_text in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)):
        raise CorpusError(f"{path}: column {field}: found {kind}, expected strings")


class _Stream(io.RawIOBase):
    """A GFile as Python's own binary files are, which pyarrow asks for."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer; returns how many bytes there were."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Returns the new position."""
        self._file.seek(offset, whence)
        return self._file.tell()

    def tell(self) -> int:
        """The position."""
        return self._file.tell()
