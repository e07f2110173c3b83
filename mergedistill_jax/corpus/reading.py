"""Files of text, compressed or not, as bytes, lines and paragraphs. Paths may be gs://."""

import bz2
import contextlib
import logging
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

BLOCK_BYTES = 2**18
"""Bytes read, or decompressed, at a time."""
ZSTANDARD_BYTES = 2**13
MAX_LINE_BYTES = 2**26
MAX_DOCUMENT_CHARACTERS = 2**26
XZ_MEMORY_BYTES = 2**29
"""`xz -9` needs 65 MB; a damaged or hostile header can ask for 4 GB."""

COMPRESSIONS = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".tbz2", ".txz", ".lz4", ".lzma", ".lzo", ".br", ".z")
"""Endings of files that are not read; archives of labelled files are, see labelled.py."""
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"\x04\x22\x4d\x18": "LZ4",
    b"PAR1": "parquet",
}
SKIPPABLE_FRAME = b"\x2a\x4d\x18"
"""Bytes 1 to 3 of a Zstandard file that begins with a skippable frame, as those of pzstd do."""
KEEP_WHOLE = "or damaged='keep_whole' to read what is whole before it"


class CorpusError(ValueError):
    """A text file that cannot be read as what it was said to be; the message is one line."""


class DamagedError(Exception):
    """Compressed data that is damaged or cut short. A failing disk or network is an OSError, and never this."""


class Lines(Iterator[str]):
    """The lines of a text file without their ends.

    Attributes:
        number: of the line given last, from 1.
        is_cut: whether the lines ended at damage that the caller asked to be tolerated. The line in which it begins is
            not given.
    """

    def __init__(self, path: str, blocks: Iterable[bytes], *, keep_whole: bool = False) -> None:
        self.number = 0
        self.is_cut = False
        self._path = path
        self._keep_whole = keep_whole
        self._lines = _split(path, blocks)

    def __next__(self) -> str:
        """The next line.

        Raises:
            CorpusError: bytes that are not UTF-8, a line longer than MAX_LINE_BYTES, or damaged compression.
        """
        try:
            line = next(self._lines)
        except DamagedError as error:
            self._stop_at_damage(error)
            raise StopIteration from error
        self.number += 1
        if self.number == 1:
            line = self._without_mark(line)
        try:
            return line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            if self._keep_whole and error.end == len(line) and next(self._lines, None) is None:
                self.is_cut = True
                warn_of_damage(f"{self._path}: line {self.number}: found the end of the file within a character")
                raise StopIteration from error
            raise CorpusError(
                f"{self._path}: line {self.number}: found bytes that are not UTF-8 ({error.reason}), expected UTF-8"
            ) from error

    def _stop_at_damage(self, error: BaseException) -> None:
        found = f"{self._path}: after line {self.number}: found damaged compressed data ({error})"
        if not self._keep_whole:
            raise CorpusError(f"{found}, expected a whole file, {KEEP_WHOLE}") from error
        self.is_cut = True
        warn_of_damage(found)

    def _without_mark(self, line: bytes) -> bytes:
        if line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise CorpusError(f"{self._path}: found the byte order mark of UTF-16, expected UTF-8")
        if b"\0" in line[:4]:
            raise CorpusError(f"{self._path}: found {line[:8]!r}, expected UTF-8: is it UTF-16, or no text?")
        return line.removeprefix(b"\xef\xbb\xbf")


def warn_of_damage(found: str) -> None:
    """Logs that a file was read up to its damage only."""
    logging.getLogger(__name__).warning("%s: what is whole before it is read", found)


def _split(path: str, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Blocks to lines. A file without a newline but with carriage returns has the line ends of old Macs."""
    newline, number, parts, size = b"", 0, [], 0
    for block in blocks:
        newline = newline or (b"\r" if b"\r" in block and b"\n" not in block else b"\n")
        first, *others = block.split(newline)
        parts.append(first)
        size += len(first)
        if size > MAX_LINE_BYTES:
            raise CorpusError(
                f"{path}: line {number + 1}: found more than {MAX_LINE_BYTES} bytes, expected lines of text"
            )
        if others:
            yield b"".join(parts)
            yield from others[:-1]
            number += len(others)
            parts, size = [others[-1]], len(others[-1])
    if size:
        yield b"".join(parts)


@contextlib.contextmanager
def open_blocks(path: str) -> Iterator[Iterator[bytes]]:
    """The bytes of a file in blocks, decompressed where its name ends in .gz, .bz2, .xz or .zst.

    Raises:
        CorpusError: no such file; an archive or compression that is not read; contents that do not fit the name.
    """
    if path.lower().endswith(ARCHIVES) or ".tar." in os.path.basename(path):  # noqa: PTH119 - may be gs://
        raise CorpusError(f"{path}: found an archive, expected text, or text compressed as {', '.join(COMPRESSIONS)}")
    try:
        raw = epath.Path(path).open("rb")
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: not found, expected a text file") from error
    with raw:
        yield decompressed(path, raw)


@contextlib.contextmanager
def open_text(path: str, *, keep_whole: bool = False) -> Iterator[Lines]:
    """Lines of a UTF-8 file, see `Lines`; a byte order mark at its start is taken off. See `open_blocks`."""
    with open_blocks(path) as blocks:
        yield Lines(path, blocks, keep_whole=keep_whole)


def decompressed(name: str, raw: Any) -> Iterator[bytes]:
    """The contents of a file in blocks; the end of its name tells the compression.

    Raises:
        CorpusError: contents that do not fit the name.
        DamagedError: damage; what is whole before it was given already.
    """
    expected = COMPRESSIONS.get(os.path.splitext(name)[1].lower())  # noqa: PTH122 - may be gs://
    head = raw.read(8)
    raw.seek(0)
    found = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)
    if found is None and head[1:4] == SKIPPABLE_FRAME:
        found = "Zstandard"
    if not head and expected:
        raise CorpusError(f"{name}: found an empty file, expected {expected} data")
    if found == "bzip2" and head[4:8] not in {b"1AY&", b"\x17\x72\x45\x38"}:
        found = None  # text can begin with BZh; the first block, or the end of an empty stream, follows in bzip2 data
    # Damage within the first bytes of a file that is compressed by its name is met, and told, by its decompressor.
    if expected and found is None and _is_text(head):
        raise CorpusError(f"{name}: found text, expected {expected} data, as its name ends")
    if found and found != expected:
        wanted = f"{expected} data, as its name ends" if expected else "text, or a name that ends as its compression"
        raise CorpusError(f"{name}: found {found} data, expected {wanted}")
    return _DECODERS[expected](raw) if expected else _plain(raw)


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are printable ASCII, or a byte order mark."""
    return head.startswith(b"\xef\xbb\xbf") or all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head)


def _plain(raw: Any) -> Iterator[bytes]:
    while block := raw.read(BLOCK_BYTES):
        yield block


class _GzipDecoder:
    """zlib with the interface of bz2's and lzma's decompressors."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._rest = b""
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        block = self._zlib.decompress(self._rest + data, max_length)
        self._rest = self._zlib.unconsumed_tail
        self.needs_input = not self._rest and len(block) < max_length
        return block


def _members(raw: Any, new_decoder: Callable[[], Any]) -> Iterator[bytes]:
    """Blocks of a file of one or more compressed streams, with nothing but zeros between and after them.

    Python's own GzipFile, BZ2File and LZMAFile take what is no stream behind a whole one for the end of the file, so
    that damage at the start of a stream of a multistream file would silently lose the rest.
    """
    data = raw.read(BLOCK_BYTES)
    while data:
        decoder = new_decoder()
        while not decoder.eof:
            if decoder.needs_input and not data:
                data = raw.read(BLOCK_BYTES)
                if not data:
                    raise DamagedError("the file ends within a compressed stream")
            try:
                block, data = decoder.decompress(data, BLOCK_BYTES), b""
            except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
                raise DamagedError(str(error)) from error
            if block:
                yield block
        data = decoder.unused_data.lstrip(b"\0")
        while not data and (more := raw.read(BLOCK_BYTES)):
            data = more.lstrip(b"\0")


class _Source:
    """A file for pyarrow, which keeps the error of a read: pyarrow's own errors are OSErrors too."""

    closed = False

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.error: OSError | None = None

    def read(self, count: int) -> bytes:
        try:
            return self._raw.read(count)
        except OSError as error:
            self.error = error
            raise

    def close(self) -> None:
        """The caller closes the file."""


def _zstandard(raw: Any) -> Iterator[bytes]:
    import pyarrow as pa  # noqa: PLC0415 - only where needed: its import takes a while

    source = _Source(raw)
    try:
        with pa.CompressedInputStream(pa.PythonFile(source, mode="r"), "zstd") as stream:
            # What pyarrow decompressed before damage is lost with the read that meets it: reads are short.
            while block := stream.read(ZSTANDARD_BYTES):
                yield block
    except OSError as error:
        if source.error is not None:
            raise source.error from error
        raise DamagedError(str(error)) from error


_DECODERS: dict[str, Callable[[Any], Iterator[bytes]]] = {
    "gzip": lambda raw: _members(raw, _GzipDecoder),
    "bzip2": lambda raw: _members(raw, bz2.BZ2Decompressor),
    "xz": lambda raw: _members(raw, lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES)),
    "Zstandard": _zstandard,
}


def paragraphs(lines: Iterable[str]) -> str:
    """A document of the lines that hold anything, stripped."""
    return "\n".join(stripped for line in lines if (stripped := line.strip()))
