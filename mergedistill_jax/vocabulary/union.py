"""The union of several vocabularies, and the map from each teacher's ids into it, by canonical string."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from mergedistill_jax.vocabulary.canonical import PREFIX, SPECIAL, atoms, canonical_tokens
from mergedistill_jax.vocabulary.id_map import DROPPED
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Union:
    """A union vocabulary.

    Attributes:
        tokens: all tokens: the special ones, then each teacher's in the order of its ids, first come first served, then
            `completed` single characters.
        id_maps: for each teacher an array [tokens of the teacher] of union ids, DROPPED where there is none. Two tokens
            of one teacher may share an id: `.` and `▁.` of a SentencePiece model are the same word.
        completed: how many tokens no teacher has: characters that were missing word-initially or inside words. With
            them every word over the teachers' alphabets can be spelled.
    """

    tokens: tuple[str, ...]
    id_maps: Mapping[str, Int[np.ndarray, " v"]]
    completed: int


def unite(teachers: Mapping[str, TeacherTokenizer]) -> Union:
    """Unites vocabularies by string: the same canonical string is the same token, `##x` and `x` are two.

    Raises:
        VocabularyError: a teacher's tokenizer is of a family that has no canonical spelling.
    """
    return unite_canonical({name: canonical_tokens(teacher) for name, teacher in teachers.items()})


def unite_canonical(teachers: Mapping[str, list[str | None]]) -> Union:
    """The same from the teachers' tokens in canonical spelling (see canonical_tokens)."""
    ids = {token: index for index, token in enumerate(SPECIAL)}
    maps: dict[str, np.ndarray] = {}
    for name, canonical in teachers.items():
        for token in canonical:
            if token is not None:
                ids.setdefault(token, len(ids))
        maps[name] = np.array([DROPPED if token is None else ids[token] for token in canonical], np.int32)
    from_teachers = len(ids)
    for character in sorted(_alphabet(ids)):
        for token in (character, PREFIX + character):
            ids.setdefault(token, len(ids))
    return Union(tokens=tuple(ids), id_maps=maps, completed=len(ids) - from_teachers)


def _alphabet(tokens: Mapping[str, int]) -> set[str]:
    return {atom for token in tokens if token not in SPECIAL for atom in atoms(token)}


def overlaps(teachers: Mapping[str, list[str | None]]) -> dict[str, dict[str, int]]:
    """For each pair of teachers the number of ordinary tokens they share; on the diagonal how many each has."""
    sets = {name: set(tokens) - {None, *SPECIAL} for name, tokens in teachers.items()}
    return {one: {other: len(sets[one] & sets[other]) for other in sets} for one in sets}


def merged_tokens(id_map: Int[np.ndarray, " v"]) -> int:
    """How many tokens of a teacher share their union id with an earlier one of it."""
    kept = id_map[id_map != DROPPED]
    return len(kept) - len(np.unique(kept))
