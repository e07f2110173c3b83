import json

import numpy as np
import pytest
from conftest import TEXTS

from mergedistill_jax.vocab import LearnConfig, UnionConfig, VocabConfig, vocab
from mergedistill_jax.vocabulary.folder import read_vocabulary
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
    np.testing.assert_array_equal(vocabulary.id_map("en"), np.arange(150))
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


def test_the_union_of_two_teachers(tmp_path, teachers, capsys):
    method = UnionConfig(teachers={name: str(folder) for name, folder in teachers.items()})
    vocabulary = vocab(VocabConfig(output=str(tmp_path), method=method))
    own = {name: load_tokenizer(folder) for name, folder in teachers.items()}
    assert set(vocabulary.tokenizer().tokens) == set(own["en"].tokens) | set(own["es"].tokens)
    for name, tokenizer in own.items():
        assert vocabulary.member_of(tokenizer.vocabulary_hash, "test") == name
        assert vocabulary.teacher_tokenizer(name).tokenizer_hash == tokenizer.tokenizer_hash
    shared = len(set(own["en"].tokens) & set(own["es"].tokens)) - 5
    description = json.loads((tmp_path / "vocabulary.json").read_text())
    assert description["overlaps"]["en"]["es"] == shared
    assert description["normalizer_conflicts"] == []
    printed = capsys.readouterr().out
    assert f"en: {len(own['en'].tokens) - 5} tokens; shared with es {shared}" in printed
    assert "normalisers differ" not in printed
    assert read_vocabulary(tmp_path).hash == vocabulary.hash


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
    assert vocabulary.tokenizer().tokens == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cafe", "##s", "Caf", "##é")
    assert vocabulary.tokenizer().tokenizer.encode("Café cafes").tokens == [
        "[CLS]", "Caf", "##é", "cafe", "##s", "[SEP]",
    ]  # fmt: skip
    assert vocabulary.id_map("low").tolist() == [4, 0, 1, 2, 3, -1, 5, 6]
    assert "normalisers differ in lowercase, strip_accents" in capsys.readouterr().out


def test_wrong_input_is_refused_before_anything_is_written(tmp_path, teachers, corpus):
    with pytest.raises(ValueError, match=r"UnionConfig\.teachers: found none"):
        UnionConfig(teachers={})
    output = tmp_path / "out"
    methods = [
        (UnionConfig(teachers={"en": str(teachers["en"]), "no": str(tmp_path / "no")}), "found neither tokenizer.json"),
        (LearnConfig(corpus="nowhere", split="train", size=99, name="x"), "found 'nowhere', expected a registered"),
        (LearnConfig(corpus=corpus, split="test", size=99, name="x"), "split: found 'test'"),
    ]
    for method, named in methods:
        with pytest.raises((ValueError, VocabularyError), match=named):
            vocab(VocabConfig(output=str(output), method=method))
    assert not output.exists()
