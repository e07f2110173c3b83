"""Settings of `finetune`."""

import dataclasses
import math
from collections.abc import Sequence

from etils import epath

TASKS = ("ner", "pos")

DATA_FIELDS = ("train_files", "dev_files", "test_files")


POLICIES = ("union", "teacher_routed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """One fine-tuning run. The defaults are XTREME's for base-size models (Hu et al. 2020), but for the warmup.

    Attributes:
        model: Hugging Face folder of a masked language model, or a run folder of train.
        task: "pos" or "ner"; decides the scores.
        language: recorded in the result, which the report groups by.
        file_format: "tsv", "indexed_tsv", "conll", "conllu" or the names of the columns, see corpus/tagged_lines.py.
        test_format: the same for test_files where they differ; None: file_format.
        train_files: where empty, test_files are divided by `split_development`: 0.8 to train, 0.2 to test.
        dev_files: scored too, after training. Nothing is chosen by them.
        output: folder for result.json.
        policy: "union": the model's own tokenizer. "teacher_routed": a student is given the text as it was given its
            training text, cut by the language's own teacher tokenizer and mapped by that teacher's id map.
        vocabulary, teacher: for "teacher_routed" the vocabulary folder of the student, and the teacher's name in it.
        learning_rate: peak; 2e-5 suits 12 layers of 768, models of a few layers of 128 to 256 want about 5e-4.
        max_length: sub-words of a sentence; what happens to words beyond it is told in data/tagging.py.
        warmup_share: share of the steps in which the rate rises linearly; then it falls linearly to 0.
        max_train_sentences: train on a seeded sample of so many; None: on all.
        save_model: write the classifier as a Hugging Face folder, output/model.
    """

    model: str
    task: str
    language: str
    test_files: Sequence[str]
    file_format: str
    output: str
    train_files: Sequence[str] = ()
    dev_files: Sequence[str] = ()
    test_format: str | None = None
    policy: str = "union"
    vocabulary: str | None = None
    teacher: str | None = None
    learning_rate: float = 2e-5
    epochs: int = 10
    batch_size: int = 32
    max_length: int = 128
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    seed: int = 0
    max_train_sentences: int | None = None
    save_model: bool = False

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"FinetuneConfig.task: found {self.task!r}, expected one of {list(TASKS)}")
        self._require_policy()
        for field in DATA_FIELDS:
            if isinstance(getattr(self, field), str):
                raise ValueError(f"FinetuneConfig.{field}: found one string, expected a list of files")  # noqa: TRY004 - a setting
        if not self.test_files:
            raise ValueError("FinetuneConfig.test_files: found none, expected at least one file")
        if self.save_model and not (epath.Path(self.model) / "tokenizer.json").exists():
            raise ValueError(f"FinetuneConfig.save_model: found no {self.model}/tokenizer.json, expected it")
        if not 0.0 <= self.learning_rate < math.inf:
            raise ValueError(f"FinetuneConfig.learning_rate: found {self.learning_rate}, expected at least 0.0")
        for field in ("epochs", "batch_size", "max_train_sentences"):
            if getattr(self, field) is not None and getattr(self, field) < 1:
                raise ValueError(f"FinetuneConfig.{field}: found {getattr(self, field)}, expected at least 1")

    def _require_policy(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"FinetuneConfig.policy: found {self.policy!r}, expected one of {POLICIES}")
        routed = self.policy == "teacher_routed"
        for field in ("vocabulary", "teacher"):
            if (getattr(self, field) is not None) != routed:
                expected = "a value" if routed else "None"
                raise ValueError(
                    f"FinetuneConfig.{field}: found {getattr(self, field)!r}, expected {expected}"
                    f" with policy={self.policy!r}"
                )
        if self.save_model and routed:
            raise ValueError(
                "FinetuneConfig.save_model: found True with policy='teacher_routed', expected False: the saved folder"
                " holds the model's own tokenizer, which the classifier would not have been trained with"
            )
