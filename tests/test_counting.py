"""Counts and sizes as they are printed."""

import pytest

from mergedistill_jax.counting import counted, in_bytes


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 students"), (1, "1 student"), (2, "2 students"), (12_345, "12,345 students")]
)
def test_one_is_singular(number: int, expected: str) -> None:
    assert counted(number, "student") == expected


def test_an_irregular_plural_is_given() -> None:
    assert counted(1, "vocabulary", "vocabularies") == "1 vocabulary"
    assert counted(2, "vocabulary", "vocabularies") == "2 vocabularies"


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (35_000, "35.0 kB"), (4_800_000, "4.8 MB"), (2e12, "2.0 TB")],
)
def test_no_size_is_rounded_to_nothing(size: float, expected: str) -> None:
    assert in_bytes(size) == expected
