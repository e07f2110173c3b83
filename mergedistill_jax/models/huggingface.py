"""Models between Hugging Face folders and Flax parameters, without torch or transformers: every family in, BERT out.

    teacher/{config.json,model.safetensors}      ->  ModelConfig, params
    EncoderConfig, params, tokenizer.json, card  ->  student/{config.json,model.safetensors,tokenizer*.json,README.md}

What is particular to a family stands in families/. Every path may be remote (gs://).
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.files import sync, temporary_path
from mergedistill_jax.models.families import bert
from mergedistill_jax.models.families.family import Family
from mergedistill_jax.models.families.registry import family_of
from mergedistill_jax.models.heads import ModelConfig
from mergedistill_jax.models.huggingface_weights import WEIGHTS_FILE, read_json, read_tensors, to_flax, to_hf
from mergedistill_jax.models.tokenizer_files import SpecialTokens, export_tokenizer


def load_encoder_config(folder: epath.PathLike) -> ModelConfig:
    """The sizes and numerics in config.json, of a model of any family.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it is unreadable, of no known family, lacks a field, or asks for something that is not built.
    """
    return _load_config(folder)[1]


def _load_config(folder: epath.PathLike) -> tuple[Family, ModelConfig, dict[str, Any]]:
    """The family, the config and the content of config.json."""
    path = epath.Path(folder) / "config.json"
    stored = read_json(path)
    family = family_of(stored, path)
    return family, family.read_config(stored, path), stored


def load_masked_lm(folder: epath.PathLike) -> tuple[ModelConfig, dict[str, Any]]:
    """Config and float32 parameters (NumPy arrays) for `heads.masked_language_model`.

    All rows of the vocabulary are kept, also those beyond the tokenizer's tokens.

    Raises:
        FileNotFoundError: config.json or the weights are not there.
        ValueError: either is unreadable or unsupported; the folder has no masked-LM head, or an untied one; a tensor is
            missing, unexpected or of a wrong shape.
    """
    family, config, stored = _load_config(folder)
    tensors = _canonical(read_tensors(folder), family, folder)
    if not any(name.startswith(family.head_prefix) for name in tensors):
        prefix, hint = family.other_head or ("", "")
        has_other = bool(prefix) and any(name.startswith(prefix) for name in tensors)
        raise ValueError(
            f"{folder}: has no masked-LM head: found no weights {family.head_prefix}*"
            f"{f' but {prefix}* ({hint})' if has_other else ''}, expected them"
        )
    tensors = _without_tied(tensors, family, folder, tied=stored.get("tie_word_embeddings", True))
    return config, to_flax(tensors, family.masked_lm_weights(config), folder, stored)


def _canonical(tensors: Mapping[str, np.ndarray], family: Family, folder: epath.PathLike) -> dict[str, np.ndarray]:
    """The tensors that are read, under today's names.

    That is with the encoder's prefix, and with LayerNorm weight and bias for the old gamma and beta.
    """
    bare = tuple(f"{module}." for module in family.modules)
    canonical: dict[str, np.ndarray] = {}
    for stored, tensor in tensors.items():
        name = stored.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if name.startswith(bare):
            name = f"{family.prefix}.{name}"
        if name in canonical:
            raise ValueError(f"{folder}: {name}: found twice ({stored} is another name of it), expected once")
        canonical[name] = tensor
    return {name: tensor for name, tensor in canonical.items() if not family.is_harmless(name)}


def _without_tied(
    tensors: Mapping[str, np.ndarray], family: Family, folder: epath.PathLike, *, tied: Any
) -> dict[str, np.ndarray]:
    """The tensors without the decoder's copies of the word embeddings and of the bias, once seen to be copies.

    Where config.json unties them, transformers reads the decoder's own tensors alone, and makes new ones for those
    that are missing.
    """
    if not isinstance(tied, bool):
        raise ValueError(f"{folder}/config.json: tie_word_embeddings: found {tied!r}, expected true or false")  # noqa: TRY004 - file content
    tensors = dict(tensors)
    own = [family.decoder, *(family.decoder_bias or ())[:1]]
    missing = [] if tied else [name for name in own if name not in tensors]
    if missing:
        raise ValueError(
            f"{folder}: found no weights {missing[0]}, expected them as config.json unties the embeddings"
            " (tie_word_embeddings: false)"
        )
    decoder = tensors.pop(family.decoder, None)
    if decoder is not None and family.embeddings in tensors and not np.array_equal(decoder, tensors[family.embeddings]):
        raise ValueError(f"{folder}: {family.decoder}: found untied weights, expected those of {family.embeddings}")
    if family.decoder_bias is not None:
        copy, original = family.decoder_bias
        bias = tensors.pop(copy, None)
        if bias is not None and not np.array_equal(tensors.setdefault(original, bias), bias):
            raise ValueError(f"{folder}: {copy}: found other values than in {original}, expected the same")
    return tensors


def load_token_classifier(folder: epath.PathLike) -> tuple[EncoderConfig, dict[str, Any], list[str]]:
    """Config, float32 parameters (NumPy arrays) and label names of a TokenClassifier on a BERT.

    Raises:
        FileNotFoundError, ValueError: as for `load_masked_lm`; also if config.json is of another family, or does not
            name labels 0, 1, 2...
    """
    family, config, stored = _load_config(folder)
    path = epath.Path(folder) / "config.json"
    if family is not bert.FAMILY or not isinstance(config, EncoderConfig):
        raise ValueError(f"{path}: model_type: found {stored['model_type']!r}, expected 'bert' for a token classifier")
    id2label = stored.get("id2label")
    ids = [str(index) for index in range(len(id2label or {}))]
    if not isinstance(id2label, dict) or not ids or set(id2label) != set(ids):
        raise ValueError(f"{path}: id2label: found {id2label!r}, expected names of the labels 0, 1, 2...")
    tensors = _canonical(read_tensors(folder), family, folder)
    if "classifier.weight" not in tensors:
        raise ValueError(
            f"{folder}: has no token-classification head: found no weights classifier.weight, expected them"
        )
    params = to_flax(tensors, bert.token_classifier_weights(config, len(ids)), folder, stored)
    return config, params, [id2label[index] for index in ids]


def require_bert(config: ModelConfig) -> EncoderConfig:
    """The config, if a BERT folder can hold such a model: nothing else is written here.

    A RoBERTa with GELU is a BERT, once its unused position rows are gone.

    Raises:
        ValueError: it is a model of another family.
    """
    if not isinstance(config, EncoderConfig):
        raise ValueError(f"model to save: found a {type(config).__name__}, expected an EncoderConfig")  # noqa: TRY004 - a setting
    for field in ("embedding_size", "num_layer_groups", "head_activation"):
        if getattr(config, field) is not None:
            raise ValueError(f"model to save: {field}: found {getattr(config, field)!r}, expected None as in BERT")
    if not config.type_vocab_size:
        raise ValueError("model to save: type_vocab_size: found 0, expected at least 1 as in BERT")
    return config


def _as_bert(config: ModelConfig) -> EncoderConfig:
    """The config as a BERT folder has it: without rows before the first position, as RoBERTa's files have them."""
    return dataclasses.replace(require_bert(config), position_offset=0)


def save_masked_lm(
    folder: epath.PathLike,
    config: ModelConfig,
    params: Mapping[str, Any],
    *,
    tokenizer_file: epath.PathLike,
    special_tokens: SpecialTokens,
    card: str,
    overwrite: bool = False,
) -> None:
    """Write the folder of a BERT that AutoModelForMaskedLM and AutoTokenizer load.

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
        ValueError: the model is no BERT, the parameters do not fit the config, or the tokenizer does not fit the model.
    """
    config = _as_bert(config)
    _save(
        folder,
        config,
        to_hf(params, bert.FAMILY.masked_lm_weights(config)),
        {"architectures": ["BertForMaskedLM"]},
        tokenizer_file=tokenizer_file,
        special_tokens=special_tokens,
        card=card,
        overwrite=overwrite,
    )


def save_token_classifier(
    folder: epath.PathLike,
    config: ModelConfig,
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
    config = _as_bert(config)
    weights = bert.token_classifier_weights(config, len(labels))
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
        **{field.name: getattr(config, ours) for ours, field in bert.CONFIG.items()},
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
    """Writes all files into a folder beside, then puts it in the folder's place: no half a model is ever seen.

    What a killed run leaves beside it is removed by the next one, see files.py. A link stays: the folder that it leads
    to is replaced. Where renaming a folder copies file by file (gs://), the last step is not atomic.
    """
    if "://" not in str(folder):
        folder = epath.Path(os.path.realpath(folder))
    written, replaced = temporary_path(folder), temporary_path(folder)
    written.mkdir(parents=True)
    try:
        for name, content in files.items():
            (written / name).write_bytes(content)
            sync(written / name)
        sync(written)
        if folder.exists():
            folder.rename(replaced)
        written.rename(folder)
    except Exception:
        if replaced.exists():
            replaced.rename(folder)
        written.rmtree()
        raise
    sync(folder.parent)
    if replaced.exists():
        replaced.rmtree()
