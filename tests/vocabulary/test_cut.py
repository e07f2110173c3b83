"""The cut of a union: costs worked by hand, and what must stay true at any size."""

import numpy as np
import pytest
from conftest import TEXTS
from made_tokenizers import bert

from mergedistill_jax.vocabulary.canonical import PREFIX, SPECIAL, atoms, canonical_tokens, surface
from mergedistill_jax.vocabulary.cut import cut_union, spell, token_use
from mergedistill_jax.vocabulary.id_map import DROPPED
from mergedistill_jax.vocabulary.learning import learn_wordpiece
from mergedistill_jax.vocabulary.tokenizer import VocabularyError, wrap_tokenizer
from mergedistill_jax.vocabulary.union import unite, unite_canonical

WORDS = ["hausboot", "haus", "##boot", "rad"]
SMALL = unite_canonical({"de": [*SPECIAL, *WORDS, None]})
FIXED = 5 + 2 * len(set("hausbootrad"))


def use_of(union, **shares):
    """Shares by canonical string; `__boot` stands for `##boot`."""
    place = {token: index for index, token in enumerate(union.tokens)}
    use = np.zeros(len(union.tokens))
    for token, share in shares.items():
        use[place[token.replace("__", PREFIX)]] = share
    return use


USE = use_of(SMALL, hausboot=0.2, haus=0.08, __boot=0.5, rad=0.15)


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        # hausboot 0.2 x 1 (haus ##boot), haus 0.08 x 3 = 0.24, ##boot 0.5 x 3, rad 0.15 x 2 = 0.3: the word goes ...
        (3, ["haus", "##boot", "rad"]),
        # ... and hands on its use: haus (0.08 + 0.2) x 3 = 0.84, so that rad is the cheapest now.
        (2, ["haus", "##boot"]),
        (1, ["##boot"]),
        (0, []),
    ],
)
def test_a_cut_worked_by_hand(left, kept):
    tokens, _ = cut_union(SMALL, USE, FIXED + left)
    assert [token for token in tokens if len(atoms(token)) > 1 and token not in SPECIAL] == kept
    assert len(tokens) == FIXED + left


def test_the_maps_follow():
    """Kept: one id. Cut: its pieces as input, no label. Placeholder: [UNK], no label."""
    tokens, maps = cut_union(SMALL, USE, FIXED + 2)
    id_map = maps["de"]
    inputs = [[tokens[i] for i in id_map.expand(np.array([row], np.int32))[0]] for row in range(10)]
    assert inputs[:5] == [[token] for token in SPECIAL]
    assert inputs[5:] == [["haus", "##boot"], ["haus"], ["##boot"], ["r", "##a", "##d"], ["[UNK]"]]
    labels = [None if label == DROPPED else tokens[label] for label in id_map.labels]
    assert labels == [*SPECIAL, None, "haus", "##boot", None, None]


def test_the_longest_matches_are_those_that_are_left():
    _, maps = cut_union(SMALL, USE, FIXED)
    lengths = np.diff(maps["de"].starts).tolist()
    assert lengths == [1] * 5 + [8, 4, 4, 3, 1]


def test_of_equal_cost_the_later_token_goes():
    tokens, _ = cut_union(SMALL, np.zeros(len(SMALL.tokens)), FIXED + 2)
    assert [token for token in tokens if token in WORDS] == ["hausboot", "haus"]


def test_what_goes_in_one_round_goes_by_the_costs_at_its_beginning():
    """Of ten tokens two go in the first round. One by one, the second would be another."""
    words = ["stuv", "st", "##uv", "wx", "gh", "ij", "kl", "mn", "op", "qr"]
    union = unite_canonical({"x": [*SPECIAL, *words]})
    # stuv 0.01, st 0.02, wx 0.025: the first hands on to st, whose cost would then be 0.03.
    use = use_of(union, stuv=0.01, st=0.02, wx=0.025, __uv=1, **dict.fromkeys(words[4:], 1))
    tokens, _ = cut_union(union, use, len(union.tokens) - 2)
    assert set(union.tokens) - set(tokens) == {"stuv", "st"}


def test_a_token_and_its_piece_may_go_in_one_round():
    """Its use goes to what the piece is spelled with: nothing is lost, and the next round weighs it."""
    words = ["xyabc", "##abc", "##ab", "de", "xy", "gh", "ij", "kl", "mn", "op"]
    union = unite_canonical({"x": [*SPECIAL, *words]})
    # ##abc (0.01) and xyabc (0.02, as xy ##abc) go first; ##ab has 0.05 + 0.01 + 0.02 then, and `de` is cheaper.
    use = use_of(union, xyabc=0.02, __abc=0.01, __ab=0.05, de=0.07, **dict.fromkeys(words[4:], 1))
    tokens, maps = cut_union(union, use, len(union.tokens) - 3)
    assert set(union.tokens) - set(tokens) == {"xyabc", "##abc", "de"}
    assert [tokens[i] for i in maps["x"].expand(np.array([5], np.int32))[0]] == ["xy", "##ab", "##c"]


@pytest.fixture(scope="module")
def teachers():
    return {name: wrap_tokenizer(learn_wordpiece(texts * 2, 200), name) for name, texts in TEXTS.items()}


@pytest.fixture(scope="module")
def union(teachers):
    return unite(teachers)


@pytest.fixture(scope="module")
def counts(union, teachers):
    """How often each union token stands in the teachers' own text."""
    found = {}
    for name, teacher in teachers.items():
        ids = np.concatenate([union.id_maps[name][ids] for ids, _ in teacher.encode_batch(TEXTS[name])])
        found[name] = np.bincount(ids, minlength=len(union.tokens))
    return found


def fixed_of(union):
    return [token for token in union.tokens if token in SPECIAL or len(atoms(token)) == 1]


def test_every_size_is_reached_exactly_and_special_tokens_and_characters_stay(union, counts):
    fixed = fixed_of(union)
    use = token_use(counts, 0.7)
    for size in range(len(fixed), len(union.tokens) + 1, 7):
        tokens, _ = cut_union(union, use, size)
        assert len(tokens) == size
        assert set(fixed) <= set(tokens)
        assert list(tokens) == [token for token in union.tokens if token in set(tokens)]
        assert tokens[:5] == SPECIAL


@pytest.mark.parametrize("left", [0, 40])
def test_everything_can_still_be_spelled(union, teachers, counts, left):
    tokens, maps = cut_union(union, token_use(counts, 0.7), len(fixed_of(union)) + left)
    cut = 0
    for name, teacher in teachers.items():
        for index, token in enumerate(canonical_tokens(teacher)):
            row = [tokens[i] for i in maps[name].expand(np.array([index], np.int32))[0]]
            assert token is not None
            assert ("[UNK]" in row) == (index == teacher.unk_id)
            assert "".join(map(surface, row)) == surface(token)
            assert [piece.startswith(PREFIX) for piece in row] == [token.startswith(PREFIX)] + [True] * (len(row) - 1)
            label = maps[name].labels[index]
            assert (tokens[label] == token and row == [token]) if label != DROPPED else len(row) > 1
            cut += label == DROPPED
    assert cut > 20


def test_a_cut_word_is_spelled_as_the_students_own_tokenizer_spells_it(union, teachers, counts):
    """Longest match, as WordPiece: the id map and the policy `union` cannot contradict each other here."""
    tokens, maps = cut_union(union, token_use(counts, 0.7), len(fixed_of(union)) + 40)
    student = bert(*tokens[5:])
    compared = 0
    for name, teacher in teachers.items():
        for index, token in enumerate(teacher.tokens):
            if token.isalpha() and maps[name].labels[index] == DROPPED:
                ((own, _),) = student.encode_batch([token])
                np.testing.assert_array_equal(maps[name].expand(np.array([index], np.int32))[0], own)
                compared += 1
    assert compared > 10


def length(maps, teachers):
    """Tokens of the texts as the student reads them."""
    return sum(
        len(maps[name].expand(np.array(ids, np.int32))[0])
        for name, teacher in teachers.items()
        for ids, _ in teacher.encode_batch(TEXTS[name])
    )


def test_the_first_token_to_go_is_the_one_whose_loss_lengthens_the_text_least(union, counts):
    """By trying every one: the cost that the cut goes by is the text's real growth."""
    use = token_use(counts, 1.0)  # shares of the pooled text
    growth = {}
    for index, token in enumerate(union.tokens):
        if len(atoms(token)) > 1 and token not in SPECIAL:
            known = {other: i for i, other in enumerate(union.tokens) if other != token}
            growth[token] = use[index] * (len(spell(token, known) or []) - 1)
    (gone,) = set(union.tokens) - set(cut_union(union, use, len(union.tokens) - 1)[0])
    assert growth[gone] == min(growth.values())


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_text_grows_less_than_by_other_cuts_of_the_size(union, teachers, counts, share):
    fixed = len(fixed_of(union))
    size = fixed + int(share * (len(union.tokens) - fixed))
    by_use = length(cut_union(union, token_use(counts, 1.0), size)[1], teachers)
    generator = np.random.default_rng(0)
    for _ in range(5):
        by_chance = length(cut_union(union, generator.random(len(union.tokens)), size)[1], teachers)
        assert by_use < by_chance
    assert length(cut_union(union, token_use(counts, 1.0), len(union.tokens))[1], teachers) <= by_use


def test_a_cut_to_the_full_size_is_the_union(union, counts):
    tokens, maps = cut_union(union, token_use(counts, 0.7), len(union.tokens))
    assert tokens == union.tokens
    for name, labels in union.id_maps.items():
        np.testing.assert_array_equal(maps[name].labels, labels)
        assert maps[name].one_to_one
        np.testing.assert_array_equal(maps[name].ids, labels)


def test_the_same_cut_again_is_the_same(union, counts):
    size = len(union.tokens) - 60
    runs = [cut_union(union, token_use(counts, 0.7), size) for _ in range(2)]
    assert runs[0][0] == runs[1][0]
    for name in union.id_maps:
        assert runs[0][1][name].to_bytes() == runs[1][1][name].to_bytes()


def test_the_use_that_is_given_is_left_alone():
    before = USE.copy()
    cut_union(SMALL, USE, FIXED)
    np.testing.assert_array_equal(USE, before)


def test_an_impossible_size_is_refused():
    message = rf"^UnionConfig\.size: found {FIXED - 1}, expected at least {FIXED}: special tokens and single char"
    with pytest.raises(VocabularyError, match=message):
        cut_union(SMALL, USE, FIXED - 1)


@pytest.mark.parametrize(
    ("token", "without", "pieces"),
    [
        ("abc", None, ["abc"]),
        ("abc", "abc", ["ab", "##c"]),
        ("abab", None, ["ab", "##a", "##b"]),
        ("##ab", None, ["##a", "##b"]),
        ("##", None, []),
        ("abx", None, None),  # no ##x
        ("b", None, None),  # ##b alone
        ("a<0x0A>", None, ["a", "##<0x0A>"]),  # a byte is one character
    ],
)
def test_spelling(token, without, pieces):
    known = dict.fromkeys(["a", "##a", "##b", "ab", "abc", "##c", "##<0x0A>"], 0)
    assert spell(token, known, without=without) == pieces


def test_use_worked_by_hand():
    counts = {"small": np.array([30, 10, 0]), "large": np.array([0, 160, 0])}
    # Sizes 40 and 160; at exponent 1/2 their weights are 1/3 and 2/3, at 1 the texts are pooled, at 0 they weigh alike.
    for exponent, expected in ((0.5, [0.25, 0.75, 0]), (1.0, [0.15, 0.85, 0]), (0.0, [0.375, 0.625, 0])):
        np.testing.assert_allclose(token_use(counts, exponent), expected, rtol=1e-12)


def test_a_language_without_text_changes_nothing():
    counts = {"some": np.array([3, 1]), "none": np.array([0, 0])}
    np.testing.assert_allclose(token_use(counts, 0.0), [0.75, 0.25])
    np.testing.assert_array_equal(token_use({"none": np.array([0, 0])}, 0.7), [0, 0])
