"""A teacher's published tokenizer, through the `tokenizers` library, so that ids equal what AutoTokenizer gives."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Int
from tokenizers import Tokenizer

TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILE = "vocab.txt"
SETTINGS_FILE = "tokenizer_config.json"
SPECIAL_TOKENS = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}

REQUIRED_TOKENS = ("[UNK]", "[CLS]", "[SEP]")
"""What BERT's WordPiece tokenizer cannot be built without."""

_SWITCHES = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
_AS_IT_IS = "PreTrainedTokenizerFast"
"""The class of transformers that takes tokenizer.json as it is; BertTokenizer builds its own from the settings."""


class VocabularyError(ValueError):
    """A vocabulary or tokenizer that is missing or not what was asked for; the message is one line."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TeacherTokenizer:
    """A tokenizer and the ids of its special tokens, found by string and never by number."""

    path: str
    tokenizer: Tokenizer
    tokens: tuple[str, ...]
    pad_id: int
    unk_id: int
    cls_id: int
    sep_id: int
    mask_id: int

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of the five special tokens."""
        return (self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id)

    @functools.cached_property
    def ordinary_ids(self) -> Int[np.ndarray, " v"]:
        """Ids of tokens that stand for text: no special and no [unusedN] token."""
        special = set(self.special_ids)
        return np.array(
            [i for i, token in enumerate(self.tokens) if i not in special and not is_placeholder(token)], np.int32
        )

    @functools.cached_property
    def vocabulary_hash(self) -> str:
        """Content hash of the tokens in the order of their ids."""
        return vocabulary_hash(self.tokens)

    @functools.cached_property
    def tokenizer_hash(self) -> str:
        """Content hash of everything that decides how a text is cut, padding and truncation aside."""
        content = json.loads(self.tokenizer.to_str())
        for field in ("padding", "truncation"):
            content.pop(field, None)
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()

    def encode_batch(self, texts: Sequence[str]) -> list[tuple[list[int], Int[np.ndarray, " n"]]]:
        """For each text its ids, without special tokens, and the character at which each piece starts."""
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [(e.ids, np.fromiter((s for s, _ in e.offsets), np.int64, len(e.ids))) for e in encodings]


def is_placeholder(token: str) -> bool:
    """Whether a token is one of BERT's [unusedN]: in the vocabulary, never in a text."""
    return token.startswith("[unused") and token.endswith("]")


def vocabulary_hash(tokens: Sequence[str]) -> str:
    """blake2b-128 over the tokens in order, hexadecimal; each is led by its length, so that no two lists collide."""
    digest = hashlib.blake2b(digest_size=16)
    for token in tokens:
        data = token.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "little") + data)
    return digest.hexdigest()


def load_tokenizer(folder: epath.PathLike) -> TeacherTokenizer:
    """The tokenizer of a Hugging Face folder: tokenizer.json, or vocab.txt with tokenizer_config.json's switches.

    Raises:
        VocabularyError: neither file is there, a file does not parse, the settings contradict tokenizer.json, ids have
            gaps, or a special token is missing.
    """
    folder = epath.Path(folder)
    path = folder / TOKENIZER_FILE
    if path.exists():
        try:
            tokenizer = Tokenizer.from_str(path.read_text())
        except Exception as error:  # the library raises plain Exception
            raise VocabularyError(f"{path}: found no tokenizer ({error}), expected a tokenizer.json") from error
        _require_agreement(folder / SETTINGS_FILE, tokenizer)
    elif (folder / VOCABULARY_FILE).exists():
        path = folder / VOCABULARY_FILE
        tokenizer = _wordpiece_from_vocabulary(folder)
    else:
        raise VocabularyError(f"{folder}: found neither {TOKENIZER_FILE} nor {VOCABULARY_FILE}, expected one of them")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return wrap_tokenizer(tokenizer, str(path))


def wrap_tokenizer(tokenizer: Tokenizer, path: str) -> TeacherTokenizer:
    """Finds the special tokens of a tokenizer by string; `path` is named in errors."""
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise VocabularyError(f"{path}: field vocab: found ids with gaps or doubles, expected 0 to {len(tokens) - 1}")
    special = {}
    for name, candidates in SPECIAL_TOKENS.items():
        found = next((token for token in candidates if token in ids), None)
        if found is None:
            raise VocabularyError(f"{path}: field vocab: found no {name} token, expected one of {list(candidates)}")
        special[f"{name}_id"] = ids[found]
    return TeacherTokenizer(path=path, tokenizer=tokenizer, tokens=tuple(tokens), **special)


def _wordpiece_from_vocabulary(folder: epath.Path) -> Tokenizer:
    """BERT's tokenizer from vocab.txt, as transformers builds it where there is no tokenizer.json."""
    path = folder / VOCABULARY_FILE
    # One token a line, and only "\n" ends a line: two of bert-base-chinese's tokens are Unicode line separators.
    try:
        tokens = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path}: found bytes that are not UTF-8 ({error.reason}), expected UTF-8") from error
    vocabulary = {token.removesuffix("\r"): index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise VocabularyError(f"{path}: found {len(tokens) - len(vocabulary)} doubled tokens, expected each token once")
    missing = [token for token in REQUIRED_TOKENS if token not in vocabulary]
    if missing:
        raise VocabularyError(f"{path}: found no {missing[0]}, expected {', '.join(REQUIRED_TOKENS)}")
    settings = _settings(folder / SETTINGS_FILE)
    lowercase = settings.get("do_lower_case", True)
    return wordpiece_tokenizer(
        vocabulary,
        lowercase=lowercase,
        strip_accents=settings.get("strip_accents"),
        split_chinese=settings.get("tokenize_chinese_chars", True),
    )


def _require_agreement(path: epath.Path, tokenizer: Tokenizer) -> None:
    """Refuses settings that contradict tokenizer.json: AutoTokenizer would follow the settings, we the file."""
    settings = _settings(path)
    if type(tokenizer.normalizer).__name__ != "BertNormalizer" or settings.get("tokenizer_class") == _AS_IT_IS:
        return
    for switch, name in _SWITCHES.items():
        found = getattr(tokenizer.normalizer, name)
        if settings.get(switch, found) not in (found, None):
            raise VocabularyError(
                f"{path}: field {switch}: found {settings[switch]!r}, expected {found!r} as in {TOKENIZER_FILE}"
            )


def _settings(path: epath.Path) -> dict:
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise VocabularyError(f"{path}: found no JSON ({error}), expected a JSON object") from error
    if not isinstance(settings, dict):
        raise VocabularyError(f"{path}: found {type(settings).__name__}, expected a JSON object")
    return settings


def wordpiece_tokenizer(
    vocabulary: dict[str, int], *, lowercase: bool, strip_accents: bool | None, split_chinese: bool
) -> Tokenizer:
    """BERT's WordPiece tokenizer over a vocabulary that has REQUIRED_TOKENS, adding [CLS] and [SEP]."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors  # noqa: PLC0415 - generic names

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    tokenizer.add_special_tokens([token for token, *_ in SPECIAL_TOKENS.values() if token in vocabulary])
    return tokenizer
