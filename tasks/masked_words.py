"""Held-out records as SeqIO evaluation tasks, a task per folder, for T5X and anything on seqio.Evaluator.

    EVALUATED = @masked_words.add_masked_words()
    masked_words.add_masked_words.folders = ('runs/demo/heldout/en', 'runs/demo/heldout/es')
    masked_words.add_masked_words.vocabulary = 'runs/demo/vocabulary'

The gold tokens are the feature `gold_ids`: seqio.Evaluator.target_field_name says so. A model gives for every masked
position its best token, and as `gold_nll` the negative log-probability of the gold one. The metrics are those of
`mergedistill evaluate`: sums over all masked positions, and no mean of means.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import seqio

from mergedistill_jax.data.records import ReadRecords, RecordSource, record_features
from mergedistill_jax.evaluation.masked_words import MaskedWordScores
from mergedistill_jax.manifest import read_manifest
from mergedistill_jax.vocabulary.folder import read_vocabulary
from tasks.distillation import task_name


def add_masked_words(folders: Sequence[str], vocabulary: str, name: str = "masked_words") -> str:
    """Registers a task per folder and their mixture `name`; returns its name. A second call replaces the first.

    The tasks are named NAME_LANGUAGE; NAME_LANGUAGE_TEACHER where several folders are of one language.

    Raises:
        ValueError: two folders would give the same task.
        RecordError, VocabularyError: a folder is unfinished, or its teacher is not in the vocabulary.
    """
    read = read_vocabulary(vocabulary)
    sources = [RecordSource(read_manifest(folder), read) for folder in folders]
    languages = [source.manifest.identity.language for source in sources]
    names = [
        f"{name}_{language}"
        if languages.count(language) == 1
        else task_name(source.manifest.identity).replace("records", name)
        for source, language in zip(sources, languages, strict=True)
    ]
    doubled = sorted({task for task in names if names.count(task) > 1})
    if doubled:
        raise ValueError(f"folders: found two folders for {doubled[0]}, expected each language and teacher once")
    features = {field: feature for field, feature in record_features(read.size).items() if field != "source"}
    for task, source in zip(names, sources, strict=True):
        if task in seqio.TaskRegistry.names():
            seqio.TaskRegistry.remove(task)
        seqio.TaskRegistry.add(
            task,
            source=cast("Any", source),
            preprocessors=[ReadRecords(source, task)],
            output_features=features,
            postprocess_fn=to_words,
            metric_fns=[masked_word_metrics],
        )
    if name in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove(name)
    seqio.MixtureRegistry.add(name, names, default_rate=1)
    return name


def to_words(ids: Sequence[int], *, example: Mapping[str, Any], is_target: bool) -> dict[str, np.ndarray]:
    """Postprocessor: what is known of the masked positions of one record, without padding.

    A target has `gold_ids` [m] and, where records hold a teacher's predictions, its best token `teacher_ids` [m]; a
    prediction has `best_ids` [m].
    """
    count = len(example["gold_ids"])
    if not is_target:
        return {"best_ids": np.asarray(ids, np.int64)[:count]}
    target = {"gold_ids": np.asarray(example["gold_ids"], np.int64)}
    if example["teacher_ids"].shape[-1]:
        target["teacher_ids"] = np.asarray(example["teacher_ids"][:, 0], np.int64)
    return target


def masked_word_metrics(
    targets: Sequence[Mapping[str, np.ndarray]],
    predictions: Sequence[Mapping[str, np.ndarray]],
    aux_values: Mapping[str, Sequence[Sequence[float]]],
) -> dict[str, float]:
    """Masked accuracy, pseudo-perplexity and agreement with the teacher; only what could be measured."""
    count = correct = agreed = 0
    nll_nats = 0.0
    has_teacher = all("teacher_ids" in target for target in targets)
    for target, prediction, nll in zip(targets, predictions, aux_values["gold_nll"], strict=True):
        best = prediction["best_ids"]
        count += len(best)
        correct += int((best == target["gold_ids"]).sum())
        nll_nats += float(np.asarray(nll, np.float64)[: len(best)].sum())
        if has_teacher:
            agreed += int((best == target["teacher_ids"]).sum())
    scores = MaskedWordScores(
        count=count, correct=correct, nll_nats=nll_nats, agreed=agreed if has_teacher and targets else None
    )
    return scores.metrics()
