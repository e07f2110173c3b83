"""Record folders as SeqIO tasks in the student's ids: the id map is applied while reading, nothing is re-masked."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import seqio
import tensorflow as tf

from mergedistill_jax import schema
from mergedistill_jax.schema import Manifest
from mergedistill_jax.vocabulary.folder import Vocabulary, read_vocabulary
from mergedistill_jax.vocabulary.union import DROPPED

SPLIT = "train"
IMPOSSIBLE_LOG_PROB = -1e9
"""Log-probability given to a teacher's candidate that the student's vocabulary does not have: finite, yet no mass."""


class RecordSource(seqio.FileDataSource):
    """The shards of one record folder, and what is known about them.

    Attributes:
        manifest: complete and undamaged, or the constructor refuses the folder by name.
        vocabulary: the student's.
        teacher: the teacher's name in the student's vocabulary folder.
    """

    def __init__(self, manifest: Manifest, vocabulary: Vocabulary) -> None:
        self.manifest = manifest.require_complete()
        self.vocabulary = vocabulary
        identity = manifest.identity
        self.teacher = vocabulary.member_of(identity.vocabulary_hash, manifest.folder / schema.MANIFEST_NAME)
        for entry in manifest.shards:
            schema.check_shard(manifest.folder, entry)
        files = [file for file, entry in zip(manifest.files, manifest.shards, strict=True) if entry.records]
        if not files:
            raise schema.RecordError(f"{manifest.folder}: found 0 records, expected at least one")
        super().__init__(
            read_file_fn=tf.data.TFRecordDataset,
            split_to_filepattern={SPLIT: files},
            num_input_examples={SPLIT: manifest.records},
        )


def to_student_ids(id_map: np.ndarray, parsed: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Maps a parsed record into the student's vocabulary.

    A dropped token cannot stand in a text (the union keeps every token but placeholders); among the teacher's
    candidates it loses its mass.
    """
    table = tf.constant(np.maximum(id_map, 0), tf.int32)
    kept = tf.constant(id_map != DROPPED)
    top_ids = parsed["top_ids"]
    log_probs = tf.where(tf.gather(kept, top_ids), parsed["top_log_probs"], IMPOSSIBLE_LOG_PROB)
    return {
        "token_ids": tf.gather(table, parsed["input_ids"]),
        "masked_positions": parsed["masked_positions"],
        "gold_ids": tf.gather(table, parsed["gold_ids"]),
        "teacher_ids": tf.gather(table, top_ids),
        "teacher_log_probs": log_probs,
    }


def add_record_task(name: str, folder: str, vocabulary_folder: str) -> str:
    """Registers a record folder as the SeqIO task `name`; a second call replaces the first.

    Features: token_ids [l], masked_positions [m], gold_ids [m], teacher_ids [m, k] in int32; teacher_log_probs [m, k]
    in float32; source: the task's name, for metrics by language and teacher.

    Raises:
        RecordError: the folder is missing or unfinished, or a shard is missing or altered.
        VocabularyError: its teacher is not one of the vocabulary's.
    """
    vocabulary = read_vocabulary(vocabulary_folder)
    source = RecordSource(schema.read_manifest(folder), vocabulary)
    identity = source.manifest.identity
    id_map = vocabulary.id_map(source.teacher)

    def parse(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(
            lambda serialized: {
                **to_student_ids(id_map, schema.parse_record(serialized, k=identity.k, width=identity.id_bytes)),
                "source": tf.constant(name),
            },
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name, source=cast("Any", source), preprocessors=[parse], output_features=_features(vocabulary.size)
    )
    return name


def _features(size: int) -> dict[str, Any]:
    ids = seqio.PassThroughVocabulary(size)

    def feature(rank: int = 1, dtype: Any = tf.int32) -> Any:
        return seqio.Feature(ids, add_eos=False, rank=rank, dtype=dtype)

    return {
        "token_ids": feature(),
        "masked_positions": feature(),
        "gold_ids": feature(),
        "teacher_ids": feature(rank=2),
        "teacher_log_probs": feature(rank=2, dtype=tf.float32),
        "source": feature(rank=0, dtype=tf.string),
    }


def add_record_mixture(name: str, tasks: list[str], exponent: float) -> str:
    """Registers a mixture of record tasks; each is sampled in proportion to its records to the power `exponent`.

    Exponent 1 keeps the corpora's shares, 0 gives every task the same (0.7 in mBERT, 0.3 in MuRIL).
    """

    def rate(task: seqio.Task) -> float:
        return float(cast("RecordSource", task.source).manifest.records) ** exponent

    if name in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove(name)
    seqio.MixtureRegistry.add(name, [(task, rate) for task in tasks])
    return name
