"""The union of several WordPiece vocabularies, and the map from each teacher's ids into it, by string."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from mergedistill_jax.vocabulary.tokenizer import SPECIAL_TOKENS, TeacherTokenizer, VocabularyError, is_placeholder

DROPPED = -1
"""Entry of an id map for a teacher's token that the union leaves out, such as [unusedN]."""

SPECIAL = tuple(tokens[0] for tokens in SPECIAL_TOKENS.values())
"""[PAD] [UNK] [CLS] [SEP] [MASK]: one copy of each, first in the union, [PAD] at 0."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Union:
    """A union vocabulary.

    Attributes:
        tokens: all tokens, special ones first, then each teacher's in the order of its ids, first come first served.
        id_maps: for each teacher an array [tokens of the teacher] of union ids, DROPPED where there is none.
    """

    tokens: tuple[str, ...]
    id_maps: Mapping[str, Int[np.ndarray, " v"]]


def unite(teachers: Mapping[str, TeacherTokenizer]) -> Union:
    """Unites vocabularies by string: the same string is the same token, `##x` and `x` are two.

    Raises:
        VocabularyError: a teacher's model is not WordPiece with the prefix "##".
    """
    ids = {token: index for index, token in enumerate(SPECIAL)}
    maps: dict[str, np.ndarray] = {}
    for name, teacher in teachers.items():
        _require_wordpiece(teacher)
        canonical = canonical_tokens(teacher)
        for token in canonical:
            if token is not None:
                ids.setdefault(token, len(ids))
        maps[name] = np.array([DROPPED if token is None else ids[token] for token in canonical], np.int32)
    return Union(tokens=tuple(ids), id_maps=maps)


def canonical_tokens(teacher: TeacherTokenizer) -> list[str | None]:
    """A teacher's tokens under the union's names: special tokens by role, None for placeholders."""
    names = dict(zip(teacher.special_ids, SPECIAL, strict=True))
    return [
        names[index] if index in names else None if is_placeholder(token) else token
        for index, token in enumerate(teacher.tokens)
    ]


def overlaps(teachers: Mapping[str, TeacherTokenizer]) -> dict[str, dict[str, int]]:
    """For each pair of teachers the number of ordinary tokens they share; on the diagonal how many each has."""
    sets = {
        name: {token for token in canonical_tokens(teacher) if token is not None and token not in SPECIAL}
        for name, teacher in teachers.items()
    }
    return {one: {other: len(sets[one] & sets[other]) for other in sets} for one in sets}


def _require_wordpiece(teacher: TeacherTokenizer) -> None:
    model = teacher.tokenizer.model
    kind = type(model).__name__
    if kind != "WordPiece" or model.continuing_subword_prefix != "##":
        raise VocabularyError(f'{teacher.path}: field model: found {kind}, expected WordPiece with the prefix "##"')


def shared_normalizer(teachers: Sequence[TeacherTokenizer]) -> tuple[dict, list[str]]:
    """Normaliser switches for the student's own tokenizer, and the switches on which its teachers differ.

    Where they differ the student keeps more of the text: case and accents stay, Chinese characters are split.
    """
    keep_more = {"lowercase": False, "strip_accents": False, "handle_chinese_chars": True}
    found = [_switches(teacher) for teacher in teachers]
    conflicts = [name for name in keep_more if len({switches[name] for switches in found}) > 1]
    agreed = {name: keep_more[name] if name in conflicts else found[0][name] for name in keep_more}
    return agreed, conflicts


def _switches(teacher: TeacherTokenizer) -> dict:
    normalizer = teacher.tokenizer.normalizer
    names = ("lowercase", "strip_accents", "handle_chinese_chars")
    if type(normalizer).__name__ != "BertNormalizer":
        raise VocabularyError(
            f"{teacher.path}: field normalizer: found {type(normalizer).__name__}, expected BertNormalizer"
        )
    switches = {name: getattr(normalizer, name) for name in names}
    if switches["strip_accents"] is None:  # BERT: stripped exactly where lowercased
        switches["strip_accents"] = switches["lowercase"]
    return switches
