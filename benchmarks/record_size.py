"""Bytes per corpus token of our records beside MaxText's layout, on the same text; and what half precision loses.

    python benchmarks/record_size.py --text DATA/text/wikipedia/es.wikiextractor.txt.xz \
        --vocabulary DATA/vocab/beto-cased.vocab.txt DATA/vocab/bert-base-multilingual-cased.vocab.txt \
        --teacher runs/wikipedia_four/exports/teachers/es

Ours: every byte on disk over the tokens of the text, [CLS] and [SEP] not counted (and counted, in the next column), one
draw at 15 %, k = 8. MaxText's: a tf.train.Example of a sequence with `tokens` and `top_k_indices` as int64 and
`top_k_logits` as float32, k = 8 at every position, in TFRecord files, without its optional fields. Sizes do not depend
on what a teacher says but for the ids of MaxText's, which take fewer bytes the smaller they are: the candidates are
drawn from the text's own tokens, whose ids are small.

With --teacher its predictions of the text are computed, and the divergence of the stored from the exact distributions.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from packing import first_documents, in_shards, tokenizer_of

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.corpus.packing import masked_records
from mergedistill_jax.evaluation.rounding import kl_of_candidates, kl_with_rest, rounding_error
from mergedistill_jax.schema import VERSIONS, Layout, Record, encode_record
from mergedistill_jax.teachers.inference import predict_records
from mergedistill_jax.teachers.loading import load_teacher
from mergedistill_jax.vocabulary.report import table
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer, load_tokenizer

K = 8
SPECIAL = 2
"""[CLS] and [SEP] of every sequence."""


def records_of(shards: Iterable[Sequence[str]], tokenizer: TeacherTokenizer, length: int) -> list[Record]:
    """Masked text, no predictions."""
    return [
        record
        for shard in shards
        for record in masked_records(shard, tokenizer, MaskingConfig(), max_length=length, draws=1)
    ]


def original_ids(record: Record) -> np.ndarray:
    """The tokens of the text, nothing masked."""
    ids = record.input_ids.copy()
    ids[record.masked_positions] = record.gold_ids
    return ids


def maxtext_example(record: Record, candidates: np.ndarray) -> bytes:
    """The sequence in MaxText's layout."""
    ids = original_ids(record)
    features = {
        "tokens": tf.train.Feature(int64_list=tf.train.Int64List(value=ids.tolist())),
        "top_k_indices": tf.train.Feature(int64_list=tf.train.Int64List(value=candidates.reshape(-1).tolist())),
        "top_k_logits": tf.train.Feature(float_list=tf.train.FloatList(value=np.linspace(0, 9, candidates.size))),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def bytes_on_disk(serialized: Iterable[bytes]) -> int:
    """Of a TFRecord file of them."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "records.tfrecord"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for one in serialized:
                writer.write(one)
        return path.stat().st_size


def size_row(records: Sequence[Record], vocabulary_size: int, length: int) -> tuple[str, ...]:
    """What all records take in each layout."""
    generator = np.random.default_rng(0)
    pool = np.concatenate([original_ids(record)[1:-1] for record in records])
    tokens, masked = len(pool), sum(len(record.masked_positions) for record in records)
    predicted = [
        dataclasses.replace(
            record,
            top_ids=generator.choice(pool, (len(record.gold_ids), K)).astype(np.int32),
            top_log_probs=np.full((len(record.gold_ids), K), -1.0, np.float32),
        )
        for record in records
    ]
    layouts = {version: Layout(k=K, vocabulary_size=vocabulary_size, version=version) for version in VERSIONS}
    ours = {
        version: bytes_on_disk(encode_record(record, layout) for record in predicted)
        for version, layout in layouts.items()
    }
    theirs = bytes_on_disk(
        maxtext_example(record, generator.choice(pool, (len(record.input_ids), K))) for record in records
    )
    newest = ours[max(VERSIONS)]
    return (
        f"{vocabulary_size:,}",
        str(length),
        f"{len(records):,}",
        f"{masked / tokens:.2%}",
        f"{newest / tokens:.2f}",
        f"{newest / (tokens + SPECIAL * len(records)):.2f}",
        f"{ours[1] / tokens:.2f}",
        f"{theirs / tokens:.2f}",
        f"{theirs / newest:.1f}",
    )


def tell_rounding(folder: str, shards: Sequence[Sequence[str]], length: int) -> None:
    """Prints the divergence of the stored from the exact distributions of a teacher."""
    tokenizer, teacher = load_tokenizer(folder), load_teacher(folder, max_length=length, k=K)
    masking = MaskingConfig()
    found = predict_records(
        teacher,
        records_of(shards, tokenizer, length),
        k=K,
        batch_size=32,
        length=length,
        max_predictions=masking.max_predictions(length),
    )
    log_probs = np.concatenate([record.top_log_probs for record in found])
    print(f"{len(log_probs):,} predictions of {folder}; nats per position: mean, 99th percentile, largest")
    rows = [
        (name, *(f"{number:.2e}" for number in (values.mean(), np.quantile(values, 0.99), values.max())))
        for name, values in (
            (f"KL over the {K} and the rest", kl_with_rest(log_probs)),
            ("its bound, 6 e", 6 * rounding_error(log_probs)),
            (f"KL over the {K} alone", kl_of_candidates(log_probs)),
        )
    ]
    print(table(("", "mean", "99 %", "largest"), rows))


def main() -> None:
    """Prints a row for each vocabulary and length."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--vocabulary", type=Path, nargs="+", required=True, help="cased vocab.txt files")
    parser.add_argument("--text", nargs="+", required=True, help="files of documents")
    parser.add_argument("--format", default="wikiextractor")
    parser.add_argument("--documents", type=int, default=500, help="of each file")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--teacher", default=None, help="a Hugging Face folder")
    parser.add_argument("--teacher_length", type=int, default=128)
    args = parser.parse_args()
    shards = [
        shard for path in args.text for shard in in_shards(first_documents(path, args.format, args.documents), 100)
    ]
    rows = [
        size_row(records_of(shards, tokenizer, length), len(tokenizer.tokens), length)
        for tokenizer in map(tokenizer_of, args.vocabulary)
        for length in args.lengths
    ]
    names = ("tokens", "length", "records", "masked", "ours", "with special", "version 1", "MaxText", "times")
    print(table(names, rows))
    if args.teacher:
        tell_rounding(args.teacher, shards, args.teacher_length)


if __name__ == "__main__":
    main()
