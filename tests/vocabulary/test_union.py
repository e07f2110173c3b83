import json

import numpy as np
import pytest
from conftest import TEXTS
from tokenizers import Tokenizer, models, normalizers

from mergedistill_jax.vocabulary.learning import learn_wordpiece
from mergedistill_jax.vocabulary.tokenizer import VocabularyError, load_tokenizer, wordpiece_tokenizer, wrap_tokenizer
from mergedistill_jax.vocabulary.union import DROPPED, SPECIAL, overlaps, shared_normalizer, unite


def tokenizer_of(tokens, *, lowercase=False, strip_accents=None, split_chinese=True):
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return wrap_tokenizer(
        wordpiece_tokenizer(vocabulary, lowercase=lowercase, strip_accents=strip_accents, split_chinese=split_chinese),
        "test",
    )


USUAL = tokenizer_of(["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "la", "##s", "s", "[unused1]", "rojo"])
BETO = tokenizer_of(["[MASK]", "[PAD]", "[EOS]", "[UNK]", "[CLS]", "[SEP]", "the", "s", "la"])


def test_a_union_worked_by_hand():
    union = unite({"one": USUAL, "two": BETO})
    assert union.tokens == (*SPECIAL, "la", "##s", "s", "rojo", "[EOS]", "the")
    assert SPECIAL == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert union.id_maps["one"].tolist() == [0, DROPPED, 1, 2, 3, 4, 5, 6, 7, DROPPED, 8]
    assert union.id_maps["two"].tolist() == [4, 0, 9, 1, 2, 3, 10, 7, 5]
    assert overlaps({"one": USUAL, "two": BETO}) == {"one": {"one": 4, "two": 2}, "two": {"one": 2, "two": 4}}


def test_special_tokens_of_other_names_have_one_place():
    vocabulary = {
        token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "la", "[CLSx"])
    }
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))  # noqa: S106 - a token of text
    union = unite({"one": wrap_tokenizer(tokenizer, "roberta"), "two": BETO})
    assert union.id_maps["one"].tolist() == [2, 0, 3, 1, 4, 5, 6]
    assert union.id_maps["two"].tolist()[:2] == [4, 0]


@pytest.fixture(scope="module")
def learned():
    documents = {**TEXTS, "hi": ["हिन्दी में लिखो। the la"] * 2}
    return {name: wrap_tokenizer(learn_wordpiece(texts * 2, 150), name) for name, texts in documents.items()}


def test_every_text_maps_to_the_same_strings(learned):
    union = unite(learned)
    assert union.tokens[0] == "[PAD]"
    assert len(set(union.tokens)) == len(union.tokens)
    texts = [text for texts in TEXTS.values() for text in texts] + ["हिन्दी में 語 x"]
    for name, tokenizer in learned.items():
        for ids, _ in tokenizer.encode_batch(texts):
            mapped = union.id_maps[name][ids]
            assert (mapped != DROPPED).all()
            assert [union.tokens[i] for i in mapped] == [tokenizer.tokens[i] for i in ids]


def test_a_map_is_one_to_one_and_the_union_holds_nothing_else(learned):
    union = unite(learned)
    reached = set()
    for name, tokenizer in learned.items():
        id_map = union.id_maps[name]
        assert id_map.shape == (len(tokenizer.tokens),)
        assert len(set(id_map)) == len(id_map)  # no placeholders here: nothing is dropped
        reached |= set(id_map)
    assert reached == set(range(len(union.tokens)))


def test_one_teacher_alone_keeps_its_tokens():
    union = unite({"one": BETO, "again": BETO})
    assert sorted(union.tokens) == sorted(BETO.tokens)
    np.testing.assert_array_equal(union.id_maps["one"], union.id_maps["again"])


def test_equal_size_is_not_equal_vocabulary():
    """PEERS.md trap 4: two vocabularies of one size, one permuted, one with another token."""
    tokens = list(BETO.tokens)
    permuted, other = tokenizer_of([*tokens[:6], "s", "the", "la"]), tokenizer_of([*tokens[:8], "el"])
    assert len({len(t.tokens) for t in (BETO, permuted, other)}) == 1
    assert len({t.vocabulary_hash for t in (BETO, permuted, other)}) == 3
    union = unite({"one": BETO, "permuted": permuted, "other": other})
    assert len(union.tokens) == len(tokens) + 1
    named = [[union.tokens[i] for i in union.id_maps[n]] for n in ("one", "permuted", "other")]
    assert named == [tokens, list(permuted.tokens), list(other.tokens)]


def test_only_wordpiece_can_be_united():
    wordlevel = Tokenizer(models.WordLevel({token: i for i, token in enumerate(SPECIAL)}, "[UNK]"))
    with pytest.raises(VocabularyError, match="field model: found WordLevel, expected WordPiece"):
        unite({"one": wrap_tokenizer(wordlevel, "x")})
    other = Tokenizer(models.WordPiece({t: i for i, t in enumerate(SPECIAL)}, continuing_subword_prefix="@@"))
    with pytest.raises(VocabularyError, match='expected WordPiece with the prefix "##"'):
        unite({"one": wrap_tokenizer(other, "x")})


@pytest.mark.parametrize(
    ("settings", "agreed", "conflicts"),
    [
        ([{}, {}], (False, False, True), []),
        ([{"lowercase": True}, {"lowercase": True}], (True, True, True), []),
        # Stripping unspecified means stripping where lowercased: not a conflict with saying so.
        ([{"lowercase": True}, {"lowercase": True, "strip_accents": True}], (True, True, True), []),
        ([{"lowercase": True}, {}], (False, False, True), ["lowercase", "strip_accents"]),
        ([{"lowercase": True, "strip_accents": False}, {}], (False, False, True), ["lowercase"]),
        ([{"strip_accents": True}, {}], (False, False, True), ["strip_accents"]),
        ([{"split_chinese": False}, {"split_chinese": False}], (False, False, False), []),
        ([{"split_chinese": False}, {}], (False, False, True), ["handle_chinese_chars"]),
    ],
)
def test_the_normaliser_keeps_more_of_the_text_where_teachers_differ(settings, agreed, conflicts):
    teachers = [tokenizer_of(BETO.tokens, **one) for one in settings]
    switches, found = shared_normalizer(teachers)
    assert tuple(switches[name] for name in ("lowercase", "strip_accents", "handle_chinese_chars")) == agreed
    assert found == conflicts


def test_other_normalisers_are_refused():
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(SPECIAL)}))
    tokenizer.normalizer = normalizers.NFC()
    with pytest.raises(VocabularyError, match="field normalizer: found NFC, expected BertNormalizer"):
        shared_normalizer([wrap_tokenizer(tokenizer, "x")])


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
    expected = set().union(*(t.tokens for t in teachers.values()))
    expected = {token for token in expected if not token.startswith("[unused")}
    assert set(union.tokens) == expected
    assert len(union.tokens) == len(expected)
    assert len(union.tokens) > 131_072  # ids need more than 17 bits: PEERS.md trap 5
    shared = overlaps(teachers)
    for name, teacher in teachers.items():
        id_map = union.id_maps[name]
        kept = np.flatnonzero(id_map != DROPPED)
        assert [union.tokens[i] for i in id_map[kept]] == [teacher.tokens[i] for i in kept]
        assert shared[name][name] == len(kept) - 5
        dropped = {teacher.tokens[i] for i in np.flatnonzero(id_map == DROPPED)}
        assert all(token.startswith("[unused") for token in dropped)
    assert shared["es"]["tr"] == shared["tr"]["es"] < shared["es"]["es"]
