"""Linear maps and layer normalisation with gradients of their own: equal to those of the formulas."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mergedistill_jax.models.activations import gelu
from mergedistill_jax.models.linear import LayerNorm, dense, sum_over_positions

X = jnp.asarray(np.random.default_rng(0).normal(3.0, 2.0, (2, 5, 6)), jnp.float32)


def test_sums_over_positions() -> None:
    np.testing.assert_allclose(sum_over_positions(X, 2), X.sum((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(sum_over_positions(X, 1), X.sum(0), rtol=1e-6)


@pytest.mark.parametrize("use_bias", [True, False])
def test_layer_norm_is_flax_s_in_value_and_gradient(use_bias: bool) -> None:  # noqa: FBT001 - a parameter of the test
    ours = LayerNorm(1e-6, use_bias=use_bias)
    theirs = nn.LayerNorm(epsilon=1e-6, use_bias=use_bias, use_fast_variance=False)
    vectors = {"scale": jnp.linspace(0.5, 2.0, 6)} | ({"bias": jnp.linspace(-1.0, 1.0, 6)} if use_bias else {})
    weights = jnp.asarray(np.random.default_rng(1).normal(size=X.shape), jnp.float32)

    def loss(model: nn.Module, params: dict, x: jax.Array) -> jax.Array:
        return jnp.sum(weights * jnp.asarray(model.apply({"params": params}, x)))

    found, (of_params, of_x) = jax.value_and_grad(lambda p, x: loss(ours, {"norm": p}, x), (0, 1))(vectors, X)
    expected, expected_gradients = jax.value_and_grad(lambda p, x: loss(theirs, p, x), (0, 1))(vectors, X)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5), (of_params, of_x), expected_gradients
    )


def test_layer_norm_in_bfloat16_keeps_a_large_mean_apart() -> None:
    """Statistics in float32 and in two passes: numbers near 1,000 that differ by 8."""
    x = jnp.asarray([[1000.0, 1008.0, 992.0, 1000.0]], jnp.bfloat16)
    params = {"norm": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}
    found = LayerNorm(1e-12).apply({"params": params}, x)
    np.testing.assert_allclose(np.asarray(found, np.float32), [[0.0, np.sqrt(2), -np.sqrt(2), 0.0]], atol=1e-2)


@pytest.mark.parametrize(("features", "contract"), [(7, 1), ((2, 3), 1), (4, 2)])
def test_dense_is_an_einsum_in_value_and_gradient(features: int | tuple[int, ...], contract: int) -> None:
    sizes = (features,) if isinstance(features, int) else features
    names: tuple[str | None, ...] = (None,) * (contract + len(sizes))
    model = dense(features, names, 0.3, "map", dtype=jnp.float32, contract=contract)
    params = nn.unbox(model.init(jax.random.key(0), X))["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    assert params["kernel"].shape == (*X.shape[-contract:], *sizes)
    assert params["bias"].shape == sizes

    def plain(params: dict, x: jax.Array) -> jax.Array:
        return jnp.tensordot(x, params["kernel"], axes=contract) + params["bias"]

    weights = jnp.asarray(np.random.default_rng(2).normal(size=plain(params, X).shape), jnp.float32)
    found = jax.value_and_grad(lambda p, x: jnp.sum(weights * jnp.asarray(model.apply({"params": p}, x))), (0, 1))
    expected = jax.value_and_grad(lambda p, x: jnp.sum(weights * plain(p, x)), (0, 1))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4),
        found(params, X),
        expected(params, X),
    )


def test_gelu_in_bfloat16_is_the_exact_one_up_to_rounding_and_so_is_its_slope() -> None:
    """Against float64: within one unit in the last place of bfloat16, both tails included."""
    from math import erfc  # noqa: PLC0415 - this test alone

    x = np.asarray(jnp.linspace(-12, 12, 4001).astype(jnp.bfloat16), np.float64)
    exact = np.array([0.5 * value * erfc(-value / np.sqrt(2)) for value in x])
    found = np.asarray(gelu(jnp.asarray(x, jnp.bfloat16)), np.float64)
    unit = np.maximum(2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 1e-6))) - 7), 1e-6)
    assert np.max(np.abs(found - exact) / unit) <= 1.0
    slope = jax.vmap(jax.grad(lambda value: gelu(value).astype(jnp.float32)))(jnp.asarray(x, jnp.bfloat16))
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    expected = np.array([0.5 * erfc(-value / np.sqrt(2)) for value in x]) + x * density
    np.testing.assert_allclose(np.asarray(slope, np.float64), expected, atol=6e-3)
    wide = jax.vmap(jax.grad(gelu))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(np.asarray(wide, np.float64), expected, atol=1e-6)
