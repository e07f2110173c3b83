"""DistilBERT (Sanh et al. 2019): BERT without segments, under names of its own."""

from typing import Any

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.models.families import bert
from mergedistill_jax.models.families.family import Family, activation, integer, number
from mergedistill_jax.models.huggingface_weights import Weight

_LAYER = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "output": "attention.out_lin",
    "attention_norm": "sa_layer_norm",
    "wi": "ffn.lin1",
    "wo": "ffn.lin2",
    "output_norm": "output_layer_norm",
}


def _config(**values: Any) -> EncoderConfig:
    # The normalisation's epsilon is a constant of this architecture.
    return EncoderConfig(type_vocab_size=0, layer_norm_epsilon=1e-12, **values)


def _encoder(config: EncoderConfig) -> list[Weight]:
    layers = bert.layers(config, "distilbert.transformer.layer", _LAYER)
    return [*bert.embeddings(config, "distilbert.embeddings"), *layers]


def _head(config: EncoderConfig) -> list[Weight]:
    return bert.head(
        config, transform="vocab_transform", transform_norm="vocab_layer_norm", bias="vocab_projector.bias"
    )


FAMILY = Family(
    model_types=("distilbert",),
    config={
        "vocab_size": integer("vocab_size"),
        "num_layers": integer("n_layers"),
        "hidden_size": integer("dim"),
        "num_heads": integer("n_heads"),
        "intermediate_size": integer("hidden_dim"),
        "max_length": integer("max_position_embeddings", 512),
        "activation": activation("activation", "gelu"),
        "dropout_rate": number("dropout", 0.1),
        "initializer_range": number("initializer_range", 0.02),
    },
    make_config=_config,
    unsupported_unless={"pruned_heads": {}, "quantization_config": None},
    prefix="distilbert",
    modules=("embeddings", "transformer"),
    encoder=_encoder,
    head=_head,
    head_prefix="vocab_",
    embeddings="distilbert.embeddings.word_embeddings.weight",
    decoder="vocab_projector.weight",
    decoder_bias=None,
    other_names={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    harmless=bert.harmless("distilbert"),
)
