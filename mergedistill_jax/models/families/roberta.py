"""RoBERTa (Liu et al. 2019), XLM-RoBERTa (Conneau et al. 2020) and CamemBERT (Martin et al. 2020).

Three names for one architecture: BERT with another vocabulary. Its position table starts with rows that no token of a
text reads, up to the one of the padding token; the first token has row pad_token_id + 1. They are not loaded:

    rows of the file   0   1   2   3   4   ...  513        pad_token_id = 1, max_position_embeddings = 514
    rows loaded        -   -   0   1   2   ...  511        max_length = 512
"""

from typing import Any

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.models.families import bert
from mergedistill_jax.models.families.family import Family, integer
from mergedistill_jax.models.huggingface_weights import Weight


def _config(
    *, vocab_size: int, max_position_embeddings: int, pad_token_id: int, activation: str, **values: Any
) -> EncoderConfig:
    offset = pad_token_id + 1
    if max_position_embeddings <= offset:
        raise ValueError(
            f"max_position_embeddings: found {max_position_embeddings},"
            f" expected more than the {offset} rows up to pad_token_id={pad_token_id}"
        )
    # The head's activation is GELU, whatever the layers' is.
    head_activation = None if activation == "gelu" else "gelu"
    return EncoderConfig(
        vocab_size=vocab_size,
        max_length=max_position_embeddings - offset,
        position_offset=offset,
        activation=activation,
        head_activation=head_activation,
        **values,
    )


def _encoder(config: EncoderConfig) -> list[Weight]:
    return [*bert.embeddings(config, "roberta.embeddings"), *bert.layers(config, "roberta.encoder.layer")]


def _head(config: EncoderConfig) -> list[Weight]:
    return bert.head(config, transform="lm_head.dense", transform_norm="lm_head.layer_norm", bias="lm_head.bias")


FAMILY = Family(
    model_types=("roberta", "xlm-roberta", "camembert"),
    config={
        **{ours: field for ours, field in bert.CONFIG.items() if ours != "max_length"},
        "max_position_embeddings": integer("max_position_embeddings", 512),
        "pad_token_id": integer("pad_token_id", 1, least=0),
    },
    make_config=_config,
    unsupported_unless=bert.UNSUPPORTED_UNLESS,
    prefix="roberta",
    modules=("embeddings", "encoder", "pooler"),
    encoder=_encoder,
    head=_head,
    head_prefix="lm_head.",
    embeddings="roberta.embeddings.word_embeddings.weight",
    decoder="lm_head.decoder.weight",
    decoder_bias=("lm_head.decoder.bias", "lm_head.bias"),
    harmless=bert.harmless("roberta"),
)
