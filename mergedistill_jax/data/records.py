"""Record folders as SeqIO tasks in the student's ids: the id map is applied while reading, nothing is re-masked."""

import dataclasses
import glob
from collections.abc import Collection, Mapping
from typing import Any, cast

import seqio
import tensorflow as tf

from mergedistill_jax import schema
from mergedistill_jax.data.record_files import RecordFiles
from mergedistill_jax.manifest import MANIFEST_NAME, Manifest, read_manifest
from mergedistill_jax.vocabulary.folder import Vocabulary, read_vocabulary
from mergedistill_jax.vocabulary.id_map import DROPPED, IdMap

SPLIT = "train"
IMPOSSIBLE_LOG_PROB = -1e9
"""Log-probability given to a teacher's candidate that the student's vocabulary does not have: finite, yet no mass."""


class RecordSource(seqio.FileDataSource):
    """The shards of one record folder, and what is known about them.

    Attributes:
        manifest: complete and of the listed sizes, or the constructor refuses the folder by name; it lists the shards
            that are read, so that its counts and its hash are theirs. Their checksums are compared when they are read.
        files: the records by their number.
        vocabulary: the student's.
        teacher: the teacher's name in the student's vocabulary folder.
    """

    def __init__(self, manifest: Manifest, vocabulary: Vocabulary, shards: Collection[int] | None = None) -> None:
        """Checks the folder; `shards` are the numbers of those that are read, None: all."""
        read = [entry for entry in manifest.require_complete().shards if shards is None or entry.shard in shards]
        self.manifest = manifest = dataclasses.replace(manifest, shards=tuple(read))
        self.vocabulary = vocabulary
        identity = manifest.identity
        self.teacher = vocabulary.member_of(identity.vocabulary_hash, manifest.folder / MANIFEST_NAME)
        manifest.require_sizes()
        files = [file for file, entry in zip(manifest.files, manifest.shards, strict=True) if entry.records]
        if not files:
            raise schema.RecordError(f"{manifest.folder}: found 0 records, expected at least one")
        super().__init__(
            read_file_fn=tf.data.TFRecordDataset,
            split_to_filepattern={SPLIT: [glob.escape(file) for file in files]},  # SeqIO expands `[`, `*` and `?`
            num_input_examples={SPLIT: manifest.records},
        )
        self.files = RecordFiles(manifest)

    def get_dataset(self, *arguments: Any, **settings: Any) -> tf.data.Dataset:
        """The serialised records in SeqIO's order.

        Raises:
            RecordError: a shard's checksum is not the one listed.
        """
        self.manifest.require_undamaged()
        return super().get_dataset(*arguments, **settings)


def to_student_ids(id_map: IdMap, parsed: Mapping[str, tf.Tensor], max_length: int) -> dict[str, tf.Tensor]:
    """Maps a parsed record into the student's vocabulary, see vocabulary/id_map.py.

    A masked position is left out where the student lacks its gold token, or all of the teacher's candidates. A
    candidate that it lacks loses its mass; candidates that are one token for the student add theirs up. An input token
    that it lacks is spelled out, which may push the end of the sequence beyond `max_length`: then the end is cut off.
    """
    labels = tf.constant(id_map.labels)
    gold_ids = tf.gather(labels, parsed["gold_ids"])
    top_ids = tf.gather(labels, parsed["top_ids"])
    log_probs = tf.where(top_ids == DROPPED, IMPOSSIBLE_LOG_PROB, parsed["top_log_probs"])
    token_ids, positions = _expanded(id_map, parsed["input_ids"], parsed["masked_positions"], max_length)
    if not id_map.injective:
        log_probs = _merged(top_ids, log_probs)
    mapped = {
        "masked_positions": positions,
        "gold_ids": gold_ids,
        "teacher_ids": tf.maximum(top_ids, 0),
        "teacher_log_probs": log_probs,
    }
    kept = (gold_ids != DROPPED) & (positions < max_length - 1)
    if parsed["top_ids"].shape[-1] != 0:
        kept &= tf.reduce_any(top_ids != DROPPED, axis=-1)
    return {"token_ids": token_ids} | {name: tf.boolean_mask(value, kept) for name, value in mapped.items()}


def _expanded(
    id_map: IdMap, input_ids: tf.Tensor, masked_positions: tf.Tensor, max_length: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The student's input ids [n], at most max_length with the last one kept, and where the masked ones went [m]."""
    ids, starts = tf.constant(id_map.ids), tf.constant(id_map.starts, tf.int32)
    if id_map.one_to_one:
        return tf.gather(ids, input_ids), masked_positions
    first_of_row = tf.gather(starts, input_ids)
    counts = tf.gather(starts, input_ids + 1) - first_of_row
    # A masked position is one prediction: where its input is no [MASK] but a word, it keeps the first piece.
    ones = tf.ones_like(masked_positions)
    counts = tf.tensor_scatter_nd_update(counts, masked_positions[:, None], ones)
    first = tf.cumsum(counts, exclusive=True)
    offsets = tf.range(tf.reduce_sum(counts)) - tf.repeat(first, counts)
    token_ids = tf.gather(ids, tf.repeat(first_of_row, counts) + offsets)
    token_ids = tf.cond(
        tf.size(token_ids) > max_length,
        lambda: tf.concat([token_ids[: max_length - 1], token_ids[-1:]], axis=0),
        lambda: token_ids,
    )
    return token_ids, tf.gather(first, masked_positions)


def _merged(top_ids: tf.Tensor, log_probs: tf.Tensor) -> tf.Tensor:
    """Log-probabilities [m, k] where a token's first candidate has the mass of all, and its others have none."""
    same = top_ids[:, :, None] == top_ids[:, None, :]
    total = tf.reduce_logsumexp(tf.where(same, log_probs[:, None, :], IMPOSSIBLE_LOG_PROB), axis=-1)
    earlier = tf.linalg.band_part(tf.ones_like(same, tf.int32), -1, 0) - tf.eye(tf.shape(top_ids)[1], dtype=tf.int32)
    repeated = tf.reduce_any(same & (earlier > 0), axis=-1)
    return tf.where(repeated | (top_ids == DROPPED), IMPOSSIBLE_LOG_PROB, total)


class ReadRecords:
    """The preprocessor of a record task: serialised records to features in the student's ids.

    A task that has this one alone is read without SeqIO's help, in our own order; see batches.py.

    Attributes:
        name: of the task, the feature `source` of its examples.
        files, layout, max_length, id_map: what it takes to read a record.
    """

    def __init__(self, source: RecordSource, name: str) -> None:
        """Takes the task's source, and its name, which becomes the feature `source`."""
        identity = source.manifest.identity
        self.files = source.files
        self.layout, self.max_length = identity.layout, identity.max_length
        self.id_map = source.vocabulary.id_map(source.teacher)
        self.name = name

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Examples of serialised records."""
        return dataset.map(self._example, num_parallel_calls=tf.data.AUTOTUNE)

    def _example(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = schema.parse_record(serialized, self.layout)
        return {**to_student_ids(self.id_map, parsed, self.max_length), "source": tf.constant(self.name)}


def add_record_task(name: str, folder: str, vocabulary_folder: str, shards: Collection[int] | None = None) -> str:
    """Registers a record folder, or some of its shards, as the SeqIO task `name`; a second call replaces the first.

    Features: token_ids [l], masked_positions [m], gold_ids [m], teacher_ids [m, k] in int32; teacher_log_probs [m, k]
    in float32; source: the task's name, for metrics by language and teacher.

    Raises:
        RecordError: the folder is missing or unfinished, or a shard is missing or of another size.
        VocabularyError: its teacher is not one of the vocabulary's.
    """
    vocabulary = read_vocabulary(vocabulary_folder)
    source = RecordSource(read_manifest(folder), vocabulary, shards)
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=cast("Any", source),
        preprocessors=[ReadRecords(source, name)],
        output_features=record_features(vocabulary.size),
    )
    return name


def record_features(size: int) -> dict[str, Any]:
    """Output features of a record task, for a student's vocabulary of so many tokens."""
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
    """Registers a mixture of record tasks: a language's share is proportional to its records to the power `exponent`.

    Exponent 1 keeps the corpora's shares, 0 gives every language the same (0.7 in mBERT, 0.3 in MuRIL). The tasks of a
    language divide its share in proportion to their records: dividing it among teachers does not enlarge it.
    """
    records = {task: _manifest(seqio.TaskRegistry.get(task)).records for task in tasks}
    languages = {task: _manifest(seqio.TaskRegistry.get(task)).identity.language for task in tasks}
    total = dict.fromkeys(languages.values(), 0)
    for task in tasks:
        total[languages[task]] += records[task]

    def rate(task: seqio.Task) -> float:
        of_language = total[languages[task.name]]
        return float(of_language) ** exponent * (records[task.name] / of_language)

    if name in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove(name)
    seqio.MixtureRegistry.add(name, [(task, rate) for task in tasks])
    return name


def _manifest(task: seqio.Task) -> Manifest:
    return cast("RecordSource", task.source).manifest
