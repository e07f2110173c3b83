"""Which pieces make a sequence. Always cut between words, except inside a word that alone is longer than a sequence.

across     the texts of a shard laid end to end, with a [SEP] between documents, as in RoBERTa's FULL-SENTENCES (Liu
           et al. 2019, section 4.2); a sequence ends early only where the next word does not fit

               [CLS] text 1 text 2 [SEP] text 3 of the next document ... [SEP]
                     '--- one document ---'

document   no sequence holds two documents; the last one of each document is short (DOC-SENTENCES)
best_fit   as `document`, then short ones are put together where they fill a sequence best, with a [SEP] between: no
           document is cut that fits into one sequence (Ding et al. 2024, "Fewer truncations improve language
           modeling": best fit, longest first)
"""

import bisect
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.predict import require_packing
from mergedistill_jax.corpus.masked import mask_sequence, numbers_of
from mergedistill_jax.corpus.pieces import SEPARATOR, Pieces, tokenise
from mergedistill_jax.schema import Record
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer


def sequence_bounds(pieces: Pieces, capacity: int) -> list[tuple[int, int]]:
    """Half-open ranges of pieces, at most `capacity` long and cut between words (inside one that alone is longer)."""
    return _bounds(pieces.may_cut(), capacity, 0, len(pieces.ids))


def _bounds(may_cut: Bool[np.ndarray, " n"], capacity: int, start: int, last: int) -> list[tuple[int, int]]:
    bounds = []
    while start < last:
        stop = min(start + capacity, last)
        cut = stop
        while cut > start and not may_cut[cut]:
            cut -= 1
        stop = cut if cut > start else stop
        bounds.append((start, stop))
        start = stop
    return bounds


def packed_sequences(pieces: Pieces, capacity: int, packing: str = "across") -> list[Int[np.ndarray, " n"]]:
    """The pieces of each sequence, as indices into them; at most `capacity` each, in the order of the text."""
    require_packing(packing)
    if packing == "across":
        return [np.arange(start, stop) for start, stop in sequence_bounds(pieces, capacity)]
    separators = np.flatnonzero(pieces.text == SEPARATOR)
    starts, stops = [0, *(separators + 1).tolist()], [*separators.tolist(), len(pieces.ids)]
    may_cut = pieces.may_cut()
    chunks = [
        np.arange(*bounds)
        for start, stop in zip(starts, stops, strict=True)
        for bounds in _bounds(may_cut, capacity, start, stop)
    ]
    if packing == "document":
        return chunks
    groups = best_fit([len(chunk) for chunk in chunks], capacity)
    return [_joined([chunks[index] for index in group], separators[:1]) for group in groups]


def _joined(chunks: Sequence[np.ndarray], separator: np.ndarray) -> np.ndarray:
    parts = [part for chunk in chunks for part in (separator, chunk)]
    return np.concatenate(parts[1:])


def best_fit(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Groups of the items, each of at most `capacity` with one place between two items; items and groups ascend.

    The longest first, each where it leaves the least room.
    """
    groups: list[list[int]] = []
    room: list[tuple[int, int]] = []  # what is left of each group, and its number, ascending
    for item in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        place = bisect.bisect_left(room, (sizes[item] + 1, -1))
        if place == len(room):
            left, group = capacity - sizes[item], len(groups)
            groups.append([])
        else:
            left, group = room.pop(place)
            left -= sizes[item] + 1
        groups[group].append(item)
        bisect.insort(room, (left, group))
    return sorted(sorted(group) for group in groups)


def masked_records(
    documents: Sequence[str],
    tokenizer: TeacherTokenizer,
    masking: MaskingConfig,
    *,
    max_length: int,
    draws: int,
    packing: str = "across",
) -> Iterator[Record]:
    """Masked sequences of some documents, all draws of one sequence in a row, with no predictions yet (k = 0).

    Raises:
        ValueError: an unknown packing, or draws that do not fit the masking.
    """
    masking.require_draws(draws, max_length)
    pieces = tokenise(documents, tokenizer)
    numbers = numbers_of(pieces, masking, draws)
    for sequence in packed_sequences(pieces, max_length - 2, packing):
        for draw in range(draws):
            yield from mask_sequence(pieces, sequence, numbers, tokenizer, masking, draw, max_length)
