"""Settings of `pipeline`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

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
class Variant:
    """One student among several that are compared.

    Attributes:
        name: of its run; a report compares "student" with the teachers.
        gin_file: in gin/runs, which trains it.
        seed: of its start and its batches.
        size: tokens of its vocabulary, a cut of the union; None: the whole union.
        policies: how text is cut for its taggers, see finetune.
        layers_from: a teacher whose layers it starts with; for a gin file that starts from teachers.
        macros: further values for the gin file's macros: {'MISSING_MASS': 'tail'}.
    """

    name: str
    gin_file: str = "student"
    seed: int = 0
    size: int | None = None
    policies: Sequence[str] = ("teacher_routed",)
    layers_from: str | None = None
    macros: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """What to run.

    Attributes:
        output: folder for everything.
        languages: one teacher each.
        teacher_draws, transfer_draws: masks per sequence for teachers and for the students' records.
        masking_rate: share of words masked for training; held-out text always has 0.15.
        tagging: labelled tasks.
        variants: the students.
        own_heldout: scores students on held-out text cut by their own tokenizer too (the policy "union").
        report: folder of the report on the students of the whole union; `output` by default. Students of a cut have one
            beside it, report_SIZE.
        grammar_tagging: where set, writes the files that a task named "grammar" reads.
    """

    output: str
    languages: Sequence[str]
    title: str
    teacher_draws: int = 1
    transfer_draws: int = 1
    masking_rate: float = HELDOUT_RATE
    tagging: Sequence[TaggingTask] = ()
    variants: Sequence[Variant] = (Variant(name="student"), Variant(name="student_gold", gin_file="student_gold"))
    own_heldout: bool = False
    report: str | None = None
    grammar_tagging: GrammarTagging | None = None

    @property
    def sizes(self) -> list[int | None]:
        """The vocabularies that are needed, the whole union (None) first."""
        cuts = {variant.size for variant in self.variants if variant.size is not None}
        return [None, *sorted(cuts, reverse=True)]
