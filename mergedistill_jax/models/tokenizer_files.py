"""The tokenizer beside a model: the files that an export writes."""

import dataclasses
import json
from typing import Any

import tokenizers
from etils import epath

from mergedistill_jax.models.huggingface_weights import read_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The special tokens of a BERT-like tokenizer, as strings."""

    pad: str = "[PAD]"
    unk: str = "[UNK]"
    cls: str = "[CLS]"
    sep: str = "[SEP]"
    mask: str = "[MASK]"


def load_fast_tokenizer(path: epath.Path) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON, or not a tokenizer.
    """
    content = json.dumps(read_json(path))
    try:
        return tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path}: found an unreadable file ({error}), expected a tokenizer.json") from error


def export_tokenizer(
    tokenizer_file: epath.PathLike, special_tokens: SpecialTokens, *, vocab_size: int, max_length: int
) -> tuple[dict[str, bytes], int]:
    """The tokenizer's files for a model folder, by name, and the id of the padding token.

    Args:
        tokenizer_file: a tokenizer.json; it is copied byte for byte.
        special_tokens: which of its tokens have which role.
        vocab_size: rows of the model's embedding table.
        max_length: positions of the model.

    Raises:
        ValueError: a special token is absent, the tokenizer does not frame a text by CLS and SEP, or has more tokens
            than the model has rows.
    """
    path = epath.Path(tokenizer_file)
    tokenizer = load_fast_tokenizer(path)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    for role, token in dataclasses.asdict(special_tokens).items():
        if token not in vocabulary:
            raise ValueError(f"{path}: {role} token: found no {token!r} in the vocabulary, expected it")
    num_tokens = max(vocabulary.values()) + 1
    if num_tokens > vocab_size:
        raise ValueError(f"{path}: found {num_tokens} tokens, expected at most the model's vocab_size={vocab_size}")
    tokenizer.no_padding()
    frame, expected = tokenizer.encode("").tokens, [special_tokens.cls, special_tokens.sep]
    if frame != expected:
        raise ValueError(f"{path}: post_processor: found {frame} for the empty text, expected {expected}")
    config = _tokenizer_config(read_json(path), special_tokens, max_length)
    files = {
        "tokenizer.json": path.read_bytes(),
        "tokenizer_config.json": (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode(),
    }
    return files, vocabulary[special_tokens.pad]


def _tokenizer_config(tokenizer: dict[str, Any], special_tokens: SpecialTokens, max_length: int) -> dict[str, Any]:
    """tokenizer_config.json for the content of a tokenizer.json."""
    config: dict[str, Any] = {
        # Takes tokenizer.json as it is; BertTokenizer would build its own normaliser and pre-tokeniser instead.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    config |= {f"{role}_token": token for role, token in dataclasses.asdict(special_tokens).items()}
    normalizer = tokenizer.get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        # For whoever asks for BertTokenizer by name: its defaults (lower case) would silently give other ids.
        config |= {
            "do_lower_case": normalizer["lowercase"],
            "strip_accents": normalizer["strip_accents"],
            "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
        }
    return config
