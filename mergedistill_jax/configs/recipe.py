"""A student as a list of teachers and their languages, and the folders that its stages share.

The functions below a recipe exist for gin, which can call but neither read an attribute nor join strings; see
gin/students. Records stand beside the students, because a teacher is run once for all of them:

    FOLDER/records/SPLIT/LANGUAGE-TEACHER    what `predict` writes
    FOLDER/STUDENT/vocabulary                what `vocab` writes
    FOLDER/STUDENT/student                   what `train` writes
"""

import dataclasses
from collections.abc import Sequence

RULES = ("all", "sample", "best")
"""What becomes of several teachers of one language, see data/choice.py."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherOf:
    """A teacher of a student.

    Attributes:
        name: in vocabulary folders, manifests and reports.
        source: its folder, or its name on the hub (see hub.py).
        languages: whose text it predicts; none where it gives its vocabulary alone.
    """

    name: str
    source: str
    languages: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.languages, str):
            raise ValueError(f"TeacherOf.languages: found one string {self.languages!r}, expected several in brackets")  # noqa: TRY004 - a setting
        doubled = sorted({one for one in self.languages if list(self.languages).count(one) > 1})
        if doubled:
            raise ValueError(f"TeacherOf.languages: found {doubled[0]!r} twice for {self.name}, expected it once")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentRecipe:
    """A student.

    Attributes:
        name: of its folder.
        folder: for everything.
        rule: what becomes of several teachers of one language, see data/choice.py.
    """

    name: str
    folder: str
    teachers: Sequence[TeacherOf]
    rule: str = "all"

    def __post_init__(self) -> None:
        names = [teacher.name for teacher in self.teachers]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"StudentRecipe.teachers: found {names}, expected at least one, and no name twice")
        if self.rule not in RULES:
            raise ValueError(f"StudentRecipe.rule: found {self.rule!r}, expected one of {', '.join(RULES)}")

    @property
    def sources(self) -> dict[str, str]:
        """Folder or hub name by the teacher's name."""
        return {teacher.name: teacher.source for teacher in self.teachers}

    @property
    def languages(self) -> dict[str, tuple[str, ...]]:
        """Languages by the teacher's name."""
        return {teacher.name: tuple(teacher.languages) for teacher in self.teachers}

    def teachers_of(self, language: str) -> list[TeacherOf]:
        """Who predicts the text of a language."""
        return [teacher for teacher in self.teachers if language in teacher.languages]

    def teacher(self, language: str | None, name: str | None) -> TeacherOf:
        """The one teacher of a language, or that of several which is named.

        Raises:
            ValueError: nobody of that name predicts the language, or several do and none is named.
        """
        able = self.teachers_of(language) if language else []
        if not able:
            known = sorted({one for languages in self.languages.values() for one in languages})
            raise ValueError(f"LANGUAGE: found {language!r}, expected one of {' '.join(known)}")
        named = [teacher for teacher in able if name in (None, teacher.name)]
        if len(named) != 1:
            expected = " or ".join(repr(teacher.name) for teacher in able)
            raise ValueError(f"TEACHER_NAME: found {name!r}, expected {expected} for {language}")
        return named[0]


def sources(student: StudentRecipe) -> dict[str, str]:
    """For UnionConfig.teachers."""
    return student.sources


def languages(student: StudentRecipe) -> dict[str, tuple[str, ...]]:
    """For UnionConfig.languages."""
    return student.languages


def source(student: StudentRecipe, language: str | None, name: str | None = None) -> str:
    """For PredictConfig.teacher: folder or hub name of the teacher of a language."""
    return student.teacher(language, name).source


def teacher_name(student: StudentRecipe, language: str | None, name: str | None = None) -> str:
    """For PredictConfig.name."""
    return student.teacher(language, name).name


def rule(student: StudentRecipe) -> str:
    """For add_students_mixture.rule."""
    return student.rule


def output(student: StudentRecipe, part: str) -> str:
    """For the outputs of stages: a folder of this student alone, such as "vocabulary"."""
    return f"{student.folder}/{student.name}/{part}"


def record_folder(student: StudentRecipe, split: str, language: str | None, name: str | None = None) -> str:
    """For PredictConfig.output and VerifyConfig.folder."""
    teacher = student.teacher(language, name)
    return f"{student.folder}/records/{split}/{language}-{teacher.name}"


def record_folders(student: StudentRecipe, split: str) -> tuple[str, ...]:
    """For add_students_mixture.folders: every teacher's records of each of its languages."""
    return tuple(
        record_folder(student, split, language, teacher.name)
        for teacher in student.teachers
        for language in teacher.languages
    )
