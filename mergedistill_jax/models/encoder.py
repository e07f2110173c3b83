"""The BERT encoder in Flax Linen, with logical axis names on every parameter.

Axes: b batch, l length, m masked positions, d model width, h heads, e width of one head, f feed-forward, v vocabulary.
The layout follows Devlin et al. 2019 (post-layer-norm), so that the weights go to and from Hugging Face unchanged.
RoBERTa, DistilBERT, ELECTRA and ALBERT are the same encoder with other settings: see families/.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.layers import LayerLoop
from mergedistill_jax.models.activations import ACTIVATIONS
from mergedistill_jax.models.attention import head_seeds
from mergedistill_jax.models.dropout import Dropout
from mergedistill_jax.models.layers import UNROLLED, run_layers
from mergedistill_jax.models.linear import LayerNorm, dense
from mergedistill_jax.models.placement import UNPLACED, Placement

MASKED_SCORE = -1e9
"""Finite score of an attention key that is padding: a row without any key stays finite, in the gradient too."""


def sinusoidal_init(stddev: float) -> Callable[..., jax.Array]:
    """Initializer [length, d] of sines and cosines (Vaswani et al. 2017, section 3.5), of root mean square `stddev`."""

    def init(key: jax.Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        del key
        length, width = shape
        rates = 1.0 / 10_000 ** (np.arange(width // 2) / (width / 2))
        angles = np.arange(length)[:, None] * rates[None, :]
        table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        table = np.pad(table, ((0, 0), (0, width - table.shape[1])))
        return jnp.asarray(table * stddev * np.sqrt(2.0), dtype)

    return init


def attend(
    query: Float[Array, "b q h e"],
    key: Float[Array, "b k h e"],
    value: Float[Array, "b k h e"],
    allowed: Bool[Array, "#b #h #q k"],
    drop: Callable[[jax.Array], jax.Array],
) -> Float[Array, "b q h e"]:
    """Each query's mean of the values of the keys it is allowed, by scaled dot products; in float32 up to `drop`."""
    scores = jnp.einsum("bqhe,bkhe->bhqk", query, key, preferred_element_type=jnp.float32)
    scores = scores / np.sqrt(query.shape[-1])
    scores = jnp.where(allowed, scores, MASKED_SCORE)
    probs = drop(jax.nn.softmax(scores, axis=-1).astype(value.dtype))
    return jnp.einsum("bhqk,bkhe->bqhe", probs, value)


class SelfAttention(nn.Module):
    """Bidirectional multi-head self-attention."""

    config: EncoderConfig
    dtype: DTypeLike
    placement: Placement

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        attention_mask: Bool[Array, "b l"],
        *,
        deterministic: bool,
        row_numbers: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b l d"]:
        config = self.config
        heads = (config.num_heads, config.hidden_size // config.num_heads)
        stddev = config.initializer_range
        project = functools.partial(dense, heads, ("embed", "heads", "kv"), stddev, dtype=self.dtype)
        query, key, value = (project(name=name)(x) for name in ("query", "key", "value"))
        seeds = None
        if not deterministic and config.dropout_rate:
            seeds = head_seeds(self.make_rng("dropout"), len(x), config.num_heads, row_numbers)
        attention = self.placement.attention(query.shape)
        context = attention(query, key, value, attention_mask, seeds, dropout_rate=config.dropout_rate)
        return dense(config.hidden_size, ("heads", "kv", "embed"), stddev, "output", dtype=self.dtype, contract=2)(
            context
        )


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each followed by dropout, a residual and layer normalisation."""

    config: EncoderConfig
    dtype: DTypeLike
    placement: Placement

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        attention_mask: Bool[Array, "b l"],
        *,
        deterministic: bool,
        row_numbers: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b l d"]:
        config = self.config
        drop = functools.partial(Dropout(config.dropout_rate), deterministic=deterministic, row_numbers=row_numbers)
        x = self.placement.rows(x)
        attention = SelfAttention(config, self.dtype, self.placement, name="attention")
        attended = attention(x, attention_mask, deterministic=deterministic, row_numbers=row_numbers)
        x = LayerNorm(config.layer_norm_epsilon, name="attention_norm")(x + drop(attended))
        stddev = config.initializer_range
        hidden = dense(config.intermediate_size, ("embed", "mlp"), stddev, "wi", dtype=self.dtype)(x)
        hidden = ACTIVATIONS[config.activation](hidden)
        hidden = dense(config.hidden_size, ("mlp", "embed"), stddev, "wo", dtype=self.dtype)(hidden)
        return self.placement.rows(LayerNorm(config.layer_norm_epsilon, name="output_norm")(x + drop(hidden)))


class Embeddings(nn.Module):
    """Sum of token, position and segment embeddings, normalised. Segments are all 0: packed text has one segment.

    RoBERTa (position_offset > 0) counts the tokens that are not the padding token, whose id is position_offset - 1 and
    whose own position has a vector of zeros: also where a text holds the padding token, as a folder whose tokenizer
    names another one may do.
    """

    config: EncoderConfig
    dtype: DTypeLike

    def setup(self) -> None:
        config = self.config
        normal = nn.initializers.normal(config.initializer_range)
        position = normal if config.position_init == "normal" else sinusoidal_init(config.initializer_range)
        width = config.embedding_width
        table = nn.with_logical_partitioning
        self.token: Any = self.param("token", table(normal, ("vocab", "embed")), (config.vocab_size, width))
        self.position: Any = self.param("position", table(position, ("position", "embed")), (config.max_length, width))
        if config.type_vocab_size:
            segments = (config.type_vocab_size, width)
            self.segment: Any = self.param("segment", table(normal, ("segment", "embed")), segments)
        self.norm = LayerNorm(config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def __call__(
        self, token_ids: Int[Array, "b l"], *, deterministic: bool, row_numbers: Int[Array, " b"] | None = None
    ) -> Float[Array, "b l e"]:
        length = token_ids.shape[1]
        if length > self.config.max_length:
            raise ValueError(f"token_ids: found length {length}, expected at most max_length={self.config.max_length}")
        x = self.token[token_ids] + self._positions(token_ids)
        if self.config.type_vocab_size:
            x = x + self.segment[0]
        x = self.norm(x.astype(self.dtype))
        return self.dropout(x, deterministic=deterministic, row_numbers=row_numbers)

    def _positions(self, token_ids: Int[Array, "b l"]) -> Float[Array, "#b l e"]:
        """The vectors of the tokens' positions."""
        if not self.config.position_offset:
            return self.position[None, : token_ids.shape[1]]
        counted = token_ids != self.config.position_offset - 1
        numbers = jnp.maximum(jnp.cumsum(counted, axis=1) - 1, 0)
        return jnp.where(counted[..., None], self.position[numbers], 0)


class Encoder(nn.Module):
    """Token ids to contextual vectors."""

    config: EncoderConfig
    dtype: DTypeLike = jnp.float32
    placement: Placement = UNPLACED
    loop: LayerLoop = UNROLLED

    def setup(self) -> None:
        config = self.config
        self.embeddings = Embeddings(config, self.dtype)
        if config.embedding_size is not None:
            self.embedding_projection = dense(
                config.hidden_size,
                ("embed", "embed_out"),
                config.initializer_range,
                "embedding_projection",
                dtype=self.dtype,
            )
        groups = config.num_layers if config.num_layer_groups is None else config.num_layer_groups
        self.layers = [EncoderLayer(config, self.dtype, self.placement) for _ in range(groups)]

    def __call__(
        self,
        token_ids: Int[Array, "b l"],
        attention_mask: Bool[Array, "b l"],
        *,
        deterministic: bool = True,
        row_numbers: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b l d"]:
        x = self.embeddings(token_ids, deterministic=deterministic, row_numbers=row_numbers)
        if self.config.embedding_size is not None:
            x = self.embedding_projection(x)
        order = [index * len(self.layers) // self.config.num_layers for index in range(self.config.num_layers)]
        if self.is_initializing():
            for index in order:
                x = self.layers[index](x, attention_mask, deterministic=deterministic)
            return x

        unbound = EncoderLayer(self.config, self.dtype, self.placement, parent=None)

        def layer(params: Any, x: jax.Array, key: jax.Array | None) -> Any:
            rngs = {} if key is None else {"dropout": key}
            modes: Any = {"deterministic": deterministic, "row_numbers": row_numbers, "rngs": rngs}
            return unbound.apply({"params": params}, x, attention_mask, **modes)

        draws = not deterministic and self.config.dropout_rate > 0
        key = self.make_rng("dropout") if draws else None
        return run_layers(layer, [self.layers[index].variables["params"] for index in order], x, key, self.loop)
