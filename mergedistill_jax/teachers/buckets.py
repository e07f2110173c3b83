"""Records to batches of a few static shapes, so that short sequences are padded little and nothing compiles twice.

Every shape holds about the same number of tokens: many short sequences or few long ones. A record goes to the shortest
shape that holds it, in the order in which the records come, and a batch leaves when it is full:

    shape  [8, 64]     r0 r3 r4 ...      full when 8 records are in it, or `rows` masked positions
           [4, 128]    r1 r2 r5 ...

What is left at the end moves on to the next longer shape and fills up what is left there, so that a shape is used, and
compiled, only where it has a full batch, and at most one batch of all is not full. Which records share a batch is a
function of the records and the shapes alone.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Int

from mergedistill_jax.schema import Record

LENGTH_STEP, MOST_LENGTHS = 32, 8
"""Lengths are multiples of the first, and as many as the second at most."""
ROW_STEP = 8
"""Masked rows of a batch are a multiple of it, which is what the units that multiply matrices like."""
ROW_SLACK = 1.02
"""Masked positions of a batch vary: rows beyond the expected number against batches that are cut short for them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """One static shape.

    Attributes:
        sequences, length: of the token ids.
        predictions: most masked positions of one sequence.
        rows: most masked positions of all sequences together.
    """

    sequences: int
    length: int
    predictions: int
    rows: int

    def holds(self, record: Record) -> bool:
        """Whether the record fits into a sequence of this shape."""
        return len(record.input_ids) <= self.length and len(record.masked_positions) <= self.predictions


def expected_rows(batch_size: int, length: int, rate: float) -> int:
    """Rows for batches of batch_size * length tokens of which the share `rate` is masked on average.

    A batch of sequences that are masked more holds fewer of them: the number decides the speed alone.
    """
    return _round_up(batch_size * length * rate * ROW_SLACK, ROW_STEP)


def shapes_for(*, batch_size: int, length: int, max_predictions: int, rows: int | None = None) -> tuple[Shape, ...]:
    """The shapes of batches of batch_size * length tokens, the shortest first.

    Args:
        batch_size: sequences of full length.
        length: of the longest sequence, in tokens.
        max_predictions: most masked positions of a sequence.
        rows: masked positions of a batch; None: as many as batch_size sequences can have.
    """
    step = _round_up(length / MOST_LENGTHS, LENGTH_STEP)
    lengths = sorted({min(step * (index + 1), length) for index in range(MOST_LENGTHS)})
    rows = batch_size * max_predictions if rows is None else min(rows, batch_size * max_predictions)
    return tuple(
        Shape(
            sequences=max(1, batch_size * length // one),
            length=one,
            predictions=-(-max_predictions * one // length),
            rows=_round_up(max(rows, max_predictions, 1), ROW_STEP),
        )
        for one in lengths
    )


def _round_up(number: float, step: int) -> int:
    return max(1, -int(-number // step)) * step


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Some records, and their numbers in the order in which they came."""

    shape: Shape
    numbers: Sequence[int]
    records: Sequence[Record]


def batches(records: Iterable[Record], shapes: Sequence[Shape]) -> Iterator[Batch]:
    """All records in batches, as soon as they are full.

    Raises:
        ValueError: a record does not fit into the longest shape.
    """
    open_batches = [_OpenBatch(shape) for shape in shapes]
    for number, record in enumerate(records):
        place = next((index for index, shape in enumerate(shapes) if shape.holds(record)), None)
        if place is None:
            longest = shapes[-1]
            raise ValueError(
                f"record {number} (text {record.text_id.hex()}): found {len(record.input_ids)} ids and"
                f" {len(record.masked_positions)} masked positions, expected at most {longest.length} and"
                f" {longest.predictions}"
            )
        yield from open_batches[place].add(number, record)
    for shorter, longer in itertools.pairwise(open_batches):
        for number, record in shorter.take():
            yield from longer.add(number, record)
    yield from open_batches[-1].close()


class _OpenBatch:
    """A batch that is being filled."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._waiting: list[tuple[int, Record]] = []
        self._rows = 0

    def add(self, number: int, record: Record) -> Iterator[Batch]:
        """Takes a record, and gives what is full before or with it."""
        count = len(record.masked_positions)
        if self._rows + count > self._shape.rows:
            yield from self.close()
        self._waiting.append((number, record))
        self._rows += count
        if len(self._waiting) == self._shape.sequences:
            yield from self.close()

    def take(self) -> list[tuple[int, Record]]:
        """Gives up what waits."""
        waiting, self._waiting, self._rows = self._waiting, [], 0
        return waiting

    def close(self) -> Iterator[Batch]:
        """Gives what waits as a batch, if anything does."""
        if self._waiting:
            numbers, records = zip(*self.take(), strict=True)
            yield Batch(shape=self._shape, numbers=numbers, records=records)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BatchArrays:
    """What a device is given of a batch; what is not filled is padding.

    Attributes:
        token_ids, lengths: the sequences; a missing one has the length 1.
        masked_positions: of every sequence, in it.
        row_index: of every masked position of the batch, its place in masked_positions laid end to end.
        gold_ids: in the same order.
    """

    token_ids: Int[np.ndarray, "b l"]
    lengths: Int[np.ndarray, " b"]
    masked_positions: Int[np.ndarray, "b m"]
    row_index: Int[np.ndarray, " n"]
    gold_ids: Int[np.ndarray, " n"]

    def as_tuple(self) -> tuple[np.ndarray, ...]:
        """In the order above."""
        return self.token_ids, self.lengths, self.masked_positions, self.row_index, self.gold_ids


def batch_arrays(records: Sequence[Record], shape: Shape, pad_id: int) -> BatchArrays:
    """The arrays of some records in a shape that holds them."""
    token_ids, lengths, positions = pad_batch(records, shape.sequences, shape.length, shape.predictions, pad_id)
    row_index, gold_ids = np.zeros(shape.rows, np.int32), np.zeros(shape.rows, np.int32)
    start = 0
    for sequence, record in enumerate(records):
        stop = start + len(record.masked_positions)
        row_index[start:stop] = sequence * shape.predictions + np.arange(stop - start)
        gold_ids[start:stop] = record.gold_ids
        start = stop
    return BatchArrays(
        token_ids=token_ids, lengths=lengths, masked_positions=positions, row_index=row_index, gold_ids=gold_ids
    )


def pad_batch(
    records: Sequence[Record], batch_size: int, length: int, max_predictions: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Padded token_ids [b, l], lengths [b] and masked_positions [b, m]; missing rows hold one padding token."""
    token_ids = np.full((batch_size, length), pad_id, np.int32)
    lengths = np.ones(batch_size, np.int32)
    positions = np.zeros((batch_size, max_predictions), np.int32)
    for row, record in enumerate(records):
        token_ids[row, : len(record.input_ids)] = record.input_ids
        lengths[row] = len(record.input_ids)
        positions[row, : len(record.masked_positions)] = record.masked_positions
    return token_ids, lengths, positions
