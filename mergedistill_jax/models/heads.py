"""What stands on the encoders: the masked-LM head and the token classifier."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.layers import LayerLoop
from mergedistill_jax.models.activations import ACTIVATIONS
from mergedistill_jax.models.encoder import Encoder
from mergedistill_jax.models.layers import UNROLLED
from mergedistill_jax.models.linear import LayerNorm, dense
from mergedistill_jax.models.modernbert import ModernBertConfig, ModernBertEncoder
from mergedistill_jax.models.placement import UNPLACED, Placement

ModelConfig = EncoderConfig | ModernBertConfig
"""Config of any encoder that can be loaded; students are made from an EncoderConfig."""


class MaskedLanguageModel(nn.Module):
    """Encoder and BERT's masked-LM head, applied to the masked positions only; the decoder is the embedding table.

    Gathering the masked rows before the vocabulary projection is what keeps the cost of a large union vocabulary
    at m rows instead of l (DESIGN: about 15 % of the positions).
    """

    config: EncoderConfig
    dtype: DTypeLike = jnp.float32
    placement: Placement = UNPLACED
    loop: LayerLoop = UNROLLED

    def setup(self) -> None:
        config = self.config
        self.encoder: Encoder | ModernBertEncoder = Encoder(config, self.dtype, self.placement, self.loop)
        width, stddev = config.embedding_width, config.initializer_range
        self.transform = dense(width, ("embed", "embed_out"), stddev, "transform", dtype=self.dtype)
        self.transform_norm = LayerNorm(config.layer_norm_epsilon)
        self.decoder_bias: Any = _decoder_bias(self, config.vocab_size)

    def hidden_rows(
        self,
        token_ids: Int[Array, "b l"],
        attention_mask: Bool[Array, "b l"],
        masked_positions: Int[Array, "b m"],
        *,
        deterministic: bool = True,
        row_numbers: Int[Array, " b"] | None = None,
    ) -> Float[Array, "b m d"]:
        """The transformed rows of the masked positions, as wide as the embeddings, ready for their projection."""
        numbered = {} if row_numbers is None else {"row_numbers": row_numbers}
        x = self.encoder(token_ids, attention_mask, deterministic=deterministic, **numbered)
        rows = jnp.take_along_axis(x, masked_positions[..., None], axis=1)
        activation = ACTIVATIONS[self.config.head_activation or self.config.activation]
        return self.transform_norm(activation(self.transform(rows)))

    def __call__(
        self,
        token_ids: Int[Array, "b l"],
        attention_mask: Bool[Array, "b l"],
        masked_positions: Int[Array, "b m"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "b m v"]:
        """Logits in float32 over the whole vocabulary, at the masked positions."""
        rows, table, bias = self.projection(token_ids, attention_mask, masked_positions, deterministic=deterministic)
        return jnp.einsum("bmd,vd->bmv", rows, table, preferred_element_type=jnp.float32) + bias

    def projection(
        self,
        token_ids: Int[Array, "b l"],
        attention_mask: Bool[Array, "b l"],
        masked_positions: Int[Array, "b m"],
        *,
        deterministic: bool = True,
        row_numbers: Int[Array, " b"] | None = None,
    ) -> tuple[Float[Array, "b m d"], Float[Array, "v d"], Float[Array, " v"]]:
        """What the logits are made of, rows . table + bias, for a loss that takes the vocabulary in chunks.

        Args:
            token_ids: of the sequences.
            attention_mask: False at padding.
            masked_positions: of each sequence.
            deterministic: without dropout.
            row_numbers: of the sequences in the global batch, by which dropout is drawn; None: 0, 1, 2, ...
        """
        modes: Any = {"deterministic": deterministic, "row_numbers": row_numbers}
        rows = self.hidden_rows(token_ids, attention_mask, masked_positions, **modes)
        return rows, self.placement.table(self.encoder.embeddings.token, self.dtype), self.decoder_bias


class ModernBertMaskedLanguageModel(MaskedLanguageModel):
    """ModernBERT with its masked-LM head: the same as BERT's, without biases but for the decoder's."""

    config: ModernBertConfig  # pyright: ignore[reportIncompatibleVariableOverride] - the same names where they are used

    def setup(self) -> None:
        config = self.config
        self.encoder = ModernBertEncoder(config, self.dtype)
        width, stddev = config.hidden_size, config.initializer_range
        self.transform = dense(width, ("embed", "embed_out"), stddev, "transform", dtype=self.dtype, use_bias=False)
        self.transform_norm = LayerNorm(config.layer_norm_epsilon, use_bias=False)
        self.decoder_bias: Any = _decoder_bias(self, config.vocab_size)


def _decoder_bias(module: nn.Module, vocab_size: int) -> Any:
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",))
    return module.param("decoder_bias", zeros, (vocab_size,))


def masked_language_model(
    config: ModelConfig,
    dtype: DTypeLike = jnp.float32,
    placement: Placement = UNPLACED,
    loop: LayerLoop = UNROLLED,
) -> MaskedLanguageModel:
    """The masked language model of any family, by the type of its config.

    Args:
        config: of any encoder.
        dtype: of the matrix products; parameters, sums and logits are in float32.
        placement: of the activations on a mesh.
        loop: how its layers are run; ModernBERT's, which differ, are always unrolled.
    """
    if isinstance(config, ModernBertConfig):
        return ModernBertMaskedLanguageModel(config, dtype, placement, loop)
    return MaskedLanguageModel(config, dtype, placement, loop)


class TokenClassifier(nn.Module):
    """Encoder of any family, dropout and one linear layer per position, as in BERT's sequence labelling."""

    config: ModelConfig
    num_labels: int
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        config = self.config
        is_modern = isinstance(config, ModernBertConfig)
        self.encoder = ModernBertEncoder(config, self.dtype) if is_modern else Encoder(config, self.dtype)
        self.dropout = nn.Dropout(config.dropout_rate)
        stddev = config.initializer_range
        self.classifier = dense(self.num_labels, ("embed", "labels"), stddev, "classifier", dtype=self.dtype)

    def __call__(
        self, token_ids: Int[Array, "b l"], attention_mask: Bool[Array, "b l"], *, deterministic: bool = True
    ) -> Float[Array, "b l c"]:
        x = self.encoder(token_ids, attention_mask, deterministic=deterministic)
        return self.classifier(self.dropout(x, deterministic=deterministic)).astype(jnp.float32)
