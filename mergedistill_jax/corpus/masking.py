"""Which words are hidden: a function of (seed, text id, draw, word), whatever tokenizer cuts the text.

Because nothing else enters, two teachers with different tokenizers hide the same words of the same text, a rerun hides
the same again, and several draws of one text differ.
"""

import dataclasses
import hashlib

import numpy as np
from jaxtyping import Float, Int

MASK_SHARE = 0.8
RANDOM_SHARE = 0.1  # what is left keeps its token (Devlin et al. 2019, section 3.1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Whole-word masking as in BERT: of the chosen words 80 % become [MASK], 10 % random tokens, 10 % stay.

    Attributes:
        rate: expected share of words chosen.
        max_share: at most this share of a sequence's tokens is chosen; the words beyond it, last in the random
            order, stay visible. It bounds the padding of masked positions. None: four thirds of the rate.
    """

    rate: float = 0.15
    seed: int = 0
    max_share: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"MaskingConfig.rate: found {self.rate}, expected a share between 0 and 1")
        if self.max_share is None:
            object.__setattr__(self, "max_share", min(round(self.rate * 4 / 3, 6), 1.0))
        if not self.rate <= self.bound <= 1.0:
            raise ValueError(
                f"MaskingConfig.max_share: found {self.max_share}, expected between rate={self.rate} and 1"
            )

    @property
    def bound(self) -> float:
        """The largest share of a sequence's tokens that is chosen."""
        return self.max_share or 0.0

    def max_predictions(self, length: int) -> int:
        """Most masked positions of a sequence of `length` tokens."""
        return int(length * self.bound)


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
    key = hashlib.blake2b(text, digest_size=16, salt=b"mask", person=_tag(config.seed, draw)).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    order, action = generator.random((num_words, 2)).T
    return WordDraws(order=order, action=action)


def random_tokens(
    config: MaskingConfig, text: bytes, draw: int, count: int, choices: Int[np.ndarray, " v"]
) -> Int[np.ndarray, " n"]:
    """Replacement ids for `count` pieces of a sequence, drawn from the ordinary tokens of a vocabulary."""
    key = hashlib.blake2b(text, digest_size=16, salt=b"random", person=_tag(config.seed, draw)).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    return choices[generator.integers(0, len(choices), count)]


def _tag(seed: int, draw: int) -> bytes:
    return seed.to_bytes(8, "little", signed=True) + draw.to_bytes(8, "little")
