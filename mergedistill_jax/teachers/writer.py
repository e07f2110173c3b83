"""Which shards are missing, which documents belong to them, and the writing of them one by one."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import seqio
import tensorflow as tf

from mergedistill_jax.schema import Manifest, Record, ShardEntry, check_shard, write_shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusSummary:
    """Size and content of a corpus: how many documents, and a hash over all of them in order."""

    documents: int
    hash: str


def corpus_documents(task: str, split: str) -> Iterator[str]:
    """The documents of a registered SeqIO task, in its fixed order.

    Raises:
        ValueError: no such task, no such split, or a text file that cannot be read; one line.
    """
    if task not in seqio.TaskRegistry.names():
        known = sorted(seqio.TaskRegistry.names())
        raise ValueError(f"corpus task: found {task!r}, expected a registered task: {known}")
    corpus = seqio.TaskRegistry.get(task)
    if split not in corpus.splits:
        raise ValueError(f"corpus {task}: split: found {split!r}, expected one of {sorted(corpus.splits)}")
    dataset = corpus.get_dataset(None, split=split, shuffle=False)
    try:
        for example in dataset.as_numpy_iterator():
            yield example["text"].decode()
    except tf.errors.OpError as error:
        # tf.data wraps what a text source raises, with a traceback in the message.
        cause = re.sub(r"^\{\{.*?\}\} *", "", error.message).splitlines()[0]
        raise ValueError(f"corpus {task}: {cause}") from error


def summarise(documents: Iterable[str]) -> CorpusSummary:
    """Counts and hashes a corpus in one pass."""
    digest = hashlib.blake2b(digest_size=16)
    count = 0
    for document in documents:
        data = document.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
        count += 1
    return CorpusSummary(documents=count, hash=digest.hexdigest())


def shards_of(documents: Iterable[str], documents_per_shard: int) -> Iterator[tuple[int, list[str]]]:
    """Consecutive documents in groups: (shard number, its documents)."""
    group: list[str] = []
    shard = 0
    for document in documents:
        group.append(document)
        if len(group) == documents_per_shard:
            yield shard, group
            group, shard = [], shard + 1
    if group:
        yield shard, group


def write_missing_shards(
    manifest: Manifest,
    documents: Iterable[str],
    records_of: Callable[[Sequence[str]], Iterable[Record]],
    on_shard: Callable[[ShardEntry], None],
) -> None:
    """Writes every shard that is not listed yet; a listed one is checked, and refused by name where it is damaged."""
    identity = manifest.identity
    finished = {entry.shard: entry for entry in manifest.shards}
    for shard, group in shards_of(documents, identity.documents_per_shard):
        if shard in finished:
            check_shard(manifest.folder, finished[shard])
            continue
        on_shard(write_shard(manifest.folder, shard, records_of(group), identity.id_bytes))
