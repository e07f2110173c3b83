"""Which character a byte piece of SentencePiece belongs to.

Where a model falls back to bytes, `tokenizers` takes neighbouring unknown characters together, and says of each byte
that it covers them all:

    text     x  語  言            text: 3 characters
    pieces   x  E8 AA 9E  E8 A8 80
    starts   0  1  1  1   1  1  1   as given
             0  1  1  1   2  2  2   as needed: one character may be one word
"""

import itertools
from typing import Any

import numpy as np
from jaxtyping import Int
from tokenizers import Encoding


def spread_byte_pieces(
    text: str, encoding: Encoding, starts: Int[np.ndarray, " n"], byte_of_id: Int[np.ndarray, " v"], normalizer: Any
) -> None:
    """Moves the starts of byte pieces to the characters they are part of, in place.

    Args:
        text: what was encoded.
        encoding: its pieces.
        starts: the character at which each piece starts.
        byte_of_id: the byte of a byte piece, -1 for all others.
        normalizer: the tokenizer's, or None; it may have changed the number of characters.
    """
    bytes_ = byte_of_id[np.asarray(encoding.ids, np.int64)] if len(encoding.ids) else np.zeros(0, np.int64)
    if (bytes_ >= 0).sum() < 2:
        return
    offsets = np.asarray(encoding.offsets, np.int64)
    same = (bytes_[1:] >= 0) & (bytes_[:-1] >= 0) & (offsets[1:] == offsets[:-1]).all(1)
    edges = np.flatnonzero(~np.concatenate([[False], same, [False]]))
    for first, stop in itertools.pairwise(edges):
        start, end = offsets[first]
        if bytes_[first] >= 0 and end - start > 1:
            # A byte that is no continuation begins a character.
            character = np.cumsum(bytes_[first:stop] & 0xC0 != 0x80) - 1
            owners = _owners(text[start:end], int(character[-1]) + 1, normalizer)
            starts[first:stop] = start + owners[np.maximum(character, 0)]


def _owners(span: str, count: int, normalizer: Any) -> Int[np.ndarray, " c"]:
    """For each of the `count` characters that a span was normalised to, the character of the span it came from.

    Characters are normalised one by one. Where that gives another count, they keep their order at least.
    """
    widths = [1 if normalizer is None else len(normalizer.normalize_str(character)) for character in span]
    owners = np.repeat(np.arange(len(span)), widths)
    if len(owners) < count:  # a ▁ that was set before the first and is no piece either
        owners = np.concatenate([np.zeros(count - len(owners), np.int64), owners])
    return owners if len(owners) == count else np.minimum(np.arange(max(count, 1)), len(span) - 1)
