"""Stage 1: the vocabulary, learned from text for a teacher made here, or the union of its teachers' for a student."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.vocab import LearnConfig, UnionConfig, VocabConfig
from mergedistill_jax.corpus.packing import tokenise
from mergedistill_jax.counting import counted
from mergedistill_jax.files import write_atomically
from mergedistill_jax.models.heads import MaskedLanguageModel
from mergedistill_jax.teachers.hub import find_teacher
from mergedistill_jax.teachers.writer import corpus_documents
from mergedistill_jax.vocabulary.canonical import canonical_tokens
from mergedistill_jax.vocabulary.cut import cut_union, token_use
from mergedistill_jax.vocabulary.drift import Segmentation, drift
from mergedistill_jax.vocabulary.folder import Vocabulary, write_vocabulary
from mergedistill_jax.vocabulary.id_map import DROPPED, IdMap, whole_map
from mergedistill_jax.vocabulary.learning import learn_wordpiece
from mergedistill_jax.vocabulary.normalizers import conflicts, normalization_of, student_normalization
from mergedistill_jax.vocabulary.report import report_text
from mergedistill_jax.vocabulary.tokenizer import (
    TeacherTokenizer,
    VocabularyError,
    load_tokenizer,
    wordpiece_tokenizer,
    wrap_tokenizer,
)
from mergedistill_jax.vocabulary.union import Union, merged_tokens, overlaps, unite_canonical

REPORT_FILE = "report.txt"


def vocab(config: VocabConfig) -> Vocabulary:
    """Writes a vocabulary folder and says what is in it."""
    method = config.method
    if isinstance(method, LearnConfig):
        source = f"{method.corpus}:{method.split}"
        print(f"vocab: learn {method.size:,} WordPiece tokens from {source} -> {config.output}")
        vocabulary = _learn(config.output, method)
    else:
        print(f"vocab: union of {counted(len(method.teachers), 'vocabulary', 'vocabularies')} -> {config.output}")
        vocabulary = _unite(config.output, method)
    print(f"vocab: wrote {vocabulary.size:,} tokens (hash {vocabulary.hash}) to {config.output}")
    print("next: mergedistill predict")
    return vocabulary


def _learn(output: str, method: LearnConfig) -> Vocabulary:
    tokenizer = learn_wordpiece(corpus_documents(method.corpus, method.split), method.size, lowercase=method.lowercase)
    wrapped = wrap_tokenizer(tokenizer, output)
    identity = whole_map(np.arange(len(wrapped.tokens), dtype=np.int32))
    return write_vocabulary(output, wrapped, {method.name: (wrapped, identity)}, {"learned_from": method.corpus})


def _unite(output: str, method: UnionConfig) -> Vocabulary:
    teachers = {name: _tokenizer(teacher) for name, teacher in method.teachers.items()}
    canonical = {name: canonical_tokens(teacher) for name, teacher in teachers.items()}
    union = unite_canonical(canonical)
    samples = _samples(method, teachers)
    if method.size is None or method.size >= len(union.tokens):
        tokens, id_maps = union.tokens, {name: whole_map(labels) for name, labels in union.id_maps.items()}
    else:
        tokens, id_maps = cut_union(union, _use(method, union, samples), method.size)
    normalizations = {name: normalization_of(teacher) for name, teacher in teachers.items()}
    shared = student_normalization(list(normalizations.values()))
    student = wrap_tokenizer(
        wordpiece_tokenizer(
            {token: index for index, token in enumerate(tokens)},
            lowercase=shared.lowercase,
            strip_accents=shared.strip_accents,
            split_chinese=shared.split_chinese,
        ),
        output,
    )
    report: dict[str, Any] = {
        "whole_size": len(union.tokens),
        "completed": union.completed,
        "dropped": {name: int(np.count_nonzero(labels == DROPPED)) for name, labels in union.id_maps.items()},
        "merged": {name: merged_tokens(labels) for name, labels in union.id_maps.items()},
        "cut": {name: _count_cut(union.id_maps[name], id_maps[name]) for name in teachers},
        "overlaps": overlaps(canonical),
        "normalizer_conflicts": conflicts(normalizations, shared),
    }
    if method.model is not None:
        report["parameters"] = {"the student": _parameters(method.model(vocab_size=len(tokens)))}
    if samples:
        report["drift"] = _drifts(teachers, id_maps, student, samples)
    members = {name: (teacher, id_maps[name]) for name, teacher in teachers.items()}
    vocabulary = write_vocabulary(output, student, members, report)
    described = {name: dataclasses.asdict(member) for name, member in vocabulary.members.items()}
    page = report_text(report | {"members": described, "size": vocabulary.size, "hash": vocabulary.hash})
    write_atomically(epath.Path(output) / REPORT_FILE, page.encode())
    print(page)
    return vocabulary


def _tokenizer(teacher: str) -> TeacherTokenizer:
    source = find_teacher(teacher, weights=False)
    if source.repository:
        print(f"vocab: {source}")
    return load_tokenizer(source.folder)


def _count_cut(whole: np.ndarray, id_map: IdMap) -> int:
    return int(np.count_nonzero((whole != DROPPED) & (id_map.labels == DROPPED)))


_Samples = dict[tuple[str, str], list[str]]
"""The text sample by teacher and language."""


def _samples(method: UnionConfig, teachers: Mapping[str, TeacherTokenizer]) -> _Samples:
    if method.corpus is None:
        return {}
    samples: _Samples = {}
    for teacher in teachers:
        for language in method.languages_of(teacher):
            documents = corpus_documents(method.corpus(language=language), method.split)
            samples[teacher, language] = list(itertools.islice(documents, method.documents))
    return samples


def _use(method: UnionConfig, union: Union, samples: _Samples) -> np.ndarray:
    """Expected share [v] of each union token in the text as the teachers cut it."""
    counts = {}
    for (teacher, language), documents in samples.items():
        pieces = tokenise(documents, load_tokenizer(find_teacher(method.teachers[teacher], weights=False).folder))
        ids = union.id_maps[teacher][pieces.ids[pieces.text >= 0]]
        counts[f"{teacher} {language}"] = np.bincount(ids[ids != DROPPED], minlength=len(union.tokens))
    use = token_use(counts, method.exponent)
    if not use.any():
        raise VocabularyError(
            f"UnionConfig.corpus: found no text in split {method.split!r}, expected some by whose use the union is cut"
        )
    return use


def _drifts(
    teachers: Mapping[str, TeacherTokenizer],
    id_maps: Mapping[str, IdMap],
    student: TeacherTokenizer,
    samples: _Samples,
) -> dict[str, dict[str, dict[str, float | None]]]:
    """{teacher: {language: numbers of drift.Drift}}."""
    found: dict[str, dict[str, dict[str, float | None]]] = {}
    for (teacher, language), documents in samples.items():
        trained, covered = _segmentation(documents, teachers[teacher], id_maps[teacher])
        own, _ = _segmentation(documents, student, whole_map(np.arange(len(student.tokens), dtype=np.int32)))
        counts = drift(trained, own, covered)
        found.setdefault(teacher, {})[language] = dataclasses.asdict(counts) | counts.shares()
    return found


def _segmentation(
    documents: Sequence[str], tokenizer: TeacherTokenizer, id_map: IdMap
) -> tuple[Segmentation, np.ndarray]:
    """The pieces of the documents in the student's ids, and for each of the tokenizer's own whether it stayed whole."""
    pieces = tokenise(documents, tokenizer)
    in_text = pieces.text >= 0
    ids, text, word = pieces.ids[in_text], pieces.text[in_text], pieces.word[in_text]
    offsets = np.cumsum([0, *pieces.num_words])
    expanded, first = id_map.expand(ids)
    counts = np.diff(np.append(first, len(expanded)))
    words = np.repeat(offsets[text] + word, counts)
    return Segmentation(ids=expanded, word=words), id_map.labels[ids] != DROPPED


def _parameters(encoder: EncoderConfig) -> int:
    """Parameters of a masked language model of this size; nothing is allocated."""
    ids = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(MaskedLanguageModel(encoder).init, jax.random.key(0), ids, ids == 0, ids)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
