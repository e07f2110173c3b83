"""Masked language models from Hugging Face folders and from run folders; a teacher is checked against its tokenizer.

Wherever a Hugging Face folder is given, a name of the hub is understood too: see hub.py.
"""

import hashlib
import json
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Int

from mergedistill_jax.configs.encoder import EncoderConfig, config_fields
from mergedistill_jax.json_objects import object_of
from mergedistill_jax.models import huggingface
from mergedistill_jax.models.heads import ModelConfig
from mergedistill_jax.models.huggingface_weights import weights_hash
from mergedistill_jax.teachers.hub import find_teacher
from mergedistill_jax.teachers.inference import Teacher
from mergedistill_jax.training.checkpoints import RUN_FILE, Checkpoints, read_run
from mergedistill_jax.training.token_counts import TOKEN_COUNTS_FILE, read_counts_file, read_token_counts
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer, load_tokenizer


def load_teacher(folder: str, *, max_length: int, k: int) -> Teacher:
    """Loads a teacher.

    Raises:
        ValueError: the folder is no masked language model, its tokenizer has more tokens than its output rows or
            another padding token than its positions are counted by, it is too short for `max_length`, or it has fewer
            than k tokens.
    """
    folder = find_teacher(folder).folder
    tokenizer = load_tokenizer(folder)
    encoder, params = huggingface.load_masked_lm(folder)
    num_tokens = len(tokenizer.tokens)
    if encoder.vocab_size < num_tokens:
        raise ValueError(
            f"{tokenizer.path}: field vocab: found {num_tokens} tokens,"
            f" expected at most the model's {encoder.vocab_size}"
        )
    require_padding(folder, encoder, tokenizer)
    if encoder.max_length < max_length:
        raise ValueError(
            f"{folder}/config.json: field max_position_embeddings: found {encoder.max_length},"
            f" expected at least max_length={max_length}"
        )
    if k > num_tokens:
        raise ValueError(f"k: found {k}, expected at most the {num_tokens} tokens of {tokenizer.path}")
    return Teacher(config=encoder, params=params, num_tokens=num_tokens, pad_id=tokenizer.pad_id)


def require_padding(folder: str, encoder: ModelConfig, tokenizer: TeacherTokenizer) -> None:
    """Refuses a model that counts positions by another token than the padding, or by one that has another role too.

    So no text reads the row of the padding token's position, which is not loaded, see `Embeddings`.

    Raises:
        ValueError: naming both files.
    """
    counted_by = getattr(encoder, "position_offset", 0) - 1  # only RoBERTa's kind has an offset
    if counted_by >= 0 and counted_by != tokenizer.pad_id:
        raise ValueError(
            f"{folder}/config.json: field pad_token_id: found {counted_by}, by which positions are counted,"
            f" expected {tokenizer.pad_id} of the padding token in {tokenizer.path}"
        )
    shared = [index for index in tokenizer.special_ids if index == counted_by]
    if len(shared) > 1:
        raise ValueError(
            f"{tokenizer.path}: field pad_token: found {tokenizer.tokens[counted_by]}, which has another role too,"
            f" expected a token of its own: by it {folder}/config.json counts positions"
        )


def model_hash(folder: str) -> str:
    """Content hash of weights and architecture, hexadecimal: the same weights with other heads are another model."""
    folder = find_teacher(folder).folder
    config = json.dumps(config_fields(huggingface.load_encoder_config(folder)), sort_keys=True)
    return hashlib.blake2b((weights_hash(folder) + config).encode(), digest_size=16).hexdigest()


def load_masked_model(folder: str) -> tuple[ModelConfig, Any, str]:
    """Config, parameters and tokenizer folder of a Hugging Face folder, or of a run's newest checkpoint.

    Raises:
        ValueError: the folder is neither, or damaged.
    """
    folder = find_teacher(folder).folder
    if not _is_run(folder):
        return *huggingface.load_masked_lm(folder), folder
    checkpoints = Checkpoints(folder, alone=True)
    params = checkpoints.restore_params()
    checkpoints.close()
    encoder = object_of(epath.Path(folder) / RUN_FILE, EncoderConfig, read_run(folder).model, within="model")
    return encoder, params, tokenizer_folder(folder)


def tokenizer_folder(folder: str) -> str:
    """Where a model's own tokenizer is: the Hugging Face folder itself, or the vocabulary of a run."""
    folder = find_teacher(folder).folder
    return read_run(folder).vocabulary_folder if _is_run(folder) else folder


def load_token_counts(folder: str) -> Int[np.ndarray, " v"] | None:
    """How often each token stood in the training batches of an exported folder or a run; None where nobody counted."""
    folder = find_teacher(folder).folder
    if not _is_run(folder):
        return read_counts_file(epath.Path(folder) / TOKEN_COUNTS_FILE)
    checkpoints = Checkpoints(folder, alone=True)
    step = checkpoints.latest_step
    checkpoints.close()
    return None if step is None else read_token_counts(folder, step)


def masked_model_hash(folder: str) -> str:
    """Content hash of what load_masked_model gives, hexadecimal."""
    folder = find_teacher(folder).folder
    if not _is_run(folder):
        return model_hash(folder)
    config, params, _ = load_masked_model(folder)
    digest = hashlib.blake2b(json.dumps(config_fields(config), sort_keys=True).encode(), digest_size=16)
    for leaf in jax.tree.leaves(params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _is_run(folder: str) -> bool:
    return (epath.Path(folder) / RUN_FILE).exists()
