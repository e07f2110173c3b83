"""Byte-level BPE (Radford et al. 2019): RoBERTa, from vocab.json and merges.txt or tokenizer.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from mergedistill_jax.vocabulary.errors import VocabularyError, check_tokens, one_line, refusing
from mergedistill_jax.vocabulary.settings import TOKENIZER_FILE, Built, Settings, read_object
from mergedistill_jax.vocabulary.tokenizer_json import as_it_is, kind_of, require_kind, require_same

VOCABULARY_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
_ROLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_ABSENT = (None, False, "")


def roberta(settings: Settings, content: Mapping[str, Any] | None) -> Built:
    """What RobertaTokenizer makes of a folder.

    Raises:
        VocabularyError: the files are not there, one cannot be used, or tokenizer.json contradicts the settings.
    """
    named = settings.roles(_ROLES)
    add_prefix_space = bool(settings.option("add_prefix_space", default=False))
    if content is not None:
        path = settings.folder / TOKENIZER_FILE
        whole = as_it_is(path, content)
        require_kind(path, whole, "BPE", settings)
        _require_agreement(settings, content, whole, add_prefix_space=add_prefix_space)
        vocabulary, merges = content["model"]["vocab"], [_pair(path, merge) for merge in content["model"]["merges"]]
    else:
        path = settings.folder / VOCABULARY_FILE
        vocabulary, merges = _read_files(settings.folder)
    cls, sep = str(named["cls_token"]), str(named["sep_token"])
    with refusing(path, "a vocabulary of byte-level BPE"):
        tokenizer = Tokenizer(models.BPE(vocabulary, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
        tokenizer.decoder = decoders.ByteLevel()
        if cls in vocabulary and sep in vocabulary:  # else refused when the roles are looked up
            trim_offsets = bool(settings.option("trim_offsets", default=True))
            tokenizer.post_processor = processors.RobertaProcessing(
                (sep, vocabulary[sep]), (cls, vocabulary[cls]), trim_offsets, add_prefix_space
            )
    return Built(path=path, tokenizer=tokenizer, named=named, extra=settings.other_special_tokens())


def _read_files(folder: epath.Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    path = folder / VOCABULARY_FILE
    missing = [name for name in (VOCABULARY_FILE, MERGES_FILE) if not (folder / name).exists()]
    if missing:
        raise VocabularyError(
            f"{folder}: found neither {TOKENIZER_FILE} nor {missing[0]},"
            f" expected {TOKENIZER_FILE}, or {VOCABULARY_FILE} and {MERGES_FILE}"
        )
    vocabulary = read_object(path)
    check_tokens(path, vocabulary, "token")
    wrong = [token for token, index in vocabulary.items() if type(index) is not int]
    if wrong:
        raise VocabularyError(f"{path}: token {one_line(wrong[0])}: found no id, expected a number")
    path = folder / MERGES_FILE
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path}: found bytes that are not UTF-8 ({error.reason}), expected UTF-8") from error
    merges = [line.removesuffix("\r") for line in lines]
    while merges and not merges[-1]:
        merges.pop()
    # The first line says the version; another "#" is a character to merge.
    return vocabulary, [_pair(path, merge) for merge in merges if not merge.startswith("#version")]


def _pair(path: epath.Path, merge: str | Sequence[str]) -> tuple[str, str]:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if len(parts) != 2:
        raise VocabularyError(f"{path}: merges: found {one_line(merge)!r}, expected two pieces with a space between")
    return parts[0], parts[1]


def _require_agreement(
    settings: Settings, content: Mapping[str, Any], whole: Tokenizer, *, add_prefix_space: bool
) -> None:
    """RobertaTokenizer takes only the vocabulary and merges: all else has to be what it builds itself."""
    path = settings.folder / TOKENIZER_FILE
    for field, expected in (("normalizer", "none"), ("pre_tokenizer", "ByteLevel")):
        if kind_of(content, field) != expected:
            raise VocabularyError(
                f"{path}: field {field}: found {kind_of(content, field)}, expected {expected} for the class"
                f" {settings.tokenizer_class}; PreTrainedTokenizerFast takes a tokenizer.json as it is"
            )
    expected = whole.pre_tokenizer.add_prefix_space
    require_same(settings, "add_prefix_space", found=add_prefix_space, expected=expected)
    model = whole.model
    fields = ("continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges")
    found = {f"model.{field}": getattr(model, field) for field in fields}
    found["pre_tokenizer.use_regex"] = not whole.pre_tokenizer.use_regex
    # A token for unknown bytes matters only where some byte is unknown.
    alphabet = all(whole.token_to_id(byte) is not None for byte in pre_tokenizers.ByteLevel.alphabet())
    found["model.unk_token"] = None if alphabet else model.unk_token
    for field, value in found.items():
        if value not in _ABSENT:
            raise VocabularyError(f"{path}: field {field}: found another value than {settings.tokenizer_class} uses")
