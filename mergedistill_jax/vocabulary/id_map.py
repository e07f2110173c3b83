"""From a teacher's ids to the student's: one label for each id, and for inputs one or more ids.

Where the student has every token of the teacher the two agree. Where the union was cut to a size (see cut.py):

    teacher's id     label       input
    haus             haus        haus
    hausboot (cut)   DROPPED     haus ##boot
    [unused1]        DROPPED     [UNK]

A dropped token cannot be predicted, so a masked position whose gold token is dropped is left out of the loss. In an
input it is spelled out instead, because a hidden context would be a worse loss than a longer sequence.
"""

import dataclasses
import io

import numpy as np
from jaxtyping import Bool, Int

DROPPED = -1
"""Label of a teacher's token that the student does not have, such as [unused1]."""

UNK_ID = 1
"""[UNK] of every union vocabulary, see canonical.SPECIAL."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class IdMap:
    """The map of one teacher.

    Attributes:
        labels: for each of the teacher's ids a student's id, or DROPPED (-1).
        ids, starts: the inputs: row r is ids[starts[r]:starts[r + 1]], never empty.
    """

    labels: Int[np.ndarray, " v"]
    ids: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " v1"]

    @property
    def one_to_one(self) -> bool:
        """Whether every input row has one id: sequences keep their length."""
        return len(self.ids) == len(self.labels)

    @property
    def injective(self) -> bool:
        """Whether no two tokens of the teacher have the same label."""
        kept = self.labels[self.labels >= 0]
        return len(np.unique(kept)) == len(kept)

    def expand(
        self, token_ids: Int[np.ndarray, " l"], single: Bool[np.ndarray, " l"] | None = None
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " l"]]:
        """The student's input ids, and for each of the teacher's ids the position where its first one stands.

        Args:
            token_ids: the teacher's.
            single: positions that keep one id, the first of their row, whatever they hold.
        """
        starts = self.starts[token_ids]
        counts = self.starts[token_ids + 1] - starts
        if single is not None:
            counts = np.where(single, 1, counts)
        first = np.cumsum(counts) - counts
        offsets = np.arange(counts.sum()) - np.repeat(first, counts)
        return self.ids[np.repeat(starts, counts) + offsets], first.astype(np.int32)

    def to_bytes(self) -> bytes:
        """A NumPy archive of the three arrays."""
        buffer = io.BytesIO()
        np.savez(buffer, labels=self.labels, ids=self.ids, starts=self.starts)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "IdMap":
        """Inverse of to_bytes.

        Raises:
            ValueError: no such archive, or arrays that are no rows of integers.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                arrays = {field.name: archive[field.name] for field in dataclasses.fields(cls)}
        except Exception as error:  # zipfile, numpy and KeyError: whatever a damaged archive ends in
            raise ValueError(" ".join(str(error).split())) from error
        for name, array in arrays.items():
            if array.ndim != 1 or array.dtype.kind != "i":
                found = f"{array.dtype} of shape {array.shape}"
                raise ValueError(f"field {name}: found {found}, expected a row of integers")
        return cls(**arrays)


def whole_map(labels: Int[np.ndarray, " v"]) -> IdMap:
    """The map of a teacher whose tokens the student has, placeholders aside, which read as [UNK]."""
    ids = np.where(labels < 0, UNK_ID, labels).astype(np.int32)
    return IdMap(labels=labels.astype(np.int32), ids=ids, starts=np.arange(len(labels) + 1, dtype=np.int64))


def ragged_map(labels: Int[np.ndarray, " v"], rows: list[list[int]]) -> IdMap:
    """The map with the given input rows, one for each of the teacher's ids."""
    lengths = [len(row) for row in rows]
    flat = [token_id for row in rows for token_id in row]
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return IdMap(labels=labels.astype(np.int32), ids=np.array(flat, np.int32), starts=starts)
