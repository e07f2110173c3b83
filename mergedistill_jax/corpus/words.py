"""Words of a text, the same for every tokenizer: what masks are decided on.

    text   Don't mask 語言, mask words.
    words  Don ' t   mask   語   言   ,   mask   words   .

White space separates words; a punctuation mark or symbol is a word; so is a character of an unspaced script.
This is close to BERT's pre-tokenisation (Devlin et al. 2019), whatever the teacher's own is.
"""

import functools
import unicodedata

import numpy as np
from jaxtyping import Int

_SPACE, _ALONE, _INSIDE = 0, 1, 2

# Scripts that put no space between words: Han with its extensions, kana, Thai, Lao, Khmer, Myanmar.
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2FA1F),
    (0x30000, 0x323AF),
)


@functools.cache
def _classes() -> np.ndarray:
    """[0x110000] class of every code point."""
    table = np.full(0x110000, _INSIDE, np.uint8)
    for code in range(0x32400):
        category = unicodedata.category(chr(code))
        if category[0] == "Z" or category in ("Cc", "Cf", "Cs"):
            table[code] = _SPACE
        elif category[0] in "PS":
            table[code] = _ALONE
    for first, last in _UNSPACED:
        block = table[first : last + 1]
        # Combining marks stay with the letter they stand on.
        marks = np.array([unicodedata.category(chr(code))[0] == "M" for code in range(first, last + 1)])
        block[(block == _INSIDE) & ~marks] = _ALONE
    # Zero-width joiners are part of the words of Indic and Arabic scripts.
    table[0x200C] = table[0x200D] = _INSIDE
    return table


def word_of_characters(text: str) -> Int[np.ndarray, " c"]:
    """Index of the word each character of the text belongs to; -1 on white space. Ascending from 0."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    classes = _classes()[codes]
    inside = classes == _INSIDE
    starts = classes == _ALONE
    starts[1:] |= inside[1:] & (classes[:-1] == _SPACE)
    # After a lone character a word begins, unless what follows is a mark standing on it.
    after_alone = np.flatnonzero(inside[1:] & (classes[:-1] == _ALONE)) + 1
    for index in after_alone:
        starts[index] = unicodedata.category(text[index])[0] != "M"
    if len(starts):
        starts[0] = classes[0] != _SPACE
    words = np.cumsum(starts) - 1
    return np.where(classes == _SPACE, -1, words).astype(np.int32)
