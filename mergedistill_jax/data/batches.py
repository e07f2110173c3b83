"""A mixture of record tasks to global batches.

A batch is a function of (mixture, seed, step), so that a resumed run sees the same.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from mergedistill_jax.data.feature_converter import DistillationFeatureConverter
from mergedistill_jax.data.records import SPLIT, RecordSource
from mergedistill_jax.schema import RecordError

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordMixture:
    """A registered mixture or task of records, and what all its folders have in common.

    Attributes:
        sources: names of the tasks, sorted; a batch's `source` indexes them.
        languages, teachers, folders: of each source.
        max_length, max_predictions: largest over the folders.
        k: predictions every folder has.
        hash: content hash over the folders and their shares of the batches.
    """

    name: str
    sources: tuple[str, ...]
    languages: tuple[str, ...]
    teachers: tuple[str, ...]
    folders: tuple[str, ...]
    vocabulary_folder: str
    vocabulary_hash: str
    vocabulary_size: int
    max_length: int
    max_predictions: int
    records: int
    k: int
    hash: str


def describe_mixture(name: str, k: int | None = None) -> RecordMixture:
    """Looks up a mixture or task by name.

    Args:
        name: of a registered SeqIO mixture or task over record folders.
        k: predictions wanted; by default what every folder has.

    Raises:
        RecordError: no such mixture, not over record folders, different vocabularies, or fewer predictions than k.
    """
    known = sorted([*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()])
    if name not in known:
        raise RecordError(f"mixture: found {name!r}, expected a registered mixture or task: {known}")
    tasks = sorted(seqio.get_subtasks(seqio.get_mixture_or_task(name)), key=lambda task: task.name)
    sources = [_record_source(task) for task in tasks]
    vocabularies = {source.vocabulary.hash: source.vocabulary for source in sources}
    if len(vocabularies) > 1:
        raise RecordError(f"mixture {name}: found {len(vocabularies)} vocabularies, expected one for all tasks")
    vocabulary = next(iter(vocabularies.values()))
    for source in sources:
        stored = source.manifest.identity.k
        if k is not None and stored < k:
            raise RecordError(f"{source.manifest.folder}/manifest.json: field k: found {stored}, expected at least {k}")
    identities = [source.manifest.identity for source in sources]
    digest = hashlib.blake2b("".join(source.manifest.hash for source in sources).encode(), digest_size=16)
    if len(tasks) > 1:  # of several, the shares decide the batches too
        digest.update(json.dumps(_shares(name, tasks)).encode())
    return RecordMixture(
        name=name,
        sources=tuple(task.name for task in tasks),
        languages=tuple(identity.language for identity in identities),
        teachers=tuple(identity.teacher for identity in identities),
        folders=tuple(str(source.manifest.folder) for source in sources),
        vocabulary_folder=str(vocabulary.folder),
        vocabulary_hash=vocabulary.hash,
        vocabulary_size=vocabulary.size,
        max_length=max(identity.max_length for identity in identities),
        max_predictions=max(identity.max_predictions for identity in identities),
        records=sum(source.manifest.records for source in sources),
        k=min(identity.k for identity in identities) if k is None else k,
        hash=digest.hexdigest(),
    )


def _shares(mixture: str, tasks: list[seqio.Task]) -> list[float]:
    return [seqio.MixtureRegistry.get(mixture).get_rate(task) for task in tasks]


def _record_source(task: seqio.Task) -> RecordSource:
    if not isinstance(task.source, RecordSource):
        raise RecordError(f"task {task.name}: found a {type(task.source).__name__}, expected a record folder")
    return task.source


def batches(mixture: RecordMixture, batch_size: int, *, seed: int, start_step: int = 0) -> Iterator[Batch]:
    """Endless global batches of numpy arrays from `start_step` on; the same for the same mixture, size and seed.

    Every process of a job reads the whole stream and places its own rows: simple, and the same batches on any number
    of processes.
    """
    dataset = _dataset(mixture, mixture.name, seed=seed, shuffle=True, num_epochs=None)
    dataset = dataset.skip(start_step * batch_size).batch(batch_size, drop_remainder=True)
    for batch in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
        yield dict(batch)


def evaluation_batches(mixture: RecordMixture, batch_size: int) -> Iterator[Batch]:
    """Every record once, in a fixed order, task by task; the last batch is filled up with rows of weight 0."""
    # Not as a mixture: SeqIO ends that with the first of its tasks that runs out of records.
    # And not by the tasks' names: another mixture may have registered other records under them since.
    tasks = {task.name: task for task in seqio.get_subtasks(seqio.get_mixture_or_task(mixture.name))}
    parts = [_dataset(mixture, tasks[source], seed=0, shuffle=False, num_epochs=1) for source in mixture.sources]
    dataset = functools.reduce(tf.data.Dataset.concatenate, parts)
    for batch in dataset.batch(batch_size).as_numpy_iterator():
        yield _fill(dict(batch), batch_size)


def _dataset(
    mixture: RecordMixture, provider: str | seqio.Task, *, seed: int, shuffle: bool, num_epochs: int | None
) -> tf.data.Dataset:
    """Examples of the mixture, or of the one of its tasks that is named, in the mixture's shapes."""
    rows = mixture.max_predictions
    lengths = {
        "token_ids": mixture.max_length,
        "masked_positions": rows,
        "gold_ids": rows,
        "teacher_ids": rows,
        "teacher_log_probs": rows,
        "source": None,
    }
    dataset = seqio.get_dataset(
        provider,
        task_feature_lengths=lengths,
        dataset_split=SPLIT,
        feature_converter=DistillationFeatureConverter(mixture.k),
        shuffle=shuffle,
        num_epochs=num_epochs,
        seed=seed,
        verbose=False,
    )
    numbers = tf.range(len(mixture.sources))
    index = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(list(mixture.sources), numbers), -1)
    return dataset.map(lambda example: {**example, "source": index.lookup(example["source"])})


def _fill(batch: Batch, batch_size: int) -> Batch:
    missing = batch_size - len(batch["lengths"])
    if not missing:
        return batch
    filled = {name: np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) for name, rows in batch.items()}
    filled["loss_weights"][-missing:] = 0.0
    return filled
