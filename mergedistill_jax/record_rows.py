"""Many records decoded at once: what schema.decode_record gives one by one, laid end to end.

    record          0             1       2
    tokens          [CLS] a b c [SEP]  [CLS] d [SEP]  ...      input_ids, with `lengths` of each record
    masked          . 1 . 2 .          . 1 .          ...      positions within the record, with `counts` of each

A reader of thousands of records a second has no time for a few arrays per record, but for a few per thousand.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from jaxtyping import Float, Int, UInt

from mergedistill_jax.schema import (
    _V1_HEAD_BYTES,
    FEATURE,
    HEAD_WORDS,
    WORD_BITS,
    Layout,
    Record,
    RecordError,
    _v1_names,
    _v1_unpacked,
    decode_record,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RecordRows:
    """Records laid end to end, in their teacher's ids.

    Attributes:
        lengths, counts: tokens and masked positions of each of the r records.
        input_ids: of all records, n in all.
        masked_positions, gold_ids, top_ids, top_log_probs: of all masked positions, m in all; a position counts from
            the start of its own record.
    """

    lengths: Int[np.ndarray, " r"]
    counts: Int[np.ndarray, " r"]
    input_ids: Int[np.ndarray, " n"]
    masked_positions: Int[np.ndarray, " m"]
    gold_ids: Int[np.ndarray, " m"]
    top_ids: Int[np.ndarray, "m k"]
    top_log_probs: Float[np.ndarray, "m k"]


def decode_records(serialized: Sequence[bytes], layout: Layout) -> RecordRows:
    """Decodes records of one layout.

    Raises:
        RecordError: a record contradicts itself or the layout, see schema.decode_record.
    """
    features = [_features(one) for one in serialized]
    names = _v1_names(layout.k) if layout.version == 1 else {FEATURE}
    rows = None
    if all(names == set(one) for one in features):
        rows = _of_features(features, layout) if layout.version == 1 else _of_words(features, layout)
    if rows is None:
        for one in serialized:
            decode_record(one, layout)  # says what is wrong
        raise RecordError(f"records: found some that contradict one another, expected records of {layout}")
    return rows


def rows_of(records: Sequence[Record]) -> RecordRows:
    """Records that are decoded already, at least one."""
    return RecordRows(
        lengths=np.array([len(record.input_ids) for record in records]),
        counts=np.array([len(record.gold_ids) for record in records]),
        **{
            name: np.concatenate([getattr(record, name) for record in records])
            for name in ("input_ids", "masked_positions", "gold_ids", "top_ids", "top_log_probs")
        },
    )


def ranges(starts: Int[np.ndarray, " r"], counts: Int[np.ndarray, " r"]) -> Int[np.ndarray, " n"]:
    """start, start + 1, ... of each range, end to end."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))


def _features(serialized: bytes) -> dict[str, bytes]:
    try:
        found = tf.train.Example.FromString(serialized).features.feature
    except Exception:  # noqa: BLE001 - protobuf's own DecodeError has no public, stable home; decode_record tells
        return {}
    return {name: found[name].bytes_list.value[0] for name in found if len(found[name].bytes_list.value) == 1}


def _of_words(features: Sequence[Mapping[str, bytes]], layout: Layout) -> RecordRows | None:
    data = [one[FEATURE] for one in features]
    sizes = np.array([len(one) for one in data], np.int64)
    if len(sizes) and ((sizes % 2).any() or sizes.min() < 2 * HEAD_WORDS):
        return None
    words = np.frombuffer(b"".join(data), "<u2")
    sizes //= 2
    starts = np.cumsum(sizes) - sizes
    lengths, counts = (words[starts + place].astype(np.int64) for place in (5, 6))
    sections = _sections(layout, lengths, counts)
    if not np.array_equal(HEAD_WORDS + sum(sections), sizes):
        return None
    ids, log_probs, mask, high = (
        starts + HEAD_WORDS + sum(sections[:index], np.zeros_like(starts)) for index in range(len(sections))
    )
    masked = _set_bits(words[ranges(mask, sections[2])], sections[2], lengths, counts)
    if masked is None:
        return None
    all_ids = words[ranges(ids, sections[0])].astype(np.int32)
    _add_high_bits(all_ids, words, high, sections[0], layout)
    inputs = ranges(np.cumsum(sections[0]) - sections[0], lengths)
    is_label = np.ones(len(all_ids), bool)
    is_label[inputs] = False
    labels = all_ids[is_label].reshape(-1, 1 + layout.k)
    values = words[ranges(log_probs, sections[1])].view("<f2").astype(np.float32)
    return RecordRows(
        lengths=lengths,
        counts=counts,
        input_ids=all_ids[inputs],
        masked_positions=masked,
        gold_ids=labels[:, 0],
        top_ids=labels[:, 1:],
        top_log_probs=values.reshape(len(labels), layout.k),
    )


def _sections(layout: Layout, lengths: Int[np.ndarray, " r"], counts: Int[np.ndarray, " r"]) -> list[np.ndarray]:
    """Layout.sections of every record: words of the ids, the log-probabilities, the mask and the high bits."""
    ids = lengths + counts * (1 + layout.k)
    return [ids, counts * layout.k, -(-lengths // WORD_BITS), layout.high_bits * -(-ids // WORD_BITS)]


def _add_high_bits(
    all_ids: Int[np.ndarray, " n"],
    words: UInt[np.ndarray, " w"],
    starts: Int[np.ndarray, " r"],
    ids: Int[np.ndarray, " r"],
    layout: Layout,
) -> None:
    """Adds, in place, the bits of every id beyond the sixteenth: a plane of whole words per bit and record."""
    if not layout.high_bits:
        return
    plane = -(-ids // WORD_BITS)
    within = ranges(np.zeros_like(ids), plane * WORD_BITS)
    real = within < np.repeat(ids, plane * WORD_BITS)
    for bit in range(layout.high_bits):
        bits = np.unpackbits(words[ranges(starts + bit * plane, plane)].view(np.uint8), bitorder="little")
        all_ids |= bits[real].astype(np.int32) << (WORD_BITS + bit)


def _set_bits(
    words: UInt[np.ndarray, " w"],
    per_record: Int[np.ndarray, " r"],
    lengths: Int[np.ndarray, " r"],
    counts: Int[np.ndarray, " r"],
) -> Int[np.ndarray, " m"] | None:
    """Positions of the bits that are set, from the start of their record; None where they are not those counted."""
    unit = 8 * words.dtype.itemsize
    places = np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))
    bits = per_record * unit
    record = np.searchsorted(np.cumsum(bits), places, side="right")
    positions = places - (np.cumsum(bits) - bits)[record]
    wrong = (positions >= lengths[record]).any() or not np.array_equal(np.bincount(record, minlength=len(bits)), counts)
    return None if wrong else positions.astype(np.int32)


def _of_features(features: Sequence[Mapping[str, bytes]], layout: Layout) -> RecordRows | None:
    """Version 1."""
    k, width = layout.k, layout.id_bits // 8
    heads, inputs, labels = ([one[name] for one in features] for name in ("head", "input", "labels"))
    sizes = np.array([[len(one) for one in part] for part in (heads, inputs, labels)], np.int64)
    sizes = sizes.reshape(3, -1)
    lengths, counts = sizes[1] // width, sizes[2] // (width * (1 + k))
    per_record = sizes[0] - _V1_HEAD_BYTES
    values = [one.get("log_probs", b"") for one in features]
    consistent = (
        np.array_equal(lengths * width, sizes[1])
        and np.array_equal(counts * width * (1 + k), sizes[2])
        and np.array_equal(per_record, -(-lengths // 8))
        and np.array_equal(np.array([len(one) for one in values], np.int64), counts * k * 2)
    )
    if not consistent:
        return None
    mask = np.frombuffer(b"".join(head[_V1_HEAD_BYTES:] for head in heads), np.uint8)
    masked = _set_bits(mask, per_record, lengths, counts)
    if masked is None:
        return None
    all_labels = _v1_unpacked(b"".join(labels), width).reshape(-1, 1 + k)
    return RecordRows(
        lengths=lengths,
        counts=counts,
        input_ids=_v1_unpacked(b"".join(inputs), width),
        masked_positions=masked,
        gold_ids=all_labels[:, 0],
        top_ids=all_labels[:, 1:],
        top_log_probs=np.frombuffer(b"".join(values), "<f2").astype(np.float32).reshape(len(all_labels), k),
    )
