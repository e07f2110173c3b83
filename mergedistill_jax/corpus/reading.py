"""Files of text, compressed or not, as bytes, lines and paragraphs. Paths may be gs://."""

import bz2
import contextlib
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

OPENERS: dict[str, Callable[[Any], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
DAMAGE = (OSError, EOFError, lzma.LZMAError, zlib.error)
"""What reading a damaged or truncated compressed file raises."""


class CorpusError(ValueError):
    """A text file that cannot be read as what it was said to be; the message is one line."""


@contextlib.contextmanager
def open_bytes(path: str) -> Iterator[Any]:
    """A binary stream of a file, decompressed where its name ends in .gz, .bz2 or .xz."""
    if not tf.io.gfile.exists(path):
        raise CorpusError(f"{path}: not found, expected a text file")
    opener = next((opener for ending, opener in OPENERS.items() if path.endswith(ending)), None)
    with tf.io.gfile.GFile(path, "rb") as raw:
        yield opener(raw) if opener else raw


@contextlib.contextmanager
def open_text(path: str) -> Iterator[Iterator[str]]:
    """Lines of a UTF-8 file without their line ends; see `open_bytes`."""
    with open_bytes(path) as stream:
        yield _decoded_lines(path, stream)


def _decoded_lines(path: str, stream: Iterable[bytes]) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(stream, start=1):  # noqa: B007 - named in the errors below
            yield line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: line {number}: found bytes that are not UTF-8 ({error.reason}), expected UTF-8"
        ) from error
    except DAMAGE as error:
        raise CorpusError(
            f"{path}: after line {number}: found damaged compressed data ({error}), expected a whole file"
        ) from error


def paragraphs(lines: Iterable[str]) -> str:
    """A document of the lines that hold anything, stripped."""
    return "\n".join(stripped for line in lines if (stripped := line.strip()))
