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

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.manifest import Identity

MASK_SHARE = 0.8
RANDOM_SHARE = 0.1  # what is left keeps its token (Devlin et al. 2019, section 3.1)


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
