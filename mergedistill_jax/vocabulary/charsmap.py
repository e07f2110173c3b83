"""The table of SentencePiece's normaliser, checked before use: the library that reads it trusts it.

A table is a byte string: the size of a trie in bytes (4 bytes, little endian), the trie as a double array of 32-bit
units (Aoe 1989; the layout of Darts-clone), and the replacements as UTF-8 strings, each ended by a NUL. The trie gives,
for the bytes of a character, where its replacement begins.
"""

import numpy as np

from mergedistill_jax.vocabulary.errors import VocabularyError

_BYTES = np.arange(1, 256, dtype=np.int64)
_MAX_DEPTH = 64
"""Bytes of the longest key; those of the published tables have at most 18."""


def check_charsmap(path: object, table: bytes) -> None:
    """Walks all of the trie.

    Raises:
        VocabularyError: a size, a node or a replacement lies outside the table.
    """
    size = int.from_bytes(table[:4], "little")
    if len(table) < 4 or size % 4 or not 4 <= size <= len(table) - 4:
        raise _damaged(path, f"a trie of {size} bytes in a table of {len(table)} bytes")
    units = np.frombuffer(table[4 : 4 + size], "<u4").astype(np.int64)
    replacements = np.frombuffer(table[4 + size :], np.uint8)
    values = _values(path, units)
    if len(values) and values.max() > len(replacements):
        raise _damaged(path, f"a replacement at byte {values.max()} of {len(replacements)}")
    inside = values[values < len(replacements)]
    if (replacements[inside] & 0xC0 == 0x80).any():
        raise _damaged(path, "a replacement that begins inside a character")


def _values(path: object, units: np.ndarray) -> np.ndarray:
    """The values of all keys, breadth first."""
    values = [np.zeros(0, np.int64)]
    nodes = np.unique(_offset(units[:1]))
    for _ in range(_MAX_DEPTH):
        if not len(nodes):
            return np.concatenate(values)
        # Whatever byte a text goes on with is looked up before it is compared.
        if (nodes | 0xFF).max() >= len(units):
            raise _damaged(path, f"node {nodes.max()} of {len(units)}")
        children = (nodes[:, None] ^ _BYTES).reshape(-1)
        label = np.tile(_BYTES, len(nodes))
        unit = units[children]
        there = (unit & (1 << 31 | 0xFF)) == label
        children, unit = children[there], unit[there]
        nodes = children ^ _offset(unit)
        ends = nodes[(unit >> 8) & 1 == 1]
        if len(ends) and ends.max() >= len(units):
            raise _damaged(path, f"node {ends.max()} of {len(units)}")
        values.append(units[ends] & ((1 << 31) - 1))
        nodes = np.unique(nodes)
    raise _damaged(path, f"keys of more than {_MAX_DEPTH} bytes")


def _offset(units: np.ndarray) -> np.ndarray:
    return (units >> 10) << ((units & (1 << 9)) >> 6)


def _damaged(path: object, found: str) -> VocabularyError:
    return VocabularyError(f"{path}: field precompiled_charsmap: found {found}, expected a whole table")
