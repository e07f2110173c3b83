"""What writing costs beside the teacher: passes over the corpus, bytes, workers, and memory as the corpus grows.

    python benchmarks/writing.py --files 'DATA/text/wikipedia/*en*.jsonl.xz' --format jsonl --tokenizer FOLDER
    python benchmarks/writing.py --files ... --times 1 4 16 --workers 4

The files are read --times over, as one corpus of so many times their documents. For each size, in a process of its own:
the first pass, which hashes the text; writing gold labels (a teacher's own time is benchmarks/predicting.py's); going
over a finished folder again; and the largest memory of the process above what its imports took. With --workers, as many
processes write the largest size once more, each its share, and the bytes are compared. Prints a table; the exit status
is 1 where bytes differ.
"""

import argparse
import concurrent.futures
import functools
import itertools
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.corpus import sources
from mergedistill_jax.predict import _division, predict
from mergedistill_jax.teachers.corpus_hashes import summarise
from mergedistill_jax.teachers.writer import corpus_documents
from tasks import corpora

SPLIT = "all"


def main() -> int:
    """Measures each size, then the workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", required=True)
    parser.add_argument("--format", default="jsonl", choices=sorted(sources.FORMATS))
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--times", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--limit", type=int, default=None, help="documents of the files that are taken")
    parser.add_argument("--documents_per_shard", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(" times documents text MB | first pass MB/s  writing MB/s  again MB/s | bytes/token  memory MB")
    with tempfile.TemporaryDirectory() as root:
        for times in arguments.times:
            found = in_a_process(measured, arguments, times, f"{root}/{times}")
            print(
                f"{times:6} {found['documents']:9,} {found['text_mb']:7,.1f} |{found['first_mb_s']:16.2f}"
                f"{found['writing_mb_s']:14.2f}{found['again_mb_s']:12.2f} |{found['bytes_per_token']:12.3f}"
                f"{found['memory_mb']:11.1f}",
                flush=True,
            )
        if arguments.workers > 1:
            return compare_workers(arguments, times, found["writing_s"], Path(root))
    return 0


def in_a_process(function: Any, *given: Any) -> Any:
    """The result of a function that a fresh process called, so that its memory is its own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *given).result()


def documents(files: Sequence[str], text_format: str, limit: int | None, times: int, _split: str) -> Iterator[str]:
    """The files' documents over and over, each time with another first word, so that none is a copy."""
    for time_over in range(times):
        found = sources.documents(files, text_format, sources.Split())
        for document in itertools.islice(found, limit):
            yield f"{time_over} {document}"


def config_of(arguments: argparse.Namespace, times: int, output: str, worker: str | None = None) -> PredictConfig:
    """Registers the corpus in this process, and says what is to be written."""
    files = sorted(path for pattern in arguments.files for path in tf.io.gfile.glob(pattern))
    text = functools.partial(documents, files, arguments.format, arguments.limit, times)
    return PredictConfig(
        output=output,
        corpus=corpora.add_corpus("benchmark", text, [SPLIT]),
        split=SPLIT,
        language="xx",
        tokenizer=arguments.tokenizer,
        documents_per_shard=arguments.documents_per_shard,
        worker=worker,
    )


def megabytes_held() -> float:
    """The largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measured(arguments: argparse.Namespace, times: int, output: str) -> dict[str, float]:
    """The figures of one size."""
    before = megabytes_held()
    config = config_of(arguments, times, output)
    text_mb = sum(len(document.encode()) for document in corpus_documents(config.corpus, SPLIT)) / 1e6
    _, first_s = timed(summarise, corpus_documents(config.corpus, SPLIT), _division(config))
    manifest, whole_s = timed(predict, config)
    _, again_s = timed(predict, config)
    tokens = sum(entry.tokens for entry in manifest.shards)
    return {
        "documents": manifest.identity.documents,
        "text_mb": text_mb,
        "first_mb_s": text_mb / first_s,
        "writing_s": whole_s,
        "writing_mb_s": text_mb / (whole_s - first_s),
        "again_mb_s": text_mb / again_s,
        "bytes_per_token": sum(entry.bytes for entry in manifest.shards) / tokens,
        "memory_mb": megabytes_held() - before,
    }


def timed(function: Any, *given: Any) -> tuple[Any, float]:
    """What a function returns, and how many seconds it took."""
    began = time.perf_counter()
    return function(*given), time.perf_counter() - began


def compare_workers(arguments: argparse.Namespace, times: int, alone_s: float, root: Path) -> int:
    """Several processes on one folder against the one before them."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.workers, mp_context=context) as pool:
        list(pool.map(time.sleep, [0.5] * arguments.workers))  # all have started, and imported what they need
        began = time.perf_counter()
        jobs = [
            pool.submit(work, arguments, times, str(root / "shared"), f"{index}/{arguments.workers}")
            for index in range(arguments.workers)
        ]
        for job in jobs:
            job.result()
        together_s = time.perf_counter() - began
    files = [
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (root / str(times), root / "shared")
    ]
    same = files[0] == files[1]
    print(
        f"{arguments.workers} workers: {alone_s / together_s:.2f} times as fast as one ({together_s:.1f} s);"
        f" {len(files[1])} files, {'equal bytes' if same else 'OTHER BYTES'}"
    )
    return 0 if same else 1


def work(arguments: argparse.Namespace, times: int, output: str, worker: str) -> None:
    """One worker's share."""
    predict(config_of(arguments, times, output, worker))


if __name__ == "__main__":
    sys.exit(main())
