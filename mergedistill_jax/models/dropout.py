"""Dropout whose random numbers cost a quarter: a word of 32 random bits decides about four numbers.

A byte is compared with a threshold, so the rate is rounded to 1/256, and what is kept is scaled by the share that is
truly kept: the mean is exact. A mask is a function of its key and shape alone, on any mesh.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_BYTES = 4


def _threshold(rate: float) -> int:
    """How many of the 256 values of a byte drop."""
    return min(round(rate * 256), 255)


def kept_share(rate: float) -> float:
    """The share of numbers that is kept, 1 - rate up to rounding."""
    return 1.0 - _threshold(rate) / 256


def keep_mask(key: Array, shape: tuple[int, int], rate: float) -> Bool[Array, "n d"]:
    """True where a number is kept."""
    rows, columns = shape
    words = jax.random.bits(key, (-(-rows // _BYTES), columns), jnp.uint32)
    # One byte after the other along the first axis: the parts are laid under one another, which moves no data.
    parts = [(words >> (8 * index)) & 0xFF for index in range(_BYTES)]
    return jnp.concatenate(parts, axis=0)[:rows] >= _threshold(rate)


class Dropout(nn.Module):
    """Drops numbers of [b, l, d] at a rate and scales the others; a sequence's mask depends on its row in the batch."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], *, deterministic: bool) -> Float[Array, "b l d"]:
        if deterministic or self.rate == 0.0:
            return x
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), jnp.arange(len(x)))
        _, length, width = x.shape
        keep = jax.vmap(lambda key: keep_mask(key, (length, width), self.rate))(keys)
        return jnp.where(keep, x / jnp.asarray(kept_share(self.rate), x.dtype), jnp.zeros((), x.dtype))
