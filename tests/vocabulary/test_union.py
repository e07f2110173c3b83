"""The union by canonical string: worked by hand, and what holds for any vocabularies."""

import json

import numpy as np
import pytest
from conftest import TEXTS
from made_tokenizers import BERT, bert, byte_level, unigram, wordpiece
from tokenizers import Tokenizer, models

from mergedistill_jax.vocabulary.canonical import PREFIX, SPECIAL, atoms, canonical_tokens
from mergedistill_jax.vocabulary.id_map import DROPPED
from mergedistill_jax.vocabulary.learning import learn_wordpiece
from mergedistill_jax.vocabulary.tokenizer import VocabularyError, load_tokenizer, wrap_tokenizer
from mergedistill_jax.vocabulary.union import merged_tokens, overlaps, unite, unite_canonical

USUAL = wordpiece("[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "la", "##s", "s", "[unused1]", "rojo")
BETO = wordpiece("[MASK]", "[PAD]", "[EOS]", "[UNK]", "[CLS]", "[SEP]", "the", "s", "la")


def canonical(**teachers):
    return {name: canonical_tokens(teacher) for name, teacher in teachers.items()}


def test_a_union_worked_by_hand():
    union = unite({"one": USUAL, "two": BETO})
    characters = [token for letter in "aehjlort" for token in (letter, f"##{letter}")]  # s and ##s are there
    assert union.tokens == (*SPECIAL, "la", "##s", "s", "rojo", "the", *characters)
    assert union.completed == 16
    assert SPECIAL == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert union.id_maps["one"].tolist() == [0, DROPPED, 1, 2, 3, 4, 5, 6, 7, DROPPED, 8]
    assert union.id_maps["two"].tolist() == [4, 0, DROPPED, 1, 2, 3, 9, 7, 5]
    found = overlaps(canonical(one=USUAL, two=BETO))
    assert found == {"one": {"one": 4, "two": 2}, "two": {"one": 2, "two": 3}}


def test_special_tokens_of_other_names_have_one_place():
    vocabulary = {
        token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "la", "[CLSx"])
    }
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))  # noqa: S106 - a token of text
    union = unite({"one": wrap_tokenizer(tokenizer, "roberta"), "two": BETO})
    assert union.id_maps["one"].tolist() == [2, 0, 3, 1, 4, 5, 6]
    assert union.id_maps["two"].tolist()[:2] == [4, 0]


def test_the_same_piece_of_three_families_is_one_token():
    teachers = {
        "wordpiece": bert("haus", "##boot", ".", "ä"),
        "sentencepiece": unigram("▁haus", "boot", "▁.", ".", "haus"),
        "byte_level": byte_level("Ġhaus", "boot", ".", "Ä", "Ã¤"),
    }
    union = unite(teachers)
    place = {token: index for index, token in enumerate(union.tokens)}
    expected = {
        "wordpiece": ["haus", "##boot", ".", "ä"],
        "sentencepiece": ["haus", "##boot", ".", ".", "##haus"],
        "byte_level": ["haus", "##boot", ".", "##<0xC4>", "##ä"],
    }
    for name, tokens in expected.items():
        assert union.id_maps[name].tolist()[5:] == [place[token] for token in tokens]
        assert set(union.id_maps[name].tolist()[:5]) == {0, 1, 2, 3, 4}
    assert [merged_tokens(union.id_maps[name]) for name in teachers] == [0, 1, 0]
    assert overlaps(canonical(**teachers)) == {
        "wordpiece": {"wordpiece": 4, "sentencepiece": 3, "byte_level": 3},
        "sentencepiece": {"wordpiece": 3, "sentencepiece": 4, "byte_level": 3},
        "byte_level": {"wordpiece": 3, "sentencepiece": 3, "byte_level": 5},
    }


def test_merged_tokens_are_counted_without_what_is_dropped():
    assert merged_tokens(np.array([3, DROPPED, 3, 4, DROPPED, 3], np.int32)) == 2
    assert merged_tokens(np.array([DROPPED], np.int32)) == 0


@pytest.fixture(scope="module")
def learned():
    documents = {**TEXTS, "hi": ["हिन्दी में लिखो। the la"] * 2}
    return {name: wrap_tokenizer(learn_wordpiece(texts * 2, 150), name) for name, texts in documents.items()}


def test_every_text_maps_to_the_same_strings(learned):
    union = unite(learned)
    assert union.tokens[:5] == SPECIAL
    assert len(set(union.tokens)) == len(union.tokens)
    texts = [text for texts in TEXTS.values() for text in texts] + ["हिन्दी में 語 x"]
    for name, tokenizer in learned.items():
        for ids, _ in tokenizer.encode_batch(texts):
            mapped = union.id_maps[name][ids]
            assert (mapped != DROPPED).all()
            assert [union.tokens[i] for i in mapped] == [tokenizer.tokens[i] for i in ids]


def test_a_map_is_one_to_one_and_what_no_teacher_has_are_characters(learned):
    union = unite(learned)
    reached = set()
    for name, tokenizer in learned.items():
        id_map = union.id_maps[name]
        assert id_map.shape == (len(tokenizer.tokens),)
        assert id_map.dtype == np.int32
        assert len(set(id_map.tolist())) == len(id_map)  # no placeholders here: nothing is dropped
        reached |= set(id_map.tolist())
    assert reached == set(range(len(union.tokens) - union.completed))
    assert all(len(atoms(token)) == 1 for token in union.tokens[len(reached) :])
    assert union.completed > 0


def test_every_character_stands_in_both_positions(learned):
    """Of every teacher's alphabet, in every position: any word over it can be spelled."""
    tokens = set(unite({**learned, "bytes": byte_level("Ġxy", "Ã", "qz")}).tokens)
    characters = {atom for token in tokens - set(SPECIAL) for atom in atoms(token)}
    assert {"x", "z", "<0xC3>", "ल", "ñ"} <= characters
    assert tokens >= characters | {PREFIX + character for character in characters}


def test_one_teacher_alone_keeps_its_tokens():
    union = unite({"one": BETO, "again": BETO})
    whole = len(union.tokens) - union.completed
    assert sorted(union.tokens[:whole]) == sorted(set(BETO.tokens) - {"[EOS]"})
    np.testing.assert_array_equal(union.id_maps["one"], union.id_maps["again"])


def test_a_vocabulary_with_its_characters_is_its_own_union():
    """Then nothing is completed, and the map is the identity: a student over it is a student of that teacher alone."""
    teacher = bert("ab", "##b", "a", "##a", "b")
    union = unite({"one": teacher})
    assert (union.tokens, union.completed) == (teacher.tokens, 0)
    np.testing.assert_array_equal(union.id_maps["one"], np.arange(len(teacher.tokens)))


def test_the_order_of_the_teachers_changes_ids_and_nothing_else(learned):
    one, other = unite(learned), unite(dict(reversed(learned.items())))
    assert one.tokens != other.tokens
    assert set(one.tokens) == set(other.tokens)
    for name in learned:
        named = [[union.tokens[i] for i in union.id_maps[name]] for union in (one, other)]
        assert named[0] == named[1]


def test_equal_size_is_not_equal_vocabulary():
    """PEERS.md trap 4: two vocabularies of one size, one permuted, one with another token."""
    tokens = ["[MASK]", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "s", "la"]
    whole, permuted = wordpiece(*tokens), wordpiece(*tokens[:5], "s", "the", "la")
    other = wordpiece(*tokens[:7], "el")
    assert len({len(t.tokens) for t in (whole, permuted, other)}) == 1
    assert len({t.vocabulary_hash for t in (whole, permuted, other)}) == 3
    union = unite({"one": whole, "permuted": permuted, "other": other})
    assert len(union.tokens) - union.completed == len(tokens) + 1
    named = [[union.tokens[i] for i in union.id_maps[n]] for n in ("one", "permuted", "other")]
    assert named == [tokens, list(permuted.tokens), list(other.tokens)]


def test_special_tokens_come_first_even_where_a_teacher_lacks_them_there():
    assert unite_canonical({"one": ["x", None, "[MASK]"]}).tokens == (*BERT, "x", "##x")


def test_a_family_without_a_canonical_spelling_cannot_be_united():
    wordlevel = Tokenizer(models.WordLevel({token: i for i, token in enumerate(SPECIAL)}, "[UNK]"))
    with pytest.raises(VocabularyError, match="field model: found WordLevel, expected WordPiece, SentencePiece"):
        unite({"one": BETO, "two": wrap_tokenizer(wordlevel, "x")})


@pytest.mark.real_data
def test_the_union_of_published_vocabularies(tmp_path, data_folder):
    names = {"zh": "bert-base-chinese", "tr": "berturk-cased", "es": "beto-cased", "xx": "bert-base-multilingual-cased"}
    teachers = {}
    for name, file in names.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "vocab.txt").write_bytes((data_folder / f"vocab/{file}.vocab.txt").read_bytes())
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": name == "zh"}))
        teachers[name] = load_tokenizer(folder)
    union = unite(teachers)
    whole = len(union.tokens) - union.completed
    assert len(set(union.tokens)) == len(union.tokens)
    assert whole > 131_072  # ids need more than 17 bits: PEERS.md trap 5
    assert all(len(atoms(token)) == 1 for token in union.tokens[whole:])
    shared = overlaps(canonical(**teachers))
    kept_tokens = set()
    for name, teacher in teachers.items():
        id_map = union.id_maps[name]
        kept = np.flatnonzero(id_map != DROPPED)
        found, own = [union.tokens[i] for i in id_map[kept]], [teacher.tokens[i] for i in kept]
        led = {theirs for ours, theirs in zip(found, own, strict=True) if ours != theirs}
        assert all(one == "##" or "▁" in one or "\u2028" in one for one in led)
        assert merged_tokens(id_map) == 0
        assert shared[name][name] == len(kept) - 5
        dropped = {teacher.tokens[i] for i in np.flatnonzero(id_map == DROPPED)}
        assert {token for token in dropped if not token.startswith("[unused")} <= {"[EOS]"}
        kept_tokens |= set(found)
    assert kept_tokens == set(union.tokens[:whole])
    assert shared["es"]["tr"] == shared["tr"]["es"] < shared["es"]["es"]
