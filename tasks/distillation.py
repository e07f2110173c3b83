"""Record folders as SeqIO tasks and mixtures: what a student is trained on.

From gin, as a reference that is called where the data is needed:

    TrainConfig.mixture = @distillation.add_students_mixture()
    distillation.add_students_mixture.folders = ('runs/demo/records/en', 'runs/demo/records/es')
    distillation.add_students_mixture.vocabulary = 'runs/demo/vocabulary'
"""

from collections.abc import Sequence
from typing import Any


def task_name(identity: Any) -> str:
    """Task name of a record folder by its manifest.Identity: its language, its teacher ("gold" without one), and its corpus' split."""  # noqa: E501
    split = identity.corpus.rsplit(":", 1)[-1]
    return f"records_{identity.language}_{identity.teacher or 'gold'}_{split}".replace("-", "_").replace(".", "_")


def add_students_mixture(
    folders: Sequence[str],
    vocabulary: str,
    exponent: float = 0.7,
    name: str = "records",
    rule: str = "all",
    seed: int = 0,
) -> str:
    """Registers one task per record folder and their mixture; returns the mixture's name.

    Args:
        folders: of records.
        vocabulary: folder of the student's vocabulary.
        exponent: see data/records.add_record_mixture.
        name: of the mixture.
        rule: what becomes of several teachers of one language: "all", "sample" or "best", see data/choice.py. A teacher
            that is chosen for no shard has no task.
        seed: of the rule "sample".

    Raises:
        ValueError: two folders would give the same task, or an unknown rule.
        RecordError, VocabularyError: a folder is unfinished, its teacher is not in the vocabulary, or the rule cannot
            choose among the folders.
    """
    from mergedistill_jax.data.choice import choose_shards
    from mergedistill_jax.data.records import add_record_mixture, add_record_task
    from mergedistill_jax.manifest import read_manifest

    manifests = [read_manifest(folder).require_complete() for folder in folders]
    names = [task_name(manifest.identity) for manifest in manifests]
    doubled = sorted({task for task in names if names.count(task) > 1})
    if doubled:
        raise ValueError(f"folders: found two folders for {doubled[0]}, expected each language, teacher and split once")
    tasks = []
    for task, manifest, shards in zip(names, manifests, choose_shards(manifests, rule, seed=seed), strict=True):
        records = sum(entry.records for entry in manifest.shards if entry.shard in set(shards))
        if records or not manifest.records:  # a folder that never had any is refused by name
            tasks.append(add_record_task(task, str(manifest.folder), vocabulary, shards))
    return add_record_mixture(name, tasks, exponent)
