"""Which records share a batch: each is in one, it fits, little is padding, and the records alone decide."""

import collections

import numpy as np
import pytest

from mergedistill_jax.schema import Record
from mergedistill_jax.teachers.buckets import (
    Shape,
    batch_arrays,
    batches,
    expected_rows,
    pad_batch,
    shapes_for,
)


def record(length, masked=1, number=0):
    positions = np.arange(1, masked + 1, dtype=np.int32)
    return Record(
        text_id=number.to_bytes(8, "little"),
        draw=0,
        input_ids=np.arange(1, length + 1, dtype=np.int32),
        masked_positions=positions,
        gold_ids=positions + 100,
        top_ids=np.zeros((masked, 0), np.int32),
        top_log_probs=np.zeros((masked, 0), np.float32),
    )


def random_records(count, length, seed=0, share=0.2):
    lengths = np.random.default_rng(seed).integers(3, length + 1, count)
    return [record(int(one), max(1, int(one * share)), number) for number, one in enumerate(lengths)]


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (512, [64, 128, 192, 256, 320, 384, 448, 512]),
        (128, [32, 64, 96, 128]),
        (100, [32, 64, 96, 100]),
        (24, [24]),
    ],
)
def test_lengths(length, expected):
    assert [shape.length for shape in shapes_for(batch_size=8, length=length, max_predictions=9)] == expected


def test_shapes_hold_as_many_tokens_and_rows_and_their_share_of_masked_positions():
    shapes = shapes_for(batch_size=12, length=128, max_predictions=25, rows=200)
    assert [shape.sequences for shape in shapes] == [48, 24, 16, 12]
    assert [shape.predictions for shape in shapes] == [7, 13, 19, 25]
    assert {shape.rows for shape in shapes} == {200}


def test_rows_are_at_least_those_of_one_sequence_and_at_most_those_of_all():
    def rows(asked):
        return shapes_for(batch_size=4, length=64, max_predictions=12, rows=asked)[-1].rows

    assert [rows(asked) for asked in (None, 1, 30, 1000)] == [48, 16, 32, 48]
    assert expected_rows(32, 128, 0.15) == 632  # 614.4 expected, a little more, in eights


@pytest.mark.parametrize("rows", [None, 40])
@pytest.mark.parametrize("count", [0, 1, 7, 200])
def test_every_record_once_and_where_it_fits(count, rows):
    records = random_records(count, 128)
    shapes = shapes_for(batch_size=4, length=128, max_predictions=25, rows=rows)
    found = list(batches(records, shapes))
    assert sorted(number for batch in found for number in batch.numbers) == list(range(count))
    for batch in found:
        assert [records[number] for number in batch.numbers] == list(batch.records)
        assert len(batch.records) <= batch.shape.sequences
        assert sum(len(one.masked_positions) for one in batch.records) <= batch.shape.rows
        assert all(batch.shape.holds(one) for one in batch.records)


def test_records_of_many_lengths_are_padded_little():
    """Against sequences that are all padded to the length, of which half would be padding here."""
    records = random_records(500, 512)
    found = list(batches(records, shapes_for(batch_size=8, length=512, max_predictions=103)))
    used = sum(len(one.input_ids) for one in records)
    assert used / sum(batch.shape.sequences * batch.shape.length for batch in found) > 0.85
    assert used / (len(records) * 512) < 0.55


def test_at_most_one_batch_is_not_full_and_it_is_of_the_longest_shape():
    found = list(batches(random_records(333, 128), shapes_for(batch_size=4, length=128, max_predictions=25)))
    short = [batch for batch in found if len(batch.records) < batch.shape.sequences]
    assert [batch.shape.length for batch in short] in ([], [128])
    assert len({batch.shape for batch in found}) > 1


def test_a_few_short_records_do_not_ask_for_a_shape_of_their_own():
    records = [record(20, number=0), *(record(128, number=1 + number) for number in range(7))]
    found = list(batches(records, shapes_for(batch_size=4, length=128, max_predictions=25)))
    assert [(batch.shape.length, batch.numbers) for batch in found] == [(128, (1, 2, 3, 4)), (128, (5, 6, 7, 0))]


def test_a_full_batch_leaves_before_the_next_record_is_asked_for():
    asked = []

    def source():
        for number in range(9):
            asked.append(number)
            yield record(60, number=number)

    made = batches(source(), shapes_for(batch_size=2, length=128, max_predictions=25))
    assert next(made).numbers == (0, 1, 2, 3)
    assert asked == [0, 1, 2, 3]


def test_a_sequence_masked_more_than_its_share_goes_to_a_longer_shape():
    shapes = shapes_for(batch_size=2, length=128, max_predictions=25)
    (batch,) = batches([record(30, masked=20)], shapes)
    assert batch.shape.length == 128
    (first, *_) = batches([record(30, masked=6, number=number) for number in range(8)], shapes)
    assert first.shape.length == 32


@pytest.mark.parametrize(("length", "masked"), [(129, 1), (128, 26)])
def test_a_record_that_fits_nowhere_is_refused(length, masked):
    shapes = shapes_for(batch_size=2, length=128, max_predictions=25)
    message = f"record 1 .*found {length} ids and {masked} masked positions, expected at most 128 and 25"
    with pytest.raises(ValueError, match=message):
        list(batches([record(5), record(length, masked, 1)], shapes))


def test_batches_are_a_function_of_the_records():
    records = random_records(100, 128, seed=3)
    shapes = shapes_for(batch_size=4, length=128, max_predictions=25, rows=70)
    once, again = ([(batch.shape, batch.numbers) for batch in batches(iter(records), shapes)] for _ in range(2))
    assert once == again
    assert len(collections.Counter(shape for shape, _ in once)) > 2


def test_batch_arrays():
    """Two sequences of one and two masked positions, in a shape of three sequences and five rows."""
    shape = Shape(sequences=3, length=6, predictions=2, rows=5)
    arrays = batch_arrays([record(3, 1), record(5, 2)], shape, pad_id=9)
    assert arrays.token_ids.tolist() == [[1, 2, 3, 9, 9, 9], [1, 2, 3, 4, 5, 9], [9] * 6]
    assert arrays.lengths.tolist() == [3, 5, 1]
    assert arrays.masked_positions.tolist() == [[1, 0], [1, 2], [0, 0]]
    assert arrays.row_index.tolist() == [0, 2, 3, 0, 0]
    assert arrays.gold_ids.tolist() == [101, 101, 102, 0, 0]
    flat = arrays.masked_positions.reshape(-1)[arrays.row_index]
    assert flat[:3].tolist() == [1, 1, 2]


def test_pad_batch():
    token_ids, lengths, positions = pad_batch([record(3), record(5)], 3, 6, 2, 9)
    assert token_ids.tolist() == [[1, 2, 3, 9, 9, 9], [1, 2, 3, 4, 5, 9], [9] * 6]
    assert lengths.tolist() == [3, 5, 1]  # an empty row still attends to one token: no division by nothing
    assert positions.tolist() == [[1, 0], [1, 0], [0, 0]]
