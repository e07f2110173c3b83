import pytest

from mergedistill_jax.configs import recipe
from mergedistill_jax.configs.recipe import StudentRecipe, TeacherOf

ONE = TeacherOf(name="one", source="some/one", languages=("bn", "hi"))
TWO = TeacherOf(name="two", source="runs/two", languages=("de", "hi"))
WORDS = TeacherOf(name="words", source="some/words")
STUDENT = StudentRecipe(name="s", folder="runs/x", teachers=(ONE, TWO, WORDS), rule="best")


def test_who_teaches_what() -> None:
    assert recipe.sources(STUDENT) == {"one": "some/one", "two": "runs/two", "words": "some/words"}
    assert recipe.languages(STUDENT) == {"one": ("bn", "hi"), "two": ("de", "hi"), "words": ()}
    assert STUDENT.teachers_of("hi") == [ONE, TWO]
    assert (recipe.source(STUDENT, "bn"), recipe.teacher_name(STUDENT, "bn")) == ("some/one", "one")
    assert (recipe.source(STUDENT, "hi", "two"), recipe.teacher_name(STUDENT, "hi", "two")) == ("runs/two", "two")
    assert recipe.rule(STUDENT) == "best"


def test_records_stand_beside_students_and_are_listed_as_they_are_written() -> None:
    folders = recipe.record_folders(STUDENT, "train")
    assert folders == tuple(f"runs/x/records/train/{name}" for name in ("bn-one", "hi-one", "de-two", "hi-two"))
    pairs = [(language, teacher.name) for teacher in STUDENT.teachers for language in teacher.languages]
    assert folders == tuple(recipe.record_folder(STUDENT, "train", *pair) for pair in pairs)
    assert recipe.output(STUDENT, "vocabulary") == "runs/x/s/vocabulary"


@pytest.mark.parametrize(
    ("language", "name", "message"),
    [
        ("hi", None, "TEACHER_NAME: found None, expected 'one' or 'two' for hi"),
        ("hi", "words", "TEACHER_NAME: found 'words', expected 'one' or 'two' for hi"),
        ("bn", "two", "TEACHER_NAME: found 'two', expected 'one' for bn"),
        ("fr", None, "LANGUAGE: found 'fr', expected one of bn de hi"),
        (None, None, "LANGUAGE: found None, expected one of bn de hi"),
    ],
)
def test_a_teacher_must_be_clear(language: str | None, name: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        STUDENT.teacher(language, name)


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"StudentRecipe\.teachers: found \['one', 'one'\], expected at least one"):
        StudentRecipe(name="s", folder="x", teachers=(ONE, ONE))
    with pytest.raises(ValueError, match=r"StudentRecipe\.teachers: found \[\]"):
        StudentRecipe(name="s", folder="x", teachers=())
    with pytest.raises(ValueError, match=r"StudentRecipe\.rule: found 'worst', expected one of all, sample, best"):
        StudentRecipe(name="s", folder="x", teachers=(ONE,), rule="worst")
    with pytest.raises(ValueError, match=r"TeacherOf\.languages: found 'hi' twice for x, expected it once"):
        TeacherOf(name="x", source="x", languages=("hi", "bn", "hi"))
    with pytest.raises(ValueError, match=r"TeacherOf\.languages: found one string 'hi', expected several in brackets"):
        TeacherOf(name="x", source="x", languages="hi")
