"""Dropout whose random numbers cost next to nothing: a short hash, and a word of 32 bits decides about four numbers.

A byte is compared with a threshold, so the rate is rounded to 1/256, and what is kept is scaled by the share that is
truly kept: the mean is exact. A mask is a function of its key and shape alone, on any mesh, and a sequence's mask one
of its number in the global batch, in whatever parts the batch is taken.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

_BYTES = 4


def _threshold(rate: float) -> int:
    """How many of the 256 values of a byte drop."""
    return min(round(rate * 256), 255)


def kept_share(rate: float) -> float:
    """The share of numbers that is kept, 1 - rate up to rounding."""
    return 1.0 - _threshold(rate) / 256


def keep_mask(key: Array, shape: tuple[int, int], rate: float) -> Bool[Array, "n d"]:
    """True where a number is kept."""
    return kept_by(random_words(key, shape), shape[0], rate)


def random_words(key: Array, shape: tuple[int, int]) -> UInt32[Array, "w d"]:
    """The random bits that decide about an array [n, d]: a quarter as many rows, the last of them in part unused."""
    seeds = jax.random.key_data(key)
    quarter, columns = -(-shape[0] // _BYTES), shape[1]
    row, column = (jax.lax.broadcasted_iota(jnp.uint32, (quarter, columns), axis) for axis in range(2))
    return _mixed(row * jnp.uint32(columns) + column, seeds[0], seeds[-1])


def _mixed(number: Array, first: Array, second: Array) -> Array:
    """A hash of numbers under a key of two words: the finaliser of MurmurHash3 (Appleby 2011), the key worked in.

    A dozen operations a word, where Threefry has a hundred, for every probability of every layer, twice. It has nobody
    to withstand: the keys are Threefry's own, and a number is used once with each.
    """
    number = number * np.uint32(0x9E3779B1) + first
    number = (number ^ (number >> 16)) * np.uint32(0x85EBCA6B)
    number = (number ^ (number >> 13) ^ second) * np.uint32(0xC2B2AE35)
    return number ^ (number >> 16)


def kept_by(words: UInt32[Array, "*b w d"], rows: int, rate: float) -> Bool[Array, "*b n d"]:
    """True where a number of [..., rows, d] is kept.

    One byte after the other along the rows: the quarters lie under one another, each compared as it is read, so that
    neither bytes nor mask need be stored.
    """
    *before, quarter, columns = words.shape
    shifts = jnp.arange(0, 8 * _BYTES, 8, dtype=jnp.uint32)[:, None, None]
    bytes_ = (words[..., None, :, :] >> shifts) & 0xFF
    return (bytes_ >= _threshold(rate)).reshape(*before, _BYTES * quarter, columns)[..., :rows, :]


def row_keys(key: Array, row_numbers: Int[Array, " b"] | None, batch: int) -> Array:
    """One random key for every sequence.

    Args:
        key: of the place in the model.
        row_numbers: of the sequences in the global batch; None: 0 to batch - 1.
        batch: how many there are.
    """
    numbers = jnp.arange(batch) if row_numbers is None else row_numbers
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


class Dropout(nn.Module):
    """Drops numbers of [b, l, d] at a rate and scales the others; row_keys tells what a mask depends on."""

    rate: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], *, deterministic: bool, row_numbers: Int[Array, " b"] | None = None
    ) -> Float[Array, "b l d"]:
        if deterministic or self.rate == 0.0:
            return x
        keys = row_keys(self.make_rng("dropout"), row_numbers, len(x))
        _, length, width = x.shape
        keep = jax.vmap(lambda key: keep_mask(key, (length, width), self.rate))(keys)
        return jnp.where(keep, x / jnp.asarray(kept_share(self.rate), x.dtype), jnp.zeros((), x.dtype))
