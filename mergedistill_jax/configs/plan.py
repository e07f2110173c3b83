"""Settings of `plan`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.recipe import StudentRecipe
from mergedistill_jax.configs.train import TrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What to plan.

    Attributes:
        output: folder for plan.txt and plan.json.
        topology: devices to plan for, see planning/topology.py.
        train: the run, as `train` would get it.
        max_length: tokens of a sequence.
        masking: of the records.
        k: predictions per masked position.
        sources: record folders of the run, where no student tells them.
        student: teachers and their languages.
        vocabulary: the student's vocabulary folder; its size is taken where it is there.
        vocabulary_size: taken where it is not.
        teacher_vocabulary_size: of a teacher that is not on this machine; None: its records and its predict step are
            left out.
        teacher: a teacher's model, called like `train.model`, where it is not on this machine; None: as the student's.
        predict_batch_size, predict_dtype: of full sequences at a time on one chip, and of its matrix products.
        corpus_tokens: by language, in the teacher's tokens.
        tokens_per_language: of the languages that are not named there; None: they are left out.
        draws: masks of every sequence.
        candidates: how many ways to run the step are compiled, three or four minutes each for BERT-base.
        variants: which, as changes to fields of the run or of its model; None: those of planning/search.py.
        scale_to: a larger slice to compile the best one for too, with as many sequences per chip.
        compiled: folder of compiled programs, which are not compiled again by this or another plan; None: none is kept.
    """

    output: str
    topology: str
    train: TrainConfig
    max_length: int
    masking: MaskingConfig
    k: int = 8
    sources: int = 1
    student: StudentRecipe | None = None
    vocabulary: str | None = None
    vocabulary_size: int | None = None
    teacher_vocabulary_size: int | None = None
    teacher: Callable[..., Any] | None = None
    predict_batch_size: int = 32
    predict_dtype: str = "float32"
    corpus_tokens: Mapping[str, float] = dataclasses.field(default_factory=dict)
    tokens_per_language: float | None = None
    draws: int = 1
    candidates: int = 1
    variants: Sequence[Mapping[str, Any]] | None = None
    scale_to: str | None = None
    compiled: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_length", "sources", "candidates", "draws", "predict_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"PlanConfig.{name}: found {getattr(self, name)}, expected at least 1")
        for name in ("vocabulary_size", "teacher_vocabulary_size"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"PlanConfig.{name}: found {size}, expected at least 1")
