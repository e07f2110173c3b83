"""Stage 5: a run's newest checkpoint to a folder that transformers loads: weights, tokenizer, model card."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.export import ExportConfig
from mergedistill_jax.configs.schedules import GoldWeight
from mergedistill_jax.evaluation.metrics import relative_deviation
from mergedistill_jax.files import write_atomically
from mergedistill_jax.json_objects import naming, object_of, read_json, require_type
from mergedistill_jax.locks import owns_output
from mergedistill_jax.models.huggingface import save_masked_lm
from mergedistill_jax.models.model_card import Evaluation, Teacher, model_card
from mergedistill_jax.models.tokenizer_files import SpecialTokens
from mergedistill_jax.training.checkpoints import RUN_FILE, Checkpoints, Run, read_run
from mergedistill_jax.training.metrics import read_log
from mergedistill_jax.training.token_counts import TOKEN_COUNTS_FILE, read_token_counts, to_bytes
from mergedistill_jax.vocabulary.folder import Vocabulary, read_vocabulary
from mergedistill_jax.vocabulary.tokenizer import TOKENIZER_FILE

EXPORT_FILE = "export.json"
SCORES_SHOWN = {"masked_accuracy": "masked words", "tagging_f1": "part of speech", "ner_f1": "named entities"}


@owns_output(beside=True)
def export(config: ExportConfig) -> None:
    """Writes the folder; does nothing where it already holds an export of the same checkpoint and card."""
    run = read_run(config.run)
    vocabulary = read_vocabulary(config.vocabulary or run.vocabulary_folder)
    if vocabulary.hash != run.vocabulary_hash:
        raise ValueError(
            f"{vocabulary.folder}: field hash: found {vocabulary.hash}, expected {run.vocabulary_hash} of {config.run}"
        )
    _require_languages(config)
    encoder = object_of(epath.Path(config.run) / RUN_FILE, EncoderConfig, run.model, within="model")
    checkpoints = Checkpoints(config.run, alone=True)
    params = checkpoints.restore_params()
    step = checkpoints.latest_step
    checkpoints.close()
    print(f"export: step {step:,} of {config.run} -> {config.output}")
    card = _card(config, run, vocabulary, encoder, step or 0)
    content = {"params": _params_hash(params), "card": hashlib.blake2b(card.encode(), digest_size=16).hexdigest()}
    folder = epath.Path(config.output)
    record = folder / EXPORT_FILE
    # Beside the folder, which save_masked_lm replaces: what a kill leaves without its record is ours to replace too.
    begun = folder.parent / f".{folder.name}.exporting"
    if _is_record(record, content):
        print(f"export: {config.output} is up to date")
        begun.unlink(missing_ok=True)
        return
    ours = record.exists() or begun.exists() or not _has_content(folder)
    if ours:
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(begun, b"")
    save_masked_lm(
        config.output,
        encoder,
        params,
        tokenizer_file=vocabulary.folder / TOKENIZER_FILE,
        special_tokens=SpecialTokens(),
        card=card,
        overwrite=ours,
    )
    counts = read_token_counts(config.run, step or 0)
    if counts is not None:
        write_atomically(folder / TOKEN_COUNTS_FILE, to_bytes(counts))
    write_atomically(record, (json.dumps(content) + "\n").encode())
    begun.unlink()
    print(f'export: wrote {config.output}; AutoModelForMaskedLM.from_pretrained("{config.output}") loads it')
    print("next: mergedistill predict with it as a teacher, or mergedistill finetune")


def _is_record(record: epath.Path, content: dict[str, str]) -> bool:
    """Whether the folder's record tells this export; one that is damaged tells none."""
    try:
        return read_json(record) == content
    except ValueError:
        return False


def _require_languages(config: ExportConfig) -> None:
    """Refuses a language that the run's log has no loss of."""
    seen = {
        name.split("/")[2] for row in read_log(config.run) for name in row if name.startswith("gold_loss/language/")
    }
    for language in config.languages:
        if seen and language not in seen:
            raise ValueError(
                f"ExportConfig.languages: found {language!r}, expected languages that {config.run} was trained on:"
                f" {', '.join(sorted(seen))}"
            )


def _kind(run: Run) -> str:
    """What the card says the model is: its records tell of no teacher, or its loss never counted one."""
    if not run.settings["k"]:
        return "teacher"
    return "gold_student" if GoldWeight(**run.settings["gold_weight"]).gold_only else "distilled"


def _has_content(folder: epath.Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _params_hash(params: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _card(config: ExportConfig, run: Run, vocabulary: Vocabulary, encoder: EncoderConfig, step: int) -> str:
    teachers = [
        Teacher(name=name, languages=[name] if name in config.languages else [], vocab_size=member.size)
        for name, member in vocabulary.members.items()
    ]
    settings = run.settings
    for field, kind in (("batch_size", int), ("k", int | None)):
        require_type(epath.Path(config.run) / RUN_FILE, f"settings.{field}", settings.get(field), kind)
    batch, k = settings["batch_size"], settings.get("k")
    training: dict[str, str | float] = {
        "Labels": f"gold labels and the teachers' top {k}" if _kind(run) == "distilled" else "gold labels alone",
        "Steps": step,
        "Sequences a step": batch,
        "Tokens of a sequence, at most": encoder.max_length,
        "Vocabulary": vocabulary.size,
    }
    return model_card(
        name=config.name or config.output.rstrip("/").rsplit("/", 1)[-1],
        languages=list(config.languages),
        teachers=teachers,
        training=training,
        evaluations=_evaluations(config.report),
        max_length=encoder.max_length,
        kind=_kind(run),
    )


def _evaluations(report: str | None) -> list[Evaluation]:
    """Rows of a report.json: teacher against student per language, in percent."""
    if report is None:
        return []
    path = epath.Path(report) / "report.json"
    content = read_json(path)
    with naming(path, "languages"):
        return _rows_of(content)


def _rows_of(content: Mapping[str, Any]) -> list[Evaluation]:
    rows = []
    for metric, task in SCORES_SHOWN.items():
        for language, models in content["languages"].items():
            student, teacher = (models.get(name, {}).get(metric) for name in ("student", "teacher"))
            if student is None:
                continue
            deviation = None if teacher is None else relative_deviation({language: teacher}, {language: student})
            rows.append(
                Evaluation(
                    task=task,
                    language=language,
                    metric=metric,
                    student=100 * student,
                    teacher=None if teacher is None else 100 * teacher,
                    rdt=deviation,
                )
            )
    return rows
