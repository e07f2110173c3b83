"""ALBERT (Lan et al. 2020): one layer used many times, and embeddings narrower than it."""

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.models.families import bert
from mergedistill_jax.models.families.family import Family, activation, integer, number
from mergedistill_jax.models.huggingface_weights import Weight, linear

_LAYER = {
    "query": "attention.query",
    "key": "attention.key",
    "value": "attention.value",
    "output": "attention.dense",
    "attention_norm": "attention.LayerNorm",
    "wi": "ffn",
    "wo": "ffn_output",
    "output_norm": "full_layer_layer_norm",
}


def _encoder(config: EncoderConfig) -> list[Weight]:
    weights = bert.embeddings(config, "albert.embeddings")
    # Unlike ELECTRA's, this projection is there even between equal widths.
    sizes = (config.embedding_width,), (config.hidden_size,)
    weights += linear(("encoder", "embedding_projection"), "albert.encoder.embedding_hidden_mapping_in", *sizes)
    for group in range(config.num_layer_groups or config.num_layers):
        module = f"albert.encoder.albert_layer_groups.{group}.albert_layers.0"
        names = {ours: f"{module}.{theirs}" for ours, theirs in _LAYER.items()}
        weights += bert.layer(config, ("encoder", f"layers_{group}"), names)
    return weights


def _head(config: EncoderConfig) -> list[Weight]:
    return bert.head(
        config, transform="predictions.dense", transform_norm="predictions.LayerNorm", bias="predictions.bias"
    )


FAMILY = Family(
    model_types=("albert",),
    config={
        **bert.CONFIG,
        "embedding_size": integer("embedding_size", 128),
        "num_layer_groups": integer("num_hidden_groups", 1),
        "activation": activation("hidden_act", "gelu_new"),
        "dropout_rate": number("hidden_dropout_prob", 0.0),
    },
    make_config=EncoderConfig,
    unsupported_unless={**bert.UNSUPPORTED_UNLESS, "inner_group_num": 1},
    prefix="albert",
    modules=("embeddings", "encoder", "pooler"),
    encoder=_encoder,
    head=_head,
    head_prefix="predictions.",
    embeddings="albert.embeddings.word_embeddings.weight",
    decoder="predictions.decoder.weight",
    decoder_bias=("predictions.decoder.bias", "predictions.bias"),
    harmless=rf"{bert.harmless('albert')}|sop_classifier\..*",
)
