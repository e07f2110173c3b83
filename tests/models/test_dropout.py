"""Random bits of dropout: shares, independence, and what a mask depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mergedistill_jax.models.dropout import Dropout, keep_mask, kept_share, random_words

KEY = jax.random.key(11)
RATE = 0.1


def bits(key: jax.Array, shape: tuple[int, int]) -> np.ndarray:
    """[words, 32] of 0 and 1."""
    words = np.asarray(random_words(key, shape)).reshape(-1)
    return (words[:, None] >> np.arange(32, dtype=np.uint32)) & 1


def largest_correlation(columns: np.ndarray) -> float:
    """Of any two columns, in standard errors of independent ones."""
    found = np.corrcoef(columns.T)[np.triu_indices(columns.shape[1], 1)]
    return float(np.abs(found).max() * np.sqrt(len(columns)))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.003])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate: float) -> None:
    assert abs(1.0 - kept_share(rate) - rate) <= 0.5 / 256
    kept = np.asarray(keep_mask(jax.random.key(0), (402, 500), rate))  # not a multiple of four rows
    assert kept.shape == (402, 500)
    error = np.sqrt(kept_share(rate) * (1 - kept_share(rate)) / kept.size)
    assert abs(kept.mean() - kept_share(rate)) <= 4 * error
    x = jnp.full((2, 402, 500), 2.0)
    found = np.asarray(Dropout(rate).apply({}, x, deterministic=False, rngs={"dropout": jax.random.key(1)}))
    assert set(np.unique(found)) <= {0.0, np.float32(2.0 / kept_share(rate))}
    assert (found[0] != found[1]).any() or rate < 0.01
    np.testing.assert_array_equal(Dropout(rate).apply({}, x, deterministic=True), x)


@pytest.mark.parametrize("rows", [8, 10])
def test_a_mask_is_the_bytes_of_its_words_in_quarters(rows: int) -> None:
    words = np.asarray(random_words(jax.random.key(4), (rows, 5)))
    assert words.shape == (-(-rows // 4), 5)
    below = np.concatenate([words >> shift & 255 for shift in (0, 8, 16, 24)])[:rows]
    np.testing.assert_array_equal(keep_mask(jax.random.key(4), (rows, 5), 0.25), below >= 64)


def test_dropout_in_parts_is_that_of_the_whole_batch() -> None:
    """A sequence's mask belongs to its number, which is its place in the whole batch unless it is told."""
    x, rngs = jnp.ones((6, 4, 8)), {"dropout": jax.random.key(5)}
    whole = Dropout(0.5).apply({}, x, deterministic=False, rngs=rngs)
    numbers = jnp.array([4, 1])
    part = Dropout(0.5).apply({}, x[:2], deterministic=False, rngs=rngs, row_numbers=numbers)
    np.testing.assert_array_equal(part, np.asarray(whole)[[4, 1]])
    assert (np.asarray(whole)[4] != np.asarray(whole)[1]).any()


def test_the_four_bytes_of_a_word_are_independent() -> None:
    """Rows that share their random words agree as often as chance has it."""
    kept = np.asarray(keep_mask(jax.random.key(3), (4, 20_000), 0.5))
    for one in range(4):
        for other in range(one):
            assert abs((kept[one] == kept[other]).mean() - 0.5) < 4 * 0.5 / np.sqrt(20_000)


def test_every_bit_is_one_half_of_the_time_and_tells_nothing_of_another() -> None:
    found = bits(KEY, (512, 512))
    assert np.abs(found.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(found))
    assert largest_correlation(found) < 5


@pytest.mark.parametrize("lag", [(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (128, 0)])
def test_a_number_tells_nothing_of_its_neighbour(lag: tuple[int, int]) -> None:
    """128 rows on is the next byte of the same word."""
    dropped = ~np.asarray(keep_mask(KEY, (512, 512), RATE))
    rows, columns = lag
    one, other = dropped[rows:, columns:], dropped[: 512 - rows, : 512 - columns]
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) * np.sqrt(one.size) < 5


def test_masks_of_many_keys_are_independent_and_drop_the_share_they_say() -> None:
    """Also of keys that `fold_in` makes of consecutive numbers, as of rows and heads."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(2000))
    dropped = ~np.asarray(jax.vmap(lambda key: keep_mask(key, (16, 4), RATE))(keys)).reshape(2000, -1)
    assert largest_correlation(dropped) < 5
    error = np.sqrt(RATE * (1 - RATE) / dropped.size)
    assert dropped.mean() == pytest.approx(1 - kept_share(RATE), abs=5 * error)
    # The number dropped per mask varies as that of independent draws: masks are neither alike nor too even.
    assert dropped.sum(1).var() == pytest.approx(dropped.shape[1] * RATE * (1 - RATE), rel=0.2)


def test_a_key_makes_one_mask() -> None:
    first = keep_mask(KEY, (24, 8), RATE)
    np.testing.assert_array_equal(first, jax.jit(keep_mask, static_argnums=(1, 2))(KEY, (24, 8), RATE))
    assert not np.array_equal(first, keep_mask(jax.random.fold_in(KEY, 1), (24, 8), RATE))
