"""ModernBERT (Warner et al. 2024), as transformers 5 writes its config and as published folders of version 4 have it.

version 5   layer_types, rope_parameters: {"full_attention": {"rope_theta": 160000.0, ...}, "sliding_attention": ...}
version 4   global_attn_every_n_layers, global_rope_theta, local_rope_theta
"""

from collections.abc import Mapping
from typing import Any

from mergedistill_jax.models.families.family import Family, activation, anything, integer, number
from mergedistill_jax.models.huggingface_weights import Weight, linear, norm, table, vector
from mergedistill_jax.models.modernbert import FULL, LOCAL, ModernBertConfig


def _config(
    *,
    num_layers: int,
    layer_types: Any,
    global_attn_every_n_layers: int,
    rope_parameters: Any,
    global_rope_theta: Any,
    local_rope_theta: Any,
    **values: Any,
) -> ModernBertConfig:
    if layer_types is None:
        layer_types = [LOCAL if index % global_attn_every_n_layers else FULL for index in range(num_layers)]
    if not isinstance(layer_types, list) or len(layer_types) != num_layers:
        raise ValueError(f"layer_types: found {layer_types!r}, expected a list of num_hidden_layers={num_layers}")
    if rope_parameters is not None and not isinstance(rope_parameters, Mapping):
        raise ValueError(f"rope_parameters: found {rope_parameters!r}, expected an object")
    full = _theta(FULL, rope_parameters, global_rope_theta)
    # In version 4 a theta that is null is the one of full layers.
    local = _theta(LOCAL, rope_parameters, full if local_rope_theta is None else local_rope_theta)
    return ModernBertConfig(layer_types=tuple(layer_types), full_rope_theta=full, local_rope_theta=local, **values)


def _theta(kind: str, rope_parameters: Mapping[str, Any] | None, older: Any) -> float:
    """The theta of one kind of layers; `older` is that of version 4."""
    found = (rope_parameters or {}).get(kind) or {}
    rope_type = found.get("rope_type", "default") if isinstance(found, Mapping) else found
    if rope_type != "default":
        raise ValueError(f"rope_parameters: {kind}: found {rope_type!r}, expected rope_type 'default'")
    theta = found.get("rope_theta", older)
    if isinstance(theta, bool) or not isinstance(theta, (int, float)) or theta <= 0:
        raise ValueError(f"rope_parameters: {kind}: rope_theta: found {theta!r}, expected a positive number")
    return float(theta)


def _encoder(config: ModernBertConfig) -> list[Weight]:
    path, width = ("encoder", "embeddings"), config.hidden_size
    weights = [
        table((*path, "token"), "model.embeddings.tok_embeddings", config.vocab_size, width),
        *norm((*path, "norm"), "model.embeddings.norm", width, bias=False),
    ]
    for index in range(config.num_layers):
        weights += _layer(config, index)
    return weights + norm(("encoder", "final_norm"), "model.final_norm", width, bias=False)


def _layer(config: ModernBertConfig, index: int) -> list[Weight]:
    path, name = ("encoder", f"layers_{index}"), f"model.layers.{index}"
    width, inner = (config.hidden_size,), config.intermediate_size
    heads = (config.num_heads, config.hidden_size // config.num_heads)
    weights = [
        *linear((*path, "attention", "qkv"), f"{name}.attn.Wqkv", width, (3, *heads), bias=False),
        *linear((*path, "attention", "output"), f"{name}.attn.Wo", heads, width, bias=False),
        *norm((*path, "mlp_norm"), f"{name}.mlp_norm", config.hidden_size, bias=False),
        *linear((*path, "wi"), f"{name}.mlp.Wi", width, (2, inner), bias=False),
        *linear((*path, "wo"), f"{name}.mlp.Wo", (inner,), width, bias=False),
    ]
    if index:
        weights += norm((*path, "attention_norm"), f"{name}.attn_norm", config.hidden_size, bias=False)
    return weights


def _head(config: ModernBertConfig) -> list[Weight]:
    width = config.hidden_size
    return [
        *linear(("transform",), "head.dense", (width,), (width,), bias=False),
        *norm(("transform_norm",), "head.norm", width, bias=False),
        vector(("decoder_bias",), "decoder.bias", config.vocab_size),
    ]


FAMILY = Family(
    model_types=("modernbert",),
    config={
        "vocab_size": integer("vocab_size"),
        "num_layers": integer("num_hidden_layers"),
        "hidden_size": integer("hidden_size"),
        "num_heads": integer("num_attention_heads"),
        "intermediate_size": integer("intermediate_size"),
        "max_length": integer("max_position_embeddings", 8192),
        "local_attention": integer("local_attention", 128),
        "layer_types": anything("layer_types"),
        "global_attn_every_n_layers": integer("global_attn_every_n_layers", 3),
        "rope_parameters": anything("rope_parameters"),
        "global_rope_theta": anything("global_rope_theta", 160_000.0),
        "local_rope_theta": anything("local_rope_theta", 10_000.0),
        "activation": activation("hidden_activation", "gelu"),
        "head_activation": activation("classifier_activation", "gelu"),
        "layer_norm_epsilon": number("norm_eps", 1e-5),
        # The rates of embeddings and attention are the same, 0, in published models.
        "dropout_rate": number("mlp_dropout", 0.0),
        "initializer_range": number("initializer_range", 0.02),
    },
    make_config=_config,
    unsupported_unless={
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "classifier_bias": False,
        "decoder_bias": True,
        "sliding_window": None,  # half of local_attention, which transformers would set by it
        "rope_scaling": None,
        "quantization_config": None,
    },
    prefix="model",
    modules=("embeddings", "layers", "final_norm"),
    encoder=_encoder,
    head=_head,
    head_prefix="decoder.",
    embeddings="model.embeddings.tok_embeddings.weight",
    decoder="decoder.weight",
    decoder_bias=None,
    harmless=r"(?!)",
)
