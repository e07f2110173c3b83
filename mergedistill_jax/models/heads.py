"""What stands on the encoder: the masked-LM head and the token classifier."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from mergedistill_jax.models.encoder import ACTIVATIONS, Encoder, EncoderConfig, LayerNorm, dense


class MaskedLanguageModel(nn.Module):
    """Encoder and BERT's masked-LM head, applied to the masked positions only; the decoder is the embedding table.

    Gathering the masked rows before the vocabulary projection is what keeps the cost of a large union vocabulary
    at m rows instead of l (DESIGN: about 15 % of the positions).
    """

    config: EncoderConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        config = self.config
        self.encoder = Encoder(config, self.dtype)
        self.transform = dense(config.hidden_size, ("embed", "embed_out"), config, "transform", dtype=self.dtype)
        self.transform_norm = LayerNorm(config.layer_norm_epsilon)
        self.decoder_bias: Any = self.param(
            "decoder_bias", nn.with_logical_partitioning(nn.initializers.zeros, ("vocab",)), (config.vocab_size,)
        )

    def hidden_rows(
        self,
        token_ids: Int[Array, "b l"],
        attention_mask: Bool[Array, "b l"],
        masked_positions: Int[Array, "b m"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "b m d"]:
        """The transformed rows of the masked positions, ready for the vocabulary projection."""
        x = self.encoder(token_ids, attention_mask, deterministic=deterministic)
        rows = jnp.take_along_axis(x, masked_positions[..., None], axis=1)
        return self.transform_norm(ACTIVATIONS[self.config.activation](self.transform(rows)))

    def __call__(
        self,
        token_ids: Int[Array, "b l"],
        attention_mask: Bool[Array, "b l"],
        masked_positions: Int[Array, "b m"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "b m v"]:
        """Logits in float32 over the whole vocabulary, at the masked positions."""
        rows = self.hidden_rows(token_ids, attention_mask, masked_positions, deterministic=deterministic)
        table = self.encoder.embeddings.token.astype(self.dtype)
        logits = jnp.einsum("bmd,vd->bmv", rows, table, preferred_element_type=jnp.float32)
        return logits + self.decoder_bias


class TokenClassifier(nn.Module):
    """Encoder, dropout and one linear layer per position, as in BERT's sequence labelling."""

    config: EncoderConfig
    num_labels: int
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.encoder = Encoder(self.config, self.dtype)
        self.dropout = nn.Dropout(self.config.dropout_rate)
        self.classifier = dense(self.num_labels, ("embed", "labels"), self.config, "classifier", dtype=self.dtype)

    def __call__(
        self, token_ids: Int[Array, "b l"], attention_mask: Bool[Array, "b l"], *, deterministic: bool = True
    ) -> Float[Array, "b l c"]:
        x = self.encoder(token_ids, attention_mask, deterministic=deterministic)
        return self.classifier(self.dropout(x, deterministic=deterministic)).astype(jnp.float32)
