"""Bytes of records before they are written."""

from pathlib import Path

import pytest
from small_merge import MAX_LENGTH, K, make_merge

from mergedistill_jax.configs.recipe import StudentRecipe, TeacherOf
from mergedistill_jax.manifest import read_manifest
from mergedistill_jax.planning.records import bytes_per_token, record_bytes


def test_the_design_budget_is_kept() -> None:
    """DESIGN: 8 bytes a token for teachers of up to 65,536 tokens, 10 above, at 15 % and eight candidates."""
    small, large = (bytes_per_token(size, k=8, length=512, rate=0.15) for size in (65_536, 197_285))
    assert 4 < small <= 8
    assert small < large <= 10
    assert bytes_per_token(30_000, k=0, length=512, rate=0.15) < small / 2


@pytest.mark.slow
def test_a_folder_on_disk_has_as_many(teachers: dict[str, Path]) -> None:
    """Its sequences are not all full, so that heads and framing weigh more."""
    merge = make_merge(next(iter(teachers.values())).parent)
    manifest = read_manifest(merge.records["en"])
    tokens, size, masked = (
        sum(getattr(entry, name) for entry in manifest.shards) for name in ("tokens", "bytes", "masked_positions")
    )
    expected = bytes_per_token(manifest.identity.vocabulary_size, k=K, length=MAX_LENGTH, rate=masked / tokens)
    assert size / tokens == pytest.approx(expected, rel=0.15)


def test_a_language_of_two_teachers_counts_twice_and_an_unknown_one_not_at_all() -> None:
    student = StudentRecipe(
        name="s",
        folder="f",
        teachers=(
            TeacherOf(name="a", source="a", languages=("en", "fr")),
            TeacherOf(name="b", source="b", languages=("en",)),
            TeacherOf(name="c", source="c"),
        ),
    )
    found = record_bytes(student, {"en": 1000.0}, 8.0, draws=2)
    assert [(one.teacher, one.language, one.bytes) for one in found] == [("a", "en", 16_000), ("b", "en", 16_000)]
