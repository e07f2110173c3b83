import numpy as np
import pytest
from conftest import TEXTS

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.predict import PACKINGS
from mergedistill_jax.corpus.masked import mask_sequence, numbers_of
from mergedistill_jax.corpus.masking import covering_draws, random_tokens, text_id, word_draws
from mergedistill_jax.corpus.packing import masked_records, packed_sequences, tokenise
from mergedistill_jax.vocabulary.learning import learn_wordpiece
from mergedistill_jax.vocabulary.tokenizer import SPECIAL_TOKENS, wordpiece_tokenizer, wrap_tokenizer

SPECIAL = [tokens[0] for tokens in SPECIAL_TOKENS.values()]
HINDI = ["हिन्दी में लिखो।\nयह एक पुरानी किताब है, और वह लंबी है।"]
CHINESE = ["語言 is mixed with 文字, mostly."]
DOCUMENTS = [*TEXTS["en"], *HINDI, *TEXTS["es"], *CHINESE]
UNBOUNDED = MaskingConfig(rate=0.3, max_share=1.0)


def character_tokenizer(texts):
    """Every character is a piece."""
    characters = sorted({c for text in texts for c in text if not c.isspace()})
    tokens = [*SPECIAL, *characters, *(f"##{c}" for c in characters)]
    ids = {token: index for index, token in enumerate(tokens)}
    return wrap_tokenizer(wordpiece_tokenizer(ids, lowercase=False, strip_accents=False, split_chinese=True), "letters")


def learned_tokenizer(texts, size=400):
    return wrap_tokenizer(learn_wordpiece(texts * 2, size), "learned")  # twice: single pairs are not merged


def chosen_words(records, tokenizer):
    """(word, what became of it) for every chosen word, put together from pieces and their `##` alone."""
    words = []
    for record in records:
        last = None
        for position, gold in zip(record.masked_positions, record.gold_ids, strict=True):
            piece, shown = tokenizer.tokens[gold], record.input_ids[position]
            action = {tokenizer.mask_id: "hidden", gold: "kept"}.get(shown, "swapped")
            if piece.startswith("##") and last == position - 1:
                text, actions = words.pop()
                words.append((text + piece[2:], actions | {action}))
            else:
                words.append((piece, {action}))
            last = position
    return words


def records_of(documents, tokenizer, masking=UNBOUNDED, max_length=512, draws=1, packing="across"):
    return list(masked_records(documents, tokenizer, masking, max_length=max_length, draws=draws, packing=packing))


def bytes_of(records):
    return [(r.text_id, r.draw, r.input_ids.tobytes(), r.masked_positions.tobytes()) for r in records]


@pytest.mark.parametrize("seed", range(5))
def test_teachers_with_different_tokenizers_hide_the_same_words(seed):
    """DESIGN.md decision 4, on real records: whatever the pieces, and wherever the sequences are cut."""
    masking = MaskingConfig(rate=0.3, max_share=1.0, seed=seed)
    letters, learned = character_tokenizer(DOCUMENTS), learned_tokenizer(DOCUMENTS)
    small = learned_tokenizer(DOCUMENTS, 200)
    expected = chosen_words(records_of(DOCUMENTS, letters, masking), letters)
    assert len(expected) > 15
    assert any(word in {"語", "言"} or len(word) > 6 for word, _ in expected)
    for tokenizer, max_length in ((letters, 40), (learned, 512), (learned, 24), (small, 64)):
        found = chosen_words(records_of(DOCUMENTS, tokenizer, masking, max_length), tokenizer)
        assert [word for word, _ in found] == [word for word, _ in expected]
        hidden = [[word for word, actions in words if actions == {"hidden"}] for words in (found, expected)]
        assert hidden[0] == hidden[1]
    lengths = [sum(len(ids) for ids, _ in t.encode_batch(DOCUMENTS)) for t in (letters, small, learned)]
    assert lengths[0] > 1.3 * lengths[1] > 1.3 * 1.3 * lengths[2]  # the tokenizers really cut differently


def test_the_mask_of_a_text_does_not_depend_on_its_neighbours():
    tokenizer = learned_tokenizer(DOCUMENTS)
    together = chosen_words(records_of(DOCUMENTS, tokenizer), tokenizer)
    alone = [chosen_words(records_of([document], tokenizer), tokenizer) for document in DOCUMENTS]
    assert [word for word, _ in together] == [word for words in alone for word, _ in words]


def test_a_rerun_is_the_same_and_draws_and_seeds_are_not():
    tokenizer = learned_tokenizer(DOCUMENTS)
    first, again = (records_of(DOCUMENTS, tokenizer, max_length=64, draws=3) for _ in range(2))
    assert bytes_of(first) == bytes_of(again)
    per_draw = {draw: [r for r in first if r.draw == draw] for draw in range(3)}
    assert len({tuple(r.masked_positions.tobytes() for r in records) for records in per_draw.values()}) == 3
    assert bytes_of(per_draw[0]) == bytes_of(records_of(DOCUMENTS, tokenizer, max_length=64, draws=1))
    other = records_of(DOCUMENTS, tokenizer, MaskingConfig(rate=0.3, max_share=1.0, seed=1), max_length=64)
    assert bytes_of(other) != bytes_of(per_draw[0])
    by_sequence = {}
    for record in first:
        by_sequence.setdefault(record.text_id, []).append(record.draw)
    assert all(draws == [0, 1, 2] for draws in by_sequence.values())  # the draws of a sequence stand together


def test_whole_words_are_chosen_or_none_of_their_pieces():
    """Letters as pieces: every run of `##` pieces is chosen with the piece that begins the word."""
    tokenizer = character_tokenizer(DOCUMENTS)
    for masking in (UNBOUNDED, MaskingConfig(rate=0.3, max_share=0.3), MaskingConfig()):
        for record in records_of(DOCUMENTS, tokenizer, masking, max_length=64, draws=5):
            original = record.input_ids.copy()
            original[record.masked_positions] = record.gold_ids
            chosen = np.zeros(len(original), bool)
            chosen[record.masked_positions] = True
            continues = [tokenizer.tokens[piece].startswith("##") for piece in original]
            for i in range(1, len(original)):
                if continues[i]:
                    assert chosen[i] == chosen[i - 1], tokenizer.tokens[original[i]]


def test_the_share_of_a_sequence_is_bounded_and_the_last_in_order_stay_visible():
    tokenizer = learned_tokenizer(DOCUMENTS)
    bounded = MaskingConfig(rate=0.15, max_share=0.15)
    free = MaskingConfig(rate=0.15, max_share=1.0)
    by_name = {(r.text_id, r.draw): r for r in records_of(DOCUMENTS, tokenizer, free, max_length=64, draws=20)}
    assert any(len(r.masked_positions) > int(0.15 * len(r.input_ids)) for r in by_name.values())
    shorter = 0
    for record in records_of(DOCUMENTS, tokenizer, bounded, max_length=64, draws=20):
        assert 1 <= len(record.masked_positions) <= int(0.15 * len(record.input_ids))
        unbounded = by_name[record.text_id, record.draw]
        assert set(record.masked_positions) <= set(unbounded.masked_positions)
        shorter += len(record.masked_positions) < len(unbounded.masked_positions)
    assert shorter


def test_rate_and_actions_have_the_stated_shares():
    """Four standard deviations of a binomial, over 20,000 words and the chosen 3,000."""
    words = [f"{a}{b}{c}" for a in "bcdfghjklm" for b in "aeiou" for c in "nprst"]
    generator = np.random.default_rng(0)
    documents = [" ".join(generator.choice(words, 100)) for _ in range(200)]
    tokenizer = character_tokenizer(documents)
    records = records_of(documents, tokenizer, MaskingConfig(rate=0.15, max_share=1.0), max_length=128)
    chosen = chosen_words(records, tokenizer)

    def close(count, total, share):
        return abs(count / total - share) < 4 * (share * (1 - share) / total) ** 0.5

    assert close(len(chosen), 20_000, 0.15)
    for action, share in (("hidden", 0.8), ("kept", 0.1)):
        assert close(sum(actions == {action} for _, actions in chosen), len(chosen), share), action
    # The default bound of a fifth costs a tenth of that where sequences are short (here 43 words).
    usual = records_of(documents, tokenizer, MaskingConfig(), max_length=128)
    assert 0.13 < sum(len(r.masked_positions) for r in usual) / sum(len(r.input_ids) for r in usual) < 0.15


def test_random_tokens_are_ordinary_ones():
    tokenizer = learned_tokenizer(DOCUMENTS)
    records = records_of(DOCUMENTS, tokenizer, MaskingConfig(rate=0.9, max_share=1.0), draws=40)
    shown = np.concatenate([r.input_ids[r.masked_positions] for r in records])
    gold = np.concatenate([r.gold_ids for r in records])
    swapped = shown[(shown != gold) & (shown != tokenizer.mask_id)]
    assert len(swapped) > 300
    assert not set(swapped) & set(tokenizer.special_ids)
    assert len(set(swapped)) > 0.5 * len(tokenizer.ordinary_ids)
    assert not set(gold) & {tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id}


def test_the_numbers_of_a_word_do_not_depend_on_the_words_after_it():
    few, many = (word_draws(MaskingConfig(), text_id("a"), 0, count) for count in (3, 50))
    np.testing.assert_array_equal(few.order, many.order[:3])
    np.testing.assert_array_equal(few.action, many.action[:3])


def test_the_hash_is_what_it_was():
    """A golden: records are compared over teachers and years, so these numbers are a format."""
    config, name = MaskingConfig(seed=7), text_id("La casa roja.é")
    assert name.hex() == "153cd012a2d7cc13"
    draws = word_draws(config, name, 1, 4)
    np.testing.assert_array_equal(
        draws.order, [0.10351642739822764, 0.1635183017753422, 0.9683844587165834, 0.4322348761023851]
    )
    np.testing.assert_array_equal(
        draws.action, [0.8877588613901849, 0.8356052936736998, 0.6252199478160566, 0.6636145642839839]
    )
    assert random_tokens(config, name, 1, 5, np.arange(100)).tolist() == [82, 84, 51, 94, 79]


COVER = MaskingConfig(rate=0.25, cover=True)
LONG = "x" + "abcdefgh" * 6  # with letters as pieces far beyond the share of any sequence below
LONG_DOCUMENTS = [f"a {LONG} b c, {LONG}.", *DOCUMENTS, LONG]


def pieces_by_draw(documents, tokenizer, masking, max_length, draws, packing):
    """The pieces of the documents, and {draw: those that its records predict, as often as they do}."""
    pieces = tokenise(documents, tokenizer)
    numbers = numbers_of(pieces, masking, draws)
    found = {draw: [] for draw in range(draws)}
    for sequence in packed_sequences(pieces, max_length - 2, packing):
        for draw in found:
            for record in mask_sequence(pieces, sequence, numbers, tokenizer, masking, draw, max_length):
                predicted = sequence[record.masked_positions - 1]
                np.testing.assert_array_equal(pieces.ids[predicted], record.gold_ids)
                found[draw] += predicted.tolist()
    return pieces, found


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("max_length", [24, 64, 256])
@pytest.mark.parametrize("replacement", ["bert", "mask"])
def test_the_draws_of_a_cover_predict_every_word_exactly_once(packing, max_length, replacement):
    """The promise of `cover`, piece by piece, over real packing, with long words and with short ones."""
    documents = [*DOCUMENTS, f"one {LONG[:20]} word"]
    masking = MaskingConfig(rate=0.25, cover=True, replacement=replacement)
    for tokenizer in (character_tokenizer(documents), learned_tokenizer(documents)):
        pieces, found = pieces_by_draw(documents, tokenizer, masking, max_length, 4, packing)
        predicted = sorted(piece for draw in found.values() for piece in draw)
        np.testing.assert_array_equal(predicted, np.flatnonzero(pieces.text >= 0))  # all of the text, none twice
        draw_of = {piece: draw for draw, predicted in found.items() for piece in predicted}
        for draw, predicted in found.items():
            for piece in predicted:
                other = np.flatnonzero((pieces.text == pieces.text[piece]) & (pieces.word == pieces.word[piece]))
                assert {draw_of[i] for i in other} == {draw}  # a word in one draw, with all its pieces


def test_tokenizers_share_the_words_out_alike_whatever_the_bounds():
    """No word is spared for want of room, so the same words are hidden in the same draw, to the last."""
    words = {}
    letters, learned = character_tokenizer(LONG_DOCUMENTS), learned_tokenizer(LONG_DOCUMENTS)
    for name, tokenizer, max_length in (("letters", letters, 512), ("learned", learned, 40), ("small", letters, 30)):
        pieces, found = pieces_by_draw(LONG_DOCUMENTS, tokenizer, COVER, max_length, 4, "document")
        words[name] = [{(int(pieces.text[i]), int(pieces.word[i])) for i in found[draw]} for draw in range(4)]
    assert words["letters"] == words["learned"] == words["small"]
    assert not set.intersection(*words["letters"])


@pytest.mark.parametrize("max_count", [None, 5])
def test_a_cover_stays_within_the_bound_and_hides_a_long_word_whole(max_count):
    """A word beyond the bound of a full sequence stands in several records, hidden in each, predicted in parts."""
    tokenizer = character_tokenizer(LONG_DOCUMENTS)
    masking = MaskingConfig(rate=0.25, cover=True, replacement="mask", max_count=max_count)
    largest = masking.max_predictions(64)
    assert largest == (max_count or 21)
    parts = 0
    for record in records_of(LONG_DOCUMENTS, tokenizer, masking, max_length=64, draws=4):
        hidden = np.flatnonzero(record.input_ids == tokenizer.mask_id)
        assert 1 <= len(record.masked_positions) <= largest
        assert set(record.masked_positions) <= set(hidden)
        if len(hidden) > len(record.masked_positions):
            np.testing.assert_array_equal(hidden, np.arange(hidden[0], hidden[0] + len(hidden)))  # one word, all of it
            assert len(hidden) > largest
            assert record.masked_words == 1
            parts += 1
    assert parts > 4


def test_short_sequences_of_a_cover_go_beyond_their_share_only_for_a_whole_word():
    tokenizer = character_tokenizer(["abc de f ghij k lm"])
    records = records_of(["abc de f ghij k lm"], tokenizer, COVER, max_length=128, draws=4)
    assert COVER.max_predictions(15) == 4 < len(records[0].input_ids)
    for record in records:
        assert len(record.masked_positions) <= 4 or record.masked_words == 1


def test_a_cover_hides_one_of_every_n_words_in_each_draw():
    draws = covering_draws(MaskingConfig(seed=3), text_id("a"), 7, 70)
    assert np.sort(draws.reshape(10, 7), axis=1).tolist() == [list(range(7))] * 10
    assert len({tuple(row) for row in draws.reshape(10, 7).tolist()}) == 10
    np.testing.assert_array_equal(draws[:11], covering_draws(MaskingConfig(seed=3), text_id("a"), 7, 11))
    assert covering_draws(MaskingConfig(seed=3), text_id("a"), 7, 0).shape == (0,)
    counts = np.bincount(
        np.concatenate([covering_draws(MaskingConfig(), text_id(str(i)), 4, 1) for i in range(4000)]), minlength=4
    )
    assert abs(counts - 1000).max() < 4 * (4000 * 0.25 * 0.75) ** 0.5  # a text of one word falls into any draw


def test_the_covering_draws_are_what_they_were():
    found = covering_draws(MaskingConfig(seed=7), text_id("La casa roja.é"), 4, 10)
    assert found.tolist() == [1, 2, 3, 0, 2, 3, 1, 0, 3, 0]


def test_the_rate_of_a_cover_is_kept_where_independent_words_lose_to_the_bound():
    """1/7 of the tokens, exactly, where 15 % of independent words become 14 %."""
    documents = [" ".join(TEXTS["en"][i % 4].split() * 20) for i in range(8)]
    tokenizer = learned_tokenizer(documents)
    tokens = sum(len(ids) for ids, _ in tokenizer.encode_batch(documents))
    covered = records_of(documents, tokenizer, MaskingConfig(cover=True), max_length=128, draws=7)
    assert sum(len(r.masked_positions) for r in covered) == tokens
    assert len(covered) < 1.1 * 7 * len(records_of(documents, tokenizer, max_length=128))  # hardly any further record


def test_all_mask_shows_nothing_else():
    tokenizer = learned_tokenizer(DOCUMENTS)
    masking = MaskingConfig(rate=0.3, max_share=1.0, replacement="mask")
    usual = records_of(DOCUMENTS, tokenizer, UNBOUNDED, max_length=64, draws=3)
    for record, other in zip(records_of(DOCUMENTS, tokenizer, masking, max_length=64, draws=3), usual, strict=True):
        assert set(record.input_ids[record.masked_positions]) == {tokenizer.mask_id}
        np.testing.assert_array_equal(record.masked_positions, other.masked_positions)  # the same words
        np.testing.assert_array_equal(record.gold_ids, other.gold_ids)
    shown = np.concatenate([r.input_ids[r.masked_positions] for r in usual])
    assert (shown != tokenizer.mask_id).any()


def test_a_count_bounds_what_a_share_does_not():
    """MuRIL: at most 80 in sequences of 512."""
    masking = MaskingConfig(max_count=80)
    assert [masking.max_predictions(length) for length in (512, 128, 400, 401)] == [80, 25, 80, 80]
    tokenizer = learned_tokenizer(DOCUMENTS)
    bounded = MaskingConfig(rate=0.3, max_share=1.0, max_count=6)
    found = records_of(DOCUMENTS, tokenizer, bounded, max_length=64, draws=5)
    free = {
        (r.text_id, r.draw): set(r.masked_positions) for r in records_of(DOCUMENTS, tokenizer, max_length=64, draws=5)
    }
    assert max(len(r.masked_positions) for r in found) == 6
    assert all(set(r.masked_positions) <= free[r.text_id, r.draw] for r in found)


@pytest.mark.parametrize(
    ("config", "draws", "max_length", "named"),
    [
        (MaskingConfig(cover=True), 6, 128, r"draws: found 6, expected 7, 1 / rate=0\.15"),
        (MaskingConfig(cover=True, rate=0.5), 3, 128, "draws: found 3, expected 2"),
        (MaskingConfig(cover=True), 7, 4, "max_share: found 0.2 of sequences of 4, expected at least one"),
    ],
)
def test_a_cover_that_cannot_be_kept_is_refused(config, draws, max_length, named):
    with pytest.raises(ValueError, match=named) as error:
        records_of(DOCUMENTS, learned_tokenizer(DOCUMENTS), config, max_length, draws)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rate": 0.0}, "rate: found 0.0"),
        ({"rate": 1.0}, "rate: found 1.0"),
        ({"rate": 0.3, "max_share": 0.2}, "max_share: found 0.2, expected between rate=0.3 and 1"),
        ({"max_share": 1.1}, r"max_share: found 1\.1"),
        ({"replacement": "none"}, "replacement: found 'none', expected one of bert, mask"),
        ({"max_count": 0}, "max_count: found 0, expected at least 1"),
    ],
)
def test_impossible_shares_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        MaskingConfig(**changes)


def test_the_bound_follows_the_rate():
    assert MaskingConfig().max_predictions(128) == 25
    assert MaskingConfig(rate=0.3).max_predictions(128) == 51
    assert MaskingConfig(rate=0.9).max_predictions(128) == 128
