"""The size of a BERT-like encoder: the settings of models/encoder.py."""

import dataclasses
from typing import Any

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")


_ADDED = {"added": True}
"""Marks a field that runs and hashes made before it existed lack: see `config_fields`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Size and numerics of one encoder. Names follow Hugging Face's BertConfig where they mean the same.

    Attributes:
        max_length: the longest input.
        type_vocab_size: segments; 0 for an encoder without them.
        position_init: "normal" as in BERT, or "sinusoidal" (Vaswani et al. 2017, scaled to the same root
            mean square): a start only, the table is trained either way.
        embedding_size: width of the embeddings, which a linear layer brings to hidden_size, and of the head's rows;
            None: they are hidden_size wide, and there is no such layer.
        num_layer_groups: different layers, each used by num_layers / num_layer_groups layers in a row (ALBERT has 1);
            None: every layer is another one.
        head_activation: of the masked-LM head; None: the same as `activation`.
        position_offset: rows that the model's files have before the first position's, as RoBERTa's do: up to the one
            of the padding token. They are not loaded, the table has max_length rows; see Embeddings.
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
    embedding_size: int | None = dataclasses.field(default=None, metadata=_ADDED)
    num_layer_groups: int | None = dataclasses.field(default=None, metadata=_ADDED)
    head_activation: str | None = dataclasses.field(default=None, metadata=_ADDED)
    position_offset: int = dataclasses.field(default=0, metadata=_ADDED)

    @property
    def embedding_width(self) -> int:
        """Width of the token embeddings."""
        return self.hidden_size if self.embedding_size is None else self.embedding_size

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"EncoderConfig.hidden_size: found {self.hidden_size},"
                f" expected a multiple of num_heads={self.num_heads}"
            )
        for field in ("activation", "head_activation"):
            name = getattr(self, field)
            if name not in ACTIVATIONS and not (field == "head_activation" and name is None):
                raise ValueError(f"EncoderConfig.{field}: found {name!r}, expected one of {list(ACTIVATIONS)}")
        if self.num_layer_groups is not None and self.num_layers % self.num_layer_groups:
            raise ValueError(
                f"EncoderConfig.num_layer_groups: found {self.num_layer_groups},"
                f" expected a divisor of num_layers={self.num_layers}"
            )
        if self.position_init not in ("normal", "sinusoidal"):
            raise ValueError(
                f"EncoderConfig.position_init: found {self.position_init!r}, expected 'normal' or 'sinusoidal'"
            )


def config_fields(config: Any) -> dict[str, Any]:
    """The fields from which a model's config can be rebuilt, as hashes and run folders hold them.

    Fields that came after the first runs were written are left out where they have their default, so that a BERT's hash
    and an old run stay what they were.

    Args:
        config: an EncoderConfig, or the config dataclass of another encoder.
    """
    fields = [(field, getattr(config, field.name)) for field in dataclasses.fields(config)]
    return {field.name: value for field, value in fields if not field.metadata or value != field.default}
