"""How a stack of equal layers is run: one after the other or as a loop, and what the backward pass makes again.

None of it changes a number beyond rounding, and none of it is part of a model: the same checkpoint runs either way.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mergedistill_jax.configs.layers import LayerLoop

SAVED = "attention"
"""Name of what attention hands to its backward pass beside its inputs, for policies."""


UNROLLED = LayerLoop()


def saved_for_backward(arrays: Any) -> Any:
    """Marks arrays that "elementwise" keeps."""
    return jax.tree.map(lambda array: checkpoint_name(array, SAVED), arrays)


def run_layers(
    layer: Callable[[Any, jax.Array, jax.Array | None], jax.Array],
    params: Sequence[Any],
    x: jax.Array,
    key: jax.Array | None,
    loop: LayerLoop,
) -> jax.Array:
    """The layers in order.

    Args:
        layer: (parameters, x, random key or None) -> x of the same shape and dtype.
        params: of each layer, trees of equal structure and shapes.
        x: input of the first.
        key: layer i draws from fold_in(key, i); None: nothing is drawn.
        loop: how.
    """
    if loop.rematerialise != "nothing":
        policies = jax.checkpoint_policies
        products = policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(SAVED)
        )
        layer = jax.checkpoint(layer, policy=products if loop.rematerialise == "elementwise" else None)
    keys = None if key is None else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(params)))
    if not loop.scan:
        for index, one in enumerate(params):
            x = layer(one, x, None if keys is None else keys[index])
        return x
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    return jax.lax.scan(lambda x, each: (layer(each[0], x, each[1]), None), x, (stacked, keys))[0]
