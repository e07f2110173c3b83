"""Compare candidate teachers on the same hidden words of a little text, before any prediction is stored."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath

from mergedistill_jax.configs.compare import CompareConfig
from mergedistill_jax.counting import counted
from mergedistill_jax.evaluation.hidden_words import (
    HiddenSequences,
    NumberedText,
    first_words,
    hide_words,
    number_words,
)
from mergedistill_jax.evaluation.teacher_choice import LanguageChoice, choose
from mergedistill_jax.evaluation.teacher_scores import WordScores, predict_hidden, score_words, sequences_per_second
from mergedistill_jax.evaluation.teacher_table import table_text
from mergedistill_jax.files import write_atomically
from mergedistill_jax.models.huggingface import load_encoder_config
from mergedistill_jax.teachers.hub import Source, find_teacher
from mergedistill_jax.teachers.loading import load_teacher
from mergedistill_jax.teachers.writer import corpus_documents
from mergedistill_jax.training.progress import Progress
from mergedistill_jax.vocabulary.normalizers import normalization_of
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer, load_tokenizer

REPORT_JSON, REPORT_TEXT = "report.json", "report.txt"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Sample:
    """The text of a language as its candidates are asked for it."""

    text: NumberedText
    hidden: Mapping[str, HiddenSequences]
    compared: np.ndarray


def compare(config: CompareConfig) -> dict[str, LanguageChoice]:
    """Scores every candidate of every language and recommends one each.

    Raises:
        ValueError: a candidate cannot be loaded or is too short, a corpus cannot be read, or no word can be compared.
    """
    names = _names(config.teachers)
    print(f"compare: {counted(len(names), 'teacher')} on {', '.join(config.by_language)}")
    sources = {teacher: find_teacher(teacher) for teacher in config.teachers}
    tokenizers = {teacher: _tokenizer(source, config) for teacher, source in sources.items()}
    samples = {language: _sample(config, language, tokenizers) for language in config.by_language}
    scores: dict[str, dict[str, WordScores]] = {language: {} for language in samples}
    speeds: dict[str, dict[str, float]] = {language: {} for language in samples}
    asked = sum(len(hidden.records) for sample in samples.values() for hidden in sample.hidden.values())
    progress = Progress(asked, "sequence", "compare")
    for path, source in sources.items():
        teacher = load_teacher(source.folder, max_length=config.max_length, k=config.k)
        for language, sample in samples.items():
            if path not in sample.hidden:
                continue
            hidden = sample.hidden[path]
            sizes = {"k": config.k, "batch_size": config.batch_size, "max_length": config.max_length}
            predicted = predict_hidden(teacher, hidden, **sizes)
            unk_id = tokenizers[path].unk_id
            scores[language][names[path]] = score_words(predicted, hidden, sample.text, sample.compared, unk_id)
            speeds[language][names[path]] = sequences_per_second(teacher, hidden, **sizes)
            progress.update(len(hidden.records))
    progress.close()
    choices = {
        language: choose(
            language, sample.text, sample.compared, _hidden_words(sample), scores[language], speeds[language]
        )
        for language, sample in samples.items()
    }
    _report(config, choices, tokenizers)
    return choices


def _names(teachers: Sequence[str]) -> dict[str, str]:
    """What each is called: the last part of its path or name, or all of it where two would be called the same."""
    short = {teacher: teacher.partition("@")[0].rstrip("/").rsplit("/", 1)[-1] for teacher in teachers}
    called = list(short.values())
    return {teacher: name if called.count(name) == 1 else teacher for teacher, name in short.items()}


def _tokenizer(source: Source, config: CompareConfig) -> TeacherTokenizer:
    """Checks, before any work, that the teacher is long enough."""
    longest = load_encoder_config(source.folder).max_length
    if longest < config.max_length:
        raise ValueError(
            f"{source}: field max_position_embeddings: found {longest},"
            f" expected at least max_length={config.max_length}"
        )
    return load_tokenizer(source.folder)


def _sample(config: CompareConfig, language: str, tokenizers: Mapping[str, TeacherTokenizer]) -> _Sample:
    task = config.corpus(language=language)
    documents = itertools.islice(corpus_documents(task, config.split), config.documents)
    text = number_words([first_words(document, config.words_per_document) for document in documents])
    hidden = {
        teacher: hide_words(text, tokenizers[teacher], config.masking, config.max_length)
        for teacher in config.by_language[language]
    }
    compared = np.flatnonzero(np.logical_and.reduce([one.comparable for one in hidden.values()]))
    if not len(compared):
        raise ValueError(
            f"corpus {task}: split {config.split}: found no hidden word that all candidates of {language} cut apart"
            f" from its neighbours in {len(text.documents)} documents, expected at least one"
        )
    return _Sample(text=text, hidden=hidden, compared=compared)


def _hidden_words(sample: _Sample) -> int:
    """Words that at least one candidate is asked for."""
    return len(np.unique(np.concatenate([np.concatenate(one.words) for one in sample.hidden.values()])))


def _notes(config: CompareConfig, tokenizers: Mapping[str, TeacherTokenizer]) -> dict[str, str]:
    """Candidates that forget something of the text before they cut it: the loss does not show that."""
    notes = {}
    for teacher, name in _names(config.teachers).items():
        found = normalization_of(tokenizers[teacher])
        lost = [word for word, is_so in (("case", found.lowercase), ("accents", found.strip_accents)) if is_so]
        if lost:
            notes[name] = f"its tokenizer drops {' and '.join(lost)}, so that its words are easier to know"
    return notes


def _report(
    config: CompareConfig, choices: Mapping[str, LanguageChoice], tokenizers: Mapping[str, TeacherTokenizer]
) -> None:
    names = _names(config.teachers)
    paths = {name: teacher for teacher, name in names.items()}
    device = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
    text = table_text(list(choices.values()), paths, _notes(config, tokenizers), k=config.k, device=device)
    print(f"\n{text}\n")
    if config.output is None:
        return
    folder = epath.Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "device": device,
        "k": config.k,
        "teachers": paths,
        "recommended": {language: paths[choice.best] for language, choice in choices.items()},
        "languages": {language: dataclasses.asdict(choice) for language, choice in choices.items()},
    }
    write_atomically(folder / REPORT_JSON, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    write_atomically(folder / REPORT_TEXT, (text + "\n").encode())
    print(f"compare: wrote {folder / REPORT_JSON} and {REPORT_TEXT}")
