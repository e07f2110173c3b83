"""Parquet files with a document a row, as Wikipedia stands on the Hugging Face hub (columns id, url, title, text)."""

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from mergedistill_jax.corpus.reading import CorpusError, paragraphs

COLUMN = "text"
ROWS = 64
"""Rows decoded at a time."""
BUFFER_BYTES = 2**20
"""Bytes of a column read at a time. pyarrow would hold the whole column of a file in memory (`pre_buffer`)."""


def parquet_documents(path: str) -> Iterator[str]:
    """The documents of the column "text", in the order of the rows; a line of the text is a paragraph.

    Raises:
        CorpusError: no such file, no parquet file, no such column, a row without text, or damaged data.
    """
    if not tf.io.gfile.exists(path):
        raise CorpusError(f"{path}: not found, expected a parquet file")
    row = 0
    with tf.io.gfile.GFile(path, "rb") as raw:
        try:
            file = pq.ParquetFile(
                _Stream(raw), pre_buffer=False, buffer_size=BUFFER_BYTES, page_checksum_verification=True
            )
            _check_column(path, file.schema_arrow)
            for batch in file.iter_batches(ROWS, columns=[COLUMN], use_threads=False):
                for text in batch.column(0).to_pylist():
                    if text is None:
                        raise CorpusError(f"{path}: row {row}: field {COLUMN}: found null, expected a string")
                    if document := paragraphs(text.splitlines()):
                        yield document
                    row += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise CorpusError(f"{path}: from row {row} on: found {reason}, expected a whole parquet file") from error


def _check_column(path: str, schema: pa.Schema) -> None:
    if COLUMN not in schema.names:
        raise CorpusError(f"{path}: columns: found {schema.names}, expected one named {COLUMN!r}")
    kind = schema.field(COLUMN).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise CorpusError(f"{path}: column {COLUMN}: found {kind}, expected strings")


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
