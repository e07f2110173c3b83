"""Top-8 predictions at masked positions: `predict_records` beside two loops of transformers and torch, in one run.

    python benchmarks/predicting.py
    python benchmarks/predicting.py --vocabulary DATA/vocab/bert-base-multilingual-cased.vocab.txt \
        --text DATA/text/wikipedia/en.wikiextractor.txt.xz --packing document
    python benchmarks/predicting.py --memory
    python benchmarks/predicting.py --size base --device --length 512 --sequences 8192 --tune 32,64,128

The same model (BERT with random weights, made by transformers with a seed) over the same masked sequences, by

    here    predict_records, from records to records with top-8 ids, their log-probabilities and the gold ones'
    smart   torch: the encoder, its rows at the masked positions, the head on those alone, log_softmax, topk
    plain   torch: logits of all positions as BertForMaskedLM gives them, then log_softmax and topk at the masked ones

Both loops sort the sequences by length, pad a batch to its longest, pass the attention mask and run in inference mode.
Each engine runs in its own process, so that no thread pool waits on another; first with every batch size of --tune on a
part of the text, then with its best one, the engines in turn, --rounds times. What is compiled or loaded before is not
counted. Speed is the median over the rounds. "CPU s" is the processor time of all threads for each second of the clock.

--memory runs the stage `predict` itself on a corpus and on one four times as large and prints the peak of each.

--device says that there is an accelerator: bfloat16, and the share of the speed of a large square matrix product,
measured here too, that goes into useful operations: those of real tokens and real masked positions.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

K = 8
ENGINES = ("here", "smart", "plain")
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64},
    "mini": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    "base": {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MASK_RATE = 0.15


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """Masked sequences as plain arrays, for processes that should import as little as they need."""

    ids: Sequence[np.ndarray]
    positions: Sequence[np.ndarray]
    gold: Sequence[np.ndarray]

    def save(self, path: Path) -> None:
        """Writes them as one .npz file."""
        fields = {"ids": self.ids, "positions": self.positions, "gold": self.gold}
        flat: dict[str, Any] = {name: np.concatenate(parts) for name, parts in fields.items()}
        ends: dict[str, Any] = {
            f"{name}_ends": np.cumsum([len(part) for part in parts]) for name, parts in fields.items()
        }
        np.savez(path, **flat, **ends)

    @classmethod
    def load(cls, path: Path, limit: int | None) -> "Sequences":
        """The first `limit` of what `save` wrote."""
        with np.load(path) as found:
            parts = {
                name: np.split(found[name], found[f"{name}_ends"][:-1])[:limit] for name in ("ids", "positions", "gold")
            }
        return cls(**parts)


# --- what all engines are given ---------------------------------------------------------------------------------------


def texts(args: argparse.Namespace) -> Iterator[str]:
    """Documents of a file, or of the grammars that the project brings along."""
    if args.text:
        from mergedistill_jax.corpus.sources import Split, documents  # noqa: PLC0415 - not for the torch processes

        return documents([args.text], args.text_format, Split())
    from mergedistill_jax.corpus import grammars  # noqa: PLC0415

    generated = (document for language in grammars.LANGUAGES for document in _grammar(language, args.sequences))
    return iter(list(generated))


def _grammar(language: str, count: int) -> Iterator[str]:
    from mergedistill_jax.corpus import grammars  # noqa: PLC0415

    for document in grammars.documents(language, seed=0, count=count):
        yield "\n".join(sentence.text for sentence in document)


def write_vocabulary(folder: Path, args: argparse.Namespace) -> None:
    """A given vocab.txt, or the words and characters of the text and made-up tokens up to --tokens."""
    if args.vocabulary:
        (folder / "vocab.txt").write_bytes(Path(args.vocabulary).read_bytes())
    else:
        words = Counter(word for text in itertools.islice(texts(args), 2000) for word in text.split())
        characters = sorted({character for word in words for character in word})
        tokens = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
        tokens += [word for word, _ in words.most_common() if len(word) > 1]
        tokens += [f"token{index}" for index in range(args.tokens)]
        (folder / "vocab.txt").write_text("\n".join(tokens[: args.tokens]) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))


def prepare(folder: Path, args: argparse.Namespace) -> None:
    """Writes model, tokenizer and sequences into the folder, in a process of its own: it needs much memory."""
    import torch  # noqa: PLC0415 - a benchmark's and the tests' dependency alone
    from transformers import BertConfig, BertForMaskedLM  # noqa: PLC0415

    from mergedistill_jax.configs.masking import MaskingConfig  # noqa: PLC0415
    from mergedistill_jax.corpus.packing import masked_records  # noqa: PLC0415
    from mergedistill_jax.vocabulary.tokenizer import load_tokenizer  # noqa: PLC0415

    write_vocabulary(folder, args)
    torch.manual_seed(0)
    # Spread wider than BERT's 0.02, so that some tokens are more probable than others.
    settings: dict[str, Any] = {"vocab_size": args.tokens, "initializer_range": 0.08, **SIZES[args.size]}
    config = BertConfig(max_position_embeddings=512, **settings)
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer = load_tokenizer(folder)
    records: list[Any] = []
    source = texts(args)
    for shard in iter(lambda: list(itertools.islice(source, 200)), []):
        options: dict[str, Any] = {"max_length": args.length, "draws": 1, "packing": args.packing}
        records.extend(masked_records(shard, tokenizer, MaskingConfig(rate=MASK_RATE), **options))
        if len(records) >= args.sequences:
            break
    records = records[: args.sequences]
    Sequences(
        ids=[record.input_ids for record in records],
        positions=[record.masked_positions for record in records],
        gold=[record.gold_ids for record in records],
    ).save(folder / "sequences.npz")


# --- the engines: each gives, for every sequence in order, ids [m, k] and log-probabilities [m, k] --------------------

Predictions = list[tuple[np.ndarray, np.ndarray]]


def engine_here(folder: Path, args: argparse.Namespace) -> Callable[[Sequences], Predictions]:
    """predict_records."""
    from mergedistill_jax.configs.masking import MaskingConfig  # noqa: PLC0415
    from mergedistill_jax.schema import Record  # noqa: PLC0415
    from mergedistill_jax.teachers.buckets import expected_rows  # noqa: PLC0415
    from mergedistill_jax.teachers.inference import predict_records  # noqa: PLC0415
    from mergedistill_jax.teachers.loading import load_teacher  # noqa: PLC0415

    teacher = load_teacher(str(folder), max_length=args.length, k=K)

    def run(sequences: Sequences) -> Predictions:
        records = (
            Record(
                text_id=bytes(8),
                draw=0,
                input_ids=ids,
                masked_positions=positions,
                gold_ids=gold,
                top_ids=np.zeros((len(gold), 0), np.int32),
                top_log_probs=np.zeros((len(gold), 0), np.float32),
            )
            for ids, positions, gold in zip(sequences.ids, sequences.positions, sequences.gold, strict=True)
        )
        found = predict_records(
            teacher,
            records,
            k=K,
            batch_size=args.batch_size,
            length=args.length,
            max_predictions=MaskingConfig(rate=MASK_RATE).max_predictions(args.length),
            rows=expected_rows(args.batch_size, args.length, MASK_RATE),
            dtype="bfloat16" if args.device else "float32",
        )
        return [(record.top_ids, record.top_log_probs) for record in found]

    return run


def engine_torch(folder: Path, args: argparse.Namespace, *, smart: bool) -> Callable[[Sequences], Predictions]:
    """A loop as one would write it with transformers."""
    import torch  # noqa: PLC0415
    from transformers import BertForMaskedLM  # noqa: PLC0415

    device = "cuda" if args.device else "cpu"
    num_tokens = len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines())
    model: Any = BertForMaskedLM.from_pretrained(folder)
    model = model.to(device, torch.bfloat16 if args.device else torch.float32).eval()
    if not args.device:
        torch.set_num_threads(os.cpu_count() or 1)

    def batch(ids: list[np.ndarray], positions: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        width = max(map(len, ids))
        tokens = torch.zeros((len(ids), width), dtype=torch.int64)
        mask = torch.zeros((len(ids), width), dtype=torch.int64)
        for row, one in enumerate(ids):
            tokens[row, : len(one)] = torch.from_numpy(one.astype(np.int64))
            mask[row, : len(one)] = 1
        where = np.concatenate([row * width + one for row, one in enumerate(positions)])
        index = torch.from_numpy(where.astype(np.int64)).to(device)
        inputs = {"input_ids": tokens.to(device), "attention_mask": mask.to(device)}
        if smart:
            hidden = model.bert(**inputs).last_hidden_state
            logits = model.cls(hidden.reshape(-1, hidden.shape[-1])[index])
        else:
            logits = model(**inputs).logits
            logits = logits.reshape(-1, logits.shape[-1])[index]
        best, top = torch.log_softmax(logits[:, :num_tokens].float(), dim=-1).topk(K, dim=-1)
        return top.to("cpu").numpy(), best.to("cpu").numpy()

    def run(sequences: Sequences) -> Predictions:
        order = sorted(range(len(sequences.ids)), key=lambda index: len(sequences.ids[index]))
        found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        with torch.inference_mode():
            for start in range(0, len(order), args.batch_size):
                chosen = order[start : start + args.batch_size]
                positions = [sequences.positions[index] for index in chosen]
                top, best = batch([sequences.ids[index] for index in chosen], positions)
                ends = np.cumsum([len(one) for one in positions])[:-1]
                found.update(zip(chosen, zip(np.split(top, ends), np.split(best, ends), strict=True), strict=True))
        return [found[index] for index in range(len(order))]

    return run


def run_engine(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Runs one engine over the first --sequences twice, the first time to compile and load; measures the second."""
    sequences = Sequences.load(folder / "sequences.npz", args.sequences)
    if args.engine == "here":
        run = engine_here(folder, args)
    else:
        run = engine_torch(folder, args, smart=args.engine == "smart")
    run(sequences)
    began, processor = time.perf_counter(), time.process_time()
    found = run(sequences)
    seconds, processor = time.perf_counter() - began, time.process_time() - processor
    if args.keep:
        np.savez(args.keep, best=np.concatenate([best for _, best in found]))
    return {"speed": len(found) / seconds, "cpu": processor / seconds, "seconds": seconds, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Most memory this process has held. Of the process alone: what getrusage says begins with its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


# --- side by side -----------------------------------------------------------------------------------------------------


def in_process(folder: Path, args: argparse.Namespace, **changed: Any) -> dict[str, Any]:
    """Runs this script with other arguments and reads the JSON in its last line."""
    values = {**vars(args), **changed, "folder": str(folder)}
    command = [sys.executable, __file__]
    for name, value in values.items():
        if value is True:
            command.append(f"--{name}")
        elif value not in (None, False):
            command += [f"--{name}", str(value)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TOKENIZERS_PARALLELISM": "true"}
    if not args.device:
        environment["JAX_PLATFORMS"] = "cpu"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder: Path, args: argparse.Namespace) -> None:
    """Tunes, measures, prints a table, and says how far the log-probabilities are apart."""
    in_process(folder, args, prepare=True)
    sequences = Sequences.load(folder / "sequences.npz", None)
    tokens, masked = sum(map(len, sequences.ids)), sum(map(len, sequences.positions))
    print(
        f"{len(sequences.ids):,} sequences of up to {args.length}, {tokens:,} tokens, {masked:,} masked;"
        f" BERT-{args.size}, {args.tokens:,} output rows; {os.cpu_count()} processors"
    )
    engines = [engine for engine in ENGINES if engine in args.engines.split(",")]
    sizes = [int(size) for size in args.tune.split(",")]
    few = max(args.sequences // 4, 1)
    best = {}
    for engine in engines:
        measure = functools.partial(in_process, folder, args, engine=engine)
        tried = {size: measure(batch_size=size, sequences=few)["speed"] for size in sizes}
        best[engine] = max(tried, key=tried.__getitem__)
        print(f"tuning {engine:<6}" + "".join(f"  {size}: {speed:,.2f}/s" for size, speed in tried.items()), flush=True)
    rounds: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    for number in range(args.rounds):
        for engine in engines if number % 2 == 0 else engines[::-1]:
            keep = str(folder / f"{engine}.npz")
            found = in_process(folder, args, engine=engine, batch_size=best[engine], keep=keep)
            rounds[engine].append(found)
    speeds = {engine: statistics.median(one["speed"] for one in found) for engine, found in rounds.items()}
    print(f"{'engine':<7} {'batch':>5} {'sequences/s':>11} {'from - to':>17} {'ratio':>6} {'CPU s':>5} {'peak MB':>8}")
    for engine, found in rounds.items():
        every = [one["speed"] for one in found]
        ratio = speeds["here"] / speeds[engine] if "here" in speeds else float("nan")
        cpu, peak = statistics.median(one["cpu"] for one in found), max(one["peak_mb"] for one in found)
        print(
            f"{engine:<7} {best[engine]:>5} {speeds[engine]:>11,.2f} {min(every):>8,.2f}{max(every):>9,.2f}"
            f" {ratio:>6.2f} {cpu:>5.2f} {peak:>8,.0f}"
        )
    kept = {engine: np.load(folder / f"{engine}.npz")["best"] for engine in engines}
    for engine in engines[1:]:
        difference = float(np.abs(kept[engine] - kept[engines[0]]).max())
        print(f"largest difference of a log-probability, {engines[0]} and {engine}: {difference:.2g} nats")
    if args.device and "here" in speeds:
        peak = in_process(folder, args, peak=True)["operations"]
        useful = useful_operations(sequences, args) / len(sequences.ids) * speeds["here"]
        print(
            f"useful {useful / 1e12:,.1f} Tflop/s, {useful / peak:.1%} of a large matrix product's {peak / 1e12:,.1f}"
        )


def useful_operations(sequences: Sequences, args: argparse.Namespace) -> float:
    """Multiplications and additions of the matrix products of real tokens and masked positions, without padding."""
    size = SIZES[args.size]
    layers, width, inner = size["num_hidden_layers"], size["hidden_size"], size["intermediate_size"]
    lengths = np.array([len(ids) for ids in sequences.ids], float)
    masked = sum(map(len, sequences.positions))
    body = layers * (lengths * (8 * width**2 + 4 * width * inner) + 4 * lengths**2 * width).sum()
    return float(body + masked * (2 * width**2 + 2 * width * args.tokens))


def measured_peak() -> dict[str, float]:
    """Operations per second of products of square bfloat16 matrices, large enough to fill an accelerator."""
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    size, times = 8192, 20
    matrix = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16) / size**0.5

    @jax.jit
    def chain(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, times, lambda _, y: y @ matrix, x)

    chain(matrix).block_until_ready()
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        chain(matrix).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return {"operations": 2 * size**3 * times / min(seconds)}


# --- memory -----------------------------------------------------------------------------------------------------------


def predict_corpus(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Runs the stage on --documents documents of generated text."""
    from mergedistill_jax.configs.predict import PredictConfig  # noqa: PLC0415
    from mergedistill_jax.predict import predict  # noqa: PLC0415
    from tasks.corpora import add_grammar  # noqa: PLC0415

    corpus = add_grammar("en", {"train": (0, args.documents)})
    began = time.perf_counter()
    manifest = predict(
        PredictConfig(
            output=str(folder / f"records-{args.documents}"),
            corpus=corpus,
            split="train",
            language="en",
            teacher=str(folder),
            max_length=args.length,
            batch_size=args.batch_size,
            documents_per_shard=args.documents_per_shard,
        )
    )
    return {"records": manifest.records, "seconds": time.perf_counter() - began, "peak_mb": peak_mb()}


def memory(folder: Path, args: argparse.Namespace) -> None:
    """Peaks of corpora of one and four times --documents."""
    in_process(folder, args, prepare=True, memory=None)
    for documents in (args.documents, 4 * args.documents):
        found = in_process(folder, args, documents=documents, corpus=True, memory=None)
        print(
            f"{documents:>7,} documents in shards of {args.documents_per_shard:,}: {found['records']:>7,} records,"
            f" peak {found['peak_mb']:,.0f} MB, {found['records'] / found['seconds']:,.1f} records/s with compilation",
            flush=True,
        )


def arguments() -> argparse.Namespace:
    """The command line; what is after "in a process" the script says to itself."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", choices=SIZES, default="mini")
    parser.add_argument("--tokens", type=int, default=120_000, help="output rows of the model")
    parser.add_argument("--vocabulary", help="a WordPiece vocab.txt of at most --tokens; made up by default")
    parser.add_argument("--text", help="a file of text; the project's own grammars by default")
    parser.add_argument("--text_format", default="wikiextractor")
    parser.add_argument("--packing", default="across", help="document: sequences of many lengths")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--tune", default="8,16,32", help="batch sizes to try")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--device", action="store_true", help="run on the accelerator, in bfloat16")
    parser.add_argument("--memory", action="store_true", help="peak memory of corpora of two sizes")
    parser.add_argument("--documents", type=int, default=500, help="of the smaller corpus, with --memory")
    parser.add_argument("--documents_per_shard", type=int, default=100)
    for name in ("folder", "engine", "keep"):
        parser.add_argument(f"--{name}", help="in a process")
    parser.add_argument("--batch_size", type=int, default=16, help="in a process; with --memory, of the stage")
    for name in ("prepare", "peak", "corpus"):
        parser.add_argument(f"--{name}", action="store_true", help="in a process")
    return parser.parse_args()


def main() -> None:
    """Runs what was asked for, in this process or others."""
    args = arguments()
    if not args.folder:
        with tempfile.TemporaryDirectory() as scratch:
            (memory if args.memory else compare)(Path(scratch), args)
        return
    folder = Path(args.folder)
    found: dict[str, Any] = {}
    if args.prepare:
        prepare(folder, args)
    elif args.peak:
        found = measured_peak()
    elif args.corpus:
        found = predict_corpus(folder, args)
    else:
        found = run_engine(folder, args)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
