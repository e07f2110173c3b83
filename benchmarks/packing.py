"""How full sequences are under each packing, and how many tokens are masked under each masking, on real text.

    python benchmarks/packing.py --vocabulary DATA/vocab/bert-base-multilingual-cased.vocab.txt \
        --text DATA/text/wikipedia/en.wikiextractor.txt.xz DATA/text/wikipedia/de.wikiextractor.txt.xz --documents 500

The first documents of each file, split into shards of --shard documents as `predict` splits them. A sequence is full
where its tokens, [CLS] and [SEP] included, are as many as the length; `cut` is the share of the documents that fit into
one sequence and yet stand in several. The masked share is of all tokens, special ones included.
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.predict import PACKINGS
from mergedistill_jax.configs.splits import Split
from mergedistill_jax.corpus.packing import masked_records, packed_sequences
from mergedistill_jax.corpus.pieces import SEPARATOR, Pieces, tokenise
from mergedistill_jax.corpus.sources import FORMATS, documents
from mergedistill_jax.vocabulary.report import table
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer, load_tokenizer

MASKINGS = {
    "independent, 4/3 of the rate (default)": (MaskingConfig(), 1),
    "independent, 5/3 of the rate": (MaskingConfig(max_share=0.25), 1),
    "independent, no bound": (MaskingConfig(max_share=1.0), 1),
    "independent, default, at most 80": (MaskingConfig(max_count=80), 1),
    "cover, 7 draws": (MaskingConfig(cover=True), 7),
}


def tokenizer_of(vocabulary: Path) -> TeacherTokenizer:
    """A cased WordPiece tokenizer from its vocab.txt."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "vocab.txt").write_bytes(vocabulary.read_bytes())
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
        return load_tokenizer(folder)


def first_documents(path: str, text_format: str, count: int) -> list[str]:
    """The first documents of a file."""
    return list(itertools.islice(documents([path], text_format, Split()), count))


def in_shards(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    """Consecutive documents, `size` at a time."""
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def cut_share(pieces: Pieces, sequences: Sequence[np.ndarray], capacity: int) -> tuple[int, int]:
    """How many documents would fit into one sequence, and how many of those stand in several."""
    document = np.cumsum(pieces.text == SEPARATOR)
    sizes = np.bincount(document[pieces.text != SEPARATOR])
    parts = np.zeros(len(sizes), int)
    for sequence in sequences:
        parts[np.unique(document[sequence[pieces.text[sequence] != SEPARATOR]])] += 1
    short = (sizes > 0) & (sizes <= capacity)
    return int(short.sum()), int((short & (parts > 1)).sum())


def packing_rows(shards: Sequence[Sequence[str]], tokenizer: TeacherTokenizer, length: int) -> list[tuple[str, ...]]:
    """A row for each packing."""
    pieces = [tokenise(shard, tokenizer) for shard in shards]
    rows = []
    for packing in PACKINGS:
        count = tokens = short = cut = 0
        for of_shard in pieces:
            sequences = packed_sequences(of_shard, length - 2, packing)
            count += len(sequences)
            tokens += sum(len(sequence) + 2 for sequence in sequences)
            found = cut_share(of_shard, sequences, length - 2)
            short, cut = short + found[0], cut + found[1]
        rows.append(
            (str(length), packing, f"{count:,}", f"{tokens / (count * length):.1%}", f"{cut / max(short, 1):.1%}")
        )
    return rows


def masking_rows(shards: Sequence[Sequence[str]], tokenizer: TeacherTokenizer, length: int) -> list[tuple[str, ...]]:
    """A row for each masking."""
    rows = []
    for name, (masking, draws) in MASKINGS.items():
        count = tokens = masked = 0
        for shard in shards:
            for record in masked_records(shard, tokenizer, masking, max_length=length, draws=draws):
                count += 1
                tokens += len(record.input_ids)
                masked += len(record.masked_positions)
        rows.append((str(length), name, str(masking.max_predictions(length)), f"{count:,}", f"{masked / tokens:.2%}"))
    return rows


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--vocabulary", type=Path, required=True, help="a cased vocab.txt")
    parser.add_argument("--text", nargs="+", required=True, help="files of documents")
    parser.add_argument("--format", choices=sorted(FORMATS), default="wikiextractor")
    parser.add_argument("--documents", type=int, default=500, help="of each file")
    parser.add_argument("--shard", type=int, default=100, help="documents of a shard")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    args = parser.parse_args()
    tokenizer = tokenizer_of(args.vocabulary)
    shards = [
        shard
        for path in args.text
        for shard in in_shards(first_documents(path, args.format, args.documents), args.shard)
    ]
    print(f"{sum(map(len, shards)):,} documents in {len(shards)} shards, vocabulary {len(tokenizer.tokens):,}\n")
    rows = [row for length in args.lengths for row in packing_rows(shards, tokenizer, length)]
    print(table(("length", "packing", "sequences", "full", "cut"), rows))
    rows = [row for length in args.lengths for row in masking_rows(shards, tokenizer, length)]
    print(table(("length", "masking at 15 %", "at most", "records", "masked"), rows))


if __name__ == "__main__":
    main()
