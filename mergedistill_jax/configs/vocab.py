"""Settings of `vocab`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.recipe import StudentRecipe

OWN = "student"
"""The name of the student's own tokenizer among the members; it is not one of them. Its id map is the identity."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """Learn a WordPiece vocabulary from a corpus.

    Attributes:
        corpus, split: a registered SeqIO task of documents and its split.
        size: tokens at most, special tokens included.
        name: what the one teacher with this vocabulary is called.
    """

    corpus: str
    split: str
    size: int
    name: str
    lowercase: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnionConfig:
    """Unite the vocabularies of teachers.

    Attributes:
        teachers: folders with a tokenizer, or names on the hub (see teachers/hub.py), by the name each shall have.
        languages: of each teacher, for the drift and the cut; a teacher without an entry has the language of its name.
        corpus: called with `language`, registers that language's SeqIO task of documents and returns its name:
            `@corpora.add_wikiextractor` in gin. None: nothing is measured on text.
        split: of that task.
        documents: read of each language, from the beginning.
        size: tokens of the student's vocabulary at most: the union is cut by expected use. None: the whole union.
        exponent: languages count in proportion to their sample's size to this power, as in the student's mixture.
        model: the student's size, called with the vocabulary's, for the report.
    """

    teachers: Mapping[str, str]
    languages: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    corpus: Callable[..., str] | None = None
    split: str = "transfer"
    documents: int = 1000
    size: int | None = None
    exponent: float = 0.7
    model: Callable[..., EncoderConfig] | None = None

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError("UnionConfig.teachers: found none, expected at least one teacher")
        if OWN in self.teachers:
            raise ValueError(f"UnionConfig.teachers: found {OWN!r}, expected another name: it is the student's own")
        unknown = sorted(set(self.languages) - set(self.teachers))
        if unknown:
            raise ValueError(f"UnionConfig.languages: found {unknown[0]!r}, expected one of {sorted(self.teachers)}")
        if self.size is not None and self.corpus is None:
            raise ValueError(
                f"UnionConfig.corpus: found None beside size={self.size},"
                " expected the text by whose use the union is cut"
            )

    def languages_of(self, teacher: str) -> Sequence[str]:
        """The languages whose text a teacher predicts."""
        return self.languages.get(teacher, (teacher,))


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabConfig:
    """Where the vocabulary goes and how it is made.

    Attributes:
        student: whom a union is for; `--dry_run` describes it.
    """

    output: str
    method: LearnConfig | UnionConfig
    student: StudentRecipe | None = None

    def __post_init__(self) -> None:
        if self.student is None:
            return
        found = getattr(self.method, "teachers", {})
        if dict(found) != self.student.sources:
            raise ValueError(
                f"VocabConfig.method: found teachers {dict(found)}, expected {self.student.sources} as of the student"
            )
