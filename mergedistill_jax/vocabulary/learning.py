"""A WordPiece vocabulary learned from text, for teachers that are trained from scratch."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Tokenizer, trainers

from mergedistill_jax.vocabulary.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer

MAX_ALPHABET = 1000
SPECIAL = [tokens[0] for tokens in SPECIAL_TOKENS.values()]


def learn_wordpiece(texts: Iterable[str], vocabulary_size: int, *, lowercase: bool = False) -> Tokenizer:
    """Learns a vocabulary with the `tokenizers` trainer; special tokens first, [PAD] at 0, accents kept when cased.

    The same texts give the same vocabulary, and ids in the order of the strings. The trainer alone does not: between
    equally frequent pairs it takes the one whose pieces have the lower ids, and it numbers the `##x` in the order of a
    hash map. So a first pass finds the single characters, and a second is given them in a fixed order.

    Args:
        texts: read twice; an iterator is held in memory for that.
        vocabulary_size: tokens at most, special tokens included.
        lowercase: lower case and strip accents.
    """
    texts = list(texts) if isinstance(texts, Iterator) else texts
    characters = _characters(texts, lowercase=lowercase)
    learned = _trained(texts, [*SPECIAL, *characters], vocabulary_size, 0, lowercase=lowercase)
    rest = sorted(set(learned) - set(SPECIAL))
    return _wordpiece([*SPECIAL, *rest], lowercase=lowercase)


def _characters(texts: Iterable[str], *, lowercase: bool) -> list[str]:
    """The single-character pieces `x` and `##x` of the most frequent characters, sorted."""
    normalizer = _wordpiece(SPECIAL, lowercase=lowercase).normalizer
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text))
    # Ties are broken by code point, where the trainer's own limit on the alphabet takes what comes.
    kept = set(sorted(counts, key=lambda character: (-counts[character], character))[:MAX_ALPHABET])
    pieces = set(_trained(texts, SPECIAL, 0, None, lowercase=lowercase)) - set(SPECIAL)
    return sorted(piece for piece in pieces if piece[-1] in kept)


def _trained(
    texts: Iterable[str], fixed: list[str], vocabulary_size: int, limit_alphabet: int | None, *, lowercase: bool
) -> list[str]:
    """The trainer's tokens: the fixed ones, `limit_alphabet` characters (None: all), then merges up to the size."""
    tokenizer = _wordpiece(SPECIAL, lowercase=lowercase)
    limit: dict[str, Any] = {} if limit_alphabet is None else {"limit_alphabet": limit_alphabet}
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size, special_tokens=fixed, show_progress=False, min_frequency=2, **limit
    )
    tokenizer.train_from_iterator(texts, trainer)
    return list(tokenizer.get_vocab(with_added_tokens=True))


def _wordpiece(tokens: list[str], *, lowercase: bool) -> Tokenizer:
    ids = {token: index for index, token in enumerate(tokens)}
    return wordpiece_tokenizer(ids, lowercase=lowercase, strip_accents=lowercase, split_chinese=True)
