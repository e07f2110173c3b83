"""The tokenizer beside a model: which file it is, how many tokens it has, its hash, and the files an export writes."""

import dataclasses
import hashlib
import json
from typing import Any

import sentencepiece
import tokenizers
from etils import epath

from mergedistill_jax.models.huggingface_weights import read_json

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
"""In order of preference: what AutoTokenizer would read first."""

# The fields of tokenizer_config.json that change the ids that a vocab.txt gives.
_VOCAB_TXT_FIELDS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """The special tokens of a BERT-like tokenizer, as strings."""

    pad: str = "[PAD]"
    unk: str = "[UNK]"
    cls: str = "[CLS]"
    sep: str = "[SEP]"
    mask: str = "[MASK]"


def find_tokenizer(folder: epath.PathLike) -> epath.Path:
    """The tokenizer's own file.

    Raises:
        FileNotFoundError: the folder holds none of TOKENIZER_FILES.
    """
    folder = epath.Path(folder)
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"{folder}: found no tokenizer, expected one of {', '.join(TOKENIZER_FILES)}")


def count_tokens(folder: epath.PathLike) -> int:
    """Rows of the output layer that a token stands for: the highest token id and one.

    A model may have more rows (vocab_size), added to fill up a multiple of 8 or 128: those must never be predicted.
    """
    path = find_tokenizer(folder)
    if path.name == "tokenizer.json":
        return max(load_fast_tokenizer(path).get_vocab(with_added_tokens=True).values()) + 1
    if path.name == "vocab.txt":
        # Only \n ends a line: str.splitlines would also split at U+2028 and the like, which vocabularies contain.
        return path.read_bytes().removesuffix(b"\n").count(b"\n") + 1
    return sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes()).get_piece_size()


def tokenizer_hash(folder: epath.PathLike) -> str:
    """blake2b (16 bytes, hex) of what decides the ids of a text.

    That is the content of tokenizer.json however it is formatted; or vocab.txt with the casing fields of
    tokenizer_config.json; or the bytes of the SentencePiece model.
    """
    path = find_tokenizer(folder)
    digest = hashlib.blake2b(path.name.encode(), digest_size=16)
    if path.name == "tokenizer.json":
        digest.update(json.dumps(read_json(path), sort_keys=True).encode())
    else:
        digest.update(path.read_bytes())
    if path.name == "vocab.txt":
        config_path = path.parent / "tokenizer_config.json"
        config = read_json(config_path) if config_path.exists() else {}
        digest.update(json.dumps([config.get(field) for field in _VOCAB_TXT_FIELDS]).encode())
    return digest.hexdigest()


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
