"""Attention over whole sequences, a few of them at a time, with its own gradient: no array of all scores exists.

    scores[b, h, k, q] = key[b, k, h] . query[b, q, h] / sqrt(e), plus KEY_BIAS where the key is padding
    probs = softmax over k          context[b, q, h] = sum over k of probs[b, h, k, q] value[b, k, h]

The softmax of long sequences is bound by memory, not by arithmetic: the scores of a batch of 32 x 512 with 12 heads are
400 MB in float32, written and read several times per layer. Here a loop takes so many sequences at a time that their
scores stay in the memory beside the arithmetic units (SCORE_BYTES), and the backward pass makes them again from the
saved log-normaliser (Dao et al. 2022; Rabe & Staats 2021), which costs one matrix product more.

Two details are for the TPU. Keys come before queries, so that reductions over keys run down the sublanes of a register
and not across its lanes. And a column of ones beside the values makes the softmax's sum a by-product of the matrix
product, whose 128 columns a head of 64 fills only by half.

Axes: b batch, q query, k key, h heads, e width of one head.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt32

from mergedistill_jax.models.dropout import kept_by, kept_share, random_words, row_keys
from mergedistill_jax.models.layers import saved_for_backward

KEY_BIAS = -1e4
"""Added to the scores of padding. Large enough that its share is exactly 0 beside any real key, and small enough that a
row with padding alone keeps its scores apart in float32: such rows have no meaning, but their gradients stay finite."""

_ONES = 8
"""Columns of ones: the fewest that keep the compiler from making a reduction of the product."""

SCORE_BYTES = 32 << 20
"""Most bytes of scores, in float32, that are made at a time; one sequence at least."""


def attention(
    query: Float[Array, "b q h e"],
    key: Float[Array, "b k h e"],
    value: Float[Array, "b k h e"],
    is_key: Bool[Array, "b k"],
    dropout_seeds: UInt32[Array, "b h 2"] | None = None,
    *,
    dropout_rate: float = 0.0,
    score_bytes: int = SCORE_BYTES,
) -> Float[Array, "b q h e"]:
    """Each query's mean of the values, weighted by the softmax of its scaled scores; softmax and sums in float32.

    Args:
        query: like key and value, in the dtype of the matrix products.
        key: to compare with.
        value: to average.
        is_key: False where a key is padding.
        dropout_seeds: key data of one random key per sequence and head; None: no dropout.
        dropout_rate: share of the probabilities that is dropped.
        score_bytes: see SCORE_BYTES.
    """
    scale = np.float32(1.0 / np.sqrt(query.shape[-1]))
    query = (query.astype(jnp.float32) * scale).astype(query.dtype)
    bias = jnp.where(is_key, 0.0, KEY_BIAS).astype(jnp.float32)
    return _attention(
        sequences_at_a_time(query.shape, key.shape[1], score_bytes),
        dropout_rate,
        query,
        key,
        value,
        bias,
        dropout_seeds,
    )


def sequences_at_a_time(shape: Sequence[int], keys: int, score_bytes: int) -> int:
    """The largest divisor of the batch whose scores fit; `shape` is that of the queries, [b, q, h, e]."""
    batch, queries, heads, _ = shape
    wanted = max(1, score_bytes // (4 * queries * keys * heads))
    return max(size for size in range(1, batch + 1) if batch % size == 0 and size <= wanted)


def over_mesh(
    mesh: Mesh | AbstractMesh, batch_axes: tuple[str, ...], heads_axis: str | None, manual: frozenset[str] = frozenset()
) -> Callable[..., Array]:
    """`attention` with every device on its own sequences and heads; the axes must divide both.

    Left to the compiler, a loop over a batch that is divided would gather it.

    Args:
        mesh: of the devices.
        batch_axes: of the mesh, that sequences lie over.
        heads_axis: that heads lie over.
        manual: axes over which the program around this one is a device's own already.
    """
    wide, narrow = P(batch_axes, None, heads_axis, None), P(batch_axes, None)

    def apply(query: Array, key: Array, value: Array, is_key: Array, seeds: Array | None, **settings: Any) -> Array:
        specs = (wide, wide, wide, narrow, None if seeds is None else P(batch_axes, heads_axis, None))
        local = functools.partial(attention, **settings)
        axes = set(mesh.axis_names) - manual
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=wide, axis_names=axes, check_vma=False)(
            query, key, value, is_key, seeds
        )

    return apply


def head_seeds(
    key: Array, batch: int, heads: int, row_numbers: Int[Array, " b"] | None = None
) -> UInt32[Array, "b h 2"]:
    """One random key for every sequence and head of a batch, as key data: the same on any mesh; see row_keys."""
    numbered = jax.vmap(jax.random.fold_in, (None, 0))
    keys = jax.vmap(numbered, (0, None))(row_keys(key, row_numbers, batch), jnp.arange(heads))
    return jax.random.key_data(keys)


def _scores(query: Array, key: Array, bias: Array) -> Array:
    """[b, h, k, q] in float32."""
    return jnp.einsum("bkhe,bqhe->bhkq", key, query, preferred_element_type=jnp.float32) + bias[:, None, :, None]


def _words(seeds: Array, keys: int, queries: int) -> Array:
    """The random bits of all sequences and heads, [b, h, k / 4, q]."""
    draw = functools.partial(random_words, shape=(keys, queries))
    return jax.vmap(jax.vmap(draw))(jax.random.wrap_key_data(seeds))


def _kept(words: Array, keys: int, rate: float) -> Array:
    """[b, h, k, q]: 1 / (share kept) where a probability is kept, else 0."""
    return kept_by(words, keys, rate) / kept_share(rate)


def _sum_over_keys(weights: Array, dtype: Any) -> Array:
    """[b, q, h] in float32. On a TPU as a product with ones, which reads exponentials as they are made."""

    def product(weights: Array) -> Array:
        ones = jnp.ones((weights.shape[0], weights.shape[2], weights.shape[1], _ONES), dtype)
        summed = jnp.einsum("bhkq,bkho->bqho", weights.astype(dtype), ones, preferred_element_type=jnp.float32)
        return summed[..., 0]

    def reduction(weights: Array) -> Array:
        return jnp.swapaxes(jnp.sum(weights, axis=2), 1, 2)

    return jax.lax.platform_dependent(weights, tpu=product, default=reduction)


def _forward_some(rate: float, query: Array, key: Array, value: Array, bias: Array, seeds: Array | None) -> Any:
    """Context and log-normalisers of some sequences."""
    scores = _scores(query, key, bias)
    highest = jnp.max(scores, axis=2)
    weights = jnp.exp(scores - highest[:, :, None, :])
    if seeds is None:
        ones = jnp.ones((*value.shape[:-1], 1), value.dtype)
        beside = jnp.concatenate([value, ones], axis=-1)
        both = jnp.einsum("bhkq,bkhe->bqhe", weights.astype(value.dtype), beside, preferred_element_type=jnp.float32)
        context, total = both[..., :-1], both[..., -1]
    else:
        total = _sum_over_keys(jnp.exp(jax.lax.optimization_barrier(scores) - highest[:, :, None, :]), value.dtype)
        weights *= _kept(_words(seeds, key.shape[1], query.shape[1]), key.shape[1], rate)
        context = jnp.einsum("bhkq,bkhe->bqhe", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    context = (context / total[..., None]).astype(query.dtype)
    return context, highest + jnp.log(jnp.swapaxes(total, 1, 2))


def _backward_some(
    rate: float,
    query: Array,
    key: Array,
    value: Array,
    bias: Array,
    seeds: Array | None,
    context: Array,
    lse: Array,
    gradient: Array,
) -> tuple[Array, Array, Array]:
    """Gradients of some sequences' queries, keys and values.

    With P the probabilities, o the context and do its gradient:
    dV = P^T do,  dP = do V^T,  dS = P * (dP - sum over k of P dP) where the sum is o . do,  dQ = dS K,  dK = dS^T Q.
    """
    probs = jnp.exp(_scores(query, key, bias) - lse[:, :, None, :])
    of_probs = jnp.einsum("bkhe,bqhe->bhkq", value, gradient, preferred_element_type=jnp.float32)
    inner = jnp.sum(context.astype(jnp.float32) * gradient.astype(jnp.float32), axis=-1)
    kept = probs
    if seeds is not None:
        # Made twice of the same bits too: as an array a mask costs more than both.
        words = jax.lax.optimization_barrier(_words(seeds, key.shape[1], query.shape[1]))
        kept = probs * _kept(words, key.shape[1], rate)
        of_probs *= _kept(jax.lax.optimization_barrier(words), key.shape[1], rate)
    of_probs -= jnp.swapaxes(inner, 1, 2)[:, :, None, :]
    # dS is made twice, once inside each product that reads it: on a TPU the product of two arrays in fast memory costs
    # next to nothing on its way into the matrix unit, and as much as four matrix products when stored as bfloat16.
    once = jax.lax.optimization_barrier((probs, of_probs))
    again = jax.lax.optimization_barrier(once)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    of_query = product("bhkq,bkhe->bqhe", (once[0] * once[1]).astype(key.dtype), key)
    of_key = product("bhkq,bqhe->bkhe", (again[0] * again[1]).astype(query.dtype), query)
    of_value = product("bhkq,bqhe->bkhe", kept.astype(value.dtype), gradient)
    return of_query.astype(query.dtype), of_key.astype(key.dtype), of_value.astype(value.dtype)


def _some(arrays: Any, index: Array, size: int) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, index * size, size, axis=0), arrays)


def _put(total: Any, some: Any, index: Array, size: int) -> Any:
    return jax.tree.map(lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, index * size, axis=0), total, some)


def _empty(like: Array, shape: tuple[int, ...] | None = None, dtype: Any = None) -> Array:
    """Room for results, every part of which is written once: filling it with zeros first would cost a pass."""
    return jax.lax.empty(like.shape if shape is None else shape, like.dtype if dtype is None else dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(
    size: int, rate: float, query: Array, key: Array, value: Array, bias: Array, seeds: Array | None
) -> Array:
    return _forward(size, rate, query, key, value, bias, seeds)[0]


def _forward(size: int, rate: float, *inputs: Any) -> tuple[Array, tuple]:
    query = inputs[0]
    batch, queries, heads, _ = query.shape
    if size == batch:
        found = _forward_some(rate, *inputs)
    else:
        room = (_empty(query), _empty(query, (batch, heads, queries), jnp.float32))

        def body(index: Array, found: Any) -> Any:
            return _put(found, _forward_some(rate, *_some(inputs, index, size)), index, size)

        found = jax.lax.fori_loop(0, batch // size, body, room)
    found = saved_for_backward(found)
    return found[0], (*inputs, *found)


def _backward(size: int, rate: float, saved: tuple, gradient: Array) -> tuple:
    batch = len(gradient)
    given: tuple[Any, ...] = (*saved, gradient)
    if size == batch:
        return (*_backward_some(rate, *given), None, None)

    def body(index: Array, found: Any) -> Any:
        some: tuple[Any, ...] = _some(given, index, size)
        return _put(found, _backward_some(rate, *some), index, size)

    room = tuple(_empty(array) for array in saved[:3])
    return (*jax.lax.fori_loop(0, batch // size, body, room), None, None)


_attention.defvjp(_forward, _backward)
