"""What a stage would read and write, from what is on this machine: nothing is read whole, downloaded, made or written.

Settings come with a Call in the place of what is registered or opened later, see gin_types.py. No library is imported
but for a union, whose tokenizers are loaded.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from mergedistill_jax.configs.vocab import LearnConfig
from mergedistill_jax.counting import counted, in_bytes
from mergedistill_jax.gin_types import Call
from mergedistill_jax.stage_log import read_stage_time


@dataclasses.dataclass(kw_only=True)
class DryRun:
    """What was found.

    Attributes:
        lines: for people, one a thing.
        missing: what the stage needs and this machine lacks.
    """

    lines: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)

    def found(self, what: str, text: str) -> None:
        """Adds a line."""
        self.lines.append(f"  {what:<10} {text}")

    def lacks(self, what: str, name: str, expected: str) -> None:
        """Adds a line, and what is missing."""
        self.found(what, f"{name}: not found, expected {expected}")
        self.missing.append(f"{what} {name}")


def dry_run(stage: str, config: Any, corpus: Any = None) -> DryRun:
    """Looks for everything that a stage needs, and at what stands in its output.

    Args:
        stage: its name.
        config: its settings, with Calls.
        corpus: of a pipeline, whose stages share it.
    """
    report = DryRun()
    output = getattr(config, "output", None)
    report.lines.append(f"{stage}: would {_WOULD[stage](config)} -> {output or 'standard output'}")
    if stage == "pipeline":
        for language in config.languages if isinstance(corpus, Call) else ():
            _text(report, Call(corpus, {**corpus.arguments, "language": language}))
    else:
        _LOOK[stage](report, config)
    if output:
        _output(report, stage, config)
    return report


def _output(report: DryRun, stage: str, config: Any) -> None:
    folder = epath.Path(config.output)
    parts = []
    if folder.exists():
        if (folder / "manifest.json").exists():
            parts.append(_records_state(folder))
        if steps := _checkpoints(folder):
            parts.append(f"a checkpoint of step {steps[-1]:,}")
        done = read_stage_time(folder, stage)
        parts.append(f"finished by `{done.command}`" if done else "not finished")
    report.found("output", f"{config.output}: {', '.join(parts) if parts else 'not there yet'}")
    if "://" not in config.output:
        there = next(one for one in [folder.absolute(), *folder.absolute().parents] if one.exists())
        report.found("disk", f"{in_bytes(shutil.disk_usage(there).free)} free")


def _checkpoints(folder: epath.Path) -> list[int]:
    numbers = [path.name.partition("_")[2] for path in (folder / "checkpoints").glob("checkpoint_*")]
    return sorted(int(number) for number in numbers if number.isdigit())


def _records_state(folder: epath.Path) -> str:
    """How many of a folder's shards are listed."""
    identity = json.loads((folder / "manifest.json").read_text())
    shards = -(-identity["documents"] // identity["documents_per_shard"])
    listed = sum(1 for _ in folder.glob("shard-*.json"))
    state = "complete" if listed == shards else "not finished"
    return f"{listed:,} of {counted(shards, 'shard')}, {state}"


def _records(report: DryRun, what: str, folders: Iterable[str]) -> None:
    for name in folders:
        folder = epath.Path(name)
        if not (folder / "manifest.json").exists():
            report.lacks(what, name, "a folder written by `mergedistill predict`")
            continue
        state = _records_state(folder)
        report.found(what, f"{name}: {state}")
        if not state.endswith("complete") or state.endswith("not complete"):
            report.missing.append(f"{what} {name}")


def _mixture(report: DryRun, what: str, mixture: Any) -> None:
    """The record folders and the vocabulary of a mixture that would be registered."""
    if isinstance(mixture, Call):
        _records(report, what, mixture.arguments.get("folders", ()))
        if what == "records" and (vocabulary := mixture.arguments.get("vocabulary")):
            _file(report, "vocabulary", vocabulary, "vocabulary.json", "a folder written by `mergedistill vocab`")


def _file(report: DryRun, what: str, folder: str, name: str, expected: str) -> None:
    """A folder that is known by a file in it."""
    if (epath.Path(folder) / name).exists():
        report.found(what, folder)
    else:
        report.lacks(what, folder, expected)


def _teacher(report: DryRun, path: str, what: str = "teacher", *, weights: bool = True) -> None:
    """A folder with a model, or a name on the hub, which is not asked."""
    from mergedistill_jax.teachers.hub import hub_name, local_teacher

    source = local_teacher(path)
    if source is None:
        if hub_name(path):
            report.found(what, f"{path}: not on this machine, would be downloaded from the hub")
        else:
            report.lacks(what, path, "a folder with a model, or a name on the hub")
        return
    folder = epath.Path(source.folder)
    found = []
    if (folder / "config.json").exists():
        found.append(json.loads((folder / "config.json").read_text()).get("model_type", "of no named type"))
    sizes = [file.stat().length for ending in ("*.safetensors", "pytorch_model.bin") for file in folder.glob(ending)]
    if sizes:
        found.append(f"weights of {in_bytes(sum(sizes))}")
    elif weights and source.repository:
        found.append("weights would be downloaded from the hub")
    elif weights and not (folder / "run.json").exists():
        report.lacks(what, f"{path}/*.safetensors", "the model's weights")
        return
    report.found(what, f"{source}: {', '.join(found) or 'a tokenizer'}")


def _text(report: DryRun, corpus: Any) -> None:
    """The files of a corpus that would be registered; text that is generated or prepared elsewhere by its name."""
    if not isinstance(corpus, Call):
        return
    given = corpus.arguments
    language = given.get("language") or ""
    if "files" in given:
        patterns = given["files"]
    elif {"folder", "pattern"} <= set(given):
        patterns = [f"{given['folder']}/{given['pattern']}".replace("{language}", language)]
    else:
        report.found("text", f"{corpus}: {language}")
        return
    for pattern in patterns:
        parent, _, name = pattern.rpartition("/")
        folder = epath.Path(parent or ".")
        files = sorted(folder.glob(name)) if folder.exists() else []
        if files:
            size = in_bytes(sum(file.stat().length for file in files))
            report.found("text", f"{pattern}: {counted(len(files), 'file')}, {size}")
        else:
            report.lacks("text", pattern, "at least one file")


def _teachers(report: DryRun, teachers: str | Iterable[str] | Mapping[str, str] | None) -> None:
    if teachers is None:
        return
    listed = [teachers] if isinstance(teachers, str) else teachers
    for teacher in dict.fromkeys(listed.values() if isinstance(listed, Mapping) else listed):
        _teacher(report, teacher)


def _vocab(report: DryRun, config: Any) -> None:
    method = config.method
    if isinstance(method, LearnConfig):
        _text(report, method.corpus)
        return
    from mergedistill_jax.teachers.hub import local_teacher
    from mergedistill_jax.vocabulary.tokenizer import load_tokenizer

    for name, path in method.teachers.items():
        languages = method.languages_of(name)
        report.found("name", name)
        _teacher(report, path, weights=False)
        if found := local_teacher(path):
            report.found("vocabulary", f"{len(load_tokenizer(found.folder).tokens):,} tokens")
        report.found(
            "", f"{counted(len(languages), 'language')}: {' '.join(languages)}" if languages else "no language"
        )
    if method.corpus is not None:
        for language in sorted({one for name in method.teachers for one in method.languages_of(name)}):
            _text(report, method.corpus(language=language))
    report.lines += _shared_languages(config)


def _shared_languages(config: Any) -> list[str]:
    """Who shares a language, and what a student makes of it."""
    teachers_of: dict[str, list[str]] = {}
    for teacher in config.method.teachers:
        for language in config.method.languages_of(teacher):
            teachers_of.setdefault(language, []).append(teacher)
    shared: dict[str, list[str]] = {}
    for language, teachers in teachers_of.items():
        if len(teachers) > 1:
            shared.setdefault(" and ".join(teachers), []).append(language)
    rule = f", rule {config.student.rule!r}" if config.student else ""
    if not shared:
        return ["several teachers for a language: none"]
    return [f"several teachers for a language{rule}: {who} for {' '.join(what)}" for who, what in shared.items()]


def _predict(report: DryRun, config: Any) -> None:
    if config.teacher:
        _teacher(report, config.teacher)
    else:
        _teacher(report, config.tokenizer, "tokenizer", weights=False)
    _text(report, config.corpus)


def _verify(report: DryRun, config: Any) -> None:
    _records(report, "records", config.folders)
    _teachers(report, config.teacher)


def _compare(report: DryRun, config: Any) -> None:
    for language, teachers in config.by_language.items():
        report.found("language", f"{language}: {', '.join(teachers)}")
    _teachers(report, config.teachers)
    for language in config.by_language:
        _text(report, config.corpus(language=language))


def _train(report: DryRun, config: Any) -> None:
    _mixture(report, "records", config.mixture)
    _mixture(report, "held-out", config.heldout)
    _teachers(report, config.start.teachers if config.start else None)


def _evaluate(report: DryRun, config: Any) -> None:
    _mixture(report, "records", config.heldout)
    _mixture(report, "held-out", config.heldout_union)
    _teachers(report, config.teachers)
    _records(report, "baseline", config.train_records.values())
    for run in [*config.students.values(), *config.teacher_runs.values()]:
        _file(report, "run", run, "run.json", "a folder written by `mergedistill train`")
    for folder in [one for folders in config.finetuned.values() for one in folders]:
        _file(report, "fine-tuned", folder, "result.json", "a folder written by `mergedistill finetune`")


def _finetune(report: DryRun, config: Any) -> None:
    _teacher(report, config.model, "model")
    for name in (*config.train_files, *config.dev_files, *config.test_files):
        file = epath.Path(name.partition("::")[0])
        if file.exists():
            report.found("text", f"{name}: {in_bytes(file.stat().length)}")
        else:
            report.lacks("text", name, "a file of labelled sentences")
    if config.vocabulary:
        _file(report, "vocabulary", config.vocabulary, "vocabulary.json", "a folder written by `mergedistill vocab`")


def _export(report: DryRun, config: Any) -> None:
    _file(report, "run", config.run, "run.json", "a folder written by `mergedistill train`")
    if (epath.Path(config.run) / "run.json").exists() and not _checkpoints(epath.Path(config.run)):
        report.lacks("checkpoint", f"{config.run}/checkpoints", "at least one")
    if config.report:
        _file(report, "report", config.report, "report.json", "a folder written by `mergedistill evaluate`")


def _plan(report: DryRun, config: Any) -> None:
    if config.vocabulary and not config.vocabulary_size:
        _file(report, "vocabulary", config.vocabulary, "vocabulary.json", "a folder, or a vocabulary_size")


def _would_vocab(config: Any) -> str:
    method = config.method
    if isinstance(method, LearnConfig):
        return f"learn {counted(method.size, 'WordPiece token')} from {method.corpus}:{method.split}"
    name = f" of the student {config.student.name}" if config.student else ""
    size = f", cut to {method.size:,} tokens" if method.size else ""
    return f"unite {counted(len(method.teachers), 'vocabulary', 'vocabularies')}{name}{size}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


_WOULD: Mapping[str, Callable[[Any], str]] = {
    "vocab": _would_vocab,
    "predict": lambda c: f"run {c.teacher or 'no teacher'} on {c.corpus}:{c.split}, {counted(c.draws, 'draw')}",
    "verify": lambda c: f"check {counted(len(c.folders), 'folder')} of records",
    "compare": lambda c: (
        f"score {counted(len(c.teachers), 'teacher')} on up to {counted(c.documents, 'document')} of {c.split!r} a"
        f" language, {counted(c.words_per_document, 'word')} each, {c.masking.rate:.0%} of them hidden"
    ),
    "train": lambda c: f"train {counted(c.steps, 'step')} of {counted(c.batch_size, 'sequence')}",
    "evaluate": lambda c: f"score {counted(len(c.teachers), 'teacher')} and {counted(len(c.students), 'student')}",
    "finetune": lambda c: f"fine-tune {c.model} on {c.task} in {c.language}",
    "export": lambda c: f"export {c.run}",
    "plan": lambda c: f"compile for {c.topology}",
    "pipeline": lambda c: f"run all stages for {counted(len(c.languages), 'language')}: {_listed(c.languages)}",
}
_LOOK: Mapping[str, Callable[[DryRun, Any], None]] = {
    "vocab": _vocab,
    "predict": _predict,
    "verify": _verify,
    "compare": _compare,
    "train": _train,
    "evaluate": _evaluate,
    "finetune": _finetune,
    "export": _export,
    "plan": _plan,
}
