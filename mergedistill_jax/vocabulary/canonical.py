"""One spelling for the pieces of WordPiece, SentencePiece and byte-level BPE vocabularies: strings can be compared.

    family         word-initial   inside a word   canonical
    WordPiece      haus           ##haus          haus, ##haus
    SentencePiece  ▁haus          haus            haus, ##haus
    byte-level     Ġhaus          haus            haus, ##haus

The canonical spelling is WordPiece's, because the student's own tokenizer is one. A piece counts as word-initial
where BERT's pre-tokenizer would begin a word: after a space, and at a punctuation mark or a Chinese character, which
the other families write without a space marker too (`.` and `▁.` are both `.`).

A vocab.txt has a token a line, and its readers break lines at, or strip, what Python calls white space. So these are
spelled by their bytes in UTF-8, as SentencePiece spells bytes:

    part of a piece                                              canonical
    a space                                                      ▁
    other white space, control characters: NUL, U+0085, U+2028   <0x00>, <0xC2><0x85>, <0xE2><0x80><0xA8>
    a byte that is not UTF-8 where it stands                     <0xE4>
    the character ▁ itself (in SentencePiece it is a space)      <0xE2><0x96><0x81>
    text that reads like one of these: <0x0A>                    <0x3C>0x0A>

So pieces of different text have different names, and `piece_bytes` gives the text back.
"""

import functools
import re
import unicodedata
from collections.abc import Callable

from mergedistill_jax.vocabulary.tokenizer import SPECIAL_TOKENS, TeacherTokenizer, VocabularyError, is_placeholder

PREFIX = "##"
SPACE = "▁"
SPECIAL = tuple(tokens[0] for tokens in SPECIAL_TOKENS.values())
"""[PAD] [UNK] [CLS] [SEP] [MASK]: the union's names of the five roles, [PAD] at 0."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_ATOM = re.compile(r"<0x[0-9A-F]{2}>|.", re.DOTALL)
# White space (str.isspace) other than the space, control characters, bytes that Python has decoded as surrogates
# (surrogateescape), ▁, and the < of what would read as a spelled byte.
_SPELLED = re.compile(
    r"[\x00-\x1f\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\udc80-\udcff▁]|<(?=0x[0-9A-F]{2}>)"
)
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


def piece_bytes(token: str) -> bytes:
    """The text that an ordinary canonical token stands for, in UTF-8: the inverse of the spelling.

    A word-initial token begins with a space, also where its piece had none because its first character begins a word.

    Raises:
        ValueError: the token is a special one, which stands for no text.
    """
    if token in SPECIAL:
        raise ValueError(f"token: found {token!r}, expected one that stands for text")
    inside = token.startswith(PREFIX)
    spelled = token.removeprefix(PREFIX if inside else SPACE)
    return (b"" if inside else b" ") + b"".join(map(_atom_bytes, _ATOM.findall(spelled)))


def _atom_bytes(atom: str) -> bytes:
    if _BYTE.fullmatch(atom):
        return bytes([int(atom[3:5], 16)])
    return b" " if atom == SPACE else atom.encode()


def _speller(teacher: TeacherTokenizer) -> Callable[[str], str]:
    """The canonical spelling of a token of this teacher's family."""
    kind = family(teacher)
    added = teacher.tokenizer.get_added_tokens_decoder().values()
    # Tokens beside the model's are found in the text before it is cut: they are spelled as text.
    plain = {token.content for token in added} - teacher.tokenizer.get_vocab(with_added_tokens=False).keys()
    if kind == "wordpiece":
        prefix = teacher.tokenizer.model.continuing_subword_prefix
        return lambda token: _initial(token) if token in plain else _wordpiece(token, prefix)
    if kind == "byte_level":
        return lambda token: _running_text(token) if token in plain else _byte_level(token)
    byte_fallback = '"byte_fallback":true' in teacher.tokenizer.to_str()  # Unigram has no attribute for it
    return lambda token: _sentencepiece(token, byte_fallback=byte_fallback)


def _wordpiece(token: str, prefix: str) -> str:
    if token.startswith(prefix) and token != prefix:
        return _inside(token.removeprefix(prefix))
    return _initial(token)


def _sentencepiece(token: str, *, byte_fallback: bool) -> str:
    if byte_fallback and _BYTE.fullmatch(token):
        return PREFIX + token
    return _running_text(token.replace(SPACE, " "))


def _byte_level(token: str) -> str:
    alphabet = _byte_of_character()
    if not all(character in alphabet for character in token):
        return _running_text(token)  # no text is cut to it
    return _running_text(bytes(alphabet[character] for character in token).decode("utf-8", "surrogateescape"))


def _running_text(text: str) -> str:
    """The name of a piece that is written as it stands in a text, a space before the word it begins."""
    if text.startswith(" "):
        return _initial(text.removeprefix(" "))
    return _initial(text) if begins_word(text[0]) else _inside(text)


def _inside(text: str) -> str:
    return PREFIX + _readable(text)


def _initial(text: str) -> str:
    """A word-initial token; one that would read as something else is led by ▁, which no other token begins with."""
    ambiguous = not text or text.startswith((PREFIX, " ")) or text in SPECIAL
    return (SPACE if ambiguous else "") + _readable(text)


def _readable(text: str) -> str:
    """The text on one line, and of one reading."""
    return _SPELLED.sub(_spelled_bytes, text).replace(" ", SPACE)


def _spelled_bytes(found: re.Match[str]) -> str:
    return "".join(f"<0x{byte:02X}>" for byte in found[0].encode("utf-8", "surrogateescape"))


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's spelling of bytes (Radford et al. 2019): printable Latin-1 is itself, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    spelled = {chr(byte): byte for byte in printable}
    return spelled | {chr(0x100 + index): byte for index, byte in enumerate(others)}
