"""The union of real vocabularies: its report with the segmentation drift, and how long unions of 2, 5 and 10 take.

    python benchmarks/union.py --data DATA --output runs/union_real

DATA holds vocab/*.vocab.txt, text/wikipedia/LANGUAGE.wikiextractor.* and text/{common_voice,tatoeba}/LANGUAGE.txt.xz.
The vocabularies beyond the published ones are learned here, up to 30,000 WordPiece tokens each: ten of real size.
"""

import argparse
import json
import lzma
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from mergedistill_jax.configs.vocab import UnionConfig, VocabConfig
from mergedistill_jax.vocab import vocab
from mergedistill_jax.vocabulary.canonical import canonical_tokens
from mergedistill_jax.vocabulary.learning import learn_wordpiece
from mergedistill_jax.vocabulary.report import table
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer, load_tokenizer
from mergedistill_jax.vocabulary.union import unite_canonical
from tasks.corpora import add_files

PUBLISHED = {
    "mbert": "bert-base-multilingual-cased",
    "zh": "bert-base-chinese",
    "tr": "berturk-cased",
    "es": "beto-cased",
}
TEXTS = {
    "tr": "text/wikipedia/tr.wikiextractor.txt.xz",
    "es": "text/wikipedia/es.wikiextractor.txt.xz",
    "zh": "text/wikipedia/zh.wikiextractor.jsonl.xz",
}
LEARNED = ("en", "de", "it", "fi", "hi", "ar")
LEARNED_SIZE = 30_000


def published(data: Path, output: Path) -> dict[str, str]:
    """Folders as they are published: vocab.txt and the switch that keeps case."""
    folders = {}
    for name, file in PUBLISHED.items():
        folder = output / "published" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.txt").write_bytes((data / "vocab" / f"{file}.vocab.txt").read_bytes())
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
        folders[name] = str(folder)
    return folders


def learned(data: Path, output: Path) -> dict[str, str]:
    """Folders with vocabularies learned from Common Voice and Tatoeba sentences."""
    folders = {}
    for language in LEARNED:
        folder = output / "learned" / language
        if not (folder / "tokenizer.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            files = [data / "text" / kind / f"{language}.txt.xz" for kind in ("common_voice", "tatoeba")]
            lines = [line for file in files if file.exists() for line in _lines(file)]
            learn_wordpiece(lines, LEARNED_SIZE).save(str(folder / "tokenizer.json"))
        folders[language] = str(folder)
    return folders


def _lines(file: Path) -> list[str]:
    with lzma.open(file, "rt", encoding="utf-8") as stream:
        return stream.readlines()


def timings(folders: Mapping[str, str], counts: Iterable[int]) -> str:
    """A table: seconds to read and to unite the first 2, 5, 10 vocabularies."""
    rows = []
    for count in counts:
        names = list(folders)[:count]
        began = time.perf_counter()
        teachers: dict[str, TeacherTokenizer] = {name: load_tokenizer(folders[name]) for name in names}
        read = time.perf_counter()
        union = unite_canonical({name: canonical_tokens(teacher) for name, teacher in teachers.items()})
        done = time.perf_counter()
        tokens = sum(len(teacher.tokens) for teacher in teachers.values())
        rows.append((str(count), f"{tokens:,}", f"{len(union.tokens):,}", f"{read - began:.2f}", f"{done - read:.2f}"))
    return table(("vocabularies", "tokens", "union", "seconds to read", "to unite"), rows)


def main() -> None:
    """Prints the report and the timings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=1000, help="of each language, for the drift")
    arguments = parser.parse_args()
    folders = published(arguments.data, arguments.output)

    def corpus(language: str) -> str:
        path = TEXTS[language]
        kind = "jsonl" if ".jsonl" in path else "wikiextractor"
        return add_files(f"union_{language}", [str(arguments.data / path)], kind)

    method = UnionConfig(
        teachers=folders,
        languages={"mbert": ("zh", "tr", "es")},
        corpus=corpus,
        split="train",
        documents=arguments.documents,
    )
    vocab(VocabConfig(output=str(arguments.output / "vocabulary"), method=method))
    print(timings(folders | learned(arguments.data, arguments.output), (2, 4, 5, 10)))


if __name__ == "__main__":
    main()
