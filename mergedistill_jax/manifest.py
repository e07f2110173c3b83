"""The manifest of a folder of records: what it was made from, which of its shards are finished, and their checksums.

    manifest.json           the identity: all that decides the folder's bytes
    shard-00000.tfrecord    the records of one shard, see schema.py
    shard-00000.json        the shard's entry, written last: with it the shard counts as finished

Any number of processes may write into one folder, also the same shard: a shard is written under a name of its own and
takes its place whole, and what is listed first stands.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tensorflow as tf
from etils import epath

from mergedistill_jax.files import exclusive, names_in, sync
from mergedistill_jax.schema import LARGEST_COUNT, SCHEMA_VERSION, VERSIONS, Layout, Record, RecordError, decode_record
from mergedistill_jax.sealed import ADDED, TOLD_WHERE_SET, read_sealed, to_json, write_sealed
from mergedistill_jax.shards import WrittenShard, failures_named, require_checksum, require_checksum_once, write_aside

MANIFEST_NAME = "manifest.json"
BYTES_PER_SHARD = 1 << 22
"""By default: about a million tokens, which a teacher of 3,000 tokens a second predicts in six minutes."""
LARGEST_SAMPLES = 2048
"""In half precision a count N q is off by N q |log q| / 2^11 at most, which is below one half up to N = 2,783."""
_READERS = 16
"""Threads that read entries and shards: object stores give them slowly one by one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """Everything that decides the bytes of a record folder. Two folders with equal identities are equal.

    Attributes:
        teacher: a name for people; empty for a folder of gold labels alone.
        revision: commit of the hub that the teacher's name stood for; empty where the teacher was a folder.
        weights_hash, vocabulary_hash, tokenizer_hash: content hashes, hexadecimal.
        vocabulary_size: tokens of the teacher, not output rows of its model.
        corpus, language: the SeqIO task the text came from and its language.
        corpus_hash: hash over all documents in order.
        documents: how many the corpus holds; of one that is divided, see teachers/corpus_hashes.py, its parts.
        documents_per_shard: most consecutive documents that make one shard.
        bytes_per_shard: most bytes of UTF-8 text of a shard, where a text that is masked `draws` times counts as often.
        shards: how many shards there are; 0: as many as `documents_per_shard` alone makes, so that the bound on bytes
            ended none.
        rate, max_share, draws, seed, max_length: of the masking and packing; whole words always.
        replacement, cover, max_count: of the masking, see MaskingConfig; a `max_count` of 0 is no bound.
        packing: see corpus/packing.py.
        k: predictions per masked position, 0 without a teacher.
        targets: "top", the k most probable ids; or "sampled", ids drawn from the teacher, see teachers/sampling.py.
        samples: how many are drawn for each masked position; 0 where none are.
        dtype: of the teacher's matrix products.
    """

    schema_version: int = SCHEMA_VERSION
    teacher: str
    revision: str = dataclasses.field(default="", metadata=ADDED)
    weights_hash: str
    vocabulary_hash: str
    tokenizer_hash: str
    vocabulary_size: int
    corpus: str
    language: str
    corpus_hash: str
    documents: int
    documents_per_shard: int
    rate: float
    max_share: float
    draws: int
    seed: int
    max_length: int
    k: int
    whole_word: bool = True
    log_prob_dtype: str = "float16"
    replacement: str = dataclasses.field(default="bert", metadata=ADDED)
    cover: bool = dataclasses.field(default=False, metadata=ADDED)
    max_count: int = dataclasses.field(default=0, metadata=ADDED)
    packing: str = dataclasses.field(default="across", metadata=ADDED)
    targets: str = dataclasses.field(default="top", metadata=ADDED)
    samples: int = dataclasses.field(default=0, metadata=ADDED)
    dtype: str = dataclasses.field(default="float32", metadata=ADDED)
    bytes_per_shard: int = dataclasses.field(default=BYTES_PER_SHARD, metadata=TOLD_WHERE_SET)
    shards: int = dataclasses.field(default=0, metadata=TOLD_WHERE_SET)

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, where a number or a name can be no record folder's."""
        for field, (least, most) in _RANGES.items():
            value = getattr(self, field)
            if not least <= value <= most:
                raise ValueError(f"field {field}: found {value}, expected from {least} to {most}")
        for field, known in _NAMES.items():
            if getattr(self, field) not in known:
                expected = repr(known[0]) if len(known) == 1 else f"one of {known}"
                raise ValueError(f"field {field}: found {getattr(self, field)!r}, expected {expected}")
        if not 0 <= self.k <= self.vocabulary_size:
            raise ValueError(f"field k: found {self.k}, expected from 0 to vocabulary_size={self.vocabulary_size}")
        if not 0.0 < self.rate <= self.max_share <= 1.0:
            found = f"{self.max_share} at a rate of {self.rate}"
            raise ValueError(f"field max_share: found {found}, expected a share between the rate, above 0, and 1")
        if self.max_predictions < 1:
            raise ValueError(
                f"field max_share: found {self.max_share} of sequences of {self.max_length} tokens, expected at least"
                " one position"
            )
        least, most = (1, min(self.k, LARGEST_SAMPLES)) if self.targets == "sampled" else (0, 0)
        if not least <= self.samples <= most:
            raise ValueError(
                f"field samples: found {self.samples} of targets {self.targets!r}, expected from {least} to {most}"
            )
        by_documents = self._shards_by_documents
        if self.shards and not by_documents <= self.shards <= self.documents:
            raise ValueError(
                f"field shards: found {self.shards}, expected from {by_documents} to {self.documents} documents"
            )

    @property
    def _shards_by_documents(self) -> int:
        return max(1, -(-self.documents // self.documents_per_shard))

    @property
    def num_shards(self) -> int:
        """Shards of the finished folder."""
        return self.shards or self._shards_by_documents

    @property
    def max_predictions(self) -> int:
        """Most masked positions of one record."""
        by_share = int(self.max_length * self.max_share)
        return min(by_share, self.max_count) if self.max_count else by_share

    @property
    def layout(self) -> Layout:
        """How the folder's records are laid out."""
        return Layout(k=self.k, vocabulary_size=self.vocabulary_size, version=self.schema_version)


_RANGES: Mapping[str, tuple[int, int]] = {
    "vocabulary_size": (1, 1 << 31),
    "documents": (0, 1 << 62),
    "documents_per_shard": (1, 1 << 62),
    "bytes_per_shard": (1, 1 << 62),
    "shards": (0, 1 << 62),
    "draws": (1, LARGEST_COUNT + 1),
    "seed": (-(1 << 63), (1 << 63) - 1),
    "max_length": (3, LARGEST_COUNT),
    "max_count": (0, LARGEST_COUNT),
}
"""Of the numbers of an identity, both ends included."""
_NAMES: Mapping[str, tuple[Any, ...]] = {
    "schema_version": VERSIONS,
    "whole_word": (True,),
    "log_prob_dtype": ("float16",),
    "replacement": ("bert", "mask"),
    "packing": ("across", "document", "best_fit"),
    "targets": ("top", "sampled"),
    "dtype": ("float32", "bfloat16"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What is listed of a finished shard.

    Attributes:
        checksum: blake2b-128 of the file, hexadecimal.
        masked_words: words that the masked positions belong to; one that two sequences share counts in each.
        gold_nll_nats: sum over the masked positions of the negative log-probability that the teacher gave to the gold
            id, from its whole distribution. Absent without a teacher. Both are absent in older folders.
    """

    shard: int
    records: int
    masked_positions: int
    tokens: int
    bytes: int
    checksum: str
    masked_words: int | None = dataclasses.field(default=None, metadata=ADDED)
    gold_nll_nats: float | None = dataclasses.field(default=None, metadata=ADDED)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A record folder: its identity and the shards finished so far."""

    folder: epath.Path
    identity: Identity
    shards: tuple[ShardEntry, ...]

    @property
    def records(self) -> int:
        """Records over all finished shards."""
        return sum(entry.records for entry in self.shards)

    @property
    def files(self) -> list[str]:
        """Paths of the finished shards, in order."""
        return [str(self.folder / shard_name(entry.shard)) for entry in self.shards]

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the shards that are not listed, ascending."""
        return tuple(self._missing())

    def _missing(self) -> Iterator[int]:
        listed = {entry.shard for entry in self.shards}
        return (shard for shard in range(self.identity.num_shards) if shard not in listed)

    @property
    def complete(self) -> bool:
        """Whether every shard is listed."""
        return self._first_missing is None

    @property
    def _first_missing(self) -> int | None:
        return next(self._missing(), None)

    @property
    def hash(self) -> str:
        """Content hash over the identity, later fields only where they are set, and every shard's checksum."""
        content = {"identity": _told(self.identity), "shards": [s.checksum for s in self.shards]}
        return hashlib.blake2b(to_json(content), digest_size=16).hexdigest()

    def require_complete(self) -> "Manifest":
        """Returns itself, or raises RecordError naming the first shard that is not listed."""
        if (first := self._first_missing) is not None:
            raise RecordError(
                f"{self.folder / entry_name(first)}: found {len(self.shards)} finished shards,"
                f" expected {self.identity.num_shards}; run `mergedistill predict` again to complete the folder"
            )
        return self

    def require_sizes(self) -> "Manifest":
        """Returns itself, or raises RecordError naming a listed shard that is missing or of another size."""
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(functools.partial(_require_size, self.folder), self.shards))
        return self

    def require_undamaged(self) -> "Manifest":
        """Returns itself, or raises RecordError naming a listed shard whose size or checksum is another.

        A shard is read once in a process, and again where its size or its times of change are others.
        """
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(functools.partial(_check_once, self.folder), self.shards))
        return self


def shard_name(shard: int) -> str:
    """File name of a shard's records."""
    return f"shard-{shard:05d}.tfrecord"


def entry_name(shard: int) -> str:
    """File name of a shard's entry, which is written last and makes the shard count as finished."""
    return f"shard-{shard:05d}.json"


def _told(value: Identity | ShardEntry) -> dict[str, Any]:
    """The fields by name, without those that were added later and have their default: what an older program told."""
    fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return {field.name: found for field, found in fields if not field.metadata or found != field.default}


def _written(identity: Identity) -> dict[str, Any]:
    """The fields of manifest.json: all but those that are told where they are set alone."""
    told = _told(identity)
    return {
        field.name: getattr(identity, field.name)
        for field in dataclasses.fields(identity)
        if field.metadata != TOLD_WHERE_SET or field.name in told
    }


def open_for_writing(folder: epath.PathLike, identity: Identity) -> Manifest:
    """Starts a record folder or resumes it.

    Raises:
        RecordError: the folder holds records of another identity; names the first field that differs.
    """
    folder = epath.Path(folder)
    path = folder / MANIFEST_NAME
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder):
        if not path.exists():
            if names_in(folder, "shard-"):
                raise RecordError(f"{path}: found shards but no manifest, expected an empty folder or a manifest")
            write_sealed(path, _written(identity))
    manifest = read_manifest(folder)
    # An older folder is continued in its own layout.
    identity = dataclasses.replace(identity, schema_version=manifest.identity.schema_version)
    expected = dataclasses.asdict(identity)
    # What the text is divided by comes first: where it differs, so do `documents` and `shards`.
    first = {field: expected[field] for field in ("documents_per_shard", "bytes_per_shard", "draws")}
    require_equal(path, dataclasses.asdict(manifest.identity), first | expected)
    return manifest


def require_equal(path: epath.PathLike, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises RecordError naming the first of the expected fields that differs."""
    for field, value in expected.items():
        if found.get(field) != value:
            raise RecordError(f"{path}: field {field}: found {found.get(field)!r}, expected {value!r}")


def list_shard(folder: epath.PathLike, entry: ShardEntry) -> None:
    """Lists a shard as finished, after its file is in place."""
    write_sealed(epath.Path(folder) / entry_name(entry.shard), _told(entry))


def read_manifest(folder: epath.PathLike) -> Manifest:
    """Reads the identity and the list of finished shards; does not read the shards.

    Raises:
        RecordError: no manifest, not JSON, another schema version, unknown, missing or mistyped fields, or a shard's
            entry under another shard's name; or a file was altered after it was written (older ones cannot tell).
    """
    folder = epath.Path(folder)
    identity = read_identity(folder)
    names = names_in(folder, "shard-", ".json")
    with ThreadPoolExecutor(_READERS) as pool:
        shards = tuple(pool.map(lambda name: read_entry(folder / name, identity), names))
    return Manifest(folder=folder, identity=identity, shards=shards)


def read_identity(folder: epath.PathLike) -> Identity:
    """Reads manifest.json alone; raises as `read_manifest`."""
    return read_sealed(epath.Path(folder) / MANIFEST_NAME, Identity)


def read_entry(path: epath.Path, identity: Identity) -> ShardEntry:
    """Reads the entry of one shard; raises as `read_manifest`."""

    def check(entry: ShardEntry) -> None:
        if path.name != entry_name(entry.shard) or entry.shard >= identity.num_shards:
            raise RecordError(
                f"{path}: field shard: found {entry.shard}, expected the number in its name,"
                f" below {identity.num_shards}"
            )

    return read_sealed(path, ShardEntry, check)


def write_shard(folder: epath.PathLike, shard: int, records: Iterable[Record], layout: Layout) -> ShardEntry:
    """Writes one shard aside, syncs, checksums, renames and lists it; returns what it listed. An older one is replaced.

    Raises:
        RecordError: the disk is full or the folder not writable; names the file and the cause. Nothing is listed.
    """
    folder = epath.Path(folder)
    written = write_aside(folder / shard_name(shard), records, layout)
    try:
        with exclusive(folder):
            return _publish(folder, shard, written)
    finally:
        written.discard()


def add_shard(manifest: Manifest, shard: int, records: Iterable[Record]) -> ShardEntry:
    """Writes one missing shard; returns what is listed of it, which may be another process's.

    Where another process listed the shard meanwhile, that one stands, so that a listed shard never changes.

    Raises:
        RecordError: as `write_shard`; or the folder has become one of another identity.
    """
    folder, identity = manifest.folder, manifest.identity
    written = write_aside(folder / shard_name(shard), records, identity.layout)
    listed = folder / entry_name(shard)
    try:
        with exclusive(folder):
            found = read_identity(folder)
            require_equal(folder / MANIFEST_NAME, dataclasses.asdict(found), dataclasses.asdict(identity))
            return read_entry(listed, identity) if listed.exists() else _publish(folder, shard, written)
    finally:
        written.discard()


def _publish(folder: epath.Path, shard: int, written: WrittenShard) -> ShardEntry:
    """Gives a shard's file its name, and then lists it."""
    path = folder / shard_name(shard)
    entry = ShardEntry(shard=shard, **written.told)
    with failures_named(path):
        written.temporary.replace(path)
        sync(folder)  # or a crash of the machine could keep the entry and lose the shard
        list_shard(folder, entry)
    return entry


def check_shard(folder: epath.PathLike, entry: ShardEntry) -> None:
    """Compares a shard's size and checksum with its entry; raises RecordError naming the file and the field."""
    _require_size(folder, entry)
    require_checksum(epath.Path(folder) / shard_name(entry.shard), entry.checksum)


def _require_size(folder: epath.PathLike, entry: ShardEntry) -> None:
    path = epath.Path(folder) / shard_name(entry.shard)
    if not path.exists():
        raise RecordError(f"{path}: not found, expected {entry.records} records as {entry_name(entry.shard)} lists")
    size = path.stat().length
    if size != entry.bytes:
        raise RecordError(f"{path}: field bytes: found {size}, expected {entry.bytes}")


def _check_once(folder: epath.Path, entry: ShardEntry) -> None:
    _require_size(folder, entry)
    require_checksum_once(folder / shard_name(entry.shard), entry.checksum)


def read_records(folder: epath.PathLike, shard: int, layout: Layout) -> Iterable[Record]:
    """The records of one shard, decoded in numpy."""
    path = str(epath.Path(folder) / shard_name(shard))
    for serialized in tf.data.TFRecordDataset(path).as_numpy_iterator():
        yield decode_record(bytes(serialized), layout)
