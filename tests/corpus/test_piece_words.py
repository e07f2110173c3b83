"""The word that a piece belongs to, worked by hand for each family of tokenizers: whole words are masked by it."""

import itertools
import random

import numpy as np
import pytest
from made_tokenizers import byte_level, sentencepiece_bpe, unigram, wordpiece
from published_folders import SENTENCES, pieces_and_words, unigram_json, write
from test_words import words_of
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors

from mergedistill_jax.corpus.packing import tokenise
from mergedistill_jax.corpus.words import word_of_characters
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer, wrap_tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
ALPHABET = tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))


def bytes_of(text):
    return [f"<0x{byte:02X}>" for byte in text.encode()]


def spelled(text):
    """A text in the letters of byte-level BPE, one for each byte."""
    ((letters, _),) = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return list(letters)


def at(word, *pieces):
    return [(piece, word) for piece in pieces]


def test_wordpiece():
    pieces = ("cafe", "##s", "fi", "##ne", "語", "haus", "'", ".", "##boot")
    teacher = wordpiece(*SPECIAL, *pieces, lowercase=True)
    assert pieces_and_words(teacher, "Cafe\u0301s  haus'hausboot 語語.") == [
        *at(0, "cafe", "##s"),  # the mark that is stripped belongs to its letter
        *at(1, "haus"),
        *at(2, "'"),
        *at(3, "haus", "##boot"),
        *at(4, "語"),
        *at(5, "語"),
        *at(6, "."),
    ]
    assert pieces_and_words(teacher, "haus 😀x\u200bfine") == [*at(0, "haus"), *at(1, "[UNK]")]  # a lost space


def test_wordpiece_without_chinese_splitting():
    """The piece spans two words and belongs to the first; the one behind it begins in the second."""
    teacher = wordpiece(*SPECIAL, "語", "##言語", "##言", split_chinese=False)
    assert pieces_and_words(teacher, "語言語言") == [("語", 0), ("##言語", 1), ("##言", 3)]


@pytest.mark.parametrize("cut_at_spaces", [False, True])
def test_sentencepiece(cut_at_spaces):
    """A leading ▁ stands for the space before the word, or for nothing where spaces are cut away first."""
    teacher = unigram("▁the", "▁", "the", "m", "▁a", ".", "'", "▁the.m", "▁the▁")
    if cut_at_spaces:
        pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        teacher.tokenizer.pre_tokenizer = pre_tokenizer
    assert pieces_and_words(teacher, "the them a") == [*at(0, "▁the"), *at(1, "▁the", "m"), *at(2, "▁a")]
    # The space before a word that has no piece with ▁ belongs to that word.
    assert pieces_and_words(teacher, "the m") == [*at(0, "▁the"), *at(1, "▁", "m")]
    assert pieces_and_words(teacher, "the'm") == [*at(0, "▁the"), *at(1, "'"), *at(2, "m")]
    assert pieces_and_words(teacher, "a the.m") == [*at(0, "▁a"), *at(1, "▁the.m")]  # three words: the first of them
    # Unknown characters are taken together.
    assert pieces_and_words(teacher, "a 語言 m") == [*at(0, "▁a"), *at(1, "▁", "<unk>"), *at(3, "▁", "m")]


def test_spaces_that_stand_alone():
    """Each run belongs to the word behind it, at the end of the text to the last."""
    teacher = unigram("▁the", "▁")
    assert pieces_and_words(teacher, "the   the  ") == [
        *at(0, "▁the"),
        *at(1, "▁", "▁", "▁the"),
        *at(1, "▁", "▁"),
    ]
    assert pieces_and_words(teacher, "  ") == [("▁", 0), ("▁", 0)]


def test_characters_that_a_normaliser_replaces():
    teacher = unigram("▁fi", "▁", "f", "i", "ne", "▁A", "B", "C", "▁株式", "会社", normalizer=normalizers.NFKC())
    assert pieces_and_words(teacher, "a \ufb01ne") == [*at(0, "▁", "<unk>"), *at(1, "▁fi", "ne")]  # the ligature
    assert pieces_and_words(teacher, "\ufb01 ＡＢＣ") == [  # noqa: RUF001 - full width
        *at(0, "▁fi"),
        *at(1, "▁A", "B", "C"),
    ]
    assert pieces_and_words(teacher, "\uff02 ㍿ f") == [*at(0, "▁", "<unk>"), *at(1, "▁株式", "会社"), *at(2, "▁", "f")]


def test_bytes_of_unigram():
    """`tokenizers` says of each byte that it covers all unknown characters around it."""
    teacher = unigram("▁the", "▁", "x", *BYTES)
    assert pieces_and_words(teacher, "the 語言x 😀👍") == [
        *at(0, "▁the"),
        ("▁", 1),
        *at(1, *bytes_of("語")),
        *at(2, *bytes_of("言")),
        *at(3, "x"),
        ("▁", 4),
        *at(4, *bytes_of("😀")),
        *at(5, *bytes_of("👍")),
    ]


def test_bytes_of_unigram_without_a_piece_for_the_space():
    teacher = unigram("x", *BYTES)
    assert pieces_and_words(teacher, "語言x") == [
        *at(0, *bytes_of("▁語")),
        *at(1, *bytes_of("言")),
        *at(2, "x"),
    ]


def test_bytes_of_characters_that_a_normaliser_replaces():
    """Three characters become four, and each is found again: ㌔ is キロ, 語 stays, 言 stays."""
    teacher = unigram("▁", "x", *BYTES, normalizer=normalizers.NFKC())
    assert pieces_and_words(teacher, "x ㌔語言") == [
        *at(0, "▁", "x"),
        ("▁", 1),
        *at(1, *bytes_of("キロ")),
        *at(2, *bytes_of("語")),
        *at(3, *bytes_of("言")),
    ]


def test_bytes_of_sentencepiece_bpe():
    teacher = sentencepiece_bpe("▁", "x", *BYTES)
    assert pieces_and_words(teacher, "x語言") == [*at(0, "▁", "x"), *at(1, *bytes_of("語")), *at(2, *bytes_of("言"))]


@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize("prefix_space", [False, True])
def test_byte_level(prefix_space, trim_offsets):
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    teacher = byte_level(*ALPHABET, "th", "the", "Ġthe", merges=merges, prefix_space=prefix_space)
    frame = [(token, teacher.tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    teacher.tokenizer.post_processor = processors.RobertaProcessing(*frame, trim_offsets=trim_offsets)
    first = "Ġthe" if prefix_space else "the"
    assert pieces_and_words(teacher, "the the, the😀語") == [
        (first, 0),
        ("Ġthe", 1),
        (",", 2),
        ("Ġthe", 3),
        *at(4, *spelled("😀")),
        *at(5, *spelled("語")),
    ]
    # A space alone is of the word behind it.
    assert pieces_and_words(teacher, "the  the x") == [
        (first, 0),
        *at(1, "Ġ", "Ġthe"),
        *at(2, "Ġ", "x"),
    ]


def test_special_tokens_that_a_text_spells_are_text():
    teacher = unigram("▁the", "▁", "<", ">")
    assert words_of("the <mask> the") == ["the", "<", "mask", ">", "the"]
    expected = [("▁the", 0), ("▁", 1), ("<", 1), ("<unk>", 2), (">", 3), ("▁the", 4)]
    assert pieces_and_words(teacher, "the <mask> the") == expected


def random_texts(count):
    """Letters, spaces, marks, emoji, Chinese and characters that NFKC replaces, in no order."""
    rng = random.Random(5)
    characters = "theab.'- \u00a0\u0301éﬁ語言😀𠀀㍿Ａ\u200b"  # noqa: RUF001 - on purpose
    return ["".join(rng.choices(characters, k=rng.randrange(1, 30))) for _ in range(count)]


def number_of_words(text):
    """At least one: where there is no word, all pieces are of word 0."""
    return max(int(word_of_characters(text).max(initial=-1)) + 1, 1)


@pytest.mark.parametrize(
    "normalizer", [None, normalizers.NFKC(), normalizers.NFKD(), normalizers.Lowercase()], ids=lambda one: str(one)[:12]
)
def test_words_never_go_back_and_bytes_of_a_character_stay_together(tmp_path, normalizer):
    folder = write(tmp_path / "unigram", tokenizer__json=unigram_json(byte_fallback=True, normalizer=normalizer))
    teacher = load_tokenizer(folder)
    seen = 0
    for text in [*SENTENCES, *random_texts(200)]:
        pieces = pieces_and_words(teacher, text)
        assert all(one <= other for (_, one), (_, other) in itertools.pairwise(pieces)), text
        assert all(0 <= word < number_of_words(text) for _, word in pieces), text
        for (_, one), (piece, other) in itertools.pairwise(pieces):
            if piece.startswith("<0x") and len(piece) == 6 and 0x80 <= int(piece[3:5], 16) < 0xC0:
                seen += 1
                assert one == other, text
    assert seen > 100


def test_every_letter_is_masked_with_its_word():
    """The pieces of each word, joined, are the word: byte-level pieces lose nothing."""
    teacher = byte_level(*ALPHABET)
    decoder = Tokenizer.from_str(teacher.tokenizer.to_str())
    for text in ["Don't stop — 語言, no!", "हिन्दी में 😀😀 ok", *random_texts(50)]:
        if not text.strip():
            continue
        pieces = tokenise([text], wrap_tokenizer(decoder, "byte level"))
        joined = [decoder.decode(pieces.ids[pieces.word == word].tolist()) for word in np.unique(pieces.word)]
        assert [word.strip(" \u00a0\u200b") for word in joined] == words_of(text), text
