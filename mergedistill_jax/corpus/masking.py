"""Which words are hidden: a function of (seed, text id, draw, word), whatever tokenizer cuts the text.

Because nothing else enters, two teachers with different tokenizers hide the same words of the same text, a rerun hides
the same again, and several draws of one text differ. Two ways to choose the words of a draw:

    independent   every word by its own number, with probability `rate`: a word may be hidden in several draws or none
    cover         the N draws share the words out: of every N words that follow one another each draw hides one

    word            0  1  2  3  4  5  6  7        N = 4 draws
    hidden in draw  2  0  3  1  1  3  0  2
"""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import Float, Int

from mergedistill_jax.manifest import Identity

MASK_SHARE = 0.8
RANDOM_SHARE = 0.1  # what is left keeps its token (Devlin et al. 2019, section 3.1)
REPLACEMENTS = ("bert", "mask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Whole-word masking.

    Attributes:
        rate: expected share of words chosen.
        max_share: at most this share of a sequence's tokens is chosen; the words beyond it, last in the random
            order, stay visible. It bounds the padding of masked positions. None: four thirds of the rate.
        replacement: what stands for a chosen word. "bert": [MASK] for 80 %, random tokens for 10 %, the word itself for
            10 %. "mask": always [MASK].
        cover: N = 1 / rate draws hide every word exactly once. Words beyond `max_share` then go into further records of
            the same draw, and none stays visible; a word that alone is longer than `max_share` of a full sequence is
            hidden whole in several records, each of which predicts a part of it.
        max_count: at most this many masked positions in a sequence, whatever its length (80 in MuRIL); None: no bound.
    """

    rate: float = 0.15
    seed: int = 0
    max_share: float | None = None
    replacement: str = "bert"
    cover: bool = False
    max_count: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"MaskingConfig.rate: found {self.rate}, expected a share between 0 and 1")
        if self.max_share is None:
            object.__setattr__(self, "max_share", min(round(self.rate * 4 / 3, 6), 1.0))
        if not self.rate <= self.bound <= 1.0:
            raise ValueError(
                f"MaskingConfig.max_share: found {self.max_share}, expected between rate={self.rate} and 1"
            )
        if self.replacement not in REPLACEMENTS:
            raise ValueError(
                f"MaskingConfig.replacement: found {self.replacement!r}, expected one of {', '.join(REPLACEMENTS)}"
            )
        if self.max_count is not None and self.max_count < 1:
            raise ValueError(f"MaskingConfig.max_count: found {self.max_count}, expected at least 1, or None")

    @property
    def bound(self) -> float:
        """The largest share of a sequence's tokens that is chosen."""
        return self.max_share or 0.0

    def max_predictions(self, length: int) -> int:
        """Most masked positions of a sequence of `length` tokens."""
        by_share = int(length * self.bound)
        return by_share if self.max_count is None else min(by_share, self.max_count)

    def require_draws(self, draws: int, max_length: int) -> None:
        """Raises ValueError unless so many draws of sequences of that length can keep what the config promises."""
        if not self.cover:
            return
        expected = round(1 / self.rate)
        if draws != expected:
            raise ValueError(
                f"draws: found {draws}, expected {expected}, 1 / rate={self.rate}, because MaskingConfig.cover"
                " shares the words out among the draws"
            )
        if self.max_predictions(max_length) < 1:
            raise ValueError(
                f"MaskingConfig.max_share: found {self.max_share} of sequences of {max_length}, expected at least one"
                " position, because MaskingConfig.cover hides every word"
            )


def masking_of(identity: Identity) -> MaskingConfig:
    """The masking that the records of a folder were made with."""
    return MaskingConfig(
        rate=identity.rate,
        seed=identity.seed,
        max_share=identity.max_share,
        replacement=identity.replacement,
        cover=identity.cover,
        max_count=identity.max_count or None,
    )


def text_id(text: str) -> bytes:
    """8 bytes that name a text by its content."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class WordDraws:
    """Uniform numbers in [0, 1) per word of one text: `order` decides whether it is chosen, `action` what happens."""

    order: Float[np.ndarray, " w"]
    action: Float[np.ndarray, " w"]


def word_draws(config: MaskingConfig, text: bytes, draw: int, num_words: int) -> WordDraws:
    """The numbers of the words of one text: a counter-based generator keyed by (seed, text id, draw)."""
    order, action = _generator(text, b"mask", config.seed, draw).random((num_words, 2)).T
    return WordDraws(order=order, action=action)


def covering_draws(config: MaskingConfig, text: bytes, draws: int, num_words: int) -> Int[np.ndarray, " w"]:
    """The draw, from 0 to `draws` - 1, that hides each word of a text: a permutation for every `draws` words."""
    blocks = -(-num_words // draws)
    numbers = _generator(text, b"cover", config.seed, draws).random((blocks, draws))
    return np.argsort(np.argsort(numbers, axis=1), axis=1).reshape(-1)[:num_words]


def random_tokens(
    config: MaskingConfig, text: bytes, draw: int, count: int, choices: Int[np.ndarray, " v"]
) -> Int[np.ndarray, " n"]:
    """Replacement ids for `count` pieces of a sequence, drawn from the ordinary tokens of a vocabulary."""
    return choices[_generator(text, b"random", config.seed, draw).integers(0, len(choices), count)]


def _generator(text: bytes, purpose: bytes, seed: int, number: int) -> np.random.Generator:
    tag = seed.to_bytes(8, "little", signed=True) + number.to_bytes(8, "little")
    key = hashlib.blake2b(text, digest_size=16, salt=purpose, person=tag).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
