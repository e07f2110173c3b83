"""The generator of ELECTRA (Clark et al. 2020): BERT, perhaps with embeddings narrower than its layers.

The discriminator, which most of its users know as ELECTRA, was not trained to predict words and cannot be a teacher.
"""

from typing import Any

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.models.families import bert
from mergedistill_jax.models.families.family import Family, integer
from mergedistill_jax.models.huggingface_weights import Weight, linear


def _config(*, embedding_size: int, hidden_size: int, activation: str, **values: Any) -> EncoderConfig:
    return EncoderConfig(
        embedding_size=None if embedding_size == hidden_size else embedding_size,
        hidden_size=hidden_size,
        activation=activation,
        # The head's activation is GELU, whatever the layers' is.
        head_activation=None if activation == "gelu" else "gelu",
        **values,
    )


def _encoder(config: EncoderConfig) -> list[Weight]:
    weights = [*bert.embeddings(config, "electra.embeddings"), *bert.layers(config, "electra.encoder.layer")]
    if config.embedding_size is not None:
        sizes = (config.embedding_size,), (config.hidden_size,)
        weights += linear(("encoder", "embedding_projection"), "electra.embeddings_project", *sizes)
    return weights


def _head(config: EncoderConfig) -> list[Weight]:
    return bert.head(
        config,
        transform="generator_predictions.dense",
        transform_norm="generator_predictions.LayerNorm",
        bias="generator_lm_head.bias",
    )


FAMILY = Family(
    model_types=("electra",),
    config={**bert.CONFIG, "embedding_size": integer("embedding_size", 128)},
    make_config=_config,
    unsupported_unless=bert.UNSUPPORTED_UNLESS,
    prefix="electra",
    modules=("embeddings", "embeddings_project", "encoder"),
    encoder=_encoder,
    head=_head,
    head_prefix="generator_",
    embeddings="electra.embeddings.word_embeddings.weight",
    decoder="generator_lm_head.weight",
    decoder_bias=None,
    harmless=bert.harmless("electra"),
    other_head=("discriminator_predictions.", "this is ELECTRA's discriminator, and a teacher is its generator"),
)
