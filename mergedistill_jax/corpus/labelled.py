"""Sentences with one tag per word (parts of speech, named entities), read from the formats they are published in.

tagged_lines.py has the formats. A file may be compressed (.xz .gz .bz2 .zst), and may be a member of a tar archive:
`archive.tar.xz::train-de.tsv`.
"""

import dataclasses
import functools
import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Sequence

from etils import epath

from mergedistill_jax.corpus.reading import COMPRESSIONS, CorpusError, DamagedError, decompressed
from mergedistill_jax.corpus.tagged_lines import check_format, read_sentences

MEMBER_SEPARATOR = "::"
MAX_BYTES = 2**30
"""Of a labelled file, decompressed: it is held in memory."""
HASH_RANGE = 2**64


@dataclasses.dataclass(frozen=True)
class TaggedText:
    """One sentence: `words` and, at the same place, their `tags`."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


def read_tagged(address: str, file_format: str, task: str | None = None) -> list[TaggedText]:
    """All sentences of one file, in order.

    Args:
        address: a path (local or gs://), compressed or not, or `archive::member`.
        file_format: see tagged_lines.py.
        task: "pos" or "ner": tags that are none of the task's are refused, see `tagged_lines.read_sentences`.

    Raises:
        ValueError: naming file, line, field, found and expected; also where the file holds no sentence.
        FileNotFoundError: no such file, or no such member.
    """
    check_format(address, file_format)
    sentences = [TaggedText(*sentence) for sentence in read_sentences(address, _read_text(address), file_format, task)]
    if not sentences:
        raise ValueError(f"{address}: sentences: found none, expected at least one")
    return sentences


def list_members(archive: str) -> tuple[str, ...]:
    """The names of the files in a tar archive."""
    return tuple(_archive_members(archive))


def split_development(
    sentences: Sequence[TaggedText], *, train_share: float = 0.8
) -> tuple[list[TaggedText], list[TaggedText]]:
    """Training and test sentences out of a development set, where no training set is at hand.

    The rule: a sentence's text (words joined by one space) gives u = blake2b(UTF-8 text, 8 bytes, big-endian) / 2**64;
    it is for training if u < train_share, else for test. So the split depends on nothing but the text: not on the
    order, the file, the machine or a seed; and equal texts fall on one side, so none is in both.

    Raises:
        ValueError: where one side would be empty.
    """
    sides: tuple[list[TaggedText], list[TaggedText]] = ([], [])
    for sentence in sentences:
        digest = hashlib.blake2b(" ".join(sentence.words).encode(), digest_size=8).digest()
        sides[int.from_bytes(digest, "big") >= train_share * HASH_RANGE].append(sentence)
    train, test = sides
    if not train or not test:
        raise ValueError(
            f"split_development: found {len(train)} training and {len(test)} test sentences out of {len(sentences)},"
            " expected at least one of each"
        )
    return train, test


def _read_text(address: str) -> str:
    """The decompressed text of a file or an archive member."""
    archive, separator, member = address.partition(MEMBER_SEPARATOR)
    if not separator and ".tar" in epath.Path(address).suffixes:
        raise ValueError(f"{address}: member: found an archive, expected {address}{MEMBER_SEPARATOR}NAME")
    data = _archive_member(archive, member) if separator else epath.Path(address).read_bytes()
    text = _decompressed(address, data)
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{address}: contents: found the byte order mark of UTF-16, expected UTF-8 text")
    try:
        return text.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{address}: contents: found byte {error.start} not UTF-8, expected UTF-8 text") from error


def _decompressed(address: str, data: bytes) -> bytes:
    blocks: list[bytes] = []
    size = 0
    try:
        for block in decompressed(address, io.BytesIO(data)):
            blocks.append(block)
            size += len(block)
            if size > MAX_BYTES:
                raise CorpusError(f"{address}: contents: found more than {MAX_BYTES} bytes, expected a labelled file")
    except DamagedError as error:
        raise ValueError(f"{address}: contents: found damaged data ({error}), expected a whole file") from error
    return b"".join(blocks)


def _archive_member(archive: str, member: str) -> bytes:
    members = _archive_members(archive)
    if member not in members:
        raise FileNotFoundError(f"{archive}: member: found {', '.join(sorted(members))}, expected {member!r}")
    return members[member]


@functools.lru_cache(maxsize=1)
def _archive_members(archive: str) -> dict[str, bytes]:
    """Name -> contents. One archive is remembered: a compressed tar has no index, so each read unpacks all of it."""
    data = epath.Path(archive).read_bytes()
    if archive.endswith(tuple(COMPRESSIONS)):
        data = _decompressed(archive, data)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:*") as tar:
            return {info.name: stream.read() for info in tar if (stream := tar.extractfile(info)) is not None}
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise ValueError(f"{archive}: contents: found damaged data ({error}), expected a whole archive") from error
