"""Attention in blocks: equal to the dense definition in value and gradient, on a mesh too, and without all scores."""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mergedistill_jax.models.attention import attention, head_seeds, sequences_at_a_time
from mergedistill_jax.models.dropout import kept_share
from mergedistill_jax.models.encoder import attend
from mergedistill_jax.models.placement import Placement
from mergedistill_jax.training.partitioning import ACTIVATION_AXES, make_mesh

BATCH, LENGTH, HEADS, WIDTH = 8, 12, 4, 6
ONE_SEQUENCE = 4 * LENGTH * LENGTH * HEADS


def arrays(dtype: str = "float32") -> tuple[jax.Array, ...]:
    """Query, key, value and a gradient; lengths of 1 to LENGTH."""
    random = np.random.default_rng(0)
    return tuple(jnp.asarray(random.normal(0, 1.5, (BATCH, LENGTH, HEADS, WIDTH)), dtype) for _ in range(4))


def keys_that_are() -> jax.Array:
    return jnp.arange(LENGTH) < jnp.asarray([1, 2, 12, 7, 12, 3, 9, 12])[:, None]


def dense(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    return attend(query, key, value, keys_that_are()[:, None, None, :], lambda probs: probs)


def value_and_gradients(function: Callable, *given: jax.Array) -> tuple:
    found, backward = jax.vjp(function, *given[:3])
    return found, *backward(given[3])


@pytest.mark.parametrize("sequences", [1, 2, 3, 8, 100])
def test_value_and_gradients_equal_the_dense_definition_whatever_the_blocks(sequences: int) -> None:
    def blocked(*given: jax.Array) -> jax.Array:
        return attention(*given, keys_that_are(), score_bytes=sequences * ONE_SEQUENCE)

    found = jax.jit(lambda *given: value_and_gradients(blocked, *given))(*arrays())
    for one, other in zip(found, value_and_gradients(dense, *arrays()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_blocks_divide_the_batch() -> None:
    shape = (BATCH, LENGTH, HEADS, WIDTH)
    sizes = [sequences_at_a_time(shape, LENGTH, count * ONE_SEQUENCE) for count in (0, 1, 2, 3, 5, 8, 9)]
    assert sizes == [1, 1, 2, 2, 4, 8, 8]


def test_padding_has_no_influence_and_no_gradient() -> None:
    query, key, value, gradient = arrays()
    is_key = keys_that_are()[..., None, None]

    def blocked(*given: jax.Array) -> jax.Array:
        return attention(*given, keys_that_are(), score_bytes=ONE_SEQUENCE)

    moved = (query, jnp.where(is_key, key, 50.0), jnp.where(is_key, value, -70.0), gradient)
    for one, other in zip(
        value_and_gradients(blocked, query, key, value, gradient), value_and_gradients(blocked, *moved), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    _, _, of_key, of_value = value_and_gradients(blocked, *moved)
    assert not np.any(np.where(is_key, 0.0, of_key))
    assert not np.any(np.where(is_key, 0.0, of_value))


def test_a_row_of_padding_alone_stays_finite() -> None:
    nothing = jnp.zeros((BATCH, LENGTH), bool)
    found = value_and_gradients(lambda *given: attention(*given, nothing), *arrays())
    assert all(np.isfinite(array).all() for array in found)


def test_bfloat16_stays_near_float32() -> None:
    found = value_and_gradients(
        lambda *given: attention(*given, keys_that_are(), score_bytes=ONE_SEQUENCE), *arrays("bfloat16")
    )
    for one, other in zip(found, value_and_gradients(dense, *arrays()), strict=True):
        assert one.dtype == jnp.bfloat16
        np.testing.assert_allclose(one.astype(jnp.float32), other, atol=0.03 * float(np.abs(other).max()))


@pytest.mark.parametrize("parallelism", [(1, 1), (2, 1), (2, 2), (1, 4)])
def test_a_mesh_changes_no_number(parallelism: tuple[int, int]) -> None:
    """Over data, model and fsdp axes; with dropout too, whose masks belong to sequence and head."""
    model, fsdp = parallelism
    mesh = make_mesh(model, jax.devices()[:8], fsdp_parallelism=fsdp)
    placement = Placement(mesh=mesh, **ACTIVATION_AXES)
    seeds = head_seeds(jax.random.key(0), BATCH, HEADS)

    def run(function: Callable, *given: jax.Array) -> tuple:
        return value_and_gradients(
            lambda *given: function(*given, keys_that_are(), seeds, dropout_rate=0.3, score_bytes=ONE_SEQUENCE), *given
        )

    shape = (BATCH, LENGTH, HEADS, WIDTH)
    found = jax.jit(lambda *given: run(placement.attention(shape), *given))(*arrays())
    for one, other in zip(found, run(attention, *arrays()), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_dropout_keeps_the_mean_and_differs_between_sequences_and_heads() -> None:
    ones = jnp.ones((BATCH, LENGTH, HEADS, WIDTH))
    rate = 0.25
    apply = jax.jit(lambda key: attention(ones, ones, ones, jnp.ones((BATCH, LENGTH), bool), head_seeds(key, BATCH, HEADS), dropout_rate=rate))  # fmt: skip  # noqa: E501
    found = np.stack([np.asarray(apply(jax.random.key(number)))[..., 0] for number in range(60)])
    # All probabilities are 1 / LENGTH: the sum of what is kept, a mean of LENGTH draws, has mean 1.
    kept = kept_share(rate)
    error = np.sqrt((1 - kept) / kept / LENGTH / found.size)
    assert abs(found.mean() - 1.0) < 4 * error
    assert len(np.unique(found[0].transpose(0, 2, 1).reshape(BATCH * HEADS, LENGTH), axis=0)) == BATCH * HEADS


def test_the_seeds_of_some_sequences_are_those_of_the_whole_batch() -> None:
    key = jax.random.key(2)
    some = head_seeds(key, 2, HEADS, jnp.array([BATCH - 1, 1]))
    np.testing.assert_array_equal(some, np.asarray(head_seeds(key, BATCH, HEADS))[[BATCH - 1, 1]])


def test_the_gradient_with_dropout_is_that_of_the_same_mask() -> None:
    """Finite differences through a fixed key."""
    query, key, value, gradient = arrays()
    seeds = head_seeds(jax.random.key(1), BATCH, HEADS)

    def loss(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        found = attention(query, key, value, keys_that_are(), seeds, dropout_rate=0.3, score_bytes=ONE_SEQUENCE)
        return jnp.sum(found * gradient)

    direction = [jnp.asarray(np.random.default_rng(2).normal(size=query.shape), jnp.float32) for _ in range(3)]
    slopes = jax.grad(loss, argnums=(0, 1, 2))(query, key, value)
    expected = sum(float(jnp.vdot(slope, move)) for slope, move in zip(slopes, direction, strict=True))
    step = 1e-2
    ahead, behind = (
        loss(*(array + sign * step * move for array, move in zip((query, key, value), direction, strict=True)))
        for sign in (1, -1)
    )
    np.testing.assert_allclose(float(ahead - behind) / (2 * step), expected, rtol=2e-2)


def test_no_array_of_all_scores_is_compiled() -> None:
    def sizes(score_bytes: int) -> list[int]:
        step = jax.jit(
            lambda *given: value_and_gradients(
                lambda *inner: attention(*inner, keys_that_are(), score_bytes=score_bytes), *given
            )
        )
        text = step.lower(*arrays()).compile().as_text()
        return [
            int(np.prod([int(size) for size in shape.split(",")])) for shape in re.findall(r"f32\[([\d,]+)\]", text)
        ]

    scores = BATCH * HEADS * LENGTH * LENGTH
    assert max(sizes(BATCH * ONE_SEQUENCE)) >= scores  # the test would find one
    assert max(sizes(ONE_SEQUENCE)) < scores
