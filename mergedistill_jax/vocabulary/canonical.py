"""One spelling for the pieces of WordPiece, SentencePiece and byte-level BPE vocabularies: strings can be compared.

    family         word-initial   inside a word   canonical
    WordPiece      haus           ##haus          haus, ##haus
    SentencePiece  ▁haus          haus            haus, ##haus
    byte-level     Ġhaus          haus            haus, ##haus

The canonical spelling is WordPiece's, because the student's own tokenizer is one. A piece counts as word-initial
where BERT's pre-tokenizer would begin a word: after a space, and at a punctuation mark or a Chinese character, which
the other families write without a space marker too (`.` and `▁.` are both `.`). Bytes that are no text alone are
spelled `<0xE4>`.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence

from mergedistill_jax.vocabulary.tokenizer import SPECIAL_TOKENS, TeacherTokenizer, VocabularyError, is_placeholder

PREFIX = "##"
SPACE = "▁"
SPECIAL = tuple(tokens[0] for tokens in SPECIAL_TOKENS.values())
"""[PAD] [UNK] [CLS] [SEP] [MASK]: the union's names of the five roles, [PAD] at 0."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_ATOM = re.compile(r"<0x[0-9A-F]{2}>|.", re.DOTALL)
_ASCII_MARKS = frozenset(map(chr, [*range(33, 48), *range(58, 65), *range(91, 97), *range(123, 127)]))
# The blocks that BERT's normaliser sets apart by spaces (Devlin et al. 2019, multilingual models).
_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def canonical_tokens(teacher: TeacherTokenizer) -> list[str | None]:
    """A teacher's tokens, by id, under the union's names: special tokens by their role.

    None for what never stands in a text: placeholders such as [unused1] or madeupword0001, and special tokens that
    have none of the five roles, such as [EOS].

    Raises:
        VocabularyError: the tokenizer is of no family known here.
    """
    roles = dict(zip(teacher.special_ids, SPECIAL, strict=True))
    never = set(teacher.extra_special_ids)
    spell = _speller(teacher)
    return [
        roles[index] if index in roles else None if index in never or is_placeholder(token) else spell(token)
        for index, token in enumerate(teacher.tokens)
    ]


def atoms(token: str) -> list[str]:
    """What a canonical token can be taken apart to: characters, and the spelled bytes, which are one atom each."""
    return _ATOM.findall(surface(token))


def surface(token: str) -> str:
    """A canonical token without the prefix that says where it stands."""
    return token.removeprefix(PREFIX)


def begins_word(character: str) -> bool:
    """Whether BERT's pre-tokenizer begins a word at this character wherever it stands."""
    if character in _ASCII_MARKS or unicodedata.category(character)[0] == "P":
        return True
    return any(first <= ord(character) <= last for first, last in _CHINESE)


def family(teacher: TeacherTokenizer) -> str:
    """The family of a tokenizer: "wordpiece", "sentencepiece" or "byte_level".

    Raises:
        VocabularyError: none of them.
    """
    model = teacher.tokenizer.model
    kind = type(model).__name__
    if kind == "WordPiece":
        return "wordpiece"
    described = teacher.tokenizer.to_str()
    if kind == "BPE" and '"ByteLevel"' in described:
        return "byte_level"
    if kind in ("Unigram", "BPE") and SPACE in described:
        return "sentencepiece"
    raise VocabularyError(
        f"{teacher.path}: field model: found {kind}, expected WordPiece, SentencePiece (Unigram or BPE with ▁)"
        " or byte-level BPE"
    )


def _speller(teacher: TeacherTokenizer) -> Callable[[str], str]:
    """The canonical spelling of a token of this teacher's family."""
    kind = family(teacher)
    if kind == "wordpiece":
        prefix = teacher.tokenizer.model.continuing_subword_prefix
        return lambda token: _wordpiece(token, prefix)
    return _byte_level if kind == "byte_level" else _sentencepiece


def _wordpiece(token: str, prefix: str) -> str:
    if token.startswith(prefix) and token != prefix:
        return _inside(token.removeprefix(prefix))
    return _initial(token)


def _sentencepiece(token: str) -> str:
    if token.startswith(SPACE):
        return _initial(token.removeprefix(SPACE))
    if _BYTE.fullmatch(token):
        return PREFIX + token
    return _by_first_character(token)


def _byte_level(token: str) -> str:
    alphabet = _byte_of_character()
    if not all(character in alphabet for character in token):
        return _by_first_character(token)  # an added token: plain text
    data = bytes(alphabet[character] for character in token)
    text = _readable(data.removeprefix(b" ")).replace(" ", SPACE)
    if data.startswith(b" "):
        return _initial(text)
    return PREFIX + text if _BYTE.match(text) else _by_first_character(text)


def _by_first_character(text: str) -> str:
    return _initial(text) if text and begins_word(text[0]) else _inside(text)


def _inside(text: str) -> str:
    return PREFIX + _one_line(text)


def _initial(text: str) -> str:
    """A word-initial token; one that would read as something else is led by ▁, which no other token begins with."""
    ambiguous = not text or text.startswith((PREFIX, SPACE)) or text in SPECIAL
    return _one_line(SPACE + text if ambiguous else text)


def _one_line(text: str) -> str:
    """A vocabulary file has a token a line."""
    return text.replace("\n", "<0x0A>").replace("\r", "<0x0D>")


def _readable(data: bytes) -> str:
    """UTF-8 as text, and each byte that is none as <0xNN>."""
    parts: Sequence[str] = data.decode("utf-8", "surrogateescape")
    return "".join(f"<0x{ord(part) - 0xDC00:02X}>" if "\udc80" <= part <= "\udcff" else part for part in parts)


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's spelling of bytes (Radford et al. 2019): printable Latin-1 is itself, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    spelled = {chr(byte): byte for byte in printable}
    return spelled | {chr(0x100 + index): byte for index, byte in enumerate(others)}
