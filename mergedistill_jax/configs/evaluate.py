"""Settings of `evaluate`."""

import dataclasses
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What to score and report.

    Attributes:
        output: folder for report.json and report.html.
        heldout: mixture of held-out records, one folder per language, predicted by that language's teacher.
        heldout_union: mixture of the same held-out texts cut by the student's own tokenizer (`predict` with
            tokenizer = the student's vocabulary folder hides the same words): scores under the policy `union`, beside
            those of `heldout`, which is `teacher_routed`.
        train_records: for each language a folder whose gold labels give the most-frequent-token baseline.
        teachers: for each language the Hugging Face folder of its teacher.
        students: run folders by name: "student", "student_gold", any other.
        finetuned: for each model name the output folders of finetune.
        teacher_runs: run folders of teachers trained here, by language, for their curves.
        run_folder: where the stages' times and commands are gathered from, or None.
        examples: sentences per language filled in by teacher and student.
    """

    output: str
    heldout: str
    teachers: Mapping[str, str]
    students: Mapping[str, str]
    heldout_union: str | None = None
    train_records: Mapping[str, str] = dataclasses.field(default_factory=dict)
    finetuned: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    teacher_runs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    run_folder: str | None = None
    title: str = "Teachers and student"
    batch_size: int = 32
    examples: int = 3
