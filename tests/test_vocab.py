import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TEXTS
from flax import linen as nn
from made_tokenizers import byte_level, unigram, write_folder

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.vocab import LearnConfig, UnionConfig, VocabConfig
from mergedistill_jax.models.heads import MaskedLanguageModel
from mergedistill_jax.vocab import vocab
from mergedistill_jax.vocabulary.canonical import PREFIX, atoms
from mergedistill_jax.vocabulary.folder import read_vocabulary
from mergedistill_jax.vocabulary.id_map import DROPPED
from mergedistill_jax.vocabulary.tokenizer import VocabularyError, load_tokenizer
from tasks import corpora


@pytest.fixture
def corpus():
    return corpora.add_corpus("vocab_texts", lambda _: iter(TEXTS["en"] * 2), ["train"])


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_learned_vocabulary_belongs_to_one_teacher_with_the_same_ids(tmp_path, corpus, capsys):
    config = VocabConfig(output=str(tmp_path), method=LearnConfig(corpus=corpus, split="train", size=150, name="en"))
    vocabulary = vocab(config)
    assert vocabulary.size == 150
    assert list(vocabulary.members) == ["en"]
    np.testing.assert_array_equal(vocabulary.id_map("en").labels, np.arange(150))
    assert vocabulary.id_map("en").one_to_one
    assert vocabulary.members["en"].vocabulary_hash == vocabulary.hash
    texts = TEXTS["en"]
    student, teacher = vocabulary.tokenizer(), vocabulary.teacher_tokenizer("en")
    assert [ids for ids, _ in student.encode_batch(texts)] == [ids for ids, _ in teacher.encode_batch(texts)]
    printed = capsys.readouterr().out
    assert f"wrote 150 tokens (hash {vocabulary.hash}) to {tmp_path}" in printed
    assert "next: mergedistill predict" in printed


def test_learning_again_writes_the_same_bytes(tmp_path, corpus):
    method = LearnConfig(corpus=corpus, split="train", size=130, name="en")
    for name in ("one", "two"):
        vocab(VocabConfig(output=str(tmp_path / name), method=method))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def description_of(folder):
    return json.loads((folder / "vocabulary.json").read_text())


def test_the_union_of_two_teachers(tmp_path, teachers, capsys):
    method = UnionConfig(teachers={name: str(folder) for name, folder in teachers.items()})
    vocabulary = vocab(VocabConfig(output=str(tmp_path), method=method))
    own = {name: load_tokenizer(folder) for name, folder in teachers.items()}
    theirs = set(own["en"].tokens) | set(own["es"].tokens)
    completed = set(vocabulary.tokenizer().tokens) - theirs
    assert theirs < set(vocabulary.tokenizer().tokens)
    assert all(len(atoms(token)) == 1 for token in completed)
    for name, tokenizer in own.items():
        assert vocabulary.member_of(tokenizer.vocabulary_hash, "test") == name
        assert vocabulary.teacher_tokenizer(name).tokenizer_hash == tokenizer.tokenizer_hash
    shared = len(set(own["en"].tokens) & set(own["es"].tokens)) - 5
    description = description_of(tmp_path)
    assert description["overlaps"]["en"]["es"] == shared
    assert description["normalizer_conflicts"] == {}
    assert description["completed"] == len(completed)
    assert description["whole_size"] == vocabulary.size
    for field in ("dropped", "merged", "cut"):
        assert description[field] == {"en": 0, "es": 0}
    assert {"drift", "parameters"}.isdisjoint(description)  # nobody asked for them
    assert read_vocabulary(tmp_path).hash == vocabulary.hash
    page = (tmp_path / "report.txt").read_text()
    assert page in capsys.readouterr().out
    assert f"Union of 2 vocabularies: {vocabulary.size:,} tokens, hash {vocabulary.hash}" in page
    assert "Normalisers: all alike" in page


def test_the_student_cuts_with_the_union_and_keeps_case(tmp_path, capsys):
    """A lowercasing and a cased teacher: the student keeps case, and says that they differ."""
    for name, lowercase, tokens in (("low", True, ["cafe", "##s"]), ("high", False, ["Caf", "##é"])):
        folder = tmp_path / name
        folder.mkdir()
        lines = ["[MASK]", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[unused7]", *tokens]
        (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines))
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    method = UnionConfig(teachers={"low": str(tmp_path / "low"), "high": str(tmp_path / "high")})
    vocabulary = vocab(VocabConfig(output=str(tmp_path / "union"), method=method))
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    characters = ("C", "##C", "a", "##a", "c", "##c", "e", "##e", "f", "##f", "s", "é")
    assert vocabulary.tokenizer().tokens == (*special, "cafe", "##s", "Caf", "##é", *characters)
    assert vocabulary.tokenizer().tokenizer.encode("Café cafes és").tokens == [
        "[CLS]", "Caf", "##é", "cafe", "##s", "é", "##s", "[SEP]",
    ]  # fmt: skip
    assert vocabulary.id_map("low").labels.tolist() == [4, 0, 1, 2, 3, DROPPED, 5, 6]
    assert vocabulary.id_map("low").ids.tolist() == [4, 0, 1, 2, 3, 1, 5, 6]
    description = description_of(tmp_path / "union")
    switches = {"low": True, "high": False}
    assert description["normalizer_conflicts"] == {"lowercase": switches, "strip_accents": switches}
    assert description["dropped"] == {"low": 1, "high": 1}
    assert "who does it" in capsys.readouterr().out


def test_families_are_united(tmp_path):
    """The same word of a Unigram and of a byte-level teacher is one token, and the student is a WordPiece tokenizer."""
    teachers = {
        "unigram": write_folder(tmp_path / "unigram", unigram("▁haus", "boot", "▁", ".", "▁.")),
        "bytes": write_folder(tmp_path / "bytes", byte_level("Ġhaus", "Ġ", "h", "Ä", "boot")),
    }
    vocabulary = vocab(VocabConfig(output=str(tmp_path / "union"), method=UnionConfig(teachers=teachers)))
    assert vocabulary.tokenizer().tokens[5:11] == ("haus", "##boot", "▁", ".", "##h", "##<0xC4>")
    assert vocabulary.id_map("unigram").labels.tolist()[5:] == [5, 6, 7, 8, 8]
    assert vocabulary.id_map("bytes").labels.tolist()[5:] == [5, 7, 9, 10, 6]
    assert description_of(tmp_path / "union")["merged"] == {"unigram": 1, "bytes": 0}
    encoded = vocabulary.tokenizer().tokenizer.encode("haus hausboot.")
    assert encoded.tokens == ["[CLS]", "haus", "haus", "##boot", ".", "[SEP]"]


def add_texts(language):
    """Registers the texts of a language; what UnionConfig.corpus is in gin."""
    return corpora.add_corpus(f"vocab_{language}", lambda _: iter(TEXTS[language]), ["transfer"])


MODEL = functools.partial(EncoderConfig, num_layers=1, hidden_size=16, num_heads=2, intermediate_size=24, max_length=8)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, teachers):
    """{size: folder} of the union and a cut of it, measured on the texts."""
    root = tmp_path_factory.mktemp("measured")
    folders = {name: str(folder) for name, folder in teachers.items()}
    method = UnionConfig(teachers=folders, corpus=add_texts, model=MODEL)
    vocab(VocabConfig(output=str(root / "whole"), method=method))
    size = read_vocabulary(root / "whole").size - 30
    for name in ("cut", "again"):
        vocab(
            VocabConfig(
                output=str(root / name),
                method=UnionConfig(teachers=folders, corpus=add_texts, model=MODEL, size=size),
            )
        )
    return root


@pytest.mark.parametrize("kind", ["whole", "cut"])
@pytest.mark.parametrize("language", sorted(TEXTS))
def test_drift_is_what_a_count_word_by_word_finds(measured, kind, language):
    """By strings, one word at a time: no id map, no packing."""
    vocabulary = read_vocabulary(measured / kind)
    student, teacher = vocabulary.tokenizer(), vocabulary.teacher_tokenizer(language)
    known = set(student.tokens)
    cut = student.tokenizer.model.tokenize

    def trained(word):
        for piece in teacher.tokenizer.model.tokenize(word):
            if piece.value in known:
                yield piece.value
                continue
            inside = piece.value.startswith(PREFIX)
            # A cut piece is spelled as a word of its own; its first part keeps the piece's place.
            rest, first = piece.value.removeprefix(PREFIX), not inside
            while rest:
                longest = next(
                    end for end in range(len(rest), 0, -1) if (rest[:end] if first else PREFIX + rest[:end]) in known
                )
                yield rest[:longest] if first else PREFIX + rest[:longest]
                rest, first = rest[longest:], False

    words = [
        word
        for text in TEXTS[language]
        for word, _ in student.tokenizer.pre_tokenizer.pre_tokenize_str(
            student.tokenizer.normalizer.normalize_str(text)
        )
    ]
    in_records = [list(trained(word)) for word in words]
    own = [[piece.value for piece in cut(word)] for word in words]
    pieces = [piece.value for word in words for piece in teacher.tokenizer.model.tokenize(word)]
    met = {piece for word in in_records for piece in word}
    found = description_of(measured / kind)["drift"][language][language]
    assert found["words"] == len(words)
    assert found["drifted"] == sum(one != other for one, other in zip(in_records, own, strict=True))
    assert found["drift"] == found["drifted"] / len(words)
    assert found["trained_pieces"] == sum(map(len, in_records))
    assert found["own_pieces"] == sum(map(len, own))
    assert found["new_pieces"] == sum(piece not in met for word in own for piece in word) / found["own_pieces"]
    assert found["coverage"] == sum(piece in known for piece in pieces) / len(pieces)
    assert (found["coverage"] == 1.0) == (kind == "whole")
    assert found["drifted"] > 0 or (kind, language) == ("whole", "en")
    assert found["trained_unknown"] == found["own_unknown"] == 0


def test_a_cut_has_the_size_and_says_what_it_cut(measured):
    whole, cut = read_vocabulary(measured / "whole"), read_vocabulary(measured / "cut")
    assert cut.size == whole.size - 30
    tokens, kept = whole.tokenizer().tokens, set(cut.tokenizer().tokens)
    assert kept < set(tokens)
    assert {token for token in tokens if len(atoms(token)) == 1} < kept
    description = description_of(measured / "cut")
    assert description["whole_size"] == whole.size
    for name in TEXTS:
        dropped = sum(token not in kept for token in cut.teacher_tokenizer(name).tokens)
        assert description["cut"][name] == dropped > 0
        assert np.count_nonzero(cut.id_map(name).labels == DROPPED) == dropped
    assert f"{whole.size:,}" in (measured / "cut" / "report.txt").read_text()


def test_the_same_cut_again_writes_the_same_bytes(measured):
    assert files_of(measured / "cut") == files_of(measured / "again")


def test_a_size_that_the_union_does_not_reach_is_the_union(measured, tmp_path, teachers):
    folders = {name: str(folder) for name, folder in teachers.items()}
    method = UnionConfig(teachers=folders, corpus=add_texts, size=10_000)
    assert vocab(VocabConfig(output=str(tmp_path), method=method)).hash == read_vocabulary(measured / "whole").hash


@pytest.mark.parametrize("kind", ["whole", "cut"])
def test_the_parameters_are_those_of_the_model(measured, kind):
    config = MODEL(vocab_size=read_vocabulary(measured / kind).size)
    ids = jnp.zeros((1, 4), jnp.int32)
    params = nn.meta.unbox(MaskedLanguageModel(config).init(jax.random.key(0), ids, ids == 0, ids))
    expected = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert description_of(measured / kind)["parameters"] == {"the student": expected}
    assert "Parameters of a student" in (measured / kind / "report.txt").read_text()


def test_a_token_costs_its_embedding_and_its_output_bias(measured):
    whole, cut = (description_of(measured / kind)["parameters"]["the student"] for kind in ("whole", "cut"))
    assert whole - cut == 30 * (16 + 1)


def test_a_teacher_may_have_several_languages(tmp_path, teachers):
    """One without an entry has the language of its name."""
    method = UnionConfig(
        teachers={"both": str(teachers["en"]), "es": str(teachers["es"])},
        languages={"both": ("en", "es")},
        corpus=add_texts,
        documents=1,
    )
    vocab(VocabConfig(output=str(tmp_path), method=method))
    drift = description_of(tmp_path)["drift"]
    assert {teacher: list(languages) for teacher, languages in drift.items()} == {"both": ["en", "es"], "es": ["es"]}
    assert drift["both"]["es"]["words"] == drift["es"]["es"]["words"] < sum(len(text) for text in TEXTS["es"]) / 10


def test_only_as_many_documents_as_asked_for_are_read(tmp_path, teachers):
    method = UnionConfig(teachers={"en": str(teachers["en"])}, corpus=add_texts, documents=2)
    vocab(VocabConfig(output=str(tmp_path), method=method))
    words = description_of(tmp_path)["drift"]["en"]["en"]["words"]
    tokenizer = load_tokenizer(teachers["en"]).tokenizer
    assert words == sum(len(tokenizer.pre_tokenizer.pre_tokenize_str(text)) for text in TEXTS["en"][:2])


def add_no_texts(language):
    return corpora.add_corpus(f"empty_{language}", lambda _: iter(()), ["transfer"])


def test_a_corpus_without_text_measures_nothing(tmp_path, teachers):
    method = UnionConfig(teachers={"en": str(teachers["en"])}, corpus=add_no_texts)
    vocab(VocabConfig(output=str(tmp_path), method=method))
    found = description_of(tmp_path)["drift"]["en"]["en"]
    assert (found["words"], found["drift"], found["coverage"]) == (0, None, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"teachers": {}}, r"UnionConfig\.teachers: found none"),
        ({"teachers": {"student": "x"}}, r"UnionConfig\.teachers: found 'student', expected another name"),
        ({"languages": {"de": ("de",)}}, r"UnionConfig\.languages: found 'de', expected one of \['en'\]"),
        ({"size": 100}, r"UnionConfig\.corpus: found None beside size=100, expected the text"),
    ],
)
def test_settings_that_contradict_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        UnionConfig(**{"teachers": {"en": "x"}, **fields})


def test_wrong_input_is_refused_before_anything_is_written(tmp_path, teachers, corpus):
    output = tmp_path / "out"
    en = {"en": str(teachers["en"])}
    methods = [
        (UnionConfig(teachers={"en": str(teachers["en"]), "no": str(tmp_path / "no")}), "no: .*found"),
        (UnionConfig(teachers=en, corpus=add_texts, size=20), r"UnionConfig\.size: found 20, expected at least \d+"),
        (UnionConfig(teachers=en, corpus=add_no_texts, size=20), r"UnionConfig\.corpus: found no text in split 'tr"),
        (UnionConfig(teachers=en, corpus=add_texts, split="train"), "split: found 'train'"),
        (UnionConfig(teachers=en, corpus=lambda language: f"no_{language}"), "found 'no_en', expected a registered"),
        (LearnConfig(corpus="nowhere", split="train", size=99, name="x"), "found 'nowhere', expected a registered"),
        (LearnConfig(corpus=corpus, split="test", size=99, name="x"), "split: found 'test'"),
    ]
    for method, named in methods:
        with pytest.raises((ValueError, VocabularyError), match=named):
            vocab(VocabConfig(output=str(output), method=method))
    assert not output.exists()
