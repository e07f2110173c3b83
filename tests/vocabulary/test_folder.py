import io
import json

import numpy as np
import pytest

from mergedistill_jax.vocabulary.folder import read_vocabulary, write_vocabulary
from mergedistill_jax.vocabulary.tokenizer import VocabularyError, vocabulary_hash, wordpiece_tokenizer, wrap_tokenizer
from mergedistill_jax.vocabulary.union import unite

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer_of(*tokens):
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *tokens])}
    return wrap_tokenizer(
        wordpiece_tokenizer(vocabulary, lowercase=False, strip_accents=None, split_chinese=True), "test"
    )


TEACHERS = {"one": tokenizer_of("a", "##b", "\u2028"), "two": tokenizer_of("a", "c", "[unused0]")}
UNION = unite(TEACHERS)
STUDENT = tokenizer_of(*UNION.tokens[5:])


def write(folder):
    members = {name: (teacher, UNION.id_maps[name]) for name, teacher in TEACHERS.items()}
    return write_vocabulary(folder, STUDENT, members, {"overlaps": {"one": {"two": 1}}})


def test_what_was_written_is_read(tmp_path):
    written = write(tmp_path)
    read = read_vocabulary(tmp_path)
    assert read.hash == written.hash == vocabulary_hash(UNION.tokens)
    assert read.size == len(UNION.tokens)
    assert read.tokenizer().tokens == UNION.tokens
    for name, teacher in TEACHERS.items():
        assert read.teacher_tokenizer(name).tokens == teacher.tokens
        np.testing.assert_array_equal(read.id_map(name), UNION.id_maps[name])
        assert read.member_of(teacher.vocabulary_hash, "somewhere") == name
        assert read.members[name].tokenizer_hash == teacher.tokenizer_hash
    assert json.loads((tmp_path / "vocabulary.json").read_text())["overlaps"] == {"one": {"two": 1}}
    assert (tmp_path / "vocab.txt").read_bytes().decode() == "".join(f"{token}\n" for token in UNION.tokens)


def test_writing_again_gives_the_same_bytes(tmp_path):
    for name in ("first", "second", "second"):
        write(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_unknown_teachers_are_refused(tmp_path):
    vocabulary = write(tmp_path)
    for ask in (vocabulary.id_map, vocabulary.teacher_tokenizer):
        with pytest.raises(
            VocabularyError, match=r"vocabulary\.json: .*found no 'three', expected one of \['one', 'two'\]"
        ):
            ask("three")
    with pytest.raises(VocabularyError, match=r"records/manifest\.json: field vocabulary_hash: found ffff, expected"):
        vocabulary.member_of("ffff", "records/manifest.json")


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"no array", "found no array"),
        (npy(np.arange(8, dtype=np.int32))[:-1], "found no array"),
        (npy(np.arange(7, dtype=np.int32)), r"found int32 of shape \(7,\), expected int32 of \(8,\)"),
        (npy(np.zeros(8)), "found float64"),
        (npy(np.full(8, 99, np.int32)), "found ids from 99 to 99, expected -1 to"),
        (npy(np.full(8, -2, np.int32)), "found ids from -2"),
    ],
)
def test_damaged_id_maps_are_refused(tmp_path, content, named):
    vocabulary = write(tmp_path)
    path = tmp_path / "teachers/one/id_map.npy"
    path.write_bytes(content)
    with pytest.raises(VocabularyError, match=named) as error:
        vocabulary.id_map("one")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("vocabulary.json", lambda text: text[:-9], "damaged description"),
        ("vocabulary.json", lambda text: text.replace('"hash"', '"mash"', 1), "damaged description"),
        ("vocabulary.json", lambda _: "[]", "damaged description"),
        ("vocab.txt", lambda text: text.replace("##b", "##d"), "field hash: found"),
        ("vocab.txt", lambda text: text + "more\n", "field hash: found"),
        ("vocab.txt", lambda text: text.replace("a\n##b\n", "##b\na\n"), "field hash: found"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, file, change, named):
    write(tmp_path)
    path = tmp_path / file
    path.write_bytes(change(path.read_bytes().decode()).encode())
    with pytest.raises(VocabularyError, match=named) as error:
        read_vocabulary(tmp_path)
    assert str(path) in str(error.value)


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(VocabularyError, match=r"vocabulary\.json: not found, expected a folder written by"):
        read_vocabulary(tmp_path / "nothing")
