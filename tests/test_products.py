"""Products of bfloat16: the same on one device's own program and elsewhere, and no wall to the partitioner."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mergedistill_jax.models.linear import dense
from mergedistill_jax.products import is_one_devices, on_each, product
from mergedistill_jax.training.log_normalizer import vocabulary_scores

ONE = Mesh(np.array(jax.devices()[:1]), ("data",))
RANDOM = np.random.default_rng(0)


def narrow(*shape: int) -> jax.Array:
    return jnp.asarray(RANDOM.normal(size=shape), jnp.bfloat16)


@pytest.mark.parametrize("of_x", [0, 1])
@pytest.mark.parametrize("of_y", [0, 1])
@pytest.mark.parametrize("owned", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_sums_are_in_float32_whatever_lies_how(of_x: int, of_y: int, owned: bool, turned: bool) -> None:  # noqa: FBT001
    x, y = narrow(*((96, 64), (64, 96))[of_x]), narrow(*((96, 48), (48, 96))[of_y])

    def found(x: jax.Array, y: jax.Array) -> jax.Array:
        made = product(x.T if turned else x, y, (1 - of_x if turned else of_x, of_y))
        return made.T if owned else made

    result = jax.jit(on_each(found, ONE) if owned else found)(x, y)
    result = result.T if owned else result
    wide = [np.asarray(array, np.float64) for array in (x, y)]
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, np.tensordot(*wide, axes=(of_x, of_y)), atol=1e-4)


def test_a_program_is_one_devices_own_on_one_device_or_inside_of_a_shard_map_over_all_axes() -> None:
    seen = []

    def look(x: Any) -> Any:
        seen.append(is_one_devices())
        return x

    two = Mesh(np.array(jax.devices()[:2]), ("data",))
    four = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("data", "model"))
    x = jnp.zeros(4)
    look(x)
    jax.jit(look)(x)
    jax.jit(on_each(look, ONE))(x)
    assert on_each(look, two) is look
    jax.jit(jax.shard_map(look, mesh=two, in_specs=P("data"), out_specs=P("data")))(x)
    part = jax.shard_map(look, mesh=four, in_specs=P("data"), out_specs=P("data"), axis_names={"data"})
    jax.jit(part)(x)
    assert seen == [False, False, True, True, False]


def gradients(params: Any, x: jax.Array) -> Any:
    layer = dense((4, 16), ("embed", "heads", "kv"), 0.02, "wide", dtype=jnp.bfloat16)
    found, pull = jax.vjp(lambda params, x: layer.apply({"params": params}, x), params, x)
    return found, pull(jnp.ones_like(found))


def test_a_linear_map_in_bfloat16_is_the_same_on_one_devices_own_program() -> None:
    """And its kernel's gradient is better there: it is not rounded to bfloat16 on its way."""
    x = narrow(2, 64, 32)
    params = {"kernel": jnp.asarray(RANDOM.normal(size=(32, 4, 16)), jnp.float32), "bias": jnp.ones((4, 16))}
    found, (of_params, of_x) = jax.jit(on_each(gradients, ONE))(params, x)
    expected, (of_params_then, of_x_then) = jax.jit(gradients)(params, x)
    for one, other in ((found, expected), (of_x, of_x_then), (of_params["bias"], of_params_then["bias"])):
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), rtol=2e-2, atol=2e-2)
    exact = np.broadcast_to(np.asarray(x, np.float64).sum((0, 1))[:, None, None], (32, 4, 16))
    np.testing.assert_allclose(of_params["kernel"], exact, atol=1e-4)
    np.testing.assert_allclose(of_params_then["kernel"], exact, atol=0.1)


def test_no_activation_is_gathered_where_the_compiler_divides_the_work() -> None:
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    x = jax.ShapeDtypeStruct((16, 64, 32), jnp.bfloat16, sharding=NamedSharding(mesh, P("data")))
    whole = NamedSharding(mesh, P())
    params = {
        "kernel": jax.ShapeDtypeStruct((32, 4, 16), jnp.float32, sharding=whole),
        "bias": jax.ShapeDtypeStruct((4, 16), jnp.float32, sharding=whole),
    }
    compiled: Any = jax.jit(on_each(gradients, mesh)).lower(params, x).compile()
    assert re.search(r" all-reduce\(", compiled.as_text())
    assert not re.search(r" all-gather\(", compiled.as_text())


def test_scores_over_a_vocabulary_and_their_gradients_are_the_same_on_one_devices_own_program() -> None:
    rows, table, bias = (
        narrow(24, 32),
        jnp.asarray(RANDOM.normal(size=(500, 32)), jnp.float32),
        jnp.linspace(-1, 1, 500),
    )
    ids = jnp.asarray(RANDOM.integers(0, 500, (24, 3)))

    def loss(rows: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
        scores = vocabulary_scores(rows, table, bias, ids, chunk_size=128)
        return jnp.mean(scores.log_normalizer[:, None] - scores.picked)

    every = jax.value_and_grad(loss, (0, 1, 2))
    found, of_found = jax.jit(on_each(every, ONE))(rows, table, bias)
    expected, of_expected = jax.jit(every)(rows, table, bias)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for one, other in zip(of_found, of_expected, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float32), np.asarray(other, np.float32), rtol=2e-2, atol=1e-4)
