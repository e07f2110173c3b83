"""A vocabulary folder: the student's tokenizer, and for each teacher its tokenizer and its id map.

tokenizer.json            the student's own tokenizer (longest match over the union)
vocab.txt                 its tokens, a line each, in the order of their ids
vocabulary.json           hashes, sizes, overlaps, and what each teacher is called
teachers/NAME/tokenizer.json, id_map.npz (see id_map.py)
report.txt                for people; only of a union
"""

import dataclasses
import json
from collections.abc import Mapping

import numpy as np
from etils import epath

from mergedistill_jax.configs.vocab import OWN
from mergedistill_jax.files import write_atomically
from mergedistill_jax.vocabulary.id_map import DROPPED, IdMap, whole_map
from mergedistill_jax.vocabulary.settings import SETTINGS_FILE, read_object
from mergedistill_jax.vocabulary.tokenizer import (
    TOKENIZER_FILE,
    VOCABULARY_FILE,
    TeacherTokenizer,
    VocabularyError,
    load_tokenizer,
    vocabulary_hash,
)

DESCRIPTION_FILE = "vocabulary.json"
ID_MAP_FILE = "id_map.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Member:
    """A teacher's place in a vocabulary folder: content hashes of its vocabulary and tokenizer."""

    vocabulary_hash: str
    tokenizer_hash: str
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """A vocabulary folder, read.

    Attributes:
        hash: content hash of the tokens in order.
        members: the teachers by name.
    """

    folder: epath.Path
    size: int
    hash: str
    members: Mapping[str, Member]

    def tokenizer(self) -> TeacherTokenizer:
        """The student's own tokenizer."""
        return load_tokenizer(self.folder)

    def teacher_tokenizer(self, name: str) -> TeacherTokenizer:
        """The tokenizer of one teacher, or OWN."""
        if name == OWN and OWN not in self.members:
            return self.tokenizer()
        self._require(name)
        return load_tokenizer(self.folder / "teachers" / name)

    def id_map(self, name: str) -> IdMap:
        """The map of one teacher, or OWN: its ids to the student's.

        Raises:
            VocabularyError: no such teacher, or a map that does not fit its vocabulary and the union.
        """
        if name == OWN and OWN not in self.members:
            return whole_map(np.arange(self.size, dtype=np.int32))
        self._require(name)
        path = self.folder / "teachers" / name / ID_MAP_FILE
        if not path.exists():
            raise VocabularyError(f"{path}: not found, expected a file written by `mergedistill vocab`")
        try:
            id_map = IdMap.from_bytes(path.read_bytes())
        except ValueError as error:
            raise VocabularyError(f"{path}: found no id map ({error}), expected one of `mergedistill vocab`") from error
        _check(id_map, path, teacher_size=self.members[name].size, size=self.size)
        return id_map

    def member_of(self, teacher_vocabulary_hash: str, named_in: object) -> str:
        """The name of the teacher with this vocabulary, or OWN for the student's; `named_in` asked, for the error.

        Raises:
            VocabularyError: no teacher of this folder has the vocabulary.
        """
        for name, member in self.members.items():
            if member.vocabulary_hash == teacher_vocabulary_hash:
                return name
        if teacher_vocabulary_hash == self.hash:
            return OWN
        known = {name: member.vocabulary_hash for name, member in self.members.items()}
        raise VocabularyError(
            f"{named_in}: field vocabulary_hash: found {teacher_vocabulary_hash},"
            f" expected a teacher of {self.folder}: {known}"
        )

    def _require(self, name: str) -> None:
        if name not in self.members:
            raise VocabularyError(
                f"{self.folder / DESCRIPTION_FILE}: field members: found no {name!r},"
                f" expected one of {sorted(self.members)}"
            )


def _check(id_map: IdMap, path: epath.Path, *, teacher_size: int, size: int) -> None:
    """Raises VocabularyError where a map could read outside the vocabularies, or read nothing."""
    shapes = (id_map.labels.shape, id_map.starts.shape)
    if shapes != ((teacher_size,), (teacher_size + 1,)):
        raise VocabularyError(f"{path}: found shapes {shapes}, expected ({teacher_size},) and ({teacher_size + 1},)")
    for field, ids, lowest in (("labels", id_map.labels, DROPPED), ("ids", id_map.ids, 0)):
        if len(ids) and (ids.min() < lowest or ids.max() >= size):
            found = f"{ids.min()} to {ids.max()}"
            raise VocabularyError(f"{path}: field {field}: found {found}, expected {lowest} to {size - 1}")
    if id_map.starts[0] or id_map.starts[-1] != len(id_map.ids) or (np.diff(id_map.starts) < 1).any():
        raise VocabularyError(f"{path}: field starts: found empty or reversed rows, expected one id or more in each")


def write_vocabulary(
    folder: epath.PathLike,
    student: TeacherTokenizer,
    teachers: Mapping[str, tuple[TeacherTokenizer, IdMap]],
    description: Mapping[str, object],
) -> Vocabulary:
    """Writes a vocabulary folder, its description last; `description` adds fields for people to vocabulary.json.

    Raises:
        VocabularyError: the folder holds another vocabulary.
    """
    folder = epath.Path(folder)
    _refuse_another(folder / DESCRIPTION_FILE, student.vocabulary_hash)
    for name, (tokenizer, id_map) in teachers.items():
        target = folder / "teachers" / name
        target.mkdir(parents=True, exist_ok=True)
        write_atomically(target / TOKENIZER_FILE, tokenizer.tokenizer.to_str(pretty=True).encode())
        if settings := tokenizer.settings_to_keep:
            write_atomically(target / SETTINGS_FILE, (json.dumps(settings, ensure_ascii=False) + "\n").encode())
        write_atomically(target / ID_MAP_FILE, id_map.to_bytes())
    write_atomically(folder / TOKENIZER_FILE, student.tokenizer.to_str(pretty=True).encode())
    write_atomically(folder / VOCABULARY_FILE, ("\n".join(student.tokens) + "\n").encode())
    members = {
        name: Member(
            vocabulary_hash=tokenizer.vocabulary_hash,
            tokenizer_hash=tokenizer.tokenizer_hash,
            size=len(tokenizer.tokens),
        )
        for name, (tokenizer, _) in teachers.items()
    }
    content = {
        "size": len(student.tokens),
        "hash": student.vocabulary_hash,
        "members": {name: dataclasses.asdict(member) for name, member in members.items()},
        **description,
    }
    write_atomically(folder / DESCRIPTION_FILE, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return read_vocabulary(folder)


def _refuse_another(path: epath.Path, expected: str) -> None:
    """Records and checkpoints depend on a vocabulary's hash: it is never replaced by another one."""
    found = read_object(path).get("hash") if path.exists() else expected
    if found != expected:
        raise VocabularyError(
            f"{path}: field hash: found {found}, expected {expected} of the new vocabulary;"
            " choose another output folder"
        )


def read_vocabulary(folder: epath.PathLike) -> Vocabulary:
    """Reads a vocabulary folder and checks its tokens against its hash.

    Raises:
        VocabularyError: no such folder, a damaged description, or tokens that do not give the recorded hash.
    """
    folder = epath.Path(folder)
    path = folder / DESCRIPTION_FILE
    if not path.exists():
        raise VocabularyError(f"{path}: not found, expected a folder written by `mergedistill vocab`")
    try:
        content = read_object(path)
        members = {name: Member(**fields) for name, fields in content["members"].items()}
        size, expected = int(content["size"]), str(content["hash"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VocabularyError(
            f"{path}: found a damaged description ({error!r}), expected size, hash and members"
        ) from error
    tokens_path = folder / VOCABULARY_FILE
    try:
        tokens = tokens_path.read_bytes().decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{tokens_path}: found bytes that are not UTF-8, expected UTF-8") from error
    found = vocabulary_hash(tokens)
    if found != expected:
        raise VocabularyError(f"{tokens_path}: field hash: found {found}, expected {expected}")
    if size != len(tokens):
        raise VocabularyError(f"{path}: field size: found {size}, expected {len(tokens)} of {VOCABULARY_FILE}")
    return Vocabulary(folder=folder, size=size, hash=expected, members=members)
