"""Text with [MASK] in it as a SeqIO task, for t5x.infer.

    masked_text.add_masked_text("lines.txt", "runs/demo/vocabulary")

Every line is a sequence of its own. Features are those of a record without a teacher, see data/records.py, and for what
is written `text`, the line, and `masks`, how many of its masks are inside the sequence.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
from etils import epath

from mergedistill_jax.configs.vocab import OWN
from mergedistill_jax.data.records import record_features
from mergedistill_jax.vocabulary.folder import Vocabulary, read_vocabulary
from mergedistill_jax.vocabulary.id_map import IdMap
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer

MASK = "[MASK]"
SPLIT = "infer"


def add_masked_text(
    path: str, vocabulary: str, teacher: str | None = None, max_length: int = 512, name: str = "masked_text"
) -> str:
    """Registers a text file as the task `name`, and returns the name; a second call replaces the first.

    Args:
        path: of the text, UTF-8, with [MASK] for every gap, whatever the tokenizer calls it; other special tokens that
            it spells are text. Empty lines are left out.
        vocabulary: folder of the student's vocabulary.
        teacher: whose tokenizer cuts the text, as it cut the student's training text in that language; None: the
            student's own.
        max_length: tokens of a sequence; what is beyond them is cut off.
        name: of the task.

    Raises:
        ValueError: no such file.
        VocabularyError: no such teacher.
    """
    if not epath.Path(path).exists():
        raise ValueError(f"{path}: not found, expected a text file with {MASK} in it")
    read = read_vocabulary(vocabulary)
    rows = functools.partial(_rows, path, read, teacher or OWN, max_length)
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(functools.partial(_dataset, rows), splits=(SPLIT,)),  # pyright: ignore[reportArgumentType] - SeqIO's own source misses its protocol
        preprocessors=[],
        output_features={field: one for field, one in record_features(read.size).items() if field != "source"},
    )
    return name


def masked_text_lengths(max_length: int = 512, max_masks: int = 32) -> dict[str, int]:
    """TASK_FEATURE_LENGTHS of such a task: a line has at most `max_masks` masks."""
    rows = ("masked_positions", "gold_ids", "teacher_ids", "teacher_log_probs")
    return {"token_ids": max_length, **dict.fromkeys(rows, max_masks)}


def _dataset(rows: Any, split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:  # noqa: FBT001 - SeqIO's signature
    del split, shuffle_files, seed
    return tf.data.Dataset.from_generator(
        rows,
        output_signature={
            "token_ids": tf.TensorSpec([None], tf.int32),
            "masked_positions": tf.TensorSpec([None], tf.int32),
            "gold_ids": tf.TensorSpec([None], tf.int32),
            "teacher_ids": tf.TensorSpec([None, 0], tf.int32),
            "teacher_log_probs": tf.TensorSpec([None, 0], tf.float32),
            "text": tf.TensorSpec([], tf.string),
            "masks": tf.TensorSpec([], tf.int32),
        },
    )


def _rows(path: str, vocabulary: Vocabulary, teacher: str, max_length: int) -> Iterator[dict[str, Any]]:
    tokenizer, id_map = vocabulary.teacher_tokenizer(teacher), vocabulary.id_map(teacher)
    for line in epath.Path(path).read_text().splitlines():
        if line.strip():
            yield _row(line.strip(), tokenizer, id_map, max_length)


def _row(line: str, tokenizer: TeacherTokenizer, id_map: IdMap, max_length: int) -> dict[str, Any]:
    pieces = tokenizer.encode_with_masks(line, MASK)[: max_length - 2]
    ids = np.array([tokenizer.cls_id, *pieces, tokenizer.sep_id], np.int32)
    mapped, first = id_map.expand(ids)  # may spell a word out, beyond max_length
    positions = first[np.flatnonzero(ids == tokenizer.mask_id)]
    positions = positions[positions < max_length].astype(np.int32)
    rows = len(positions)
    return {
        "token_ids": mapped[:max_length].astype(np.int32),
        "masked_positions": positions,
        "gold_ids": np.zeros(rows, np.int32),  # nobody knows them
        "teacher_ids": np.zeros((rows, 0), np.int32),
        "teacher_log_probs": np.zeros((rows, 0), np.float32),
        "text": line,
        "masks": rows,
    }
