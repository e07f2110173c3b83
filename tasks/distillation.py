"""Record folders as SeqIO tasks and mixtures: what a student is trained on.

From gin, as a reference that is called where the data is needed:

    TrainConfig.mixture = @distillation.add_students_mixture()
    distillation.add_students_mixture.folders = ('runs/demo/records/en', 'runs/demo/records/es')
    distillation.add_students_mixture.vocabulary = 'runs/demo/vocabulary'
"""

from collections.abc import Sequence

from mergedistill_jax.data.records import add_record_mixture, add_record_task
from mergedistill_jax.schema import read_manifest


def task_name(folder: str) -> str:
    """Task name of a record folder: its language, its teacher ("gold" without one), and its corpus' split."""
    identity = read_manifest(folder).identity
    split = identity.corpus.rsplit(":", 1)[-1]
    return f"records_{identity.language}_{identity.teacher or 'gold'}_{split}".replace("-", "_").replace(".", "_")


def add_students_mixture(folders: Sequence[str], vocabulary: str, exponent: float = 0.7, name: str = "records") -> str:
    """Registers one task per record folder and their mixture; returns the mixture's name.

    Raises:
        ValueError: two folders would give the same task.
        RecordError, VocabularyError: a folder is unfinished, or its teacher is not in the vocabulary.
    """
    names = [task_name(folder) for folder in folders]
    doubled = sorted({task for task in names if names.count(task) > 1})
    if doubled:
        raise ValueError(f"folders: found two folders for {doubled[0]}, expected each language, teacher and split once")
    tasks = [add_record_task(task, folder, vocabulary) for task, folder in zip(names, folders, strict=True)]
    return add_record_mixture(name, tasks, exponent)
