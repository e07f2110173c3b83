"""A teacher's published tokenizer, through the `tokenizers` library, so that ids equal what AutoTokenizer gives.

Each family has a module that builds its tokenizer: wordpiece.py, byte_level.py, sentencepieces.py; settings.py says
which of them a folder asks for. A tokenizer.json that transformers takes as it is may be of any family.
"""

import dataclasses
import functools
import hashlib
import json
import operator
import re
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Int
from tokenizers import Encoding, Tokenizer

from mergedistill_jax.vocabulary import byte_level, sentencepieces, wordpiece
from mergedistill_jax.vocabulary.byte_pieces import spread_byte_pieces
from mergedistill_jax.vocabulary.errors import VocabularyError, check_tokens, one_line, refusing
from mergedistill_jax.vocabulary.literal_text import literal_tokenizer, may_spell, stand_in
from mergedistill_jax.vocabulary.sentencepiece_files import charsmaps
from mergedistill_jax.vocabulary.settings import (
    ALBERT,
    AS_IT_IS,
    BERT,
    CAMEMBERT,
    ROBERTA,
    TOKENIZER_FILE,
    XLM_ROBERTA,
    Built,
    Settings,
    add_special_tokens,
    read_settings,
)
from mergedistill_jax.vocabulary.tokenizer_json import as_it_is, read_tokenizer_json
from mergedistill_jax.vocabulary.wordpiece import REQUIRED_TOKENS, VOCABULARY_FILE, wordpiece_tokenizer

__all__ = [
    "REQUIRED_TOKENS",
    "SPECIAL_TOKENS",
    "TOKENIZER_FILE",
    "VOCABULARY_FILE",
    "TeacherTokenizer",
    "VocabularyError",
    "is_placeholder",
    "load_tokenizer",
    "vocabulary_hash",
    "wordpiece_tokenizer",
    "wrap_tokenizer",
]

SPECIAL_TOKENS = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
"""The five roles, and the names of their tokens where no file tells them."""

_OTHER_SPECIAL_TOKENS = ("[BOS]", "[EOS]", "<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED", "<|endoftext|>")
"""Special in published models, though not every folder says so: BETO's [EOS] is only a line of its vocab.txt."""

_PLACEHOLDER = re.compile(r"\[unused[^\]]*\]|<unused_?\d+>|madeupword\d+|<.+>NOTUSED", re.DOTALL)

_FAMILIES = {
    BERT: wordpiece.bert,
    ROBERTA: byte_level.roberta,
    XLM_ROBERTA: sentencepieces.xlm_roberta,
    CAMEMBERT: sentencepieces.camembert,
    ALBERT: sentencepieces.albert,
}


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

    @property
    def settings_to_keep(self) -> dict[str, str]:
        """What tokenizer_config.json must say beside the tokenizer's own tokenizer.json; mostly nothing.

        Only roles whose tokens would not be found by their usual names have to be written down.
        """
        ids = self.tokenizer.get_vocab(with_added_tokens=True)
        usual = (next((ids[t] for t in tokens if t in ids), None) for tokens in SPECIAL_TOKENS.values())
        if tuple(usual) == self.special_ids:
            return {}
        named = {
            f"{role}_token": self.tokens[index] for role, index in zip(SPECIAL_TOKENS, self.special_ids, strict=True)
        }
        return {"tokenizer_class": AS_IT_IS, **named}

    @functools.cached_property
    def extra_special_ids(self) -> tuple[int, ...]:
        """Ids of special tokens that have none of the five roles, such as <|endoftext|>, ascending."""
        added = self.tokenizer.get_added_tokens_decoder().items()
        by_name = (self.tokenizer.token_to_id(token) for token in _OTHER_SPECIAL_TOKENS)
        found = {index for index, token in added if token.special} | {index for index in by_name if index is not None}
        return tuple(sorted(found - set(self.special_ids)))

    @functools.cached_property
    def ordinary_ids(self) -> Int[np.ndarray, " v"]:
        """Ids of tokens that stand for text: no special token and no placeholder."""
        return np.array([index for index in range(len(self.tokens)) if index not in self.reserved_ids], np.int32)

    @functools.cached_property
    def vocabulary_hash(self) -> str:
        """Content hash of the tokens in the order of their ids."""
        return vocabulary_hash(self.tokens)

    @functools.cached_property
    def tokenizer_hash(self) -> str:
        """Content hash of everything that decides how a text is cut, padding and truncation aside.

        Scores of pieces are taken in single precision, as SentencePiece has them: their last digit in double precision
        may change when a tokenizer.json is read and written.
        """
        content = json.loads(self.tokenizer.to_str())
        for field in ("padding", "truncation"):
            content.pop(field, None)
        vocabulary = content["model"].get("vocab")
        if isinstance(vocabulary, list):
            content["model"]["vocab"] = [(piece, float(np.float32(score))) for piece, score in vocabulary]
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()

    @functools.cached_property
    def reserved_ids(self) -> frozenset[int]:
        """Ids that no text yields: special tokens and placeholders; [UNK] stands only for what is unknown."""
        placeholders = (index for index, token in enumerate(self.tokens) if is_placeholder(token))
        return frozenset((*self.special_ids, *self.extra_special_ids, *placeholders))

    def encode_batch(self, texts: Sequence[str]) -> list[tuple[list[int], Int[np.ndarray, " n"]]]:
        """For each text its ids, without special tokens, and the character at which each piece starts.

        A text that spells a special token is cut as if the token were none, see `literal_text.py`; where its
        characters are no pieces either, they are [UNK]. All other texts have the ids of AutoTokenizer.

        A piece that begins with a space may start at the space or behind it; a piece that is one byte of a character
        starts at that character.
        """
        encodings = self._encode(texts)
        first = operator.itemgetter(0)
        starts = [np.fromiter(map(first, one.offsets), np.int64, len(one)) for one, _ in encodings]
        if self._byte_of_id is not None:
            for text, (encoding, _), start in zip(texts, encodings, starts, strict=True):
                spread_byte_pieces(text, encoding, start, self._byte_of_id, self.tokenizer.normalizer)
        return [(ids, start) for (_, ids), start in zip(encodings, starts, strict=True)]

    def encode_spans(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """For each text its ids, as `encode_batch` gives them, and the characters [start, end) of each piece."""
        return [(ids, encoding.offsets) for encoding, ids in self._encode(texts)]

    def encode_with_masks(self, text: str, mask: str) -> list[int]:
        """Ids of a text with the mask token wherever `mask` stands; all else is text, as in `encode_batch`."""
        named = text.replace(mask, stand_in(self.mask_id))
        return self._text_ids(self._literal.encode(named, add_special_tokens=False).ids, wanted=self.mask_id)

    def _encode(self, texts: Sequence[str]) -> list[tuple[Encoding, list[int]]]:
        """Of each text its encoding, and the ids, which alone are sure to hold no special token.

        The tokenizer that takes special tokens for text is slow to build: only texts that need it go through it.
        """
        texts = list(texts)
        whole = self.tokenizer.truncation is None and self.tokenizer.padding is None
        own = self.tokenizer if whole else self._literal
        encodings = [(encoding, encoding.ids) for encoding in own.encode_batch(texts, add_special_tokens=False)]
        literal = [row for row, (_, ids) in enumerate(encodings) if self._may_be_special(texts[row], ids)]
        if literal:
            found = self._literal.encode_batch([texts[row] for row in literal], add_special_tokens=False)
            for row, encoding in zip(literal, found, strict=True):
                encodings[row] = (encoding, self._text_ids(encoding.ids))
        return encodings

    def _may_be_special(self, text: str, ids: list[int]) -> bool:
        """Whether an id may come from a special token that the text spells; most [UNK] come from unknown characters."""
        if self.reserved_ids.isdisjoint(ids):
            return False
        special = self.reserved_ids.intersection(ids) - {self.unk_id}
        return bool(special) or may_spell(text, self.tokens[self.unk_id])

    def _text_ids(self, ids: list[int], wanted: int | None = None) -> list[int]:
        """The ids with [UNK] for special ones: those of a text that holds a stand-in."""
        never = self.reserved_ids - {self.unk_id, wanted}
        return ids if never.isdisjoint(ids) else [self.unk_id if index in never else index for index in ids]

    @functools.cached_property
    def _literal(self) -> Tokenizer:
        return literal_tokenizer(self.tokenizer, self.reserved_ids)

    def encode_with_special_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """For each text its ids as AutoTokenizer gives them: [CLS] x [SEP], or <s> x </s>.

        For comparisons alone: a special token that the text spells is one here.
        """
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts), add_special_tokens=True)]

    @functools.cached_property
    def _byte_of_id(self) -> Int[np.ndarray, " v"] | None:
        """The byte that each piece such as <0xE4> stands for, else -1; None where there are no such pieces."""
        ids = [self.tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
        if all(index is None for index in ids):
            return None
        table = np.full(len(self.tokens), -1, np.int64)
        for byte, index in enumerate(ids):
            if index is not None:
                table[index] = byte
        return table


def is_placeholder(token: str) -> bool:
    """Whether a token only keeps a place in the vocabulary, such as BERT's [unused1] or fairseq's madeupword0001."""
    return _PLACEHOLDER.fullmatch(token) is not None


def vocabulary_hash(tokens: Sequence[str]) -> str:
    """blake2b-128 over the tokens in order, hexadecimal; each is led by its length, so that no two lists collide."""
    digest = hashlib.blake2b(digest_size=16)
    for token in tokens:
        data = token.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "little") + data)
    return digest.hexdigest()


def load_tokenizer(folder: epath.PathLike) -> TeacherTokenizer:
    """The tokenizer of a Hugging Face folder, with the ids of AutoTokenizer (transformers 5).

    It is read from tokenizer.json; without one from vocab.txt, from vocab.json and merges.txt, or from a SentencePiece
    .model, as the class of the tokenizer asks. What the settings beside it say is followed, see settings.py.

    Raises:
        VocabularyError: no such file, a file that does not parse, settings that are not supported or contradict
            tokenizer.json, impossible tokens, ids with gaps, a special token that is missing, or a frame around a text
            that is not made of the tokens of the roles cls and sep.
    """
    folder = epath.Path(folder)
    path = folder / TOKENIZER_FILE
    content = read_tokenizer_json(path) if path.exists() else None
    settings = read_settings(folder, content)
    if settings.tokenizer_class != AS_IT_IS:
        built = _FAMILIES[settings.tokenizer_class](settings, content)
    elif content is None:
        built = sentencepieces.plain_model(settings)
    else:
        charsmaps(path, content)
        tokenizer, extra = as_it_is(path, content), settings.other_special_tokens()
        built = Built(path=path, tokenizer=tokenizer, named=settings.roles({}), extra=extra)
    _add_special_tokens(built, settings)
    teacher = wrap_tokenizer(built.tokenizer, str(built.path), {role: str(built.named[role]) for role in built.named})
    _require_unknown(teacher)
    _require_frame(teacher)
    return teacher


def wrap_tokenizer(tokenizer: Tokenizer, path: str, named: Mapping[str, str] | None = None) -> TeacherTokenizer:
    """Finds the special tokens of a tokenizer by string; `path` is named in errors.

    Args:
        tokenizer: any tokenizer.
        path: the file it was read from.
        named: {"mask_token": its name, ...} as far as it is known; other roles are looked for under SPECIAL_TOKENS.

    Raises:
        VocabularyError: impossible tokens, ids with gaps, or a special token that is missing.
    """
    ids = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise VocabularyError(f"{path}: field vocab: found ids with gaps or doubles, expected 0 to {len(tokens) - 1}")
    check_tokens(path, tokens, "field vocab: token")
    special = {}
    for name, known in SPECIAL_TOKENS.items():
        own = (named or {}).get(f"{name}_token")
        candidates = known if own is None else (own,)
        found = next((token for token in candidates if token in ids), None)
        if found is None:
            raise VocabularyError(f"{path}: field vocab: found no {name} token, expected one of {list(candidates)}")
        special[f"{name}_id"] = ids[found]
    return TeacherTokenizer(path=path, tokenizer=tokenizer, tokens=tuple(tokens), **special)


def _add_special_tokens(built: Built, settings: Settings) -> None:
    """Adds what the settings list, as transformers does; but a role needs a token that the teacher was trained with.

    transformers would give a token that no file has an id behind the vocabulary, where the model has no row.
    """
    there = built.tokenizer.get_vocab(with_added_tokens=True).keys() | {one.content for one in settings.added.values()}
    for role in SPECIAL_TOKENS:
        token = built.named.get(f"{role}_token")
        if token is not None and str(token) not in there:
            raise VocabularyError(f"{built.path}: field vocab: found no {role} token, expected {one_line(token)}")
    with refusing(built.path, "special tokens that can be added"):
        add_special_tokens(built.tokenizer, settings, built.named, built.extra)
    for index, token in settings.added.items():
        found = built.tokenizer.token_to_id(token.content)
        if found != index:
            raise VocabularyError(
                f"{settings.file}: added tokens: found id {index} for {one_line(token.content)},"
                f" expected {found}, the next free one"
            )


def _require_unknown(teacher: TeacherTokenizer) -> None:
    """What the model gives for unknown text must be the token of the role unk."""
    model = json.loads(teacher.tokenizer.to_str())["model"]
    index = model.get("unk_id")
    if model.get("unk_token") is not None:
        index = teacher.tokenizer.token_to_id(model["unk_token"])
    if index not in (None, teacher.unk_id):
        raise VocabularyError(
            f"{teacher.path}: field model: found {one_line(teacher.tokens[index])} for unknown text,"
            f" expected {one_line(teacher.tokens[teacher.unk_id])}, the unk_token of the settings"
        )


def _require_frame(teacher: TeacherTokenizer) -> None:
    """Sequences are packed between cls and sep: a published frame must be this one, or none."""
    with refusing(teacher.path, "a frame around a text"):
        frame = teacher.tokenizer.encode("").ids
    if frame not in ([], [teacher.cls_id, teacher.sep_id]):
        names = [teacher.tokens[index] if index < len(teacher.tokens) else index for index in frame]
        expected = [teacher.tokens[teacher.cls_id], teacher.tokens[teacher.sep_id]]
        raise VocabularyError(f"{teacher.path}: field post_processor: found {names} around a text, expected {expected}")
