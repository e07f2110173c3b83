import json

import numpy as np
import pytest
from made_tokenizers import bert

from mergedistill_jax.configs.vocab import OWN
from mergedistill_jax.vocabulary.cut import cut_union
from mergedistill_jax.vocabulary.folder import read_vocabulary, write_vocabulary
from mergedistill_jax.vocabulary.id_map import DROPPED, IdMap, ragged_map, whole_map
from mergedistill_jax.vocabulary.tokenizer import VocabularyError, vocabulary_hash
from mergedistill_jax.vocabulary.union import unite

TEACHERS = {"one": bert("ab", "##b", "\ufeff"), "two": bert("a", "ab", "c", "[unused0]")}
UNION = unite(TEACHERS)
SIZES = {name: len(teacher.tokens) for name, teacher in TEACHERS.items()}


def write(folder, size=None):
    tokens, maps = cut_union(UNION, np.zeros(len(UNION.tokens)), size or len(UNION.tokens))
    members = {name: (teacher, maps[name]) for name, teacher in TEACHERS.items()}
    return write_vocabulary(folder, bert(*tokens[5:]), members, {"overlaps": {"one": {"two": 1}}})


def assert_same_map(found, expected):
    for field in ("labels", "ids", "starts"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))


def test_what_was_written_is_read(tmp_path):
    written = write(tmp_path)
    read = read_vocabulary(tmp_path)
    assert read.hash == written.hash == vocabulary_hash(UNION.tokens)
    assert read.size == len(UNION.tokens)
    assert read.tokenizer().tokens == UNION.tokens
    for name, teacher in TEACHERS.items():
        assert read.teacher_tokenizer(name).tokens == teacher.tokens
        assert_same_map(read.id_map(name), whole_map(UNION.id_maps[name]))
        assert read.member_of(teacher.vocabulary_hash, "somewhere") == name
        assert read.members[name].tokenizer_hash == teacher.tokenizer_hash
    assert json.loads((tmp_path / "vocabulary.json").read_text())["overlaps"] == {"one": {"two": 1}}
    assert (tmp_path / "vocab.txt").read_bytes().decode() == "".join(f"{token}\n" for token in UNION.tokens)


def test_the_maps_of_a_cut_are_read_as_they_are(tmp_path):
    size = len(UNION.tokens) - 1
    vocabulary = write(tmp_path, size)
    _, maps = cut_union(UNION, np.zeros(len(UNION.tokens)), size)
    assert vocabulary.size == size
    for name in TEACHERS:
        assert not maps[name].one_to_one
        assert_same_map(vocabulary.id_map(name), maps[name])


def test_the_students_own_vocabulary_is_known_by_its_hash(tmp_path):
    """Text that the student's own tokenizer cut is read as it is."""
    vocabulary = write(tmp_path)
    name = vocabulary.member_of(vocabulary.hash, "somewhere")
    assert name == OWN
    assert vocabulary.teacher_tokenizer(name).tokens == UNION.tokens
    assert_same_map(vocabulary.id_map(name), whole_map(np.arange(vocabulary.size, dtype=np.int32)))
    assert OWN not in vocabulary.members


def test_a_teacher_with_the_whole_union_is_itself(tmp_path):
    """Its records are its own, whichever tokenizer made them: the map is the same."""
    teacher = bert("a", "##a")
    identity = whole_map(np.arange(len(teacher.tokens), dtype=np.int32))
    vocabulary = write_vocabulary(tmp_path, teacher, {"only": (teacher, identity)}, {})
    assert vocabulary.member_of(vocabulary.hash, "somewhere") == "only"
    assert_same_map(vocabulary.id_map("only"), vocabulary.id_map(OWN))


def test_writing_again_gives_the_same_bytes(tmp_path):
    for name in ("first", "second", "second"):
        write(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_another_vocabulary_does_not_replace_one(tmp_path):
    write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(VocabularyError, match=r"vocabulary\.json: field hash: found \w+, expected \w+ of the new"):
        write(tmp_path, len(UNION.tokens) - 1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_unknown_teachers_are_refused(tmp_path):
    vocabulary = write(tmp_path)
    for ask in (vocabulary.id_map, vocabulary.teacher_tokenizer):
        with pytest.raises(
            VocabularyError, match=r"vocabulary\.json: .*found no 'three', expected one of \['one', 'two'\]"
        ):
            ask("three")
    with pytest.raises(VocabularyError, match=r"records/manifest\.json: field vocabulary_hash: found ffff, expected"):
        vocabulary.member_of("ffff", "records/manifest.json")


def changed(**arrays):
    """The map of teacher "one", but for some arrays."""
    whole = whole_map(UNION.id_maps["one"])
    return IdMap(**{name: arrays.get(name, getattr(whole, name)) for name in ("labels", "ids", "starts")}).to_bytes()


def numbers(*values):
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "not found, expected a file written by `mergedistill vocab`"),
        (b"no archive", "found no id map"),
        (changed()[:-1], "found no id map"),
        (changed(labels=numbers(*range(7))), r"found shapes \(\(7,\), \(9,\)\), expected \(8,\) and \(9,\)"),
        (changed(starts=np.arange(8)), r"found shapes \(\(8,\), \(8,\)\), expected \(8,\) and \(9,\)"),
        (changed(labels=np.full(8, 99, np.int32)), "field labels: found 99 to 99, expected -1 to 13"),
        (changed(labels=np.full(8, -2, np.int32)), "field labels: found -2 to -2, expected -1 to 13"),
        (changed(ids=np.full(8, 14, np.int32)), "field ids: found 14 to 14, expected 0 to 13"),
        (
            changed(ids=np.full(8, DROPPED, np.int32)),
            "field ids: found -1 to -1, expected 0",
        ),  # a label, never an input
        (changed(starts=np.array([0, 1, 2, 3, 4, 5, 6, 6, 8])), "field starts: found empty or reversed rows"),
        (changed(starts=np.array([0, 1, 2, 3, 4, 6, 5, 7, 8])), "field starts: found empty or reversed rows"),
        (changed(starts=np.arange(1, 10)), "field starts"),
        (changed(starts=np.arange(9) * 2), "field starts"),
        (changed(ids=numbers(*range(9))), "field starts"),  # more than the rows hold
    ],
)
def test_damaged_id_maps_are_refused(tmp_path, content, named):
    vocabulary = write(tmp_path)
    path = tmp_path / "teachers/one/id_map.npz"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(VocabularyError, match=named) as error:
        vocabulary.id_map("one")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_map_of_another_teacher_is_refused(tmp_path):
    vocabulary = write(tmp_path)
    other = ragged_map(numbers(*range(5)), [[i] for i in range(5)])
    (tmp_path / "teachers/one/id_map.npz").write_bytes(other.to_bytes())
    with pytest.raises(VocabularyError, match=r"id_map\.npz: found shapes \(\(5,\), \(6,\)\), expected"):
        vocabulary.id_map("one")


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("vocabulary.json", lambda text: text[:-9], "damaged description"),
        ("vocabulary.json", lambda text: text.replace('"hash"', '"mash"', 1), "damaged description"),
        ("vocabulary.json", lambda _: "[]", "damaged description"),
        ("vocabulary.json", lambda _: "x", "damaged description"),
        ("vocabulary.json", lambda _: "[" * 100_000, "damaged description"),
        ("vocab.txt", lambda text: text.replace("##b", "##d"), "field hash: found"),
        ("vocab.txt", lambda text: text + "more\n", "field hash: found"),
        ("vocab.txt", lambda text: text.replace("ab\n##b\n", "##b\nab\n"), "field hash: found"),
    ],
)
def test_damaged_folders_are_refused(tmp_path, file, change, named):
    write(tmp_path)
    path = tmp_path / file
    before = path.read_bytes().decode()
    assert change(before) != before
    path.write_bytes(change(before).encode())
    with pytest.raises(VocabularyError, match=named) as error:
        read_vocabulary(tmp_path)
    assert str(path) in str(error.value)


def test_no_folder_is_refused(tmp_path):
    with pytest.raises(VocabularyError, match=r"vocabulary\.json: not found, expected a folder written by"):
        read_vocabulary(tmp_path / "nothing")


@pytest.mark.parametrize("size", [0, 13, 10**6])
def test_a_size_that_is_not_that_of_the_tokens_is_refused(tmp_path, size):
    write(tmp_path)
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": size}))
    with pytest.raises(VocabularyError, match=f"field size: found {size}, expected {len(UNION.tokens)} of vocab.txt"):
        read_vocabulary(tmp_path)
