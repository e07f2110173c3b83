"""All stages in order, from text to report: what `make demo` and the experiments run.

Every step is a command that could be typed; it is printed, and skipped where its record says it is done.

    for each language   vocab -> predict (masks) -> train -> export       a teacher, from gold labels alone
                        predict -> verify                                 its top 8 on the transfer text
    vocab               the union, and cuts of it
    train, export       every variant of the student: at least with teachers, and on gold labels alone
    finetune            taggers from every teacher and variant
    evaluate            a report for each vocabulary
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mergedistill_jax.configs.pipeline import HELDOUT_RATE, PipelineConfig, Variant
from mergedistill_jax.corpus import grammars
from mergedistill_jax.files import write_atomically
from mergedistill_jax.locks import owns_output

RunStage = Callable[..., Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One stage of the pipeline: its name, its gin file in gin/runs, and its bindings."""

    stage: str
    gin_file: str
    bindings: tuple[str, ...]
    reuse: bool = True


def _told_by_lead(function: Callable[[], str]) -> str:
    if not os.environ.get("MERGEDISTILL_DISTRIBUTED"):
        return function()
    from mergedistill_jax.training.distributed import told_by_lead  # noqa: PLC0415 - it imports JAX

    return told_by_lead(function)


@owns_output(decide=_told_by_lead)
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
    for size in config.sizes:
        yield from _vocabulary_steps(config, folder, size)
    for variant in config.variants:
        yield from _student_steps(config, folder, variant)
    yield from _finetune_steps(config, folder)
    for size in config.sizes:
        if any(variant.size == size for variant in config.variants):
            yield _evaluate_step(config, folder, size)


class _Folders:
    """Where each step writes."""

    def __init__(self, output: str) -> None:
        self.output = output

    def union(self, size: int | None) -> str:
        return f"{self.output}/vocabulary" + (f"_{size}" if size else "")

    def own_heldout(self, language: str, size: int | None) -> str:
        return f"{self.output}/heldout_own" + (f"_{size}" if size else "") + f"/{language}"

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


def _vocabulary_steps(config: PipelineConfig, folder: _Folders, size: int | None) -> Iterator[Step]:
    """The union, or a cut of it, and the held-out text as its own tokenizer cuts it."""
    yield _step(
        "vocab",
        "union" if size is None else "union_cut",
        OUTPUT=folder.union(size),
        TEACHERS={language: folder.export(f"teachers/{language}") for language in config.languages},
        **({} if size is None else {"SIZE": size}),
    )
    for language in config.languages if config.own_heldout else ():
        yield _step(
            "predict",
            "mask",
            LANGUAGE=language,
            SPLIT="heldout",
            TOKENIZER=folder.union(size),
            DRAWS=1,
            MASKING_RATE=HELDOUT_RATE,
            OUTPUT=folder.own_heldout(language, size),
        )


def _student_steps(config: PipelineConfig, folder: _Folders, variant: Variant) -> Iterator[Step]:
    languages = tuple(config.languages)
    start = {}
    if variant.gin_file.startswith("student_start"):
        teachers = {language: folder.export(f"teachers/{language}") for language in languages}
        start = {"START_TEACHERS": teachers, "LAYERS_FROM": variant.layers_from}
    yield _step(
        "train",
        variant.gin_file,
        OUTPUT=folder.run(variant.name),
        VOCABULARY=folder.union(variant.size),
        RECORDS=tuple(folder.records(language) for language in languages),
        HELDOUT=tuple(folder.heldout(language) for language in languages),
        SEED=variant.seed,
        **start,
        **variant.macros,
    )
    yield _step(
        "export", "export", OUTPUT=folder.export(variant.name), RUN=folder.run(variant.name), LANGUAGES=languages
    )


def _finetune_steps(config: PipelineConfig, folder: _Folders) -> Iterator[Step]:
    """Teachers with their own tokenizer; students by each of their policies."""
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
            for variant, policy in _taggers(config, None):
                routed = {"VOCABULARY": folder.union(variant.size), "TEACHER_NAME": language}
                yield _step(
                    "finetune",
                    "finetune_routed" if policy == "teacher_routed" else "finetune",
                    **shared,
                    MODEL=folder.export(variant.name),
                    **(routed if policy == "teacher_routed" else {}),
                    OUTPUT=folder.tagger(task.name, language, _tagger_name(variant, policy)),
                )


def _taggers(config: PipelineConfig, of_size: Sequence[int | None] | None) -> list[tuple[Variant, str]]:
    """(variant, policy) of every tagger; of one vocabulary size where `of_size` holds it."""
    return [
        (variant, policy)
        for variant in config.variants
        if of_size is None or variant.size in of_size
        for policy in variant.policies
    ]


def _tagger_name(variant: Variant, policy: str) -> str:
    """A model's name in reports; the policy that students are trained with goes without saying."""
    return variant.name if policy == "teacher_routed" else f"{variant.name}_{policy}"


def _evaluate_step(config: PipelineConfig, folder: _Folders, size: int | None) -> Step:
    languages = config.languages
    models = ["teacher", *(_tagger_name(variant, policy) for variant, policy in _taggers(config, [size]))]
    taggers = {
        model: tuple(folder.tagger(task.name, language, model) for task in config.tagging for language in languages)
        for model in models
    }
    own = {"HELDOUT_OWN": tuple(folder.own_heldout(language, size) for language in languages)}
    report = config.report or config.output
    step = _step(
        "evaluate",
        "evaluate_both" if config.own_heldout else "evaluate",
        OUTPUT=report if size is None else f"{report}/report_{size}",
        RUN_FOLDER=config.output,
        TITLE=config.title if size is None else f"{config.title}: cut to {size:,} tokens",
        VOCABULARY=folder.union(size),
        HELDOUT=tuple(folder.heldout(language) for language in languages),
        TRAIN_RECORDS={language: folder.masked(language, "train") for language in languages},
        TEACHERS={language: folder.export(f"teachers/{language}") for language in languages},
        STUDENTS={variant.name: folder.run(variant.name) for variant in config.variants if variant.size == size},
        TEACHER_RUNS={language: folder.run(f"teachers/{language}") for language in languages},
        FINETUNED=taggers if config.tagging else {},
        **(own if config.own_heldout else {}),
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
            write_atomically(path, ("\n".join(_tsv(sentence) for sentence in sentences) + "\n").encode())


def _tsv(sentence: grammars.TaggedSentence) -> str:
    return "".join(f"{word}\t{tag}\n" for word, tag in zip(sentence.words, sentence.tags, strict=True))
