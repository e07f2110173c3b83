"""All stages in order, from text to report: what `make demo` and the experiments run.

Every step is a command that could be typed; it is printed, and skipped where its record says it is done.

    for each language   vocab -> predict (masks) -> train -> export       a teacher, from gold labels alone
                        predict -> verify                                 its top 8 on the transfer text
    vocab               the union
    train, train        the student, and the same student on gold labels alone
    export, finetune    taggers from every teacher and both students
    evaluate            the report
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mergedistill_jax.corpus import grammars

RunStage = Callable[..., Any]

HELDOUT_RATE = 0.15


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaggingTask:
    """A labelled task in several languages; {language} in the addresses is filled in.

    Attributes:
        name: folder name.
        task: "pos" or "ner".
        train, test: addresses as finetune takes them.
        without_train: languages that have no training file, whose test file is divided (see finetune).
    """

    name: str
    task: str
    train: str
    test: str
    file_format: str
    without_train: Sequence[str] = ()


def address(folder: str, path: str) -> str:
    """A path in a folder, for gin files, which cannot join strings."""
    return f"{folder}/{path}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GrammarTagging:
    """Labelled sentences of the project's own grammars, written to files: ranges of documents for train and test."""

    train: tuple[int, int]
    test: tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """What to run.

    Attributes:
        output: folder for everything.
        languages: one teacher each.
        teacher_draws, transfer_draws: masks per sequence for teachers and for the students' records.
        masking_rate: share of words masked for training; held-out text always has 0.15.
        tagging: labelled tasks.
        grammar_tagging: where set, writes the files that a task named "grammar" reads.
    """

    output: str
    languages: Sequence[str]
    title: str
    teacher_draws: int = 1
    transfer_draws: int = 1
    masking_rate: float = HELDOUT_RATE
    tagging: Sequence[TaggingTask] = ()
    grammar_tagging: GrammarTagging | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of the pipeline: its name, its gin file in gin/runs, and its bindings."""

    stage: str
    gin_file: str
    bindings: tuple[str, ...]
    reuse: bool = True


def pipeline(config: PipelineConfig, run_stage: RunStage) -> None:
    """Runs every step.

    Args:
        config: what to run.
        run_stage: the command line's own, called as (stage, gin_file, bindings, reuse=...); every stage is also given
            the gin files and bindings that the pipeline was given: corpora, sizes, steps.
    """
    if config.grammar_tagging:
        _write_grammar_tagging(config)
    steps = list(steps_of(config))
    for number, step in enumerate(steps, start=1):
        print(f"\n=== {number}/{len(steps)}", flush=True)
        run_stage(step.stage, f"gin/runs/{step.gin_file}.gin", step.bindings, reuse=step.reuse)


def steps_of(config: PipelineConfig) -> Iterator[Step]:
    """The steps in an order that satisfies their needs."""
    folder = _Folders(config.output)
    for language in config.languages:
        yield from _teacher_steps(config, folder, language)
    for language in config.languages:
        yield from _record_steps(config, folder, language)
    yield _step(
        "vocab",
        "union",
        OUTPUT=folder.union,
        TEACHERS={language: folder.export(f"teachers/{language}") for language in config.languages},
    )
    for student in ("student", "student_gold"):
        yield _step(
            "train",
            student,
            OUTPUT=folder.run(student),
            VOCABULARY=folder.union,
            RECORDS=tuple(folder.records(language) for language in config.languages),
            HELDOUT=tuple(folder.heldout(language) for language in config.languages),
        )
        languages = tuple(config.languages)
        yield _step("export", "export", OUTPUT=folder.export(student), RUN=folder.run(student), LANGUAGES=languages)
    yield from _finetune_steps(config, folder)
    yield _evaluate_step(config, folder)


class _Folders:
    """Where each step writes."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.union = f"{output}/vocabulary"

    def vocabulary(self, language: str) -> str:
        return f"{self.output}/vocabularies/{language}"

    def masked(self, language: str, split: str) -> str:
        return f"{self.output}/masked/{language}_{split}"

    def run(self, name: str) -> str:
        return f"{self.output}/{name}"

    def export(self, name: str) -> str:
        return f"{self.output}/exports/{name}"

    def records(self, language: str) -> str:
        return f"{self.output}/records/{language}"

    def heldout(self, language: str) -> str:
        return f"{self.output}/heldout/{language}"

    def tagger(self, task: str, language: str, model: str) -> str:
        return f"{self.output}/tagging/{task}/{language}/{model}"


def _teacher_steps(config: PipelineConfig, folder: _Folders, language: str) -> Iterator[Step]:
    vocabulary = folder.vocabulary(language)
    name = f"teachers/{language}"
    yield _step("vocab", "learn_vocabulary", LANGUAGE=language, OUTPUT=vocabulary)
    for split, draws, rate in (("train", config.teacher_draws, config.masking_rate), ("heldout", 1, HELDOUT_RATE)):
        yield _step(
            "predict",
            "mask",
            LANGUAGE=language,
            SPLIT=split,
            TOKENIZER=vocabulary,
            DRAWS=draws,
            MASKING_RATE=rate,
            OUTPUT=folder.masked(language, split),
        )
    yield _step(
        "train",
        "teacher",
        VOCABULARY=vocabulary,
        RECORDS=(folder.masked(language, "train"),),
        HELDOUT=(folder.masked(language, "heldout"),),
        OUTPUT=folder.run(name),
    )
    yield _step("export", "export", RUN=folder.run(name), LANGUAGES=(language,), OUTPUT=folder.export(name))


def _record_steps(config: PipelineConfig, folder: _Folders, language: str) -> Iterator[Step]:
    teacher = folder.export(f"teachers/{language}")
    for split, draws, rate, output in (
        ("transfer", config.transfer_draws, config.masking_rate, folder.records(language)),
        ("heldout", 1, HELDOUT_RATE, folder.heldout(language)),
    ):
        yield _step(
            "predict",
            "predict",
            LANGUAGE=language,
            SPLIT=split,
            TEACHER=teacher,
            DRAWS=draws,
            MASKING_RATE=rate,
            OUTPUT=output,
        )
        yield _step("verify", "verify", FOLDER=output, TEACHER=teacher)


def _finetune_steps(config: PipelineConfig, folder: _Folders) -> Iterator[Step]:
    """Teachers with their own tokenizer; students through the same tokenizer and its id map."""
    for task in config.tagging:
        for language in config.languages:
            train = () if language in task.without_train else (task.train.format(language=language),)
            shared = {
                "TASK": task.task,
                "LANGUAGE": language,
                "FILE_FORMAT": task.file_format,
                "TRAIN_FILES": train,
                "TEST_FILES": (task.test.format(language=language),),
            }
            teacher = folder.export(f"teachers/{language}")
            yield _step(
                "finetune", "finetune", **shared, MODEL=teacher, OUTPUT=folder.tagger(task.name, language, "teacher")
            )
            for student in ("student", "student_gold"):
                yield _step(
                    "finetune",
                    "finetune_routed",
                    **shared,
                    MODEL=folder.export(student),
                    TOKENIZER=teacher,
                    ID_MAP=f"{folder.union}/teachers/{language}/id_map.npy",
                    OUTPUT=folder.tagger(task.name, language, student),
                )


def _evaluate_step(config: PipelineConfig, folder: _Folders) -> Step:
    languages = config.languages
    taggers = {
        model: tuple(folder.tagger(task.name, language, model) for task in config.tagging for language in languages)
        for model in ("teacher", "student", "student_gold")
    }
    step = _step(
        "evaluate",
        "evaluate",
        OUTPUT=config.output,
        TITLE=config.title,
        VOCABULARY=folder.union,
        HELDOUT=tuple(folder.heldout(language) for language in languages),
        TRAIN_RECORDS={language: folder.masked(language, "train") for language in languages},
        TEACHERS={language: folder.export(f"teachers/{language}") for language in languages},
        STUDENTS={name: folder.run(name) for name in ("student", "student_gold")},
        TEACHER_RUNS={language: folder.run(f"teachers/{language}") for language in languages},
        FINETUNED=taggers if config.tagging else {},
    )
    return dataclasses.replace(step, reuse=False)


def _step(stage: str, gin_file: str, **macros: object) -> Step:
    return Step(stage=stage, gin_file=gin_file, bindings=tuple(f"{name} = {value!r}" for name, value in macros.items()))


def _write_grammar_tagging(config: PipelineConfig) -> None:
    """Tagged sentences of the grammars as `token TAB tag` files, where the "grammar" task reads them."""
    from etils import epath  # noqa: PLC0415 - the demo alone

    assert config.grammar_tagging is not None  # noqa: S101 - checked by the caller
    for language in config.languages:
        for split in ("train", "test"):
            start, stop = getattr(config.grammar_tagging, split)
            path = epath.Path(config.output) / "labelled" / f"{split}-{language}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            documents = grammars.documents(language, seed=0, start=start, count=stop - start)
            sentences = (sentence for document in documents for sentence in document)
            path.write_text("\n".join(_tsv(sentence) for sentence in sentences) + "\n")


def _tsv(sentence: grammars.TaggedSentence) -> str:
    return "".join(f"{word}\t{tag}\n" for word, tag in zip(sentence.words, sentence.tags, strict=True))
