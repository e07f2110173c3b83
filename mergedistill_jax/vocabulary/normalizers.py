"""What the teachers' normalisers do to a text, found by asking them, and what the student's shall do."""

import dataclasses
from collections.abc import Mapping, Sequence

from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalization:
    """What a tokenizer does to characters before it looks for pieces.

    Attributes:
        lowercase, strip_accents: as in BERT.
        split_chinese: every Chinese character becomes a word.
        compatibility: characters are replaced by their compatibility forms (NFKC), such as the ligature of f and i.
    """

    lowercase: bool
    strip_accents: bool
    split_chinese: bool
    compatibility: bool


def normalization_of(teacher: TeacherTokenizer) -> Normalization:
    """Asks a tokenizer with probes, which works for normalisers of every kind."""
    normalizer = teacher.tokenizer.normalizer

    def normalized(text: str) -> str:
        return text if normalizer is None else normalizer.normalize_str(text)

    pre_tokenizer = teacher.tokenizer.pre_tokenizer
    chinese = normalized("中中")
    pieces = [chinese] if pre_tokenizer is None else [piece for piece, _ in pre_tokenizer.pre_tokenize_str(chinese)]
    return Normalization(
        lowercase="A" not in normalized("A"),
        strip_accents="e" in normalized("é"),
        split_chinese=sum("中" in piece for piece in pieces) == 2,
        compatibility="fi" in normalized("\N{LATIN SMALL LIGATURE FI}"),
    )


def student_normalization(teachers: Sequence[Normalization]) -> Normalization:
    """The student's: where its teachers differ it keeps more of the text. Chinese characters are always split.

    The student's tokenizer is BERT's, whose normaliser has no compatibility forms.
    """
    return Normalization(
        lowercase=all(teacher.lowercase for teacher in teachers),
        strip_accents=all(teacher.strip_accents for teacher in teachers),
        split_chinese=any(teacher.split_chinese for teacher in teachers) or len(set(teachers)) > 1,
        compatibility=False,
    )


def conflicts(teachers: Mapping[str, Normalization], student: Normalization) -> dict[str, dict[str, bool]]:
    """{field: {teacher: what it does}} for every field in which a teacher differs from the student."""
    found = {}
    for field in dataclasses.fields(Normalization):
        values = {name: getattr(teacher, field.name) for name, teacher in teachers.items()}
        if set(values.values()) != {getattr(student, field.name)}:
            found[field.name] = values
    return found
