"""The BERT encoder with its masked-LM head, in Flax Linen, with logical axis names on every parameter.

Axes: b batch, l length, m masked positions, d model width, h heads, e width of one head, f feed-forward, v vocabulary.
The layout follows Devlin et al. 2019 (post-layer-norm), so that the weights go to and from Hugging Face unchanged.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
}

MASKED_SCORE = -1e9
"""Finite score of an attention key that is padding: a row without any key stays finite, in the gradient too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Size and numerics of one encoder. Names follow Hugging Face's BertConfig where they mean the same.

    Attributes:
        position_init: "normal" as in BERT, or "sinusoidal" (Vaswani et al. 2017, scaled to the same root
            mean square): a start only, the table is trained either way.
    """

    vocab_size: int
    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    max_length: int = 512
    type_vocab_size: int = 2
    activation: str = "gelu"
    layer_norm_epsilon: float = 1e-12
    dropout_rate: float = 0.1
    initializer_range: float = 0.02
    position_init: str = "normal"

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"EncoderConfig.hidden_size: found {self.hidden_size},"
                f" expected a multiple of num_heads={self.num_heads}"
            )
        if self.activation not in ACTIVATIONS:
            known = sorted(ACTIVATIONS)
            raise ValueError(f"EncoderConfig.activation: found {self.activation!r}, expected one of {known}")
        if self.position_init not in ("normal", "sinusoidal"):
            raise ValueError(
                f"EncoderConfig.position_init: found {self.position_init!r}, expected 'normal' or 'sinusoidal'"
            )


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


class LayerNorm(nn.Module):
    """Layer normalisation with statistics in float32."""

    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        norm = nn.LayerNorm(
            epsilon=self.epsilon,
            dtype=x.dtype,
            use_fast_variance=False,
            scale_init=nn.with_logical_partitioning(nn.initializers.ones, ("norm",)),
            bias_init=nn.with_logical_partitioning(nn.initializers.zeros, ("norm",)),
            name="norm",
        )
        return norm(x)


def dense(
    features: int | tuple[int, ...],
    axes: tuple[str, ...],
    config: EncoderConfig,
    name: str,
    *,
    dtype: DTypeLike,
    contract: int = 1,
) -> nn.DenseGeneral:
    """A linear map over the last `contract` axes; `axes` names the kernel's logical axes, inputs first."""
    return nn.DenseGeneral(
        features=features,
        axis=tuple(range(-contract, 0)),
        dtype=dtype,
        kernel_init=nn.with_logical_partitioning(nn.initializers.normal(config.initializer_range), axes),
        bias_init=nn.with_logical_partitioning(nn.initializers.zeros, axes[contract:]),
        name=name,
    )


class SelfAttention(nn.Module):
    """Bidirectional multi-head self-attention; scores and their softmax in float32."""

    config: EncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], attention_mask: Bool[Array, "b l"], *, deterministic: bool
    ) -> Float[Array, "b l d"]:
        config = self.config
        head_width = config.hidden_size // config.num_heads
        project = functools.partial(
            dense, (config.num_heads, head_width), ("embed", "heads", "kv"), config, dtype=self.dtype
        )
        query, key, value = (project(name=name)(x) for name in ("query", "key", "value"))
        scores = jnp.einsum("bqhe,bkhe->bhqk", query, key, preferred_element_type=jnp.float32)
        scores = scores / np.sqrt(head_width)
        scores = jnp.where(attention_mask[:, None, None, :], scores, MASKED_SCORE)
        probs = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        probs = nn.Dropout(config.dropout_rate)(probs, deterministic=deterministic)
        context = jnp.einsum("bhqk,bkhe->bqhe", probs, value)
        return dense(config.hidden_size, ("heads", "kv", "embed"), config, "output", dtype=self.dtype, contract=2)(
            context
        )


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each followed by dropout, a residual and layer normalisation."""

    config: EncoderConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], attention_mask: Bool[Array, "b l"], *, deterministic: bool
    ) -> Float[Array, "b l d"]:
        config = self.config
        drop = functools.partial(nn.Dropout(config.dropout_rate), deterministic=deterministic)
        attended = SelfAttention(config, self.dtype, name="attention")(x, attention_mask, deterministic=deterministic)
        x = LayerNorm(config.layer_norm_epsilon, name="attention_norm")(x + drop(attended))
        hidden = dense(config.intermediate_size, ("embed", "mlp"), config, "wi", dtype=self.dtype)(x)
        hidden = ACTIVATIONS[config.activation](hidden)
        hidden = dense(config.hidden_size, ("mlp", "embed"), config, "wo", dtype=self.dtype)(hidden)
        return LayerNorm(config.layer_norm_epsilon, name="output_norm")(x + drop(hidden))


class Embeddings(nn.Module):
    """Sum of token, position and segment embeddings, normalised. Segments are all 0: packed text has one segment."""

    config: EncoderConfig
    dtype: DTypeLike

    def setup(self) -> None:
        config = self.config
        normal = nn.initializers.normal(config.initializer_range)
        position = normal if config.position_init == "normal" else sinusoidal_init(config.initializer_range)
        width = config.hidden_size
        table = nn.with_logical_partitioning
        self.token: Any = self.param("token", table(normal, ("vocab", "embed")), (config.vocab_size, width))
        self.position: Any = self.param("position", table(position, ("position", "embed")), (config.max_length, width))
        self.segment: Any = self.param("segment", table(normal, ("segment", "embed")), (config.type_vocab_size, width))
        self.norm = LayerNorm(config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    def __call__(self, token_ids: Int[Array, "b l"], *, deterministic: bool) -> Float[Array, "b l d"]:
        length = token_ids.shape[1]
        if length > self.config.max_length:
            raise ValueError(f"token_ids: found length {length}, expected at most max_length={self.config.max_length}")
        x = self.token[token_ids] + self.position[None, :length] + self.segment[0]
        return self.dropout(self.norm(x.astype(self.dtype)), deterministic=deterministic)


class Encoder(nn.Module):
    """Token ids to contextual vectors."""

    config: EncoderConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.embeddings = Embeddings(self.config, self.dtype)
        self.layers = [EncoderLayer(self.config, self.dtype) for _ in range(self.config.num_layers)]

    def __call__(
        self, token_ids: Int[Array, "b l"], attention_mask: Bool[Array, "b l"], *, deterministic: bool = True
    ) -> Float[Array, "b l d"]:
        x = self.embeddings(token_ids, deterministic=deterministic)
        for layer in self.layers:
            x = layer(x, attention_mask, deterministic=deterministic)
        return x
