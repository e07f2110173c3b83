"""The page for people: every number of it stands in vocabulary.json, and what was not measured is not there."""

import pytest

from mergedistill_jax.vocabulary.report import report_text, table

MEASURED = {
    "words": 12345,
    "drift": 0.0561,
    "trained_pieces_per_word": 1.414,
    "own_pieces_per_word": 1.4,
    "trained_unknown": 0.0,
    "own_unknown": 0.00012,
    "new_pieces": 0.03,
    "coverage": 1.0,
    "drifted": 692,  # counted, not shown
}
REPORT = {
    "size": 50000,
    "hash": "abc123",
    "whole_size": 61234,
    "completed": 210,
    "members": {"en": {"size": 28996, "tokenizer_hash": "x"}, "muril": {"size": 197285, "tokenizer_hash": "y"}},
    "dropped": {"en": 101, "muril": 102},
    "merged": {"en": 0, "muril": 7},
    "cut": {"en": 4000, "muril": 9000},
    "overlaps": {"en": {"en": 28890, "muril": 12000}, "muril": {"en": 12000, "muril": 197180}},
    "normalizer_conflicts": {
        "lowercase": {"en": True, "muril": False},
        "compatibility": {"en": False, "muril": False},
    },
    "parameters": {"the student": 123_456_789},
    "drift": {"en": {"en": MEASURED}, "muril": {"hi": MEASURED | {"new_pieces": None}}},
}
PAGE = """\
Union of 2 vocabularies: 50,000 tokens, hash abc123

teacher   tokens  placeholders  merged    cut
en        28,996           101       0  4,000
muril    197,285           102       7  9,000
characters added so that each stands word-initially and inside words: 210
tokens of the whole union: 61,234

Tokens in common
           en    muril
en     28,890   12,000
muril  12,000  197,180

Normalisers differ from the student's, or among the teachers: who does it
               teachers
lowercase            en
compatibility    nobody

Parameters of a student
size         parameters
the student     123.5 M

Segmentation drift: the student's own tokenizer against the teacher's
"""


def without(*fields):
    return {name: value for name, value in REPORT.items() if name not in fields}


def test_the_page_line_by_line():
    page = report_text(REPORT)
    assert page.startswith(PAGE)
    header, en, hi = page.removeprefix(PAGE).splitlines()
    columns = ["words cut otherwise", "pieces/word, teacher's", "own pieces not met", "coverage"]
    assert header.split()[:3] == ["teacher", "language", "words"]
    assert all(column in header for column in columns)
    assert " ".join(en.split()) == "en en 12,345 5.61 % 1.41 1.40 0.00 % 0.01 % 3.00 % 100.00 %"
    assert " ".join(hi.split()) == "muril hi 12,345 5.61 % 1.41 1.40 0.00 % 0.01 % - 100.00 %"


def test_the_numbers_stand_under_their_names():
    """Columns are flush right: where a name ends, its number ends."""
    header, en, hi = report_text(REPORT).splitlines()[-3:]
    for name, number in (("words cut otherwise", "5.61 %"), ("own pieces not met", "3.00 %"), ("coverage", "100.00 %")):
        end = header.index(name) + len(name)
        assert en[:end].endswith(number)
    assert len(header) == len(en) == len(hi)


@pytest.mark.parametrize(
    ("field", "title"), [("drift", "Segmentation drift"), ("parameters", "Parameters of a student")]
)
def test_what_was_not_measured_is_absent(field, title):
    assert title in report_text(REPORT)
    page = report_text(without(field))
    assert title not in page
    assert "\n\n\n" not in page
    assert page.endswith("\n")
    assert not page.endswith("\n\n")


def test_normalisers_that_agree_are_said_to():
    page = report_text(without("normalizer_conflicts") | {"normalizer_conflicts": {}})
    assert "Normalisers: all alike" in page
    assert "who does it" not in page


def test_a_table_without_rows_is_its_header():
    assert table(("a", "bc"), []) == "a  bc"
    assert table(("a", "bc"), [("long", "1")]) == "a     bc\nlong   1"
