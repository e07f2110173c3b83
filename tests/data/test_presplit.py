"""Words that are given already split have the pieces of the running text, whatever the family of the tokenizer."""

import random

import numpy as np
import pytest
from made_tokenizers import ROBERTA
from published_folders import LEARNED_FROM, fairseq_model, write
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mergedistill_jax.data.presplit import word_pieces
from mergedistill_jax.data.tagging import encode_tagged
from mergedistill_jax.vocabulary.learning import learn_wordpiece
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer, wrap_tokenizer

WORDS = [
    ["the", "old", "sailor", "repaired", "the", "small", "boat", "near", "the", "harbour", "."],
    ["El", "viejo", "marinero", ",", "10,000", "barcas", "!"],
    ["a"],
    ["größte", "Übung", "語言", "हिन्दी", "😀"],
    [],
    ["New York", "1 000", "don't", "x"],
]


def learned(model, pre_tokenizer, normalizer=None, *, alphabet=(), by_word=False):
    """A tokenizer of the given parts, learned on a few sentences; `by_word`: no piece reaches across a space."""
    tokenizer = Tokenizer(model)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    kind = trainers.UnigramTrainer if isinstance(model, models.Unigram) else trainers.BpeTrainer
    unknown = {"unk_token": "<unk>"} if kind is trainers.UnigramTrainer else {}
    trainer = kind(
        vocab_size=500, special_tokens=list(ROBERTA), initial_alphabet=list(alphabet), show_progress=False, **unknown
    )
    texts = [word for text in LEARNED_FROM for word in text.split()] if by_word else LEARNED_FROM
    tokenizer.train_from_iterator(texts, trainer)
    return wrap_tokenizer(tokenizer, "learned")


def byte_level(pre_tokenizer):
    return learned(models.BPE(), pre_tokenizer, alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))


def sentencepiece_bpe(normalizer):
    """Gemma's and Llama's: spaces are replaced in the whole text, and no pre-tokenizer divides it."""
    return learned(models.BPE(unk_token="<unk>", fuse_unk=True), None, normalizer, alphabet=["▁"], by_word=True)  # noqa: S106 - of text


def by_regex():
    split = pre_tokenizers.Split(Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return byte_level(pre_tokenizers.Sequence([split, whole]))


SPACES = normalizers.Replace(" ", "▁")
KINDS = {
    "bert": lambda: wrap_tokenizer(learn_wordpiece(LEARNED_FROM, 300), "bert"),
    "bert_uncased": lambda: wrap_tokenizer(learn_wordpiece(LEARNED_FROM, 300, lowercase=True), "bert"),
    "roberta": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "roberta_prefix": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "llama3": by_regex,
    "gemma": lambda: sentencepiece_bpe(SPACES),
    "llama2": lambda: sentencepiece_bpe(normalizers.Sequence([normalizers.Prepend("▁"), SPACES])),
    "xlm_roberta": lambda: learned(
        models.Unigram(), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    ),
    "deberta": lambda: learned(models.Unigram(), pre_tokenizers.Metaspace(), normalizers.NFKC()),
    "first": lambda: learned(models.Unigram(), pre_tokenizers.Metaspace(prepend_scheme="first")),
    "unsplit": lambda: learned(models.Unigram(), pre_tokenizers.Metaspace(split=False), by_word=True),
}
PER_WORD = ("bert", "bert_uncased", "xlm_roberta")
"""Those whose pieces of a word depend on the word alone."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param, KINDS[request.param]()


def flat(sentence):
    return [index for word in sentence for index in word]


def test_the_pieces_are_those_of_the_running_text(kind):
    _, tokenizer = kind
    found = word_pieces(WORDS, tokenizer)
    assert [len(sentence) for sentence in found] == [len(words) for words in WORDS]
    for words, sentence in zip(WORDS, found, strict=True):
        assert flat(sentence) == tokenizer.encode_batch([" ".join(words)])[0][0], words
    # Every word has the pieces that spell it, as far as the vocabulary knows its letters.
    for word, pieces in zip(WORDS[0], found[0], strict=True):
        spelled = "".join(tokenizer.tokens[index] for index in pieces)
        assert spelled.replace("##", "").lstrip("Ġ▁") == word


def test_the_space_before_a_word_is_part_of_it():
    """The pieces would otherwise be those of "thesmalldog"."""
    found = {}
    for name in ("roberta", "roberta_prefix", "llama3", "gemma", "llama2", "first"):
        tokenizer = KINDS[name]()
        (sentence,) = word_pieces([["the", "small", "boat"]], tokenizer)
        found[name] = [tokenizer.tokens[word[0]][0] for word in sentence]
    assert found == {
        "roberta": ["t", "Ġ", "Ġ"],
        "roberta_prefix": ["Ġ", "Ġ", "Ġ"],
        "llama3": ["t", "Ġ", "Ġ"],
        "gemma": ["t", "▁", "▁"],
        "llama2": ["▁", "▁", "▁"],
        "first": ["▁", "▁", "▁"],
    }


def split_by_transformers(tokenizer, words):
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - slow

    theirs = PreTrainedTokenizerFast(tokenizer_object=tokenizer.tokenizer)
    encoded = theirs(words, is_split_into_words=True, add_special_tokens=False)
    pieces = [[] for _ in words]
    for index, word in zip(encoded["input_ids"], encoded.word_ids(), strict=True):
        pieces[word].append(index)
    return [word or [tokenizer.unk_id] for word in pieces]


@pytest.mark.parametrize("name", PER_WORD)
def test_families_that_cut_at_white_space_are_as_transformers_has_them(name):
    tokenizer = KINDS[name]()
    rng = random.Random(11)
    characters = "theaboil.'-,é\u0301\u200d\u00adß語言ह्😀𠀀Ａ\x07\u00a0 "
    random_words = ["".join(rng.choices(characters, k=rng.randrange(7))) for _ in range(600)]
    sentences = [*WORDS, *(random_words[start : start + 6] for start in range(0, 600, 6))]
    for words, found in zip(sentences, word_pieces(sentences, tokenizer), strict=True):
        assert found == split_by_transformers(tokenizer, words), words


def test_a_published_xlm_roberta_is_as_transformers_has_it(tmp_path):
    folder = write(
        tmp_path / "xlmr", sentencepiece__bpe__model=fairseq_model(), config__json={"model_type": "xlm-roberta"}
    )
    tokenizer = load_tokenizer(folder)
    for words, found in zip(WORDS, word_pieces(WORDS, tokenizer), strict=True):
        assert found == split_by_transformers(tokenizer, words)


@pytest.mark.parametrize("name", KINDS)
def test_white_space_is_one_unknown_piece_and_changes_no_other_word(name):
    tokenizer = KINDS[name]()
    plain, blank = word_pieces([["the", "boat"], ["", "the", " ", "\u3000\t", "boat", "\n"]], tokenizer)
    unknown = [tokenizer.unk_id]
    assert blank == [unknown, plain[0], unknown, unknown, plain[1], unknown]


def across_spaces(*pieces):
    """A Unigram model whose pieces may hold several words."""
    scored = [(token, -1.0) for token in ROBERTA] + [(piece, len(piece) ** 1.2 - 20.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(list(ROBERTA))
    return wrap_tokenizer(tokenizer, "superwords")


def test_a_piece_of_several_words_is_divided_before_each_of_them():
    tokenizer = across_spaces("▁of▁the", "▁of", "▁the", "▁dog", "▁a▁b▁c", "▁a", "▁b", "▁c", "▁of▁the▁d", "og")
    words = [["of", "the", "dog"], ["a", "b", "c", "of", "the"], ["dog", "a", "b", "dog"]]
    assert tokenizer.tokenizer.encode("of the dog").tokens == ["▁of▁the▁d", "og"]
    named = [[[tokenizer.tokens[i] for i in word] for word in sentence] for sentence in word_pieces(words, tokenizer)]
    assert named == [[[f"▁{word}"] for word in sentence] for sentence in words]


def test_words_that_spell_special_tokens_are_text(kind):
    _, tokenizer = kind
    words = [["the", token, "boat", f"x{token}y"] for token in (*ROBERTA, "[MASK]", "[SEP]", "[UNK]")]
    for sentence in word_pieces(words, tokenizer):
        assert tokenizer.reserved_ids.isdisjoint({*flat(sentence)} - {tokenizer.unk_id})
        assert all(sentence)


def test_labels_stand_on_the_first_piece_of_each_word(kind):
    """Counts and labels do not depend on the family; cut words are whole ones at the end."""
    _, tokenizer = kind
    tags = [["N"] * len(words) for words in WORDS]
    arrays, counts = encode_tagged(WORDS, tags, tokenizer, ["N"], max_length=64)
    assert arrays.word_starts.sum(axis=1).tolist() == [len(words) for words in WORDS]
    assert (counts.words, counts.cut_words, counts.unlabelled_words) == (sum(map(len, WORDS)), 0, 0)
    pieces = word_pieces(WORDS, tokenizer)
    room = 2 + len(flat(pieces[0][:3]))
    short, counts = encode_tagged(WORDS[:1], tags[:1], tokenizer, ["N"], max_length=room + 1)
    kept = int(short.word_starts.sum())
    assert kept in (3, 4)
    assert counts.cut_words == len(WORDS[0]) - kept
    np.testing.assert_array_equal(
        short.token_ids[0, : 2 + len(flat(pieces[0][:kept]))],
        [tokenizer.cls_id, *flat(pieces[0][:kept]), tokenizer.sep_id],
    )
