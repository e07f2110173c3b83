"""Records to device-ready batches: examples per second, beside what a training step of two CPU cores consumes.

    python benchmarks/reading.py
    python benchmarks/reading.py --records 2000 --seconds 1 --no-step      # quick
    python benchmarks/reading.py --memory                                  # bytes held, by the size of the corpus

Three teachers of 30,000, 50,000 and 100,000 tokens in a student's vocabulary of 100,000; the third one's map is of a
cut union: some inputs are spelled out, some candidates dropped and some added up. Sequences are full, 15 % masked,
k = 8. `here` is data/batches.py in its own order; `seqio` is SeqIO's, in which tasks with preprocessors of their own
are read. Both end with arrays on the device; `a CPU s` counts the time of all threads instead of the clock's. The step
is that of a body of 4 x 256 at batch 16 x 128. All is measured in one run of one process.
"""

import argparse
import dataclasses
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.losses import DistillationConfig
from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.schedules import GoldWeight, LearningRate
from mergedistill_jax.data.batches import RecordMixture, batches, describe_mixture, seqio_dataset
from mergedistill_jax.data.prefetch import placed_ahead
from mergedistill_jax.data.records import add_record_mixture, add_record_task
from mergedistill_jax.manifest import Identity, open_for_writing, write_shard
from mergedistill_jax.models.heads import masked_language_model
from mergedistill_jax.schema import Record
from mergedistill_jax.training.partitioning import make_mesh, place_batch
from mergedistill_jax.training.program import BatchShape, run_program
from mergedistill_jax.vocabulary.folder import write_vocabulary
from mergedistill_jax.vocabulary.id_map import DROPPED, IdMap, ragged_map, whole_map
from mergedistill_jax.vocabulary.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer, wrap_tokenizer

K, RATE = 8, 0.15
STUDENT = 100_000
TEACHERS = {"small": 30_000, "middle": 50_000, "large": 100_000}
SPECIAL = len(SPECIAL_TOKENS)
SHARDS = 8
FAR = 2_000
"""A step whose place is to be found."""


def tokens(name: str, size: int) -> Any:
    """A tokenizer of made-up tokens."""
    special = [names[0] for names in SPECIAL_TOKENS.values()]
    ids = {token: index for index, token in enumerate([*special, *(f"{name}{i}" for i in range(size - len(special)))])}
    return wrap_tokenizer(wordpiece_tokenizer(ids, lowercase=False, strip_accents=False, split_chinese=True), name)


def id_map(name: str, size: int, generator: np.random.Generator) -> IdMap:
    """Scattered ids; of the large teacher a hundredth is cut, and another shares its label."""
    labels = np.concatenate([np.arange(SPECIAL), SPECIAL + generator.permutation(STUDENT - SPECIAL)[: size - SPECIAL]])
    if name != "large":
        return whole_map(labels.astype(np.int32))
    cut, twin = generator.permutation(np.arange(SPECIAL, size))[: size // 50].reshape(2, -1)
    rows = [[int(label)] for label in labels]
    for index in cut:
        rows[index] = labels[generator.integers(SPECIAL, size, 3)].tolist()
    labels[twin] = labels[twin - 1]
    labels[cut] = DROPPED
    return ragged_map(labels.astype(np.int32), rows)


def record(generator: np.random.Generator, size: int, length: int) -> Record:
    """A full sequence of random ids."""
    masked = int(length * RATE)
    return Record(
        text_id=generator.bytes(8),
        draw=0,
        input_ids=generator.integers(SPECIAL, size, length).astype(np.int32),
        masked_positions=np.sort(generator.choice(np.arange(1, length - 1), masked, replace=False)).astype(np.int32),
        gold_ids=generator.integers(SPECIAL, size, masked).astype(np.int32),
        top_ids=generator.integers(SPECIAL, size, (masked, K)).astype(np.int32),
        top_log_probs=-np.cumsum(generator.exponential(1.0, (masked, K)), axis=1).astype(np.float32),
    )


def make_mixture(root: Path, length: int, records: int) -> RecordMixture:
    """Folders of `records` sequences for each teacher, and their mixture."""
    generator = np.random.default_rng(0)
    tokenizers = {name: tokens(name, size) for name, size in TEACHERS.items()}
    maps = {name: (tokenizers[name], id_map(name, size, generator)) for name, size in TEACHERS.items()}
    vocabulary = root / "vocabulary"
    write_vocabulary(vocabulary, tokens("student", STUDENT), maps, {})
    tasks = []
    for name, size in TEACHERS.items():
        folder = root / f"{name}_{length}_{records}"
        identity = Identity(
            teacher=name, weights_hash="", vocabulary_hash=tokenizers[name].vocabulary_hash,
            tokenizer_hash=tokenizers[name].tokenizer_hash, vocabulary_size=size, corpus="made:all", language=name,
            corpus_hash="", documents=SHARDS, documents_per_shard=1, rate=RATE, max_share=0.2, draws=1, seed=0,
            max_length=length, k=K,
        )  # fmt: skip
        open_for_writing(folder, identity)
        for shard in range(SHARDS):
            made = (record(generator, size, length) for _ in range(records // SHARDS))
            write_shard(folder, shard, made, identity.layout)
        tasks.append(add_record_task(f"{name}_{length}_{records}", str(folder), str(vocabulary)))
    return describe_mixture(add_record_mixture(f"mixture_{length}_{records}", tasks, 0.7))


def by_seqio(mixture: RecordMixture, batch_size: int, start_step: int = 0) -> Iterator[dict[str, Any]]:
    """The mixture as T5X would read it."""
    dataset = seqio_dataset(mixture, mixture.name, seed=0, shuffle=True, num_epochs=None)
    dataset = dataset.skip(start_step * batch_size).batch(batch_size, drop_remainder=True).prefetch(2)
    return (dict(batch) for batch in dataset.as_numpy_iterator())


def here(mixture: RecordMixture, batch_size: int, start_step: int = 0) -> Iterator[dict[str, Any]]:
    """The mixture as `train` reads it."""
    return batches(mixture, batch_size, seed=0, start_step=start_step)


Open = Callable[[RecordMixture, int, int], Iterator[dict[str, Any]]]


def rate(open_stream: Open, mixture: RecordMixture, batch_size: int, seconds: float) -> tuple[float, float]:
    """Examples that arrive on the device, once the stream is under way: by the second, and by the second of a CPU."""
    mesh = make_mesh()
    stream = placed_ahead(open_stream(mixture, batch_size, 0), lambda batch: place_batch(batch, mesh))
    for _ in range(20):
        jax.block_until_ready(next(stream)[1])
    began, began_cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        jax.block_until_ready(next(stream)[1])
        count += batch_size
    return count / (time.perf_counter() - began), count / (time.process_time() - began_cpu)


def first_batch_s(open_stream: Open, mixture: RecordMixture, batch_size: int) -> float:
    """Seconds until the batch of a far step is there."""
    began = time.perf_counter()
    stream = open_stream(mixture, batch_size, FAR)
    next(stream)
    return time.perf_counter() - began


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Of the run that is measured; see RunSettings."""

    optimizer: AdamWConfig = AdamWConfig(learning_rate=LearningRate(peak=1e-4, warmup_steps=10))
    distillation: DistillationConfig = DistillationConfig()
    gold_weight: GoldWeight = GoldWeight()
    steps: int = 1_000
    num_microbatches: int = 1
    reduce_gradients: str = "step"
    vocabulary_chunk: int = 2048


def step_rate(mixture: RecordMixture, batch_size: int, seconds: float) -> float:
    """Examples per second of the training step alone, given one batch again and again."""
    model = masked_language_model(
        EncoderConfig(
            vocab_size=STUDENT, num_layers=4, hidden_size=256, num_heads=4, intermediate_size=1024,
            max_length=mixture.max_length, dropout_rate=0.0,
        ),
        jnp.dtype("float32"),
    )  # fmt: skip
    shape = BatchShape(
        length=mixture.max_length, predictions=mixture.max_predictions, k=mixture.k, sources=len(mixture.sources)
    )
    mesh = make_mesh()
    program = run_program(model, Settings(), shape, mesh)
    state = program.initialise(jax.random.key(0))
    batch = place_batch(next(here(mixture, batch_size)), mesh)
    for _ in range(2):
        state, sums = program.train_step(state, batch, jax.random.key(1))
    jax.block_until_ready((state, sums))
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds or not count:
        state, sums = program.train_step(state, batch, jax.random.key(1))
        jax.block_until_ready(state)
        count += batch_size
    return count / (time.perf_counter() - began)


def compare(args: argparse.Namespace) -> None:
    """Prints a row for each length and batch size."""
    wait = args.seconds
    titles = ("length", "batch", "here, examples/s", "a CPU s", "seqio", "a CPU s", "ratio")
    print("{:>6} {:>5} {:>17} {:>8} {:>7} {:>8} {:>6}".format(*titles))
    with tempfile.TemporaryDirectory() as root:
        mixtures = {length: make_mixture(Path(root), length, args.records) for length in (128, 512)}
        rates = {}
        for length, mixture in mixtures.items():
            for batch_size in (16, 64, 256):
                (own, own_cpu), (other, other_cpu) = (rate(one, mixture, batch_size, wait) for one in (here, by_seqio))
                rates[length, batch_size] = own
                print(
                    f"{length:>6} {batch_size:>5} {own:>17,.0f} {own_cpu:>8,.0f} {other:>7,.0f} {other_cpu:>8,.0f}"
                    f" {own / other:>6.2f}",
                    flush=True,
                )
        far = [first_batch_s(one, mixtures[128], 16) for one in (here, by_seqio)]
        print(f"first batch, of step {FAR:,}, after {far[0]:.3f} s here, {far[1]:.3f} s by seqio")
        if not args.no_step:
            step = step_rate(mixtures[128], 16, wait)
            print(f"a step of 4 x 256 at 16 x 128 takes {step:,.0f} examples/s: reading gives"
                  f" {rates[128, 16] / step:,.1f} times as many")  # fmt: skip


def held(records: int) -> None:
    """Prints the resident memory after reading a corpus of so many records per teacher; in a process of its own."""
    with tempfile.TemporaryDirectory() as root:
        mixture = make_mixture(Path(root), 128, records)
        for _ in zip(range(50), here(mixture, 256), strict=False):
            pass
        corpus = sum(path.stat().st_size for path in Path(root).rglob("*.tfrecord"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{3 * records:>9,} records, {corpus / 1e6:>7,.0f} MB of shards: {peak:,.0f} MB resident at the most")


def main() -> None:
    """Compares speed, or tells memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--records", type=int, default=20_000, help="of each of the three teachers")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--no-step", action="store_true", help="leave the training step out")
    parser.add_argument("--memory", action="store_true", help="memory instead of speed")
    parser.add_argument("--held", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.held:
        held(args.held)
    elif args.memory:
        for records in (args.records // 4, args.records, 4 * args.records):
            subprocess.run([sys.executable, __file__, "--held", str(records)], check=True)  # noqa: S603 - this file
    else:
        compare(args)


if __name__ == "__main__":
    main()
