"""A WordPiece vocabulary learned from text, for teachers that are trained from scratch."""

from collections.abc import Iterable

from tokenizers import Tokenizer, trainers

from mergedistill_jax.vocabulary.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer


def learn_wordpiece(texts: Iterable[str], vocabulary_size: int, *, lowercase: bool = False) -> Tokenizer:
    """Learns a vocabulary with the `tokenizers` trainer; special tokens first, [PAD] at 0, accents kept when cased."""
    special = [tokens[0] for tokens in SPECIAL_TOKENS.values()]
    tokenizer = _empty(lowercase=lowercase)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size, special_tokens=special, show_progress=False, min_frequency=2, limit_alphabet=1000
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _deterministic(tokenizer, lowercase=lowercase)


def _empty(*, lowercase: bool) -> Tokenizer:
    special = {tokens[0]: index for index, tokens in enumerate(SPECIAL_TOKENS.values())}
    return wordpiece_tokenizer(special, lowercase=lowercase, strip_accents=lowercase, split_chinese=True)


def _deterministic(tokenizer: Tokenizer, *, lowercase: bool) -> Tokenizer:
    """The same vocabulary with the ids of equal-ranked tokens put in a fixed order.

    The trainer breaks ties between equally frequent pairs in the order of a hash map; the ids of special tokens
    and characters are stable, the rest is sorted so that two runs that learn the same tokens give the same ids.
    """
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    special = [tokens[0] for tokens in SPECIAL_TOKENS.values()]
    rest = sorted(set(vocabulary) - set(special))
    ordered = {token: index for index, token in enumerate([*special, *rest])}
    return wordpiece_tokenizer(ordered, lowercase=lowercase, strip_accents=lowercase, split_chinese=True)
