"""A mixture of record tasks to global batches.

A batch is a function of (mixture, seed, step, batch size), see order.py: a resumed run sees the same at once, and each
of several processes makes its own rows alone. Tasks that do more to records than ours do are read through SeqIO.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Iterator

import numpy as np
import seqio
import tensorflow as tf
from jaxtyping import Int

from mergedistill_jax.data.feature_converter import DistillationFeatureConverter
from mergedistill_jax.data.order import ORDER, Order
from mergedistill_jax.data.prefetch import in_background
from mergedistill_jax.data.record_files import checked_in_background
from mergedistill_jax.data.records import SPLIT, ReadRecords, RecordSource
from mergedistill_jax.data.student_rows import Batch, ToStudent, empty_batch, fill_rows
from mergedistill_jax.record_rows import decode_records
from mergedistill_jax.schema import RecordError

SEQIO_ORDER = "seqio"
"""The order of a mixture of which a task has preprocessors of its own."""

_ROWS_AT_ONCE = 256
"""Rows that are decoded together: many small batches cost little more than one."""
_DEPTH = 4
"""Groups of batches that may wait for the loop."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordMixture:
    """A registered mixture or task of records, and what all its folders have in common.

    Attributes:
        sources: names of the tasks, sorted; a batch's `source` indexes them.
        languages, teachers, folders: of each source.
        max_length, max_predictions: largest over the folders.
        k: predictions every folder has.
        sampled: folders whose targets are drawn from the teacher instead of its k best.
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
    sampled: tuple[str, ...] = ()


def describe_mixture(name: str, k: int | None = None) -> RecordMixture:
    """Looks up a mixture or task by name.

    Args:
        name: of a registered SeqIO mixture or task over record folders.
        k: predictions wanted; by default what every folder has.

    Raises:
        RecordError: no such mixture, not over record folders, different vocabularies, fewer predictions than k, or
            more of a folder whose targets are sampled.
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
    used = min(identity.k for identity in identities) if k is None else k
    sampled = [source.manifest for source in sources if source.manifest.identity.targets == "sampled"]
    for manifest in sampled:
        if manifest.identity.k != used:
            raise RecordError(
                f"{manifest.folder}/manifest.json: field k: found {manifest.identity.k}, expected {used} as used: of"
                " sampled targets all are needed"
            )
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
        k=used,
        hash=digest.hexdigest(),
        sampled=tuple(str(manifest.folder) for manifest in sampled),
    )


def _shares(mixture: str, tasks: list[seqio.Task]) -> list[float]:
    return [seqio.MixtureRegistry.get(mixture).get_rate(task) for task in tasks]


def _record_source(task: seqio.Task) -> RecordSource:
    if not isinstance(task.source, RecordSource):
        raise RecordError(f"task {task.name}: found a {type(task.source).__name__}, expected a record folder")
    for one in task.preprocessors:
        if isinstance(one, ReadRecords) and one.name != task.name:  # its rows would be trained on and in no metric
            raise RecordError(f"task {task.name}: ReadRecords: name: found {one.name!r}, expected {task.name!r}")
    return task.source


def order_of(mixture: RecordMixture) -> str:
    """Names the order of the mixture's batches; a run that was begun in another must not go on."""
    return ORDER if all(map(_reads_records_alone, _tasks(mixture))) else SEQIO_ORDER


def _tasks(mixture: RecordMixture) -> list[seqio.Task]:
    # Not by the tasks' names: another mixture may have registered other records under them since.
    tasks = {task.name: task for task in seqio.get_subtasks(seqio.get_mixture_or_task(mixture.name))}
    return [tasks[source] for source in mixture.sources]


def _reads_records_alone(task: seqio.Task) -> bool:
    return len(task.preprocessors) == 1 and isinstance(task.preprocessors[0], ReadRecords)


def batches(
    mixture: RecordMixture,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    rows: Int[np.ndarray, " r"] | None = None,
) -> Iterator[Batch]:
    """Endless batches of numpy arrays from `start_step` on; the same for the same mixture, size and seed.

    They are made in a thread of their own, which ends when the iterator is closed or forgotten.

    Args:
        mixture: from describe_mixture.
        batch_size: rows of a whole batch, on all processes together.
        seed: of the order.
        start_step: the first batch's number.
        rows: numbers of the rows that are made of every batch; None: all.

    Raises:
        RecordError: with the first batch that is asked for, or a later one: a shard is not what its folder lists. No
            record of it has been given then.
    """
    wanted = np.arange(batch_size) if rows is None else np.asarray(rows)
    if order_of(mixture) == SEQIO_ORDER:
        return _seqio_batches(mixture, batch_size, seed=seed, start_step=start_step, rows=wanted)
    return _flattened(in_background(_batches(mixture, batch_size, seed, start_step, wanted), _DEPTH))


def evaluation_batches(
    mixture: RecordMixture, batch_size: int, *, rows: Int[np.ndarray, " r"] | None = None
) -> Iterator[Batch]:
    """Every record once, in a fixed order, task by task; the last batch is filled up with rows of weight 0.

    Arguments and errors are those of `batches`.
    """
    wanted = np.arange(batch_size) if rows is None else np.asarray(rows)
    if order_of(mixture) == SEQIO_ORDER:
        return _seqio_evaluation_batches(mixture, batch_size, wanted)
    return _flattened(in_background(_evaluation_batches(mixture, batch_size, wanted), _DEPTH))


def _flattened(groups: Iterator[list[Batch]]) -> Iterator[Batch]:
    for group in groups:
        yield from group


def _batches(
    mixture: RecordMixture, batch_size: int, seed: int, start_step: int, rows: Int[np.ndarray, " r"]
) -> Iterator[list[Batch]]:
    """The batches from a step on, in groups of consecutive ones."""
    reader = _Reader(mixture)
    shares = _shares(mixture.name, _tasks(mixture)) if len(mixture.sources) > 1 else [1.0]
    read = np.flatnonzero(np.array(shares) > 0)
    order = Order(sizes=tuple(reader.sizes[i] for i in read), shares=tuple(shares[i] for i in read), seed=seed)
    usual = max(1, _ROWS_AT_ONCE // max(1, len(rows)))
    with checked_in_background(reader.files) as require_undamaged:
        for count in itertools.chain([1], itertools.repeat(usual)):  # the loop waits for the first
            steps = np.arange(start_step, start_step + count)
            start_step += count
            sources, numbers = order.at((steps[:, None] * batch_size + rows).reshape(-1))
            made = reader.read(read[sources], numbers)
            require_undamaged()
            yield _divided(made, count)


def _evaluation_batches(mixture: RecordMixture, batch_size: int, rows: Int[np.ndarray, " r"]) -> Iterator[list[Batch]]:
    reader = _Reader(mixture)
    ends = np.cumsum(reader.sizes)
    count = max(1, _ROWS_AT_ONCE // max(1, len(rows)))
    last = -(-int(ends[-1]) // batch_size)
    with checked_in_background(reader.files):
        for step in range(0, last, count):
            steps = np.arange(step, min(step + count, last))
            examples = (steps[:, None] * batch_size + rows).reshape(-1)
            real = np.minimum(examples, ends[-1] - 1)
            sources = np.searchsorted(ends, real, side="right")
            made = reader.read(sources, real - (ends - reader.sizes)[sources])
            made["loss_weights"][examples != real] = 0.0
            yield _divided(made, len(steps))


def _divided(rows: Batch, count: int) -> list[Batch]:
    size = len(rows["source"]) // count
    return [
        {name: values[start : start + size] for name, values in rows.items()} for start in range(0, count * size, size)
    ]


class _Reader:
    """Records of a mixture's folders as rows of the mixture's shapes."""

    def __init__(self, mixture: RecordMixture) -> None:
        self._mixture = mixture
        preprocessors = [task.preprocessors[0] for task in _tasks(mixture)]
        self._sources = [one for one in preprocessors if isinstance(one, ReadRecords)]
        self._to_student = [ToStudent(one.id_map, one.max_length) for one in self._sources]
        self.files = [one.files for one in self._sources]
        self.sizes = [len(files) for files in self.files]

    def read(self, sources: Int[np.ndarray, " n"], numbers: Int[np.ndarray, " n"]) -> Batch:
        """The records of these numbers in these sources, a row each."""
        shape = self._mixture
        batch = empty_batch(len(sources), length=shape.max_length, predictions=shape.max_predictions, k=shape.k)
        for source in np.unique(sources).tolist():
            places = np.flatnonzero(sources == source)
            serialized = self.files[source].read(numbers[places])
            rows = decode_records(serialized, self._sources[source].layout)
            try:
                fill_rows(batch, places, self._to_student[source](rows), source)
            except IndexError as error:  # an array of the manifest's sizes has no room for what a record holds
                raise RecordError(
                    f"{shape.folders[source]}: found a record beyond its manifest.json, expected ids below"
                    f" {len(self._sources[source].id_map.labels)}, at most {shape.max_length} tokens and"
                    f" {shape.max_predictions} masked positions; `mergedistill verify` names it"
                ) from error
        return batch


def _seqio_batches(
    mixture: RecordMixture, batch_size: int, *, seed: int, start_step: int, rows: Int[np.ndarray, " r"]
) -> Iterator[Batch]:
    """Batches in SeqIO's order: every process reads the whole stream, and finding a step takes as long as the steps."""
    dataset = seqio_dataset(mixture, mixture.name, seed=seed, shuffle=True, num_epochs=None)
    _require_examples(mixture)
    dataset = dataset.skip(start_step * batch_size).batch(batch_size, drop_remainder=True)
    for batch in dataset.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
        yield {name: values[rows] for name, values in dict(batch).items()}


def _require_examples(mixture: RecordMixture) -> None:
    """Raises RecordError where a task's preprocessors leave no example: an endless dataset of none never answers."""
    for task in _tasks(mixture):
        one = seqio_dataset(mixture, task, seed=0, shuffle=False, num_epochs=1).take(1)
        if not list(one.as_numpy_iterator()):
            raise RecordError(f"task {task.name}: found no example behind its preprocessors, expected at least one")


def _seqio_evaluation_batches(mixture: RecordMixture, batch_size: int, rows: Int[np.ndarray, " r"]) -> Iterator[Batch]:
    # Not as a mixture: SeqIO ends that with the first of its tasks that runs out of records.
    parts = [seqio_dataset(mixture, task, seed=0, shuffle=False, num_epochs=1) for task in _tasks(mixture)]
    dataset = functools.reduce(tf.data.Dataset.concatenate, parts)
    for batch in dataset.batch(batch_size).as_numpy_iterator():
        yield {name: values[rows] for name, values in _fill(dict(batch), batch_size).items()}


def seqio_dataset(
    mixture: RecordMixture, provider: str | seqio.Task, *, seed: int, shuffle: bool, num_epochs: int | None
) -> tf.data.Dataset:
    """Examples of the mixture, or of one of its tasks, in the mixture's shapes and in SeqIO's order."""
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
