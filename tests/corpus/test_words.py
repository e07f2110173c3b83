import numpy as np
import pytest

from mergedistill_jax.corpus.words import word_of_characters


def words_of(text):
    indices = word_of_characters(text)
    assert len(indices) == len(text)
    return ["".join(c for c, at in zip(text, indices, strict=True) if at == word) for word in range(indices.max() + 1)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't mask 語言, mask words.", ["Don", "'", "t", "mask", "語", "言", ",", "mask", "words", "."]),
        ("  La  señora—vieja\tcanta\u00a0bien", ["La", "señora", "—", "vieja", "canta", "bien"]),
        ("ne\u0301e a\u0300", ["ne\u0301e", "a\u0300"]),  # decomposed accents
        ("東京タワーへ", ["東", "京", "タ", "ワ", "ー", "へ"]),
        ("한국어 사전", ["한국어", "사전"]),  # Hangul is written with spaces
        ("ภาษาไทย", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย"]),
        ("กี่ที่", ["กี่", "ที่"]),  # Thai vowel and tone marks above the letter
        ("اللغة العربية، نعم", ["اللغة", "العربية", "،", "نعم"]),
        ("كِتَابٌ", ["كِتَابٌ"]),  # vowel marks
        ("हिन्दी में लिखो।", ["हिन्दी", "में", "लिखो", "।"]),
        ("क्\u200dष र्\u200cक", ["क्\u200dष", "र्\u200cक"]),  # joiners inside words
        ("می\u200cخواهم", ["می\u200cخواهم"]),  # noqa: RUF001 - Persian
        ("ok😀👍🏽!", ["ok", "😀", "👍", "🏽", "!"]),
        ("❤\ufe0f x", ["❤\ufe0f", "x"]),  # a variation selector stays with its heart
        ("3.14 5€ C++", ["3", ".", "14", "5", "€", "C", "+", "+"]),
        ("𠀀𠀁a", ["𠀀", "𠀁", "a"]),  # beyond the basic plane: still one character each
        ("語a", ["語", "a"]),
        ("a語", ["a", "語"]),
        ("\u0301a", ["\u0301a"]),  # a mark with nothing to stand on begins a word
        ("a \u0301b", ["a", "\u0301b"]),
        ("\ud800 a", ["a"]),  # a lone surrogate is no text
    ],
)
def test_words(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize("text", ["", " ", "\t\n\u2003\u3000\u00ad"])
def test_no_words(text):
    assert (word_of_characters(text) == np.full(len(text), -1)).all()


def test_every_character_but_space_is_in_a_word_and_words_are_ascending_runs():
    text = "".join(map(chr, [*range(1, 0x3000), *range(0x1F300, 0x1F700)]))
    indices = word_of_characters(text)
    inside = indices[indices >= 0]
    assert inside[0] == 0
    assert set(np.diff(inside)) == {0, 1}
    for character, index in zip(text, indices, strict=True):
        if character.isalnum():
            assert index >= 0, hex(ord(character))
        if character.isspace():
            assert index == -1, hex(ord(character))


def test_the_words_of_a_text_do_not_depend_on_what_comes_after():
    text = "Don't mask हिन्दी 語言, mask words."
    for cut in range(len(text)):
        np.testing.assert_array_equal(word_of_characters(text[:cut]), word_of_characters(text)[:cut])
