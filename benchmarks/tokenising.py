"""Tokenising real text with every real vocabulary, here and by transformers' AutoTokenizer: the ids, and the speed.

    python benchmarks/tokenising.py --data DATA
    python benchmarks/tokenising.py --data DATA --limit 200

DATA holds vocab/ with the files named below, and text in text/ and labelled/: plain, .xz, .bz2 or .tar.xz. Raw lines
are taken, whatever they are (JSON and XML too), long ones in parts. --limit caps the lines of each file, and of each
member of an archive. Each batch is given to both, the one and the other first in turn. Speed is of ids without special
tokens together with the characters where pieces start, which packing needs, by the processor time of all threads: what
else the machine does matters little. Prints a table; the exit status is 1 if any id differs, special tokens included.
"""

import argparse
import bz2
import dataclasses
import io
import itertools
import json
import lzma
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer, load_tokenizer

BATCH = 1_000
LONGEST = 10_000
"""Characters of a text; a whole corpus may be one line of JSON."""

CASED = {"do_lower_case": False}
FOLDERS = {  # name: file under vocab/, its name in the published folder, model_type, tokenizer_config.json
    "bert-base-chinese": ("bert-base-chinese.vocab.txt", "vocab.txt", "bert", CASED),
    "mBERT vocab.txt": ("bert-base-multilingual-cased.vocab.txt", "vocab.txt", "bert", CASED),
    "mBERT tokenizer.json": ("bert-base-multilingual-cased.tokenizer.json", "tokenizer.json", "bert", CASED),
    "berturk-cased": ("berturk-cased.vocab.txt", "vocab.txt", "bert", CASED),
    "beto-cased": ("beto-cased.vocab.txt", "vocab.txt", "bert", CASED),
    "mBERT uncased": ("bert-base-multilingual-cased.vocab.txt", "vocab.txt", "bert", {}),
    "SentencePiece": ("seqio_test_sentencepiece.model", "sentencepiece.bpe.model", "xlm-roberta", {}),
}


@dataclasses.dataclass(kw_only=True)
class Tally:
    """What was counted for one vocabulary."""

    texts: int = 0
    ids: int = 0
    differing: int = 0
    framed_differing: int = 0
    own_s: float = 0.0
    their_s: float = 0.0


def streams(path: Path) -> Iterator[io.BufferedIOBase | Any]:
    """The byte streams of a file: one, or that of each member of an archive."""
    if path.name.endswith(".tar.xz"):
        with tarfile.open(path, "r|xz") as archive:
            for member in archive:
                stream = archive.extractfile(member)
                if stream is not None:
                    yield stream
        return
    open_file = {".xz": lzma.open, ".bz2": bz2.open}.get(path.suffix, open)
    with open_file(path, "rb") as stream:
        yield stream


def lines(data: Path, limit: int | None) -> Iterator[str]:
    """Raw lines that are not blank, of all text under DATA."""
    for path in sorted(path for part in ("text", "labelled") for path in (data / part).rglob("*") if path.is_file()):
        for stream in streams(path):
            decoded = (line.decode("utf-8", "replace").rstrip("\r\n") for line in stream)
            parts = (line[at : at + LONGEST] for line in decoded for at in range(0, len(line), LONGEST))
            yield from itertools.islice((part for part in parts if part.strip()), limit)


def differing(own: Sequence[int], theirs: Sequence[int]) -> int:
    """Ids that are not the same, position by position."""
    return sum(one != other for one, other in itertools.zip_longest(own, theirs))


def compare(texts: list[str], own: TeacherTokenizer, theirs: Any, tally: Tally, *, own_first: bool) -> None:
    """Gives a batch to both."""
    found = {}
    for who in ("own", "theirs") if own_first else ("theirs", "own"):
        start = time.process_time()
        if who == "own":
            found[who] = [ids for ids, _ in own.encode_batch(texts)]
            tally.own_s += time.process_time() - start
        else:
            found[who] = theirs(texts, add_special_tokens=False, return_offsets_mapping=True)["input_ids"]
            tally.their_s += time.process_time() - start
    framed = zip(own.encode_with_special_tokens(texts), theirs(texts)["input_ids"], strict=True)
    tally.texts += len(texts)
    tally.ids += sum(map(len, found["theirs"]))
    tally.differing += sum(itertools.starmap(differing, zip(found["own"], found["theirs"], strict=True)))
    tally.framed_differing += sum(itertools.starmap(differing, framed))


def measure(name: str, data: Path, limit: int | None) -> Tally:
    """All text with one vocabulary."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - needed here alone, and slow to import

    file, published_name, model_type, settings = FOLDERS[name]
    tally = Tally()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / published_name).write_bytes((data / "vocab" / file).read_bytes())
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        own, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(scratch)
        source = lines(data, limit)
        batches = iter(lambda: list(itertools.islice(source, BATCH)), [])
        for index, texts in enumerate(batches):
            compare(texts, own, theirs, tally, own_first=index % 2 == 0)
            if sys.stderr.isatty():
                print(f"\r{name}: {tally.ids:,} ids", end="", file=sys.stderr, flush=True)
    return tally


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None, help="lines of each file; all by default")
    args = parser.parse_args()
    wrong = 0
    print(
        f"{'vocabulary':<21} {'texts':>9} {'ids':>12} {'differing':>9} {'framed':>6}"
        f" {'here, ids/CPU s':>15} {'AutoTokenizer':>13} {'ratio':>5}"
    )
    for name in FOLDERS:
        tally = measure(name, args.data, args.limit)
        wrong += tally.differing + tally.framed_differing
        own, theirs = tally.ids / tally.own_s, tally.ids / tally.their_s
        print(
            f"{name:<21} {tally.texts:>9,} {tally.ids:>12,} {tally.differing:>9,} {tally.framed_differing:>6,}"
            f" {own:>15,.0f} {theirs:>13,.0f} {own / theirs:>5.2f}",
            flush=True,
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
