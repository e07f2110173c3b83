"""The ModernBERT encoder (Warner et al. 2024) in Flax Linen: rotary positions, gated feed-forward, pre-layer-norm.

    layer          0     1      2      3     4      5     ...
    attention    full  local  local  full  local  local        local: keys at most local_attention // 2 away

Axes: b batch, l length, d model width, h heads, e width of one head, f feed-forward, v vocabulary.
Linear layers and normalisations have no biases; the masked-LM head stands in heads.py.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from mergedistill_jax.models.activations import ACTIVATIONS
from mergedistill_jax.models.encoder import attend
from mergedistill_jax.models.linear import LayerNorm, dense

FULL, LOCAL = "full_attention", "sliding_attention"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModernBertConfig:
    """Size and numerics of one ModernBERT. What it shares with EncoderConfig has the same name and meaning.

    Attributes:
        layer_types: for each layer, "full_attention" or "sliding_attention".
        local_attention: window of a sliding layer: keys of a distance up to half of it, rounded down, are seen.
        full_rope_theta: longest wavelength over 2 pi of the rotary positions of full layers.
        local_rope_theta: the same of sliding layers.
        head_activation: of the masked-LM head.
        dropout_rate: of embeddings, attention and feed-forward alike; published models have 0 everywhere.
    """

    vocab_size: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    layer_types: tuple[str, ...]
    max_length: int = 8192
    local_attention: int = 128
    full_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    activation: str = "gelu"
    head_activation: str = "gelu"
    layer_norm_epsilon: float = 1e-5
    dropout_rate: float = 0.0
    initializer_range: float = 0.02

    @property
    def num_layers(self) -> int:
        """How many layers there are."""
        return len(self.layer_types)

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"ModernBertConfig.hidden_size: found {self.hidden_size},"
                f" expected a multiple of twice num_heads={self.num_heads}"
            )
        for field in ("activation", "head_activation"):
            if getattr(self, field) not in ACTIVATIONS:
                raise ValueError(
                    f"ModernBertConfig.{field}: found {getattr(self, field)!r}, expected one of {sorted(ACTIVATIONS)}"
                )
        for kind in self.layer_types:
            if kind not in (FULL, LOCAL):
                raise ValueError(f"ModernBertConfig.layer_types: found {kind!r}, expected {FULL!r} or {LOCAL!r}")


def rotary_angles(length: int, width: int, theta: float) -> Float[Array, "l half"]:
    """Angles in radians by which positions turn the pairs (i, i + width / 2) of a head's numbers (Su et al. 2021).

    Position p turns pair i by p / theta ** (2 i / width).
    """
    # In float32 step by step, like the reference: far from 0 a rate rounded otherwise is another angle.
    rates = np.float32(1) / np.float32(theta) ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))
    return jnp.arange(length, dtype=jnp.float32)[:, None] * rates[None, :]


def rotated(x: Float[Array, "b l h e"], angles: Float[Array, "l half"]) -> Float[Array, "b l h e"]:
    """The queries or keys, turned by their positions' angles; computed in float32."""
    cos, sin = jnp.cos(angles)[:, None, :], jnp.sin(angles)[:, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def window(length: int, local_attention: int) -> Bool[Array, "l l"]:
    """Which keys (second axis) a query (first axis) of a sliding layer sees; rows of padding are not left out here."""
    positions = jnp.arange(length)
    return jnp.abs(positions[:, None] - positions[None, :]) <= local_attention // 2


class ModernBertAttention(nn.Module):
    """Bidirectional multi-head self-attention with rotary positions, over all keys or a window of them."""

    config: ModernBertConfig
    kind: str
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], attention_mask: Bool[Array, "b l"], *, deterministic: bool
    ) -> Float[Array, "b l d"]:
        config = self.config
        length, head_width = x.shape[1], config.hidden_size // config.num_heads
        linear = functools.partial(dense, stddev=config.initializer_range, dtype=self.dtype, use_bias=False)
        triple = linear((3, config.num_heads, head_width), ("embed", None, "heads", "kv"), name="qkv")(x)
        query, key, value = (triple[:, :, index] for index in range(3))
        theta = config.full_rope_theta if self.kind == FULL else config.local_rope_theta
        angles = rotary_angles(length, head_width, theta)
        allowed = attention_mask[:, None, None, :]
        if self.kind == LOCAL:
            allowed = allowed & window(length, config.local_attention)[None, None]
        drop = functools.partial(nn.Dropout(config.dropout_rate), deterministic=deterministic)
        context = attend(rotated(query, angles), rotated(key, angles), value, allowed, drop)
        return linear(config.hidden_size, ("heads", "kv", "embed"), name="output", contract=2)(context)


class ModernBertLayer(nn.Module):
    """Attention and gated feed-forward, each on normalised input and added to it; the first layer's is normalised."""

    config: ModernBertConfig
    index: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], attention_mask: Bool[Array, "b l"], *, deterministic: bool
    ) -> Float[Array, "b l d"]:
        config = self.config
        norm = functools.partial(LayerNorm, config.layer_norm_epsilon, use_bias=False)
        linear = functools.partial(dense, stddev=config.initializer_range, dtype=self.dtype, use_bias=False)
        drop = functools.partial(nn.Dropout(config.dropout_rate), deterministic=deterministic)
        attention = ModernBertAttention(config, config.layer_types[self.index], self.dtype, name="attention")
        # The embeddings are normalised already, so the first layer has no norm of its own.
        normalised = x if self.index == 0 else norm(name="attention_norm")(x)
        x = x + drop(attention(normalised, attention_mask, deterministic=deterministic))
        inner = (2, config.intermediate_size)
        pair = linear(inner, ("embed", None, "mlp"), name="wi")(norm(name="mlp_norm")(x))
        hidden = drop(ACTIVATIONS[config.activation](pair[:, :, 0]) * pair[:, :, 1])
        return x + linear(config.hidden_size, ("mlp", "embed"), name="wo")(hidden)


class ModernBertEmbeddings(nn.Module):
    """Token embeddings, normalised; positions come in with the attention."""

    config: ModernBertConfig
    dtype: DTypeLike

    def setup(self) -> None:
        config = self.config
        table = nn.with_logical_partitioning(nn.initializers.normal(config.initializer_range), ("vocab", "embed"))
        self.token: Any = self.param("token", table, (config.vocab_size, config.hidden_size))
        self.norm = LayerNorm(config.layer_norm_epsilon, use_bias=False)
        self.dropout = nn.Dropout(config.dropout_rate)

    def __call__(self, token_ids: Int[Array, "b l"], *, deterministic: bool) -> Float[Array, "b l d"]:
        return self.dropout(self.norm(self.token[token_ids].astype(self.dtype)), deterministic=deterministic)


class ModernBertEncoder(nn.Module):
    """Token ids to contextual vectors."""

    config: ModernBertConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        config = self.config
        self.embeddings = ModernBertEmbeddings(config, self.dtype)
        self.layers = [ModernBertLayer(config, index, self.dtype) for index in range(config.num_layers)]
        self.final_norm = LayerNorm(config.layer_norm_epsilon, use_bias=False)

    def __call__(
        self, token_ids: Int[Array, "b l"], attention_mask: Bool[Array, "b l"], *, deterministic: bool = True
    ) -> Float[Array, "b l d"]:
        length = token_ids.shape[1]
        if length > self.config.max_length:
            raise ValueError(f"token_ids: found length {length}, expected at most max_length={self.config.max_length}")
        x = self.embeddings(token_ids, deterministic=deterministic)
        for layer in self.layers:
            x = layer(x, attention_mask, deterministic=deterministic)
        return self.final_norm(x)
