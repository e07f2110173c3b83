import numpy as np
import pytest
from conftest import TEXTS

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.predict import PACKINGS
from mergedistill_jax.corpus.packing import (
    best_fit,
    masked_records,
    packed_sequences,
    sequence_bounds,
    tokenise,
)
from mergedistill_jax.vocabulary.learning import learn_wordpiece
from mergedistill_jax.vocabulary.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer, wrap_tokenizer

DOCUMENTS = [*TEXTS["en"], *TEXTS["es"]]
MOST = MaskingConfig(rate=1 - 1e-9, max_share=1.0)  # every word: a sequence with nothing masked is not written


def tokenizer_of(*tokens):
    ids = [*(names[0] for names in SPECIAL_TOKENS.values()), *tokens]
    vocabulary = {token: index for index, token in enumerate(ids)}
    return wrap_tokenizer(
        wordpiece_tokenizer(vocabulary, lowercase=False, strip_accents=False, split_chinese=True), "test"
    )


LETTERS = tokenizer_of(*"abcdefg", *(f"##{c}" for c in "abcdefg"))


@pytest.fixture(scope="module")
def learned():
    return wrap_tokenizer(learn_wordpiece(DOCUMENTS, 200), "learned")


def sequences(documents, tokenizer, max_length, packing="across"):
    """The pieces of each written sequence as text, unmasked."""
    found = []
    for record in masked_records(documents, tokenizer, MOST, max_length=max_length, draws=1, packing=packing):
        ids = record.input_ids.copy()
        ids[record.masked_positions] = record.gold_ids
        found.append(" ".join(tokenizer.tokens[i] for i in ids))
    return found


def test_a_worked_example():
    """Capacity 6: texts laid end to end, [SEP] between documents, cut where the next word does not fit."""
    documents = ["ab c\ndef", "g", "abc de"]
    assert sequences(documents, LETTERS, 8) == [
        "[CLS] a ##b c d ##e ##f [SEP]",  # two texts of one document, no [SEP] between them
        "[CLS] [SEP] g [SEP] a ##b ##c [SEP]",
        "[CLS] d ##e [SEP]",
    ]
    assert sequences(documents, LETTERS, 7) == [
        "[CLS] a ##b c [SEP]",  # "def" would need one more
        "[CLS] d ##e ##f [SEP] g [SEP]",
        "[CLS] [SEP] a ##b ##c [SEP]",
        "[CLS] d ##e [SEP]",
    ]


def test_worked_examples_of_documents_apart():
    """Capacity 6. Documents of 6, 1, 9 = 6 + 3 and 4 pieces; longest first, each where it leaves the least room."""
    documents = ["ab c\ndef", "g", "abcdef abc", "gf ed"]
    apart = [
        "[CLS] a ##b c d ##e ##f [SEP]",
        "[CLS] g [SEP]",
        "[CLS] a ##b ##c ##d ##e ##f [SEP]",
        "[CLS] a ##b ##c [SEP]",
        "[CLS] g ##f e ##d [SEP]",
    ]
    assert sequences(documents, LETTERS, 8, "document") == apart
    # After the full ones: 4 pieces have 2 places left, too few for 3; one piece and its [SEP] fill them.
    assert sequences(documents, LETTERS, 8, "best_fit") == [
        apart[0],
        "[CLS] g [SEP] g ##f e ##d [SEP]",
        apart[2],
        apart[3],
    ]


@pytest.mark.parametrize("packing", ["document", "best_fit"])
@pytest.mark.parametrize("max_length", [12, 16, 33, 128, 512])
def test_documents_apart_are_whole_and_their_text_is_all_there(learned, packing, max_length):
    pieces = tokenise(DOCUMENTS, learned)
    document = np.cumsum(pieces.text < 0)
    found = packed_sequences(pieces, max_length - 2, packing)
    every = np.sort(np.concatenate(found))
    np.testing.assert_array_equal(every[pieces.text[every] >= 0], np.flatnonzero(pieces.text >= 0))
    sizes = np.bincount(document[pieces.text >= 0])
    for sequence in found:
        assert len(sequence) <= max_length - 2
        inside = sequence[pieces.text[sequence] >= 0]
        runs = np.flatnonzero(np.diff(document[sequence], prepend=-1))
        if packing == "document":
            assert len(set(document[sequence])) == 1
            assert len(inside) == len(sequence)  # no [SEP] but the last
        else:
            assert len(sequence) - len(inside) == len(set(document[inside])) - 1  # one [SEP] between two documents
            assert len(set(document[inside])) == 1 or runs[0] == 0
        for number in set(document[inside]):
            if sizes[number] <= max_length - 2:
                assert (document[inside] == number).sum() == sizes[number]  # it fits, so it is not cut
    assert len(found) >= len(packed_sequences(pieces, max_length - 2))


def test_best_fit_leaves_less_padding_than_documents_alone(learned):
    documents = DOCUMENTS * 20
    counts = {packing: len(packed_sequences(tokenise(documents, learned), 126, packing)) for packing in PACKINGS}
    assert counts["across"] <= counts["best_fit"] < 0.7 * counts["document"]


def test_groups_of_best_fit_are_within_capacity_and_no_two_could_be_one():
    generator = np.random.default_rng(0)
    for _ in range(30):
        sizes = generator.integers(1, 40, generator.integers(1, 60)).tolist()
        groups = best_fit(sizes, 40)
        assert sorted(item for group in groups for item in group) == list(range(len(sizes)))
        used = sorted(sum(sizes[item] for item in group) + len(group) - 1 for group in groups)
        assert used[-1] <= 40
        # Best fit opens a group only for an item that fits nowhere, so at most one is half empty.
        assert sum(one <= 19 for one in used) <= 1
    assert best_fit([], 10) == []
    assert best_fit([10, 10], 10) == [[0], [1]]
    assert best_fit([4, 5], 10) == [[0, 1]]
    assert best_fit([5, 5], 10) == [[0], [1]]  # the [SEP] between them does not fit
    assert best_fit([6, 2, 7], 10) == [[0], [1, 2]]  # 2 goes to 7, where it leaves no room, not to 6


def test_an_unknown_packing_is_refused(learned):
    with pytest.raises(ValueError, match="packing: found 'loose', expected one of across, document, best_fit"):
        sequences(DOCUMENTS, learned, 32, "loose")


def test_nothing_of_the_text_is_lost_or_doubled(learned):
    expected = []
    for document in DOCUMENTS:
        if expected:
            expected.append("[SEP]")
        for text in document.split("\n"):
            expected += learned.tokenizer.encode(text, add_special_tokens=False).tokens
    for max_length in (12, 16, 33, 128, 512):
        found = [sequence.split(" ") for sequence in sequences(DOCUMENTS, learned, max_length)]
        assert all(s[0] == "[CLS]" and s[-1] == "[SEP]" for s in found)
        assert [token for sequence in found for token in sequence[1:-1]] == expected


@pytest.mark.parametrize("capacity", [10, 30, 62])
def test_sequences_are_full_and_cut_between_words(learned, capacity):
    pieces = tokenise(DOCUMENTS, learned)
    words = list(zip(pieces.text.tolist(), pieces.word.tolist(), strict=True))
    bounds = sequence_bounds(pieces, capacity)
    assert [start for start, _ in bounds] == [0, *(stop for _, stop in bounds[:-1])]
    assert bounds[-1][1] == len(pieces.ids)
    for start, stop in bounds[:-1]:
        assert 0 < stop - start <= capacity
        assert words[stop - 1] != words[stop]
        next_word = sum(word == words[stop] for word in words[stop:])
        assert stop - start + next_word > capacity  # one more word would not have fitted


def test_a_word_longer_than_a_sequence_is_cut_inside():
    long = "abcdefg" * 5
    pieces = tokenise([f"ab {long} c"], LETTERS)
    bounds = sequence_bounds(pieces, 10)
    assert [stop - start for start, stop in bounds] == [2, 10, 10, 10, 6]  # the last: 5 letters and "c"
    found = sequences([f"ab {long} c"], LETTERS, 12)
    assert "".join(piece.removeprefix("##") for s in found for piece in s.split(" ")[1:-1]) == f"ab{long}c"


def test_pieces_know_the_word_of_their_first_character():
    text = "Don't repair — the small boat!"
    pieces = tokenise([text], tokenizer_of(*"Dont'epairhsmlb!—", *(f"##{c}" for c in "Dontepairhsmlb")))
    words = ["Don", "'", "t", "repair", "—", "the", "small", "boat", "!"]
    expected = [index for index, word in enumerate(words) for _ in word]
    assert pieces.word.tolist() == expected
    assert pieces.num_words == [len(words)]
    assert set(pieces.text) == {0}


def test_texts_without_pieces_do_no_harm(learned):
    for documents in ([""], ["\n\n"], [" \u200b"], []):
        assert sequences(documents, learned, 16) == []
    assert sequences(["", TEXTS["en"][2], ""], learned, 512) == [
        f"[CLS] [SEP] {whole(TEXTS['en'][2], learned)} [SEP] [SEP]"
    ]


def whole(text, tokenizer):
    return " ".join(tokenizer.tokenizer.encode(text, add_special_tokens=False).tokens)


def test_sequences_of_one_shard_have_different_names_and_draws_share_them(learned):
    records = list(masked_records(DOCUMENTS, learned, MOST, max_length=24, draws=2))
    names = [record.text_id for record in records]
    assert len(set(names)) == len(names) / 2
    assert all(len(name) == 8 for name in names)
    assert [record.draw for record in records] == [0, 1] * (len(records) // 2)


def test_special_tokens_are_never_chosen(learned):
    for record in masked_records(DOCUMENTS, learned, MOST, max_length=40, draws=5):
        special = np.isin(record.gold_ids, [learned.cls_id, learned.sep_id, learned.mask_id, learned.pad_id])
        assert not special.any()
        assert record.masked_positions[0] > 0
        assert record.masked_positions[-1] < len(record.input_ids) - 1
