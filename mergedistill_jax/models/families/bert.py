"""BERT (Devlin et al. 2019), and the maps that families derived from it share."""

from collections.abc import Mapping
from typing import Any

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.models.families.family import Family, Field, activation, integer, number
from mergedistill_jax.models.huggingface_weights import Weight, linear, norm, table, vector

CONFIG: Mapping[str, Field] = {
    "vocab_size": integer("vocab_size"),
    "num_layers": integer("num_hidden_layers"),
    "hidden_size": integer("hidden_size"),
    "num_heads": integer("num_attention_heads"),
    "intermediate_size": integer("intermediate_size"),
    "max_length": integer("max_position_embeddings", 512),
    "type_vocab_size": integer("type_vocab_size", 2),
    "activation": activation("hidden_act", "gelu"),
    "layer_norm_epsilon": number("layer_norm_eps", 1e-12),
    # The rates of hidden layers and of attention are equal in published models.
    "dropout_rate": number("hidden_dropout_prob", 0.1),
    "initializer_range": number("initializer_range", 0.02),
}

UNSUPPORTED_UNLESS: Mapping[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
}


def harmless(prefix: str) -> str:
    """The pooler, and the constant buffers that older versions of transformers stored."""
    return rf"{prefix}\.pooler\..*|{prefix}\.embeddings\.(position_ids|token_type_ids)"


def embeddings(config: EncoderConfig, name: str) -> list[Weight]:
    """The tables and their normalisation; a family without segments has no table of them."""
    path, width = ("encoder", "embeddings"), config.embedding_width
    position, skipped = f"{name}.position_embeddings", config.position_offset
    weights = [
        table((*path, "token"), f"{name}.word_embeddings", config.vocab_size, width),
        table((*path, "position"), position, config.max_length, width, skipped_rows=skipped),
    ]
    if config.type_vocab_size:
        weights.append(table((*path, "segment"), f"{name}.token_type_embeddings", config.type_vocab_size, width))
    return weights + norm((*path, "norm"), f"{name}.LayerNorm", width)


def layer(config: EncoderConfig, path: tuple[str, ...], names: Mapping[str, str]) -> list[Weight]:
    """One layer at a path; `names` gives the tensors' names by the parameters'."""
    width, inner = (config.hidden_size,), (config.intermediate_size,)
    heads = (config.num_heads, config.hidden_size // config.num_heads)
    attention = (*path, "attention")
    return [
        *linear((*attention, "query"), names["query"], width, heads),
        *linear((*attention, "key"), names["key"], width, heads),
        *linear((*attention, "value"), names["value"], width, heads),
        *linear((*attention, "output"), names["output"], heads, width),
        *norm((*path, "attention_norm"), names["attention_norm"], config.hidden_size),
        *linear((*path, "wi"), names["wi"], width, inner),
        *linear((*path, "wo"), names["wo"], inner, width),
        *norm((*path, "output_norm"), names["output_norm"], config.hidden_size),
    ]


_LAYER = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "wi": "intermediate.dense",
    "wo": "output.dense",
    "output_norm": "output.LayerNorm",
}


def layers(config: EncoderConfig, name: str, layer_names: Mapping[str, str] = _LAYER) -> list[Weight]:
    """All layers; `name` is the module that numbers them."""
    weights = []
    for index in range(config.num_layers):
        names = {ours: f"{name}.{index}.{theirs}" for ours, theirs in layer_names.items()}
        weights += layer(config, ("encoder", f"layers_{index}"), names)
    return weights


def head(config: EncoderConfig, *, transform: str, transform_norm: str, bias: str) -> list[Weight]:
    """The masked-LM head, from the tensors' names."""
    width = config.embedding_width
    return [
        *linear(("transform",), transform, (config.hidden_size,), (width,)),
        *norm(("transform_norm",), transform_norm, width),
        vector(("decoder_bias",), bias, config.vocab_size),
    ]


def _encoder(config: EncoderConfig) -> list[Weight]:
    return [*embeddings(config, "bert.embeddings"), *layers(config, "bert.encoder.layer")]


def _head(config: EncoderConfig) -> list[Weight]:
    return head(
        config,
        transform="cls.predictions.transform.dense",
        transform_norm="cls.predictions.transform.LayerNorm",
        bias="cls.predictions.bias",
    )


def token_classifier_weights(config: EncoderConfig, num_labels: int) -> list[Weight]:
    """Every tensor of a BERT with a TokenClassifier's head."""
    return [*_encoder(config), *linear(("classifier",), "classifier", (config.hidden_size,), (num_labels,))]


FAMILY = Family(
    model_types=("bert",),
    config=CONFIG,
    make_config=EncoderConfig,
    unsupported_unless=UNSUPPORTED_UNLESS,
    prefix="bert",
    modules=("embeddings", "encoder", "pooler"),
    encoder=_encoder,
    head=_head,
    head_prefix="cls.predictions.",
    embeddings="bert.embeddings.word_embeddings.weight",
    decoder="cls.predictions.decoder.weight",
    decoder_bias=("cls.predictions.decoder.bias", "cls.predictions.bias"),
    harmless=rf"{harmless('bert')}|cls\.seq_relationship\..*",
)
