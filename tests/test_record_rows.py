"""Records decoded together are those decoded one by one."""

import numpy as np
import pytest

from mergedistill_jax.record_rows import RecordRows, decode_records
from mergedistill_jax.schema import Layout, Record, RecordError, decode_record, encode_record

LENGTHS = [2, 16, 17, 1, 33, 128, 5]


def made(generator, layout, length):
    """A record with ids over the whole vocabulary, the last one always among them; the shortest have no mask."""
    masked = length // 4

    def ids(*shape):
        drawn = generator.integers(0, layout.vocabulary_size, shape).astype(np.int32)
        drawn.reshape(-1)[-1:] = layout.vocabulary_size - 1
        return drawn

    return Record(
        text_id=generator.bytes(8),
        draw=3,
        input_ids=ids(length),
        masked_positions=np.sort(generator.choice(length, masked, replace=False)).astype(np.int32),
        gold_ids=ids(masked),
        top_ids=ids(masked, layout.k),
        top_log_probs=-generator.exponential(1.0, (masked, layout.k)).astype(np.float32),
    )


def serialized(layout, lengths=LENGTHS):
    generator = np.random.default_rng(layout.vocabulary_size + layout.k)
    return [encode_record(made(generator, layout, length), layout) for length in lengths]


LAYOUTS = [
    Layout(k=k, vocabulary_size=size, version=version)
    for version in (1, 2)
    for k in (0, 1, 8)
    for size in (100, 1 << 16, (1 << 16) + 1, 120_000, 500_000)
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_decoded_together_as_one_by_one(layout):
    data = serialized(layout)
    rows, records = decode_records(data, layout), [decode_record(one, layout) for one in data]
    assert rows.lengths.tolist() == [len(record.input_ids) for record in records] == LENGTHS
    assert rows.counts.tolist() == [len(record.gold_ids) for record in records]
    for name in ("input_ids", "masked_positions", "gold_ids", "top_ids", "top_log_probs"):
        expected = np.concatenate([getattr(record, name) for record in records])
        found = getattr(rows, name)
        np.testing.assert_array_equal(found, expected)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert rows.input_ids.max() == layout.vocabulary_size - 1


@pytest.mark.parametrize("layout", [LAYOUTS[2], LAYOUTS[-1]], ids=str)
def test_no_records_and_records_without_a_mask(layout):
    nothing = decode_records([], layout)
    assert isinstance(nothing, RecordRows)
    assert len(nothing.lengths) == len(nothing.input_ids) == len(nothing.gold_ids) == 0
    unmasked = decode_records(serialized(layout, [3, 2]), layout)
    assert unmasked.counts.tolist() == [0, 0]
    assert unmasked.top_ids.shape == unmasked.top_log_probs.shape == (0, layout.k)


def test_a_record_that_contradicts_itself_is_refused_as_alone():
    for layout in (LAYOUTS[0], LAYOUTS[-1]):
        other = Layout(k=layout.k + 3, vocabulary_size=layout.vocabulary_size, version=layout.version)
        good, wrong = serialized(layout), serialized(other)
        for bad in (wrong[5], b"no example", b"", good[5][:-2]):
            with pytest.raises(RecordError) as alone:
                decode_record(bad, layout)
            with pytest.raises(RecordError) as together:
                decode_records([*good[:3], bad, *good[3:]], layout)
            assert str(together.value) == str(alone.value)
