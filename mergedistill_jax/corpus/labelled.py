"""Sentences with one tag per word (parts of speech, named entities), read from the formats they are published in.

    tsv           token TAB tag, blank line between sentences        XTREME's UDPOS and PAN-X
    indexed_tsv   number TAB token TAB tag, blank line between       WikiANN test sets, WikiNEuRal
    conllu        ten columns, UPOS is the tag                       Universal Dependencies

A file may be compressed (.xz .gz .bz2), and may be a member of a tar archive: `archive.tar.xz::train-de.tsv`.
"""

import bz2
import dataclasses
import functools
import gzip
import hashlib
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from conllu.exceptions import ParseException
from conllu.models import Token
from conllu.parser import DEFAULT_FIELDS, parse_line
from etils import epath

MEMBER_SEPARATOR = "::"
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
}
HASH_RANGE = 2**64


@dataclasses.dataclass(frozen=True)
class TaggedText:
    """One sentence: `words` and, at the same place, their `tags`."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


def read_tagged(address: str, file_format: str) -> list[TaggedText]:
    """All sentences of one file, in order.

    Args:
        address: a path (local or gs://), compressed or not, or `archive::member`.
        file_format: a key of `READERS`.

    Raises:
        ValueError: naming file, line, field, found and expected; also where the file holds no sentence.
        FileNotFoundError: no such file, or no such member.
    """
    if file_format not in READERS:
        raise ValueError(f"{address}: file_format: found {file_format!r}, expected one of {sorted(READERS)}")
    # Not splitlines(): a word may hold U+0085 or U+2028, which are no line ends in these formats.
    lines = _read_text(address).removeprefix("\ufeff").split("\n")
    sentences = list(READERS[file_format](address, [line.removesuffix("\r") for line in lines]))
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


def _read_columns(address: str, lines: Iterable[str], *, num_columns: int) -> Iterator[TaggedText]:
    """Sentences of a tab-separated file whose last two columns are word and tag."""
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*lines, ""], start=1):
        if not line:
            if words:
                yield TaggedText(tuple(words), tuple(tags))
                words, tags = [], []
            continue
        columns = line.split("\t")
        if len(columns) != num_columns:
            raise ValueError(f"{address}:{number}: columns: found {len(columns)} in {line!r}, expected {num_columns}")
        for field, value in zip(("token", "tag"), columns[-2:], strict=True):
            if not value.strip():
                raise ValueError(f"{address}:{number}: {field}: found {value!r}, expected a non-empty string")
        words.append(columns[-2])
        tags.append(columns[-1].strip())


def _read_conllu(address: str, lines: Iterable[str]) -> Iterator[TaggedText]:
    """Sentences of a CoNLL-U file: syntactic words only, without multiword-token ranges (2-3) and empty nodes (5.1)."""
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*lines, ""], start=1):
        if not line.strip():
            if words:
                yield TaggedText(tuple(words), tuple(tags))
                words, tags = [], []
        elif not line.startswith("#"):
            token = _conllu_token(f"{address}:{number}", line)
            if isinstance(token["id"], int):
                words.append(token["form"])
                tags.append(token["upos"])


def _conllu_token(place: str, line: str) -> Token:
    """One line of CoNLL-U; words (integer ids) have a form and a UPOS."""
    try:
        token = parse_line(line, DEFAULT_FIELDS)
    except ParseException as error:
        raise ValueError(f"{place}: found {line!r}, expected a CoNLL-U line ({error})") from error
    if token["id"] is None:
        raise ValueError(f"{place}: id: found {line.split(maxsplit=1)[0]!r}, expected a number, a range or a decimal")
    # "_" is a word like any other, but as a tag it stands for "none".
    for field, absent in (("form", ("",)), ("upos", ("", "_"))):
        if isinstance(token["id"], int) and (token.get(field) or "").strip() in absent:
            raise ValueError(f"{place}: {field}: found {token.get(field)!r}, expected a value")
    return token


READERS: dict[str, Callable[[str, Iterable[str]], Iterator[TaggedText]]] = {
    "tsv": functools.partial(_read_columns, num_columns=2),
    "indexed_tsv": functools.partial(_read_columns, num_columns=3),
    "conllu": _read_conllu,
}


def _read_text(address: str) -> str:
    """The decompressed text of a file or an archive member."""
    archive, separator, member = address.partition(MEMBER_SEPARATOR)
    if not separator and ".tar" in epath.Path(address).suffixes:
        raise ValueError(f"{address}: member: found an archive, expected {address}{MEMBER_SEPARATOR}NAME")
    data = _archive_member(archive, member) if separator else epath.Path(address).read_bytes()
    try:
        text = DECOMPRESS.get(epath.Path(address).suffix, bytes)(data)
    except (lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{address}: contents: found damaged data ({error}), expected a whole file") from error
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{address}: contents: found byte {error.start} not UTF-8, expected UTF-8 text") from error


def _archive_member(archive: str, member: str) -> bytes:
    members = _archive_members(archive)
    if member not in members:
        raise FileNotFoundError(f"{archive}: member: found {', '.join(sorted(members))}, expected {member!r}")
    return members[member]


@functools.lru_cache(maxsize=1)
def _archive_members(archive: str) -> dict[str, bytes]:
    """Name -> contents. One archive is remembered: a compressed tar has no index, so each read unpacks all of it."""
    data = io.BytesIO(epath.Path(archive).read_bytes())
    try:
        with tarfile.open(fileobj=data, mode="r:*") as tar:
            return {info.name: stream.read() for info in tar if (stream := tar.extractfile(info)) is not None}
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError) as error:
        raise ValueError(f"{archive}: contents: found damaged data ({error}), expected a whole archive") from error
