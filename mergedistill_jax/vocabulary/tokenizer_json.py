"""tokenizer.json: reading one, and finding where it contradicts what transformers makes of it."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath
from tokenizers import Tokenizer

from mergedistill_jax.vocabulary.errors import VocabularyError, check_tokens, one_line, refusing
from mergedistill_jax.vocabulary.settings import Settings

_RANDOM = ("dropout", "alpha", "nbest_size")
"""Fields of a model that make it cut a text differently each time."""


def read_tokenizer_json(path: epath.Path) -> dict[str, Any]:
    """The content of a tokenizer.json whose vocabulary can be used.

    Raises:
        VocabularyError: the file is none, or its model is random or has impossible tokens.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{path}: found no tokenizer ({one_line(error)}), expected a tokenizer.json") from error
    model = content.get("model") if isinstance(content, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vocabulary, dict | list):
        raise VocabularyError(f"{path}: found no tokenizer (no field model.vocab), expected a tokenizer.json")
    tokens = (
        vocabulary
        if isinstance(vocabulary, dict)
        else [one[0] if isinstance(one, list) and one else one for one in vocabulary]
    )
    check_tokens(path, tokens, "field model.vocab: token")
    for field in _RANDOM:
        if model.get(field):
            raise VocabularyError(
                f"{path}: field model.{field}: found {one_line(model[field])}, expected none:"
                " a text must be cut the same way each time"
            )
    return content


def as_it_is(path: epath.Path, content: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a tokenizer.json describes, without padding and truncation.

    Raises:
        VocabularyError: it describes none, one without a token for unknown words, or other ids than the library gives.
    """
    with refusing(path, "a tokenizer.json"):
        tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    for token in content.get("added_tokens") or ():
        found = tokenizer.token_to_id(token["content"])
        if found != token["id"]:
            raise VocabularyError(
                f"{path}: field added_tokens: found id {token['id']} for {one_line(token['content'])},"
                f" expected {found}, the next free one"
            )
    require_unknown(path, tokenizer, content["model"])
    return tokenizer


def require_unknown(path: epath.Path, tokenizer: Tokenizer, model: Mapping[str, Any]) -> None:
    """Without a token for unknown text the library stops at the first text that has any."""
    if type(tokenizer.model).__name__ == "Unigram":
        if model.get("unk_id") is None:
            raise VocabularyError(f"{path}: field model.unk_id: found none, expected the id of the unknown token")
        return
    token = getattr(tokenizer.model, "unk_token", None)
    if token is not None and tokenizer.token_to_id(token) is None:
        raise VocabularyError(f"{path}: field vocab: found no {one_line(token)}, expected the model's unk_token")


def require_kind(path: epath.Path, tokenizer: Tokenizer, kind: str, settings: Settings) -> None:
    """Refuses a tokenizer.json of another family than the class of the settings."""
    found = type(tokenizer.model).__name__
    if found != kind:
        raise VocabularyError(
            f"{path}: field model: found {found}, expected {kind} for the class {settings.tokenizer_class};"
            " PreTrainedTokenizerFast takes a tokenizer.json as it is"
        )


def require_same(settings: Settings, field: str, *, found: object, expected: object) -> None:
    """Refuses a tokenizer.json that says something else than the settings.

    AutoTokenizer would follow the settings and their defaults, and leave the file aside; nobody can know which of the
    two the teacher was trained with.

    Raises:
        VocabularyError: `found`, which the settings say, is not `expected`, which tokenizer.json says.
    """
    if found == expected:
        return
    by_default = "" if field in settings.options else f" (the default of {settings.tokenizer_class})"
    raise VocabularyError(
        f"{settings.file}: field {field}: found {one_line(found)}{by_default},"
        f" expected {one_line(expected)} as in tokenizer.json"
    )


def kind_of(content: Mapping[str, Any], field: str) -> str:
    """The type of a part of tokenizer.json, such as its normalizer; "none" where there is none."""
    part = content.get(field)
    return str(part.get("type")) if isinstance(part, dict) else "none"
