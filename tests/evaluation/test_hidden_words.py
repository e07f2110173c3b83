import numpy as np
import pytest
from conftest import TEXTS

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.corpus.masking import text_id, word_draws
from mergedistill_jax.corpus.words import word_of_characters
from mergedistill_jax.evaluation.hidden_words import first_words, hide_words, number_words, word_begins
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer

MASKING = MaskingConfig(rate=0.3, seed=4)


@pytest.mark.parametrize(
    ("line", "starts", "begins"),
    [
        # words  Don ' t stop
        ("Don't stop", [0, 3, 4, 6], [True, True, True, True]),
        ("Don't stop", [0, 6], [True, False, False, True]),  # one piece for three words
        ("Don't stop", [0, 3, 5], [True, True, False, True]),  # a piece that begins with the space before its word
        ("Don't stop", [0, 2, 3, 4, 6, 8], [True, True, True, True]),  # pieces inside words do not matter
        ("Don't stop", [], [False, False, False, False]),
        ("  語言 ", [0, 3], [True, True]),
        ("   ", [0], []),
        ("", [], []),
    ],
)
def test_words_at_which_a_piece_begins(line, starts, begins):
    found = word_begins(word_of_characters(line), np.array(starts, np.int64))
    assert found.tolist() == begins


def test_words_are_numbered_through_all_lines():
    text = number_words(["One, two.\n\nThree", "", "four"])
    assert text.lines == ["One, two.", "", "Three", "", "four"]
    assert text.first_word.tolist() == [0, 4, 4, 5, 5]
    assert text.document.tolist() == [0, 0, 0, 0, 0, 2]
    assert text.characters.tolist() == [3, 1, 3, 1, 5, 4]
    assert text.alphabet == len(set("One,two.Threefour"))


@pytest.mark.parametrize(
    ("count", "beginning"),
    [(1, "One"), (2, "One,"), (4, "One, two."), (5, "One, two.\nThree"), (9, "One, two.\nThree four")],
)
def test_a_document_is_cut_behind_a_word(count, beginning):
    assert first_words("One, two.\nThree four", count) == beginning


def hidden_by(masking, documents):
    """Numbers of the hidden words, from their definition."""
    found, before = [], 0
    for line in "\n".join(documents).split("\n"):
        count = int(word_of_characters(line).max(initial=-1)) + 1
        order = word_draws(masking, text_id(line), 0, max(count, 1)).order[:count]
        found += (before + np.flatnonzero(order < masking.rate)).tolist()
        before += count
    return found


@pytest.mark.parametrize("max_length", [8, 32])
def test_every_tokenizer_is_asked_for_the_same_words(teachers, max_length):
    """English text under an English and a Spanish tokenizer, whatever the sequences."""
    text = number_words(TEXTS["en"])
    tokenizers = {language: load_tokenizer(folder) for language, folder in teachers.items()}
    hidden = {name: hide_words(text, one, MASKING, max_length) for name, one in tokenizers.items()}
    expected = hidden_by(MASKING, TEXTS["en"])
    assert len(expected) > 10
    for name, one in hidden.items():
        asked = np.unique(np.concatenate(one.words))
        assert asked.tolist() == expected
        assert set(np.flatnonzero(one.comparable)) <= set(expected)
        for record, words in zip(one.records, one.words, strict=True):
            assert len(record.input_ids) <= max_length
            masked = record.input_ids == tokenizers[name].mask_id
            assert np.flatnonzero(masked).tolist() == record.masked_positions.tolist()
            assert len(words) == len(record.gold_ids)
    assert np.array_equal(hidden["en"].comparable, hidden["es"].comparable) or max_length == 8
    assert sum(map(len, hidden["en"].words)) != sum(map(len, hidden["es"].words))  # in other pieces


def test_the_hidden_pieces_spell_the_hidden_words(teachers):
    tokenizer = load_tokenizer(teachers["en"])
    text = number_words(TEXTS["en"])
    hidden = hide_words(text, tokenizer, MASKING, 32)
    spelled = dict.fromkeys(np.unique(np.concatenate(hidden.words)).tolist(), "")
    for record, words in zip(hidden.records, hidden.words, strict=True):
        for number, gold in zip(words.tolist(), record.gold_ids, strict=True):
            spelled[number] += tokenizer.tokens[gold].removeprefix("##")
    all_words = [
        "".join(np.array(list(line))[of_character == word])
        for line in text.lines
        for of_character in [word_of_characters(line)]
        for word in range(of_character.max(initial=-1) + 1)
    ]
    assert spelled == {number: all_words[number] for number in spelled}


def test_documents_share_no_sequence_and_do_not_depend_on_each_other(teachers):
    tokenizer = load_tokenizer(teachers["en"])
    together = hide_words(number_words(TEXTS["en"]), tokenizer, MASKING, 32).records
    alone = [hide_words(number_words([document]), tokenizer, MASKING, 32).records for document in TEXTS["en"]]
    for one, other in zip(together, [record for records in alone for record in records], strict=True):
        np.testing.assert_array_equal(one.input_ids, other.input_ids)


def test_a_word_that_is_longer_than_a_sequence_is_not_compared(teachers):
    tokenizer = load_tokenizer(teachers["en"])
    text = number_words(["short thatisaverylongwordindeed short"])
    masking = MaskingConfig(rate=0.99, seed=0)
    whole, cut = (hide_words(text, tokenizer, masking, length) for length in (64, 8))
    assert whole.comparable.all()
    assert cut.comparable.tolist() == [True, False, True]
