"""How a corpus is divided into shards, and whether its text is still the text that a folder of records was begun on.

A shard takes documents, in the order of the corpus, while two bounds allow: their number, and the bytes of their text.
The bytes bound its tokens, and so the work that is lost with a killed process, without a tokenizer: teachers with
different tokenizers have the same documents in the shard of the same number, see data/choice.py. A document that alone
has more bytes than a shard may have is divided between paragraphs, and its parts count as documents.

    documents of 3, 1, 4, 10 (paragraphs of 5 and 4) and 2 bytes, at most 3 documents and 8 bytes a shard:

    shard        0        1    2    3
    documents    3 1 4    5    4 2

A corpus has one hash, over all documents in order. What it was at the end of each shard is kept in `corpus.json`
beside the records, so that a process that writes a shard knows before it does that its documents are unchanged.
Resuming a folder reads the corpus once for this; beginning one reads it twice.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from mergedistill_jax.manifest import MANIFEST_NAME, Identity, read_identity
from mergedistill_jax.schema import RecordError
from mergedistill_jax.sealed import read_sealed, write_sealed

CORPUS_NAME = "corpus.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Division:
    """The bounds of a shard.

    Attributes:
        documents: most documents of a shard.
        text_bytes: most bytes of its text in UTF-8, but for a paragraph that alone has more: it is a shard of its own.
    """

    documents: int
    text_bytes: int


def division_of(*, documents_per_shard: int, bytes_per_shard: int, draws: int) -> Division:
    """The bounds where every text is masked `draws` times and `bytes_per_shard` counts it as often."""
    return Division(documents=documents_per_shard, text_bytes=max(1, bytes_per_shard // draws))


def division_of_folder(identity: Identity) -> Division:
    """The bounds that a folder of records was begun with."""
    return division_of(
        documents_per_shard=identity.documents_per_shard,
        bytes_per_shard=identity.bytes_per_shard,
        draws=identity.draws,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSummary:
    """Size, division and content of a corpus.

    Attributes:
        documents_per_shard, text_bytes_per_shard: the bounds of its shards, see Division.
        ends: of every shard the number of documents up to its end.
        bytes: of every shard the bytes of its text.
        hashes: of every shard blake2b-128, hexadecimal, over all documents up to its end; each document is led by its
            length in bytes (8 bytes, little-endian).
    """

    documents_per_shard: int
    text_bytes_per_shard: int
    ends: list[int]
    bytes: list[int]
    hashes: list[str]

    def __post_init__(self) -> None:
        if not len(self.ends) == len(self.bytes) == len(self.hashes):
            lengths = (len(self.ends), len(self.bytes), len(self.hashes))
            raise ValueError(f"fields ends, bytes, hashes: found {lengths} values, expected as many of each")

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return self.ends[-1] if self.ends else 0

    @property
    def shards(self) -> int:
        """How many shards they make."""
        return len(self.ends)

    @property
    def hash(self) -> str:
        """Over all documents."""
        return self.hashes[-1] if self.hashes else _digest().hexdigest()


def _digest() -> Any:
    return hashlib.blake2b(digest_size=16)


def _parts(documents: Iterable[str], most: int) -> Iterator[tuple[str, int, bytes]]:
    """Every document, one of more than `most` bytes in parts of as many paragraphs as fit.

    Yields:
        A part, its bytes in UTF-8, and what is hashed of it: over all parts this is what it is of whole documents.
    """
    for document in documents:
        data = document.encode()
        led_by = len(data).to_bytes(8, "little")
        if len(data) <= most:
            yield document, len(data), led_by + data
            continue
        for part in _paragraphs(data, most):
            yield part.decode(), len(part), led_by + part
            led_by = b"\n"


def _paragraphs(document: bytes, most: int) -> Iterator[bytes]:
    """A document in parts of at most `most` bytes, or one paragraph."""
    part: list[bytes] = []
    size = 0
    for paragraph in document.split(b"\n"):
        if part and size + len(paragraph) > most:
            yield b"\n".join(part)
            part, size = [], 0
        part.append(paragraph)
        size += len(paragraph) + 1
    yield b"\n".join(part)


def summarise(documents: Iterable[str], division: Division) -> CorpusSummary:
    """Divides, counts and hashes a corpus in one pass that keeps one document at a time."""
    digest = _digest()
    ends: list[int] = []
    sizes: list[int] = []
    hashes: list[str] = []
    count = first = size = 0

    def end_shard() -> None:
        ends.append(count)
        sizes.append(size)
        hashes.append(digest.hexdigest())

    for _, length, hashed in _parts(documents, division.text_bytes):
        full = count - first == division.documents or size + length > division.text_bytes
        if count > first and full:
            end_shard()
            first, size = count, 0
        digest.update(hashed)
        count, size = count + 1, size + length
    if count > first:
        end_shard()
    return CorpusSummary(
        documents_per_shard=division.documents,
        text_bytes_per_shard=division.text_bytes,
        ends=ends,
        bytes=sizes,
        hashes=hashes,
    )


def unchanged_shards(
    documents: Iterable[str], summary: CorpusSummary, corpus: str, wanted: Callable[[int], bool]
) -> Iterator[tuple[int, list[str]]]:
    """The wanted shards and their documents, each only after its text, and all before it, proved to be the summarised.

    The corpus is read to its end; no more than one shard's documents are kept.

    Args:
        documents: the whole corpus.
        summary: what it was.
        corpus: its name, for messages.
        wanted: of a shard's number.

    Raises:
        RecordError: a document is another, or there are more or fewer; names the documents of the shard.
    """
    digest = _digest()
    group: list[str] = []
    shard = count = 0
    for count, (document, _, hashed) in enumerate(_parts(documents, summary.text_bytes_per_shard), start=1):
        if count > summary.documents:
            raise RecordError(
                f"corpus {corpus}: field documents: found more than {summary.documents}, expected {summary.documents};"
                " the text has changed"
            )
        digest.update(hashed)
        if wanted(shard):
            group.append(document)
        if count == summary.ends[shard]:
            _require_unchanged(digest.hexdigest(), summary, corpus, shard)
            if wanted(shard):
                yield shard, group
            group, shard = [], shard + 1
    if count != summary.documents:
        raise RecordError(
            f"corpus {corpus}: field documents: found {count}, expected {summary.documents}; the text has changed"
        )


def _require_unchanged(found: str, summary: CorpusSummary, corpus: str, shard: int) -> None:
    if found != summary.hashes[shard]:
        first = summary.ends[shard - 1] if shard else 0
        raise RecordError(
            f"corpus {corpus}: documents {first} to {summary.ends[shard] - 1}: field corpus_hash: found {found},"
            f" expected {summary.hashes[shard]} up to there; the text has changed"
        )


def write_summary(folder: epath.PathLike, summary: CorpusSummary) -> None:
    """Keeps a summary beside the records, where there is none."""
    path = epath.Path(folder) / CORPUS_NAME
    if not path.exists():
        write_sealed(path, dataclasses.asdict(summary))


def known_summary(folder: epath.PathLike, corpus: str, division: Division) -> CorpusSummary | None:
    """The summary of the text that a folder was begun on, if it was begun on this corpus in these shards, else None.

    Raises:
        RecordError: manifest.json or corpus.json is damaged, or they contradict one another.
    """
    folder = epath.Path(folder)
    path = folder / CORPUS_NAME
    if not (folder / MANIFEST_NAME).exists() or not path.exists():
        return None
    identity = read_identity(folder)
    if (identity.corpus, division_of_folder(identity)) != (corpus, division):
        return None
    summary: CorpusSummary = read_sealed(path, CorpusSummary)
    found = (summary.hash, summary.documents, summary.shards)
    told = (identity.corpus_hash, identity.documents, identity.num_shards)
    if found != told:
        raise RecordError(
            f"{path}: fields hashes and ends: found {found[0]} of {found[1]} documents in {found[2]} shards, expected"
            f" {told[0]} of {told[1]} in {told[2]} as {MANIFEST_NAME} says"
        )
    return summary
