"""WordPiece tokenizers (Devlin et al. 2019): BERT, DistilBERT and ELECTRA, from vocab.txt or tokenizer.json."""

from collections.abc import Mapping
from typing import Any

from etils import epath
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mergedistill_jax.vocabulary.errors import VocabularyError, check_tokens
from mergedistill_jax.vocabulary.settings import TOKENIZER_FILE, Built, Settings
from mergedistill_jax.vocabulary.tokenizer_json import as_it_is, kind_of, require_kind, require_same

VOCABULARY_FILE = "vocab.txt"
REQUIRED_TOKENS = ("[UNK]", "[CLS]", "[SEP]")
"""What BERT's WordPiece tokenizer cannot be built without."""

_ROLES = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
_PREFIX = "##"
_LONGEST_WORD = 100


def bert(settings: Settings, content: Mapping[str, Any] | None) -> Built:
    """What BertTokenizer makes of a folder.

    Raises:
        VocabularyError: neither file is there, one cannot be used, or tokenizer.json contradicts the settings.
    """
    named = settings.roles(_ROLES)
    if content is not None:
        path = settings.folder / TOKENIZER_FILE
        whole = as_it_is(path, content)
        require_kind(path, whole, "WordPiece", settings)
        _require_agreement(settings, content, whole)
        tokenizer = _without_added_tokens(whole)
    else:
        path = settings.folder / VOCABULARY_FILE
        if not path.exists():
            raise VocabularyError(
                f"{settings.folder}: found neither {TOKENIZER_FILE} nor {VOCABULARY_FILE}, expected one of them"
            )
        unk, cls, sep = (str(named[f"{role}_token"]) for role in ("unk", "cls", "sep"))
        vocabulary = _read_vocabulary(path, (unk, cls, sep))
        tokenizer = _plain(vocabulary, **_switches(settings), unk=unk, cls=cls, sep=sep)
    _frame(tokenizer, str(named["cls_token"]), str(named["sep_token"]))
    return Built(path=path, tokenizer=tokenizer, named=named, extra=settings.other_special_tokens())


def wordpiece_tokenizer(
    vocabulary: dict[str, int], *, lowercase: bool, strip_accents: bool | None, split_chinese: bool
) -> Tokenizer:
    """BERT's WordPiece tokenizer over a vocabulary that has REQUIRED_TOKENS, adding [CLS] and [SEP]."""
    tokenizer = _plain(vocabulary, lowercase=lowercase, strip_accents=strip_accents, split_chinese=split_chinese)
    tokenizer.add_special_tokens([token for token in _ROLES.values() if token in vocabulary])
    return tokenizer


def _plain(
    vocabulary: dict[str, int],
    *,
    lowercase: bool,
    strip_accents: bool | None,
    split_chinese: bool,
    unk: str = "[UNK]",
    cls: str = "[CLS]",
    sep: str = "[SEP]",
) -> Tokenizer:
    """The same without special tokens: a text that spells one is cut like any other."""
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_PREFIX)
    tokenizer.post_processor = processors.BertProcessing((sep, vocabulary[sep]), (cls, vocabulary[cls]))
    return tokenizer


def _without_added_tokens(whole: Tokenizer) -> Tokenizer:
    """The settings say which tokens are added; those of tokenizer.json are among them only if they list none."""
    tokenizer = Tokenizer(whole.model)
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        setattr(tokenizer, part, getattr(whole, part))
    return tokenizer


def _read_vocabulary(path: epath.Path, needed: tuple[str, ...]) -> dict[str, int]:
    r"""Tokens of a vocab.txt: one a line, its id the number of the line.

    Only "\n" ends a line, or "\r\n": two of bert-base-chinese's tokens are Unicode line separators. Empty lines at the
    end are no tokens. transformers drops white space behind a token, so that the token "a " would take the id of "a",
    and of two lines of nothing but white space one would be lost; where that could matter the file is refused.
    """
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path}: found bytes that are not UTF-8 ({error.reason}), expected UTF-8") from error
    tokens = [line.removesuffix("\r") for line in lines]
    while tokens and not tokens[-1]:
        tokens.pop()
    check_tokens(path, tokens, "token")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise VocabularyError(f"{path}: found {len(tokens) - len(vocabulary)} doubled tokens, expected each token once")
    stripped: dict[str, int] = {}
    for token, index in vocabulary.items():
        if "\r" in token:  # transformers would end a line there, and number all behind it otherwise
            raise VocabularyError(f"{path}: token {index}: found a carriage return inside a line, expected none")
        if token != token.rstrip() and token.rstrip() not in ("", _PREFIX):
            raise VocabularyError(f"{path}: token {index}: found white space behind {token.rstrip()}, expected none")
        first = stripped.setdefault(token.rstrip(), index)
        if first != index:
            raise VocabularyError(
                f"{path}: token {index}: found {token!a}, which transformers reads as token {first}, expected another"
            )
    missing = [token for token in needed if token not in vocabulary]
    if missing:
        raise VocabularyError(f"{path}: found no {missing[0]}, expected {', '.join(needed)}")
    return vocabulary


def _switches(settings: Settings) -> dict[str, Any]:
    """The switches of BERT's normaliser, with the defaults of BertTokenizer."""
    return {
        "lowercase": bool(settings.option("do_lower_case", default=True)),
        "strip_accents": settings.option("strip_accents", default=None),
        "split_chinese": bool(settings.option("tokenize_chinese_chars", default=True)),
    }


def _require_agreement(settings: Settings, content: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """BertTokenizer takes only the vocabulary from tokenizer.json: all else has to be what it builds itself."""
    path = settings.folder / TOKENIZER_FILE
    for field, expected in (("normalizer", "BertNormalizer"), ("pre_tokenizer", "BertPreTokenizer")):
        if kind_of(content, field) != expected:
            raise VocabularyError(
                f"{path}: field {field}: found {kind_of(content, field)}, expected {expected} for the class"
                f" {settings.tokenizer_class}; PreTrainedTokenizerFast takes a tokenizer.json as it is"
            )
    switches, normalizer = _switches(settings), tokenizer.normalizer
    lowercase = normalizer.lowercase
    require_same(settings, "do_lower_case", found=switches["lowercase"], expected=lowercase)
    chinese = normalizer.handle_chinese_chars
    require_same(settings, "tokenize_chinese_chars", found=switches["split_chinese"], expected=chinese)
    # None means: as do_lower_case.
    stripped = [lowercase if one is None else one for one in (switches["strip_accents"], normalizer.strip_accents)]
    require_same(settings, "strip_accents", found=stripped[0], expected=stripped[1])
    for field, found, expected in (
        ("normalizer.clean_text", normalizer.clean_text, True),
        ("model.continuing_subword_prefix", tokenizer.model.continuing_subword_prefix, _PREFIX),
        ("model.max_input_chars_per_word", tokenizer.model.max_input_chars_per_word, _LONGEST_WORD),
        ("model.unk_token", tokenizer.model.unk_token, str(settings.roles(_ROLES)["unk_token"])),
    ):
        if found != expected:
            raise VocabularyError(
                f"{path}: field {field}: found {found!r}, expected {expected!r}"
                f" for the class {settings.tokenizer_class}"
            )


def _frame(tokenizer: Tokenizer, cls: str, sep: str) -> None:
    """BertTokenizer frames a text by these two, whatever tokenizer.json says."""
    cls_id, sep_id = tokenizer.token_to_id(cls), tokenizer.token_to_id(sep)
    if cls_id is None or sep_id is None or tokenizer.encode("").ids == [cls_id, sep_id]:
        return  # a missing one is refused when the roles are looked up
    tokenizer.post_processor = processors.BertProcessing((sep, sep_id), (cls, cls_id))
