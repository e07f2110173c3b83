"""What one family of models is to this package: a config map, a weight map, and a few names.

config.json    {"n_layers": 6}                                 ->  num_layers = 6
safetensors    distilbert.transformer.layer.0.ffn.lin1.weight  ->  encoder/layers_0/wi/kernel
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from mergedistill_jax.models.heads import ModelConfig
from mergedistill_jax.models.huggingface_weights import Weight

_ACTIVATION_ALIASES = {"swish": "silu", "gelu_python": "gelu", "gelu_fast": "gelu_new"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """One field of config.json.

    Attributes:
        name: what config.json calls it.
        accepts: whether a value has the right type and range.
        expected: what is accepted, in words.
        required: whether it must be there.
        default: its value where config.json has none, the same as in transformers.
        convert: from what is stored to what the config takes.
    """

    name: str
    accepts: Callable[[Any], bool]
    expected: str
    required: bool
    default: Any
    convert: Callable[[Any], Any] = lambda value: value

    def read(self, stored: Mapping[str, Any], where: str) -> Any:
        """The field's value in a config.json.

        Raises:
            ValueError: it is not what is expected.
        """
        value = stored.get(self.name) if self.required else stored.get(self.name, self.default)
        if not self.accepts(value):
            raise ValueError(f"{where}: {self.name}: found {value!r}, expected {self.expected}")
        return self.convert(value)


def integer(name: str, default: int | None = None, *, least: int = 1) -> Field:
    """A whole number of at least `least`; required if it has no default."""
    expected = "a positive integer" if least == 1 else f"an integer of at least {least}"
    return Field(
        name=name,
        accepts=lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
        expected=expected,
        required=default is None,
        default=default,
    )


def number(name: str, default: float) -> Field:
    """A number that is not negative."""
    return Field(
        name=name,
        accepts=lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0,
        expected="a non-negative number",
        required=False,
        default=default,
    )


def activation(name: str, default: str) -> Field:
    """The name of an activation function; which there are is checked by the config."""
    return Field(
        name=name,
        accepts=lambda value: isinstance(value, str),
        expected="a string",
        required=False,
        default=default,
        convert=lambda value: _ACTIVATION_ALIASES.get(value, value),
    )


def anything(name: str, default: Any = None) -> Field:
    """A value that `Family.make_config` checks."""
    return Field(name=name, accepts=lambda _: True, expected="anything", required=False, default=default)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """How masked language models of one architecture lie in a Hugging Face folder.

    Attributes:
        model_types: what config.json calls them.
        config: the config map: for each argument of `make_config`, the field of config.json that it is read from.
        make_config: the class of the config, or a function that computes some of its fields. Its ValueErrors are given
            the name of the file.
        unsupported_unless: fields of config.json that would change the outputs and are not built here, each with the
            one value that is understood, besides none and null.
        other_names: what transformers calls fields of config.json too; where both stand there, they must agree.
        prefix: what the names of the encoder's tensors start with.
        modules: the encoder's outermost modules, which some files store without the prefix.
        encoder: the encoder's half of the weight map.
        head: the masked-LM head's half of it, with no decoder, which is tied to the embeddings.
        head_prefix: a folder has the head if a tensor's name starts with this.
        embeddings: name of the token embeddings.
        decoder: name of the decoder's weights where they are stored beside the embeddings, whose values they must have.
        decoder_bias: name of the decoder's bias where it may be stored once more, and of the bias that it repeats.
        harmless: regular expression for tensors that published files hold and that no output we compute depends on.
        other_head: what a folder without the head may have instead: the start of its tensors' names, and a hint.
    """

    model_types: tuple[str, ...]
    config: Mapping[str, Field]
    make_config: Callable[..., ModelConfig]
    unsupported_unless: Mapping[str, Any]
    prefix: str
    modules: tuple[str, ...]
    encoder: Callable[[Any], list[Weight]]
    head: Callable[[Any], list[Weight]]
    head_prefix: str
    embeddings: str
    decoder: str
    decoder_bias: tuple[str, str] | None
    harmless: str
    other_head: tuple[str, str] | None = None
    other_names: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def masked_lm_weights(self, config: ModelConfig) -> list[Weight]:
        """Every tensor of a masked language model; the decoder, tied to the embeddings, has none of its own."""
        return [*self.encoder(config), *self.head(config)]

    def is_harmless(self, name: str) -> bool:
        """Whether a tensor of this name can be left unread."""
        return re.fullmatch(self.harmless, name) is not None

    def read_config(self, stored: Mapping[str, Any], path: epath.Path) -> ModelConfig:
        """The config in a config.json.

        Raises:
            ValueError: it lacks a field, or asks for something that the encoder does not do.
        """
        for field, expected in self.unsupported_unless.items():
            if stored.get(field) not in (None, expected):
                raise ValueError(
                    f"{path}: {field}: found {stored[field]!r}, expected {expected!r} (nothing else is supported)"
                )
        for other, name in self.other_names.items():
            if other in stored and stored[other] != stored.get(name):
                raise ValueError(
                    f"{path}: {other}: found {stored[other]!r}, expected {stored.get(name)!r} as in {name},"
                    " which is another name of it"
                )
        values = {ours: field.read(stored, str(path)) for ours, field in self.config.items()}
        pad_id = stored.get("pad_token_id")
        if isinstance(pad_id, int) and pad_id >= values["vocab_size"]:
            raise ValueError(
                f"{path}: pad_token_id: found {pad_id}, expected less than vocab_size={values['vocab_size']}"
            )
        try:
            return self.make_config(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
