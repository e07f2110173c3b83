"""The map of one teacher: what an input becomes, where its parts go, and that a file of it is the same again."""

import io

import numpy as np
import pytest

from mergedistill_jax.vocabulary.id_map import DROPPED, UNK_ID, IdMap, ragged_map, whole_map

CUT = ragged_map(np.array([5, DROPPED, 6, DROPPED], np.int32), [[5], [7, 8], [6], [UNK_ID]])
"""Kept, spelled as two, kept, placeholder."""


def ids(*values):
    return np.array(values, np.int32)


def test_an_input_worked_by_hand():
    """A dropped token becomes its pieces, and what follows moves right."""
    expanded, first = CUT.expand(ids(1, 0, 3, 1, 2))
    assert expanded.tolist() == [7, 8, 5, UNK_ID, 7, 8, 6]
    assert first.tolist() == [0, 2, 3, 4, 6]
    assert (expanded.dtype, first.dtype) == (np.int32, np.int32)


def test_single_positions_keep_one_id():
    expanded, first = CUT.expand(ids(1, 0, 3, 1, 2), single=np.array([True, True, False, False, True]))
    assert expanded.tolist() == [7, 5, UNK_ID, 7, 8, 6]
    assert first.tolist() == [0, 1, 2, 3, 5]


def test_nothing_becomes_nothing():
    expanded, first = CUT.expand(ids())
    assert (len(expanded), len(first)) == (0, 0)


def random_map(generator, size=40):
    rows = [generator.integers(5, 99, generator.integers(1, 5)).tolist() for _ in range(size)]
    labels = np.array([row[0] if len(row) == 1 else DROPPED for row in rows], np.int32)
    return ragged_map(labels, rows), rows


@pytest.mark.parametrize("seed", range(5))
def test_an_input_is_its_rows_end_to_end(seed):
    generator = np.random.default_rng(seed)
    id_map, rows = random_map(generator)
    token_ids = generator.integers(0, len(rows), 30).astype(np.int32)
    single = generator.random(30) < 0.3
    expected, first = [], []
    for token_id, alone in zip(token_ids, single, strict=True):
        first.append(len(expected))
        expected += rows[token_id][:1] if alone else rows[token_id]
    found, where = id_map.expand(token_ids, single)
    assert found.tolist() == expected
    assert where.tolist() == first
    np.testing.assert_array_equal(id_map.expand(token_ids)[0], [i for one in token_ids for i in rows[one]])


def test_a_whole_map_changes_ids_alone():
    labels = ids(3, DROPPED, 0)
    id_map = whole_map(labels)
    expanded, first = id_map.expand(ids(2, 1, 0, 0))
    assert expanded.tolist() == [0, UNK_ID, 3, 3]
    assert first.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(id_map.labels, labels)
    assert id_map.one_to_one
    assert not CUT.one_to_one


def test_an_identity_is_one():
    identity = whole_map(np.arange(9, dtype=np.int32))
    np.testing.assert_array_equal(identity.expand(ids(4, 0, 8))[0], [4, 0, 8])
    assert identity.injective


@pytest.mark.parametrize(
    ("labels", "injective"),
    [([1, 2, 3], True), ([1, DROPPED, DROPPED], True), ([1, 2, 1], False), ([DROPPED], True)],
)
def test_dropped_tokens_do_not_make_a_map_ambiguous(labels, injective):
    assert whole_map(ids(*labels)).injective == injective


@pytest.mark.parametrize(
    "id_map", [CUT, whole_map(np.arange(7, dtype=np.int32)), random_map(np.random.default_rng(9))[0]]
)
def test_what_was_written_is_read(id_map):
    data = id_map.to_bytes()
    read = IdMap.from_bytes(data)
    for name in ("labels", "ids", "starts"):
        np.testing.assert_array_equal(getattr(read, name), getattr(id_map, name))
        assert getattr(read, name).dtype == getattr(id_map, name).dtype
    assert read.to_bytes() == data


def archive(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


ROWS = {"labels": ids(5), "ids": ids(5), "starts": np.array([0, 1])}


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "No data left in file"),
        (b"no archive", "pickled"),
        (CUT.to_bytes()[:-30], "not a zip file"),
        (CUT.to_bytes()[:100] + b"?" + CUT.to_bytes()[101:], "CRC"),
        (archive(labels=ids(5), ids=ids(5)), "starts"),
        (archive(**ROWS | {"labels": np.array([{}], object)}), "allow_pickle=False"),
        (archive(**ROWS | {"labels": np.zeros(1)}), r"field labels: found float64 of shape \(1,\), expected a row of"),
        (archive(**ROWS | {"ids": ids(5)[None]}), r"field ids: found int32 of shape \(1, 1\), expected a row of"),
    ],
)
def test_damage_is_one_line(data, named):
    with pytest.raises(ValueError, match=named) as error:
        IdMap.from_bytes(data)
    assert "\n" not in str(error.value)
