"""What a Hugging Face folder says about its tokenizer, apart from the vocabulary: read as AutoTokenizer reads it.

transformers 5 chooses a class by tokenizer_class or model_type. Most classes take no more than the vocabulary from
tokenizer.json and build the rest from tokenizer_config.json; the class called TokenizersBackend (before version 5
PreTrainedTokenizerFast) takes tokenizer.json as it is.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from tokenizers import AddedToken, Tokenizer

from mergedistill_jax.vocabulary.errors import VocabularyError, check_tokens, one_line, refusing

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
MODEL_FILE = "config.json"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

BERT, ROBERTA, AS_IT_IS = "BertTokenizer", "RobertaTokenizer", "TokenizersBackend"
XLM_ROBERTA, CAMEMBERT, ALBERT = "XLMRobertaTokenizer", "CamembertTokenizer", "AlbertTokenizer"
_CLASSES = {
    **{name: name for name in (BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, ALBERT, AS_IT_IS)},
    "DistilBertTokenizer": BERT,
    "ElectraTokenizer": BERT,
    "PreTrainedTokenizer": AS_IT_IS,
}
_CLASS_OF_MODEL = {
    "bert": BERT,
    "distilbert": BERT,
    "electra": BERT,
    "megatron-bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "camembert": CAMEMBERT,
    "albert": ALBERT,
}
_ALWAYS_AS_IT_IS = ("modernbert", "xlm-roberta-xl")
"""Model types whose tokenizer_class AutoTokenizer does not believe."""

Token = str | AddedToken


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """The settings of a folder.

    Attributes:
        tokenizer_class: one of the classes above.
        options: tokenizer_config.json.
        named: special tokens by their role in transformers, such as mask_token, as far as a file names them.
        extra: other special tokens, under the field's name in transformers 5; None where no file lists any.
        additional: the same under its older name, where it was not taken for `extra`.
        added: tokens beside those of the model, with the ids that the files give them.
    """

    folder: epath.Path
    tokenizer_class: str
    options: Mapping[str, Any]
    named: Mapping[str, Token]
    extra: Sequence[Token] | None
    additional: Sequence[Token] | None
    added: Mapping[int, AddedToken]

    @property
    def file(self) -> epath.Path:
        """tokenizer_config.json, to be named in errors."""
        return self.folder / SETTINGS_FILE

    def option(self, name: str, default: bool | None) -> bool | None:  # noqa: FBT001 - a value, not a switch
        """A switch of tokenizer_config.json.

        Raises:
            VocabularyError: it is no boolean.
        """
        found = self.options.get(name, default)
        if found is not None and not isinstance(found, bool):
            raise VocabularyError(f"{self.file}: field {name}: found {one_line(repr(found))}, expected true or false")
        return found

    def other_special_tokens(self, default: Sequence[Token] = ()) -> tuple[Token, ...]:
        """Special tokens beside the named ones: the class's own where the folder lists none."""
        return tuple(next(one for one in (self.extra, self.additional, default) if one is not None))

    def roles(self, defaults: Mapping[str, Token]) -> dict[str, Token]:
        """The named special tokens: the class's own names where the folder gives none."""
        merged = {**defaults, **self.named}
        return {**{name: merged[name] for name in NAMED if name in merged}, **merged}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Built:
    """A tokenizer without its special tokens, and the special tokens it shall have.

    Attributes:
        path: the file that holds its vocabulary.
        named: special tokens by their role in transformers, such as mask_token.
        extra: the other special tokens.
    """

    path: epath.Path
    tokenizer: Tokenizer
    named: Mapping[str, Token]
    extra: tuple[Token, ...]


def read_settings(folder: epath.Path, content: Mapping[str, Any] | None) -> Settings:
    """The settings of a folder; `content` is its tokenizer.json where there is one.

    Raises:
        VocabularyError: a file is no JSON object, or asks for what is not supported here.
    """
    options = read_object(folder / SETTINGS_FILE)
    model = read_object(folder / MODEL_FILE)
    added = _added_tokens(folder, options, content)
    merged = dict(options)
    if "additional_special_tokens" in merged and not merged.get("extra_special_tokens"):
        merged["extra_special_tokens"] = merged.pop("additional_special_tokens")
    if "added_tokens_decoder" not in options:
        merged |= read_object(folder / "special_tokens_map.json")
    by_content = {token.content: token for token in added.values()}
    path = folder / SETTINGS_FILE
    tokenizer_class = _tokenizer_class(folder, options, model, content)
    for key in NAMED:
        value = merged.get(key, "")
        # A class that builds its tokenizer would do so without the token; one that takes tokenizer.json as it is, not.
        absent = value is None and (tokenizer_class == AS_IT_IS or key in ("bos_token", "eos_token"))
        if not absent and not isinstance(value, str | dict):
            raise VocabularyError(f"{path}: field {key}: found {one_line(json.dumps(value))}, expected a token")
    named = {
        key: _token(path, key, value)
        for key, value in merged.items()
        if key.endswith("_token") and isinstance(value, str | dict)
    }
    extra = merged.get("extra_special_tokens")
    if isinstance(extra, dict):  # tokens with names of their own
        named |= {key: _token(path, key, value) for key, value in extra.items()}
        extra = None
    if options.get("split_special_tokens"):
        raise VocabularyError(f"{path}: field split_special_tokens: found True, expected False")
    return Settings(
        folder=folder,
        tokenizer_class=tokenizer_class,
        options=options,
        named={key: by_content.get(str(token), token) if key in NAMED else token for key, token in named.items()},
        extra=_tokens(path, "extra_special_tokens", extra),
        additional=_tokens(path, "additional_special_tokens", merged.get("additional_special_tokens")),
        added=added,
    )


def read_object(path: epath.Path) -> dict[str, Any]:
    """A JSON object; empty where there is no file.

    Raises:
        VocabularyError: the file holds anything else.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise VocabularyError(f"{path}: found no JSON ({one_line(error)}), expected a JSON object") from error
    if not isinstance(content, dict):
        raise VocabularyError(f"{path}: found {type(content).__name__}, expected a JSON object")
    return content


def _tokenizer_class(
    folder: epath.Path, options: Mapping[str, Any], model: Mapping[str, Any], content: Mapping[str, Any] | None
) -> str:
    """The class that AutoTokenizer would choose.

    Without config.json and tokenizer_class, AutoTokenizer takes tokenizer.json as it is and refuses vocab.txt, which
    is read here as BERT's: published vocabularies are often passed on without their config.json.
    """
    code = options.get("auto_map")
    if isinstance(code, list) or (isinstance(code, dict) and "AutoTokenizer" in code):
        raise VocabularyError(
            f"{folder / SETTINGS_FILE}: field auto_map: found code for AutoTokenizer, expected a class of transformers"
        )
    model_type = model.get("model_type")
    if model_type in _ALWAYS_AS_IT_IS:
        return AS_IT_IS
    for file, settings in ((SETTINGS_FILE, options), (MODEL_FILE, model)):
        name = settings.get("tokenizer_class")
        if name is not None:
            known = _CLASSES.get(str(name).removesuffix("Fast"))
            if known is None:
                raise VocabularyError(
                    f"{folder / file}: field tokenizer_class: found {one_line(repr(name))},"
                    f" expected one of {sorted(_CLASSES)}"
                )
            return known
    if model_type is None:
        return BERT if content is None else AS_IT_IS
    if model_type not in _CLASS_OF_MODEL:
        raise VocabularyError(
            f"{folder / MODEL_FILE}: field model_type: found {one_line(repr(model_type))}, expected one of"
            f" {sorted([*_CLASS_OF_MODEL, *_ALWAYS_AS_IT_IS])}, or a tokenizer_class in {SETTINGS_FILE}"
        )
    return _CLASS_OF_MODEL[model_type]


def _added_tokens(
    folder: epath.Path, options: Mapping[str, Any], content: Mapping[str, Any] | None
) -> dict[int, AddedToken]:
    """Added tokens by id: tokenizer_config.json's list alone where it has one, else those of the older files."""
    path = folder / SETTINGS_FILE
    with refusing(path, "added tokens with ids"):
        if "added_tokens_decoder" in options:
            added = {int(index): AddedToken(**token) for index, token in options["added_tokens_decoder"].items()}
        else:
            path = folder / "added_tokens.json"
            special_tokens = {str(value) for key, value in options.items() if key in NAMED}
            added = {
                int(index): AddedToken(token, normalized=token not in special_tokens, special=token in special_tokens)
                for token, index in read_object(path).items()
            }
            for token in (content or {}).get("added_tokens") or ():
                added[int(token["id"])] = AddedToken(**{key: token[key] for key in token if key != "id"})
    check_tokens(path, (token.content for token in added.values()), "added token")
    return added


def _tokens(path: epath.Path, field: str, values: Any) -> list[Token] | None:
    if values is not None and not isinstance(values, list):
        raise VocabularyError(f"{path}: field {field}: found {type(values).__name__}, expected a list")
    return None if values is None else [_token(path, field, value) for value in values]


def _token(path: epath.Path, field: str, value: Any) -> Token:
    """A special token: a string, or the fields of an added token."""
    if isinstance(value, str):
        token: Token = value
    else:
        with refusing(path, f"a token in field {field}"):
            fields = dict(value)
            fields.pop("__type", None)
            token = AddedToken(**{"special": True, **fields})
    check_tokens(path, [str(token)], field)
    return token


def add_special_tokens(
    tokenizer: Tokenizer, settings: Settings, named: Mapping[str, Token], extra: Sequence[Token]
) -> None:
    """Adds all special and added tokens of the settings, in the order of transformers: new ones get the next ids."""
    pending: list[Token] = [token for _, token in sorted(settings.added.items())]
    known = {token.content for token in (*tokenizer.get_added_tokens_decoder().values(), *settings.added.values())}
    for token in (*named.values(), *extra):
        if str(token) not in known and token not in pending:
            pending.append(token)
    roles = {str(token) for token in named.values()}
    tokenizer.add_tokens([_as_added(token, special=str(token) in roles) for token in pending])


def _as_added(token: Token, *, special: bool) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=True)
    if special and not token.special:
        token.special = True
    return token
