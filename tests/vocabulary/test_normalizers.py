"""What normalisers do, found by asking, and the student's where its teachers differ."""

import pytest
from made_tokenizers import BERT, bert, byte_level, unigram, wordpiece
from tokenizers import Regex, normalizers

from mergedistill_jax.vocabulary.normalizers import Normalization, conflicts, normalization_of, student_normalization

FIELDS = ("lowercase", "strip_accents", "split_chinese", "compatibility")


def normalization(*does):
    """One that does these and no others."""
    assert set(does) <= set(FIELDS)
    return Normalization(**{field: field in does for field in FIELDS})


XLM_R = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
ALBERT = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        (bert("a"), normalization("split_chinese")),
        (wordpiece(*BERT, lowercase=True), normalization("lowercase", "strip_accents", "split_chinese")),
        (wordpiece(*BERT, lowercase=True, strip_accents=False), normalization("lowercase", "split_chinese")),
        (wordpiece(*BERT, strip_accents=True), normalization("strip_accents", "split_chinese")),
        (wordpiece(*BERT, split_chinese=False), normalization()),
        (unigram("▁a"), normalization()),
        (unigram("▁a", normalizer=XLM_R), normalization("compatibility")),
        (unigram("▁a", normalizer=ALBERT), normalization("lowercase", "strip_accents", "compatibility")),
        (unigram("▁a", normalizer=normalizers.Nmt()), normalization()),
        (unigram("▁a", normalizer=normalizers.Prepend("▁")), normalization()),
        (unigram("▁a", normalizer=normalizers.NFC()), normalization()),
        (byte_level("Ġa"), normalization()),
    ],
)
def test_a_normaliser_is_asked_what_it_does(teacher, expected):
    assert normalization_of(teacher) == expected


def bert_with(**switches):
    return normalization_of(wordpiece(*BERT, **switches))


@pytest.mark.parametrize(
    ("settings", "student", "differing"),
    [
        ([{}, {}], ["split_chinese"], []),
        ([{"lowercase": True}, {"lowercase": True}], ["lowercase", "strip_accents", "split_chinese"], []),
        # Stripping unspecified means stripping where lowercased: not a conflict with saying so.
        (
            [{"lowercase": True}, {"lowercase": True, "strip_accents": True}],
            ["lowercase", "strip_accents", "split_chinese"],
            [],
        ),
        ([{"lowercase": True}, {}], ["split_chinese"], ["lowercase", "strip_accents"]),
        ([{"lowercase": True, "strip_accents": False}, {}], ["split_chinese"], ["lowercase"]),
        ([{"strip_accents": True}, {}], ["split_chinese"], ["strip_accents"]),
        ([{"split_chinese": False}, {"split_chinese": False}], [], []),
        ([{"split_chinese": False}, {}], ["split_chinese"], ["split_chinese"]),
        # Teachers that differ at all need words that all of them agree on.
        (
            [{"split_chinese": False, "strip_accents": True}, {"split_chinese": False}],
            ["split_chinese"],
            ["strip_accents", "split_chinese"],
        ),
    ],
)
def test_the_student_keeps_more_of_the_text_where_teachers_differ(settings, student, differing):
    teachers = {f"teacher{index}": bert_with(**one) for index, one in enumerate(settings)}
    found = student_normalization(list(teachers.values()))
    assert found == normalization(*student)
    named = conflicts(teachers, found)
    assert list(named) == differing
    for field in differing:
        assert named[field] == {name: getattr(teacher, field) for name, teacher in teachers.items()}


def test_the_order_of_the_teachers_does_not_matter():
    teachers = [
        bert_with(lowercase=True),
        bert_with(split_chinese=False),
        normalization("strip_accents", "compatibility"),
    ]
    assert student_normalization(teachers) == student_normalization(teachers[::-1])


def test_what_the_students_tokenizer_cannot_do_is_a_conflict_even_among_equals():
    """BERT's normaliser has no compatibility forms: teachers that agree on them differ from the student."""
    xlm_r = normalization_of(unigram("▁a", normalizer=XLM_R))
    student = student_normalization([xlm_r, xlm_r])
    assert not student.compatibility
    assert conflicts({"one": xlm_r, "two": xlm_r}, student) == {"compatibility": {"one": True, "two": True}}


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("split_chinese", [True, False])
def test_the_students_own_tokenizer_does_what_was_decided(lowercase, split_chinese):
    """The answer, given to a tokenizer, is the tokenizer's answer."""
    decided = student_normalization([bert_with(lowercase=lowercase, split_chinese=split_chinese)])
    made = bert_with(
        lowercase=decided.lowercase, strip_accents=decided.strip_accents, split_chinese=decided.split_chinese
    )
    assert made == decided
