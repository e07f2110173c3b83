"""Whether the text that is read is still the text that a folder of records was begun on.

A corpus has one hash, over all documents in order. What it was at the end of each shard is kept in `corpus.json`
beside the records, so that whoever writes a shard, now or later, knows before it does that its documents are unchanged.
Who resumes a folder reads the corpus once for this; who begins one reads it twice.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from etils import epath

from mergedistill_jax.manifest import MANIFEST_NAME, read_identity
from mergedistill_jax.schema import RecordError
from mergedistill_jax.sealed import read_sealed, write_sealed

CORPUS_NAME = "corpus.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSummary:
    """Size and content of a corpus.

    Attributes:
        documents: how many.
        documents_per_shard: consecutive documents that make one shard.
        hashes: blake2b-128, hexadecimal, over all documents up to the end of each shard; each document is led by its
            length in bytes (8 bytes, little-endian).
    """

    documents: int
    documents_per_shard: int
    hashes: list[str]

    @property
    def hash(self) -> str:
        """Over all documents."""
        return self.hashes[-1] if self.hashes else _digest().hexdigest()


def _digest() -> Any:
    return hashlib.blake2b(digest_size=16)


def _framed(document: str) -> bytes:
    data = document.encode()
    return len(data).to_bytes(8, "little") + data


def summarise(documents: Iterable[str], documents_per_shard: int) -> CorpusSummary:
    """Counts and hashes a corpus in one pass that keeps one document at a time."""
    digest = _digest()
    hashes: list[str] = []
    count = 0
    for count, document in enumerate(documents, start=1):
        digest.update(_framed(document))
        if count % documents_per_shard == 0:
            hashes.append(digest.hexdigest())
    if count % documents_per_shard:
        hashes.append(digest.hexdigest())
    return CorpusSummary(documents=count, documents_per_shard=documents_per_shard, hashes=hashes)


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
    for count, document in enumerate(documents, start=1):
        if count > summary.documents:
            raise RecordError(
                f"corpus {corpus}: field documents: found more than {summary.documents}, expected {summary.documents};"
                " the text has changed"
            )
        digest.update(_framed(document))
        if wanted(shard):
            group.append(document)
        if count % summary.documents_per_shard == 0 or count == summary.documents:
            _require_unchanged(digest.hexdigest(), summary, corpus, shard, count)
            if wanted(shard):
                yield shard, group
            group, shard = [], shard + 1
    if count != summary.documents:
        raise RecordError(
            f"corpus {corpus}: field documents: found {count}, expected {summary.documents}; the text has changed"
        )


def _require_unchanged(found: str, summary: CorpusSummary, corpus: str, shard: int, count: int) -> None:
    if found != summary.hashes[shard]:
        first = shard * summary.documents_per_shard
        raise RecordError(
            f"corpus {corpus}: documents {first} to {count - 1}: field corpus_hash: found {found},"
            f" expected {summary.hashes[shard]} up to there; the text has changed"
        )


def write_summary(folder: epath.PathLike, summary: CorpusSummary) -> None:
    """Keeps a summary beside the records, where there is none."""
    path = epath.Path(folder) / CORPUS_NAME
    if not path.exists():
        write_sealed(path, dataclasses.asdict(summary))


def known_summary(folder: epath.PathLike, corpus: str, documents_per_shard: int) -> CorpusSummary | None:
    """The summary of the text that a folder was begun on, if it was begun on this corpus in these shards, else None.

    Raises:
        RecordError: manifest.json or corpus.json is damaged, or they contradict one another.
    """
    folder = epath.Path(folder)
    path = folder / CORPUS_NAME
    if not (folder / MANIFEST_NAME).exists() or not path.exists():
        return None
    identity = read_identity(folder)
    if (identity.corpus, identity.documents_per_shard) != (corpus, documents_per_shard):
        return None
    summary: CorpusSummary = read_sealed(path, CorpusSummary)
    if (summary.hash, summary.documents) != (identity.corpus_hash, identity.documents):
        raise RecordError(
            f"{path}: field hashes: found {summary.hash} of {summary.documents} documents last, expected"
            f" {identity.corpus_hash} of {identity.documents} as {MANIFEST_NAME} says"
        )
    return summary
