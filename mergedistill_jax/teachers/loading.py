"""A teacher from its Hugging Face folder, checked against its tokenizer and against what is asked of it."""

import dataclasses
import hashlib
import json

from mergedistill_jax.models import huggingface
from mergedistill_jax.models.huggingface_weights import weights_hash
from mergedistill_jax.teachers.inference import Teacher
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer


def load_teacher(folder: str, *, max_length: int, k: int) -> Teacher:
    """Loads a teacher.

    Raises:
        ValueError: the folder is no masked language model, its tokenizer has more tokens than its output rows, it is
            too short for `max_length`, or it has fewer than k tokens.
    """
    tokenizer = load_tokenizer(folder)
    encoder, params = huggingface.load_masked_lm(folder)
    num_tokens = len(tokenizer.tokens)
    if encoder.vocab_size < num_tokens:
        raise ValueError(
            f"{tokenizer.path}: field vocab: found {num_tokens} tokens,"
            f" expected at most the model's {encoder.vocab_size}"
        )
    if encoder.max_length < max_length:
        raise ValueError(
            f"{folder}/config.json: field max_position_embeddings: found {encoder.max_length},"
            f" expected at least max_length={max_length}"
        )
    if k > num_tokens:
        raise ValueError(f"k: found {k}, expected at most the {num_tokens} tokens of {tokenizer.path}")
    return Teacher(config=encoder, params=params, num_tokens=num_tokens, pad_id=tokenizer.pad_id)


def model_hash(folder: str) -> str:
    """Content hash of weights and architecture, hexadecimal: the same weights with other heads are another model."""
    config = json.dumps(dataclasses.asdict(huggingface.load_encoder_config(folder)), sort_keys=True)
    return hashlib.blake2b((weights_hash(folder) + config).encode(), digest_size=16).hexdigest()
