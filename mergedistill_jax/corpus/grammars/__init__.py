"""Text that the project brings along: grammatical sentences with part-of-speech tags, in three languages.

Written from scratch for the demo and the tests, so that both run with no download. The grammars are generators, but
what they write has the structure that masked language models live on: agreement, government, selection, collocation,
and documents with a topic and protagonists whom pronouns refer to.
"""

import hashlib
import random
from collections.abc import Iterator

from mergedistill_jax.corpus.grammars import english, russian, spanish
from mergedistill_jax.corpus.grammars.machinery import UPOS, TaggedSentence

__all__ = ["LANGUAGES", "UPOS", "TaggedSentence", "documents"]

_WRITERS = {"en": english.document, "es": spanish.document, "ru": russian.document}
LANGUAGES: tuple[str, ...] = tuple(_WRITERS)


def documents(language: str, *, seed: int, count: int, start: int = 0) -> Iterator[tuple[TaggedSentence, ...]]:
    """Documents `start` to `start + count - 1` of a language, 5 to 12 sentences each.

    Document i depends on (language, seed, i) alone, so disjoint ranges can serve as training and held-out text.

    Raises:
      ValueError: the language is not in `LANGUAGES`.
    """
    if language not in _WRITERS:
        raise ValueError(f"grammars: language: found {language!r}, expected one of {', '.join(LANGUAGES)}")
    return (_WRITERS[language](_rng(language, seed, index)) for index in range(start, start + count))


def _rng(language: str, seed: int, index: int) -> random.Random:
    digest = hashlib.blake2b(f"{language}/{seed}/{index}".encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))
