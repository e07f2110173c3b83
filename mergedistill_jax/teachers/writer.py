"""Which shards are missing, which documents belong to them, and the writing of them one by one."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import seqio
import tensorflow as tf

from mergedistill_jax.configs.worker import Worker
from mergedistill_jax.files import remove_left_behind
from mergedistill_jax.manifest import Manifest, ShardEntry, add_shard, entry_name
from mergedistill_jax.schema import Record
from mergedistill_jax.teachers.corpus_hashes import CorpusSummary, unchanged_shards


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
    number = -1
    try:
        for number, example in enumerate(dataset.as_numpy_iterator()):  # noqa: B007 - named in the errors below
            yield example["text"].decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"corpus {task}: document {number}: found bytes that are not UTF-8 ({error.reason}), expected UTF-8"
        ) from error
    except tf.errors.OpError as error:
        # tf.data wraps what a text source raises, with a traceback in the message.
        cause = re.sub(r"^\{\{.*?\}\} *", "", error.message).splitlines()[0]
        raise ValueError(f"corpus {task}: {cause}") from error


def write_missing_shards(
    manifest: Manifest,
    documents: Iterable[str],
    summary: CorpusSummary,
    records_of: Callable[[Sequence[str]], Iterable[Record]],
    on_shard: Callable[[ShardEntry], None],
    worker: Worker,
) -> None:
    """Writes every shard of a worker that is not listed yet, and removes what dead processes left behind.

    Args:
        manifest: of the folder, as it was opened.
        documents: the whole corpus; a worker reads past the documents of others.
        summary: of the corpus that the folder was begun on.
        records_of: the records of one shard's documents; equal documents must give equal records.
        on_shard: called with the entry of each shard that was written.
        worker: whose shards are written.

    Raises:
        RecordError: a shard of the worker's that is listed is damaged, the text has changed, or the disk is full.
    """
    folder = manifest.folder
    remove_left_behind(folder)
    finished = {entry.shard for entry in manifest.shards}

    def wanted(shard: int) -> bool:
        return worker.owns(shard) and shard not in finished

    for shard, group in unchanged_shards(documents, summary, manifest.identity.corpus, wanted):
        if not (folder / entry_name(shard)).exists():  # another process may have been told to write the same
            on_shard(add_shard(manifest, shard, records_of(group)))
