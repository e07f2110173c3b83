"""Stage 1: the vocabulary, learned from text for a teacher made here, or the union of its teachers' for a student."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from mergedistill_jax.teachers.writer import corpus_documents
from mergedistill_jax.vocabulary.folder import Vocabulary, write_vocabulary
from mergedistill_jax.vocabulary.learning import learn_wordpiece
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer, wordpiece_tokenizer, wrap_tokenizer
from mergedistill_jax.vocabulary.union import overlaps, shared_normalizer, unite


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """Learn a WordPiece vocabulary from a corpus.

    Attributes:
        corpus, split: a registered SeqIO task of documents and its split.
        size: tokens at most, special tokens included.
        name: what the one teacher with this vocabulary is called.
    """

    corpus: str
    split: str
    size: int
    name: str
    lowercase: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnionConfig:
    """Unite the vocabularies of teachers: folders with tokenizer.json or vocab.txt, by the name each shall have."""

    teachers: Mapping[str, str]

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError("UnionConfig.teachers: found none, expected at least one teacher")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabConfig:
    """Where the vocabulary goes and how it is made."""

    output: str
    method: LearnConfig | UnionConfig


def vocab(config: VocabConfig) -> Vocabulary:
    """Writes a vocabulary folder and says what is in it."""
    method = config.method
    if isinstance(method, LearnConfig):
        source = f"{method.corpus}:{method.split}"
        print(f"vocab: learn {method.size:,} WordPiece tokens from {source} -> {config.output}")
        vocabulary = _learn(config.output, method)
    else:
        print(f"vocab: union of {len(method.teachers)} vocabularies -> {config.output}")
        vocabulary = _unite(config.output, method)
    print(f"vocab: wrote {vocabulary.size:,} tokens (hash {vocabulary.hash}) to {config.output}")
    print("next: mergedistill predict" if isinstance(method, LearnConfig) else "next: mergedistill train")
    return vocabulary


def _learn(output: str, method: LearnConfig) -> Vocabulary:
    tokenizer = learn_wordpiece(corpus_documents(method.corpus, method.split), method.size, lowercase=method.lowercase)
    wrapped = wrap_tokenizer(tokenizer, output)
    identity = np.arange(len(wrapped.tokens), dtype=np.int32)
    return write_vocabulary(output, wrapped, {method.name: (wrapped, identity)}, {"learned_from": method.corpus})


def _unite(output: str, method: UnionConfig) -> Vocabulary:
    teachers = {name: load_tokenizer(folder) for name, folder in method.teachers.items()}
    union = unite(teachers)
    switches, conflicts = shared_normalizer(list(teachers.values()))
    student = wordpiece_tokenizer(
        {token: index for index, token in enumerate(union.tokens)},
        lowercase=switches["lowercase"],
        strip_accents=switches["strip_accents"],
        split_chinese=switches["handle_chinese_chars"],
    )
    shared = overlaps(teachers)
    for line in _overlap_lines(shared, conflicts):
        print(line)
    members = {name: (teacher, union.id_maps[name]) for name, teacher in teachers.items()}
    description = {"overlaps": shared, "normalizer_conflicts": conflicts}
    return write_vocabulary(output, wrap_tokenizer(student, output), members, description)


def _overlap_lines(shared: Mapping[str, Mapping[str, int]], conflicts: Sequence[str]) -> list[str]:
    lines = [f"  {one}: {row[one]:,} tokens; shared with " + _others(one, row) for one, row in shared.items()]
    if conflicts:
        lines.append(
            f"  the teachers' normalisers differ in {', '.join(conflicts)}; the student keeps more of the text"
        )
    return lines


def _others(one: str, row: Mapping[str, int]) -> str:
    return ", ".join(f"{other} {count:,}" for other, count in row.items() if other != one) or "nobody"
