"""A copy of a tokenizer to which a text that spells a special token is a text like any other.

    text         a tag <s> here
    tokenizer    a tag <s> here           <s> is a control id: it begins a sequence
    copy         a tag < s > here

In the copy every reserved token is renamed to a stand-in of Unicode noncharacters, which texts do not hold, in the
model's vocabulary and among the added tokens. Ids, scores and merges of all other tokens are untouched. The switch of
the library, encode_special_tokens, is not enough: it leaves added tokens aside, but the model itself finds `<s>` where
it is a piece of a SentencePiece vocabulary or one word of a WordPiece vocabulary.
"""

import json
import unicodedata
from collections.abc import Collection
from typing import Any

from tokenizers import Tokenizer, models


def stand_in(token_id: int) -> str:
    """What a reserved token is called in the copy."""
    return f"\ufdd0{token_id}\ufdd1"


def literal_tokenizer(tokenizer: Tokenizer, reserved: Collection[int]) -> Tokenizer:
    """The copy, without truncation and padding.

    The stand-in of an added token gives its id where it stands in a text, and takes white space along as the token did.
    """
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content.update(truncation=None, padding=None)
    ids = tokenizer.get_vocab(with_added_tokens=True)
    names = {token: stand_in(index) for token, index in ids.items() if index in reserved}
    model = content["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(token, token): index for token, index in model["vocab"].items()}
    else:
        model["vocab"] = [(names.get(token, token), score) for token, score in model["vocab"]]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        model["merges"] = [
            (left, right)
            for left, right in model["merges"]
            if names.keys().isdisjoint((left, right, left + right[prefix:]))
        ]
    for token in content["added_tokens"]:
        if token["content"] in names:
            token.update(content=names[token["content"]], normalized=False)
    copy = Tokenizer.from_str(json.dumps(content))
    if isinstance(copy.model, models.Unigram):  # reading JSON may change the last digit of a score
        copy.model = models.Unigram(model["vocab"], model["unk_id"], model.get("byte_fallback", False))
    return copy


def may_spell(text: str, token: str) -> bool:
    """Whether a normalizer could find the token in the text: a cheap test that is true too often, never too rarely.

    Only letters and digits are compared, without case, accents and compatibility forms.
    """
    return _letters(token) in _letters(text)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", text).casefold()))
