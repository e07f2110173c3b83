"""BERT models between Hugging Face folders and Flax parameters, both ways, without torch or transformers.

    teacher/{config.json,model.safetensors}      ->  EncoderConfig, params
    EncoderConfig, params, tokenizer.json, card  ->  student/{config.json,model.safetensors,tokenizer*.json,README.md}

Every path may be remote (gs://).
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from mergedistill_jax.models.encoder import EncoderConfig
from mergedistill_jax.models.huggingface_weights import (
    WEIGHTS_FILE,
    Weight,
    canonical_names,
    masked_lm_weights,
    read_json,
    read_tensors,
    to_flax,
    to_hf,
    token_classifier_weights,
)
from mergedistill_jax.models.tokenizer_files import SpecialTokens, export_tokenizer

# EncoderConfig's fields under BertConfig's names; where both have a default, it is the same one.
_FIELDS = {
    "vocab_size": "vocab_size",
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_length": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "activation": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "dropout_rate": "hidden_dropout_prob",
    "initializer_range": "initializer_range",
}

# What would change the outputs and is not built here: absent, null, or this value.
_UNSUPPORTED_UNLESS: dict[str, Any] = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pruned_heads": {},
    "quantization_config": None,
}

_ACTIVATION_ALIASES = {"swish": "silu", "gelu_python": "gelu"}

_DECODER, _DECODER_BIAS = "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"
_EMBEDDINGS, _BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"


def load_encoder_config(folder: epath.PathLike) -> EncoderConfig:
    """The sizes and numerics in config.json. The dropout rate is the hidden one: both are equal in published BERTs.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it is unreadable, lacks a field, or asks for something that this encoder does not do.
    """
    path = epath.Path(folder) / "config.json"
    stored = read_json(path)
    if stored.get("model_type") != "bert":
        raise ValueError(f"{path}: model_type: found {stored.get('model_type')!r}, expected 'bert'")
    for field, expected in _UNSUPPORTED_UNLESS.items():
        if stored.get(field) not in (None, expected):
            raise ValueError(
                f"{path}: {field}: found {stored[field]!r}, expected {expected!r} (nothing else is supported)"
            )
    values = {}
    for field in dataclasses.fields(EncoderConfig):
        name = _FIELDS.get(field.name)
        if name is None or (name not in stored and field.default is not dataclasses.MISSING):
            continue
        values[field.name] = _checked(stored.get(name), field.type, f"{path}: {name}")
    if "activation" in values:
        values["activation"] = _ACTIVATION_ALIASES.get(values["activation"], values["activation"])
    try:
        return EncoderConfig(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _checked(value: Any, kind: Any, where: str) -> Any:
    """The value, if it is of the kind that the field declares: a positive int, a non-negative number, or a string."""
    accepted = {int: int, float: (int, float), str: str}[kind]
    right = isinstance(value, accepted) and not isinstance(value, bool)
    if right and kind is int:
        right = value > 0
    if right and kind is float:
        right = value >= 0
    if not right:
        expected = {int: "a positive integer", float: "a non-negative number", str: "a string"}[kind]
        raise ValueError(f"{where}: found {value!r}, expected {expected}")
    return value


def load_masked_lm(folder: epath.PathLike) -> tuple[EncoderConfig, dict[str, Any]]:
    """Config and float32 parameters (NumPy arrays) of a MaskedLanguageModel.

    All rows of the vocabulary are kept, also those beyond the tokenizer's tokens: see `count_tokens`.

    Raises:
        FileNotFoundError: config.json or the weights are not there.
        ValueError: either is unreadable or unsupported; the folder has no masked-LM head, or an untied one; a tensor is
            missing, unexpected or of a wrong shape.
    """
    config = load_encoder_config(folder)
    tensors = canonical_names(read_tensors(folder), folder)
    if not any(name.startswith("cls.predictions.") for name in tensors):
        raise ValueError(f"{folder}: has no masked-LM head: found no weights cls.predictions.*, expected them")
    tied = read_json(epath.Path(folder) / "config.json").get("tie_word_embeddings", True)
    return config, to_flax(_without_tied(tensors, folder, tied=tied), masked_lm_weights(config), folder)


def _without_tied(tensors: dict[str, np.ndarray], folder: epath.PathLike, *, tied: bool) -> dict[str, np.ndarray]:
    """The tensors without the decoder's copies of the word embeddings and of the bias, once seen to be copies."""
    tensors = dict(tensors)
    if not tied and _DECODER not in tensors:
        raise ValueError(f"{folder}: found no weights {_DECODER}, expected them as config.json unties the embeddings")
    decoder = tensors.pop(_DECODER, None)
    if decoder is not None and _EMBEDDINGS in tensors and not np.array_equal(decoder, tensors[_EMBEDDINGS]):
        raise ValueError(f"{folder}: {_DECODER}: found untied weights, expected those of {_EMBEDDINGS}")
    bias = tensors.pop(_DECODER_BIAS, None)
    if bias is not None and not np.array_equal(tensors.setdefault(_BIAS, bias), bias):
        raise ValueError(f"{folder}: {_DECODER_BIAS}: found other values than in {_BIAS}, expected the same")
    return tensors


def load_token_classifier(folder: epath.PathLike) -> tuple[EncoderConfig, dict[str, Any], list[str]]:
    """Config, float32 parameters (NumPy arrays) and label names of a TokenClassifier.

    Raises:
        FileNotFoundError, ValueError: as for `load_masked_lm`; also if config.json does not name labels 0, 1, 2...
    """
    config = load_encoder_config(folder)
    path = epath.Path(folder) / "config.json"
    id2label = read_json(path).get("id2label")
    ids = [str(index) for index in range(len(id2label or {}))]
    if not isinstance(id2label, dict) or not ids or set(id2label) != set(ids):
        raise ValueError(f"{path}: id2label: found {id2label!r}, expected names of the labels 0, 1, 2...")
    tensors = canonical_names(read_tensors(folder), folder)
    if "classifier.weight" not in tensors:
        raise ValueError(
            f"{folder}: has no token-classification head: found no weights classifier.weight, expected them"
        )
    params = to_flax(tensors, token_classifier_weights(config, len(ids)), folder)
    return config, params, [id2label[index] for index in ids]


def save_masked_lm(
    folder: epath.PathLike,
    config: EncoderConfig,
    params: Mapping[str, Any],
    *,
    tokenizer_file: epath.PathLike,
    special_tokens: SpecialTokens,
    card: str,
    overwrite: bool = False,
) -> None:
    """Write a folder that AutoModelForMaskedLM and AutoTokenizer load.

    Args:
        folder: what to write; nothing may be there, or only an empty folder.
        config: sizes and numerics of the model.
        params: of a MaskedLanguageModel, unboxed; written in float32.
        tokenizer_file: a tokenizer.json, copied unchanged.
        special_tokens: which of its tokens have which role.
        card: README.md, see `model_card`.
        overwrite: replace the folder, if it is a model folder.

    Raises:
        FileExistsError: the folder has content, and is not to be overwritten or is not a model folder.
        ValueError: the parameters do not fit the config, or the tokenizer does not fit the model.
    """
    _save(
        folder,
        config,
        to_hf(params, masked_lm_weights(config)),
        {"architectures": ["BertForMaskedLM"]},
        tokenizer_file=tokenizer_file,
        special_tokens=special_tokens,
        card=card,
        overwrite=overwrite,
    )


def save_token_classifier(
    folder: epath.PathLike,
    config: EncoderConfig,
    params: Mapping[str, Any],
    labels: Sequence[str],
    *,
    tokenizer_file: epath.PathLike,
    special_tokens: SpecialTokens,
    card: str,
    overwrite: bool = False,
) -> None:
    """Write a folder that AutoModelForTokenClassification loads: as `save_masked_lm`, with the names of the labels.

    Raises:
        FileExistsError, ValueError: as for `save_masked_lm`; also if a label is named twice.
    """
    if len(set(labels)) != len(labels):
        raise ValueError(f"labels: found {list(labels)}, expected no name twice")
    weights: list[Weight] = token_classifier_weights(config, len(labels))
    head = {
        "architectures": ["BertForTokenClassification"],
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    _save(
        folder,
        config,
        to_hf(params, weights),
        head,
        tokenizer_file=tokenizer_file,
        special_tokens=special_tokens,
        card=card,
        overwrite=overwrite,
    )


def _save(
    folder: epath.PathLike,
    config: EncoderConfig,
    tensors: Mapping[str, np.ndarray],
    head: Mapping[str, Any],
    *,
    tokenizer_file: epath.PathLike,
    special_tokens: SpecialTokens,
    card: str,
    overwrite: bool,
) -> None:
    folder = epath.Path(folder)
    _check_target(folder, overwrite=overwrite)  # before the work, and again nothing is touched until all is written
    files, pad_id = export_tokenizer(
        tokenizer_file, special_tokens, vocab_size=config.vocab_size, max_length=config.max_length
    )
    bert_config = {
        "model_type": "bert",
        **{theirs: getattr(config, ours) for ours, theirs in _FIELDS.items()},
        "attention_probs_dropout_prob": config.dropout_rate,
        "pad_token_id": pad_id,
        "tie_word_embeddings": True,
        "dtype": "float32",
        **head,
    }
    files["config.json"] = (json.dumps(bert_config, indent=2, ensure_ascii=False) + "\n").encode()
    files[WEIGHTS_FILE] = safetensors.numpy.save(dict(tensors), metadata={"format": "pt"})
    files["README.md"] = card.encode()
    _write_folder(folder, files)


def _check_target(folder: epath.Path, *, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder}: found a file, expected a folder or nothing")
    content = sorted(entry.name for entry in folder.iterdir())
    if content and not overwrite:
        raise FileExistsError(f"{folder}: found {len(content)} files, expected none (or overwrite=True)")
    if content and "config.json" not in content:
        raise FileExistsError(
            f"{folder}: found no config.json among {content[:5]}, expected a model folder to overwrite"
        )


def _write_folder(folder: epath.Path, files: Mapping[str, bytes]) -> None:
    """Write all files into a sibling, then put it in the folder's place: nobody sees half a model.

    A killed run leaves the sibling, and the next run removes it. Where renaming a folder copies file by file (gs://),
    the last step is not atomic.
    """
    written = folder.parent / f".{folder.name}.incomplete"
    replaced = folder.parent / f".{folder.name}.replaced"
    for left_over in (written, replaced):
        if left_over.exists():
            left_over.rmtree()
    written.mkdir(parents=True)
    for name, content in files.items():
        (written / name).write_bytes(content)
    if folder.exists():
        folder.rename(replaced)
    written.rename(folder)
    if replaced.exists():
        replaced.rmtree()
