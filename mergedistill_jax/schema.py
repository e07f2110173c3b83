"""The record of one masked sequence and the manifest of a folder of records: the only code that knows their layout.

One record is one `tf.train.Example` with four byte features, all little-endian:

    head        8 bytes text id, 2 bytes draw, then one bit per position: set where the position is masked
    input       [l] ids, the masked input exactly as the teacher saw it, without padding
    labels      [m, 1 + k] ids: the gold id of each masked position, then the teacher's top-k ids, best first
    log_probs   [m, k] float16, log-probabilities over the teacher's whole vocabulary (absent where k = 0)

Ids are uint16, or three bytes where the vocabulary has more than 65,536 tokens. They are the teacher's own ids.
A folder of records without predictions has k = 0: text masked for training on gold labels alone.
"""

import dataclasses
import functools
import hashlib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from etils import epath
from jaxtyping import Float, Int

from mergedistill_jax.files import sync, write_atomically

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
HEAD_BYTES = 10
NARROW_IDS = 1 << 16
WIDE_IDS = 1 << 24


class RecordError(ValueError):
    """A record folder that is unfinished, damaged or not what was asked for; the message is one line."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """One masked sequence in its teacher's ids.

    Attributes:
        text_id: 8 bytes that name where the sequence starts: its first text and the word in it.
        draw: which of several masks of the text this is.
        input_ids: the masked input, special tokens included, no padding.
        masked_positions: ascending positions in `input_ids`.
        gold_ids: what stood there.
        top_ids: the teacher's k best ids, best first.
        top_log_probs: their log-probabilities over the whole vocabulary of the teacher, in nats.
        masked_words: how many words the masked positions belong to.
        gold_log_probs: log-probabilities of the gold ids over the same vocabulary, in nats.

    The last two are known only while a record is made: a shard's entry keeps their sums, the record itself neither.
    """

    text_id: bytes
    draw: int
    input_ids: Int[np.ndarray, " l"]
    masked_positions: Int[np.ndarray, " m"]
    gold_ids: Int[np.ndarray, " m"]
    top_ids: Int[np.ndarray, "m k"]
    top_log_probs: Float[np.ndarray, "m k"]
    masked_words: int | None = None
    gold_log_probs: Float[np.ndarray, " m"] | None = None


def id_bytes(vocabulary_size: int) -> int:
    """Bytes of one stored id: 2 up to 65,536 tokens, else 3."""
    if vocabulary_size > WIDE_IDS:
        raise ValueError(f"vocabulary_size: found {vocabulary_size}, expected at most {WIDE_IDS}")
    return 2 if vocabulary_size <= NARROW_IDS else 3


def pack_ids(ids: Int[np.ndarray, "..."], width: int) -> bytes:
    """Little-endian ids of `width` bytes (2 or 3)."""
    flat = np.ascontiguousarray(ids, dtype="<u4").reshape(-1)
    if flat.size and int(flat.max()) >= 1 << (8 * width):
        raise ValueError(f"ids: found {int(flat.max())}, expected below {1 << (8 * width)}")
    return flat.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()


def unpack_ids(data: bytes, width: int) -> Int[np.ndarray, " n"]:
    """Inverse of pack_ids, as int32."""
    raw = np.frombuffer(data, np.uint8).reshape(-1, width)
    wide = np.zeros((len(raw), 4), np.uint8)
    wide[:, :width] = raw
    return wide.view("<i4").reshape(-1)


def encode_record(record: Record, width: int) -> bytes:
    """Serialises one record; `width` is the bytes of one id (see id_bytes). Equal records give equal bytes."""
    length = len(record.input_ids)
    bits = np.zeros(length, np.uint8)
    bits[record.masked_positions] = 1
    labels = np.concatenate([record.gold_ids[:, None], record.top_ids], axis=1)
    features = {
        "head": record.text_id + record.draw.to_bytes(2, "little") + np.packbits(bits, bitorder="little").tobytes(),
        "input": pack_ids(record.input_ids, width),
        "labels": pack_ids(labels, width),
    }
    if record.top_ids.shape[1]:
        features["log_probs"] = record.top_log_probs.astype("<f2").tobytes()
    example = tf.train.Example()
    for name, value in features.items():
        example.features.feature[name].bytes_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def decode_record(serialized: bytes, *, k: int, width: int) -> Record:
    """Inverse of encode_record in numpy; raises RecordError where the fields contradict one another."""
    example = tf.train.Example()
    try:
        example.ParseFromString(serialized)
    except Exception as error:  # protobuf's own DecodeError has no public, stable home
        raise RecordError("record: found bytes that are no tf.train.Example, expected one") from error
    lists = {name: value.bytes_list.value for name, value in example.features.feature.items()}
    features = {name: values[0] for name, values in lists.items() if len(values) == 1}
    expected = {"head", "input", "labels"} | ({"log_probs"} if k else set())
    if set(features) != expected:
        raise RecordError(f"record fields: found {sorted(features)}, expected {sorted(expected)}")
    head = features["head"]
    if len(head) < HEAD_BYTES or len(features["input"]) % width:
        raise RecordError(
            f"record head and input: found {len(head)} and {len(features['input'])} bytes,"
            f" expected at least {HEAD_BYTES} and a multiple of {width}"
        )
    input_ids = unpack_ids(features["input"], width)
    bits = np.unpackbits(np.frombuffer(head[HEAD_BYTES:], np.uint8), bitorder="little")
    positions = np.flatnonzero(bits).astype(np.int32)
    count = len(positions)
    if len(bits) != -(-len(input_ids) // 8) * 8 or (count and positions[-1] >= len(input_ids)):
        raise RecordError(f"record head: found {len(bits)} mask bits, expected one for each of {len(input_ids)} ids")
    if len(features["labels"]) != count * (1 + k) * width:
        raise RecordError(
            f"record labels: found {len(features['labels'])} bytes, expected {count * (1 + k) * width}"
            f" ({count} masked positions, k={k})"
        )
    labels = unpack_ids(features["labels"], width).reshape(count, 1 + k)
    log_probs = np.frombuffer(features.get("log_probs", b""), "<f2")
    if log_probs.size != count * k:
        raise RecordError(f"record log_probs: found {log_probs.size} values, expected {count * k}")
    return Record(
        text_id=head[:8],
        draw=int.from_bytes(head[8:HEAD_BYTES], "little"),
        input_ids=input_ids,
        masked_positions=positions,
        gold_ids=labels[:, 0],
        top_ids=labels[:, 1:],
        top_log_probs=log_probs.reshape(count, k).astype(np.float32),
    )


def parse_record(serialized: tf.Tensor, *, k: int, width: int) -> dict[str, tf.Tensor]:
    """The same as decode_record in TensorFlow operations, for tf.data; the caller has checked the folder.

    Returns:
        input_ids [l], masked_positions [m], gold_ids [m], top_ids [m, k] in int32, top_log_probs [m, k] in float32.
    """
    names = ("head", "input", "labels", *(("log_probs",) if k else ()))
    spec = {name: tf.io.FixedLenFeature((), tf.string) for name in names}
    features = tf.io.parse_single_example(serialized, spec)
    mask_bytes = tf.io.decode_raw(tf.strings.substr(features["head"], HEAD_BYTES, -1), tf.uint8)
    shifts = tf.constant(np.arange(8, dtype=np.uint8))[None, :]
    bits = tf.bitwise.bitwise_and(tf.bitwise.right_shift(mask_bytes[:, None], shifts), tf.constant(1, tf.uint8))
    positions = tf.cast(tf.where(tf.reshape(bits, [-1]) > 0)[:, 0], tf.int32)
    labels = tf.reshape(_decode_ids(features["labels"], width), [-1, 1 + k])
    if k:
        log_probs = tf.cast(tf.io.decode_raw(features["log_probs"], tf.float16), tf.float32)
    else:
        log_probs = tf.zeros([0], tf.float32)
    return {
        "input_ids": _decode_ids(features["input"], width),
        "masked_positions": positions,
        "gold_ids": labels[:, 0],
        "top_ids": labels[:, 1:],
        "top_log_probs": tf.reshape(log_probs, [-1, k]) if k else tf.zeros([tf.shape(labels)[0], 0], tf.float32),
    }


def _decode_ids(data: tf.Tensor, width: int) -> tf.Tensor:
    if width == 2:
        return tf.cast(tf.io.decode_raw(data, tf.uint16), tf.int32)
    parts = tf.cast(tf.reshape(tf.io.decode_raw(data, tf.uint8), [-1, width]), tf.int32)
    return tf.reduce_sum(parts * tf.constant([1 << (8 * i) for i in range(width)], tf.int32), axis=1)


_ADDED = {"added": True}
"""Marks a field that folders written before it existed lack: they are read with its default."""


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
        documents: how many the corpus holds.
        documents_per_shard: consecutive documents that make one shard.
        rate, max_share, draws, seed, max_length: of the masking and packing; whole words always.
        k: predictions per masked position, 0 without a teacher.
    """

    schema_version: int = SCHEMA_VERSION
    teacher: str
    revision: str = dataclasses.field(default="", metadata=_ADDED)
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

    @property
    def num_shards(self) -> int:
        """Shards of the finished folder."""
        return max(1, -(-self.documents // self.documents_per_shard))

    @property
    def max_predictions(self) -> int:
        """Most masked positions of one record."""
        return int(self.max_length * self.max_share)

    @property
    def id_bytes(self) -> int:
        """Bytes of one stored id."""
        return id_bytes(self.vocabulary_size)


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
    masked_words: int | None = dataclasses.field(default=None, metadata=_ADDED)
    gold_nll_nats: float | None = dataclasses.field(default=None, metadata=_ADDED)


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
    def hash(self) -> str:
        """Content hash over the identity, later fields only where they are set, and every shard's checksum."""
        content = {"identity": _told(self.identity), "shards": [s.checksum for s in self.shards]}
        return hashlib.blake2b(_to_json(content), digest_size=16).hexdigest()

    def require_complete(self) -> "Manifest":
        """Returns itself, or raises RecordError naming the first shard that is not listed."""
        missing = sorted(set(range(self.identity.num_shards)) - {entry.shard for entry in self.shards})
        if missing:
            raise RecordError(
                f"{self.folder / entry_name(missing[0])}: found {len(self.shards)} finished shards,"
                f" expected {self.identity.num_shards}; run `mergedistill predict` again to complete the folder"
            )
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


def _to_json(content: Any) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def open_for_writing(folder: epath.PathLike, identity: Identity) -> Manifest:
    """Starts a record folder or resumes it.

    Raises:
        RecordError: the folder holds records of another identity; names the first field that differs.
    """
    folder = epath.Path(folder)
    path = folder / MANIFEST_NAME
    if not path.exists():
        if folder.exists() and any(folder.glob("shard-*")):
            raise RecordError(f"{path}: found shards but no manifest, expected an empty folder or a manifest")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _to_json(dataclasses.asdict(identity)))
    manifest = read_manifest(folder)
    require_equal(path, dataclasses.asdict(manifest.identity), dataclasses.asdict(identity))
    return manifest


def require_equal(path: epath.PathLike, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises RecordError naming the first of the expected fields that differs."""
    for field, value in expected.items():
        if found.get(field) != value:
            raise RecordError(f"{path}: field {field}: found {found.get(field)!r}, expected {value!r}")


def list_shard(folder: epath.PathLike, entry: ShardEntry) -> None:
    """Lists a shard as finished, after its file is in place."""
    write_atomically(epath.Path(folder) / entry_name(entry.shard), _to_json(_told(entry)))


def read_manifest(folder: epath.PathLike) -> Manifest:
    """Reads the identity and the list of finished shards; does not read the shards.

    Raises:
        RecordError: no manifest, not JSON, another schema version, unknown, missing or mistyped fields, or a shard's
            entry under another shard's name.
    """
    folder = epath.Path(folder)
    identity = _read_fields(folder / MANIFEST_NAME, Identity)
    if identity.schema_version != SCHEMA_VERSION:
        raise RecordError(
            f"{folder / MANIFEST_NAME}: field schema_version: found {identity.schema_version},"
            f" expected {SCHEMA_VERSION}"
        )
    names = sorted(path.name for path in folder.glob("shard-*.json"))
    shards = tuple(_read_fields(folder / name, ShardEntry) for name in names)
    for name, entry in zip(names, shards, strict=True):
        if name != entry_name(entry.shard) or entry.shard >= identity.num_shards:
            raise RecordError(
                f"{folder / name}: field shard: found {entry.shard}, expected the number in its name,"
                f" below {identity.num_shards}"
            )
    return Manifest(folder=folder, identity=identity, shards=shards)


def _read_fields(path: epath.Path, cls: type) -> Any:
    if not path.exists():
        raise RecordError(f"{path}: not found, expected a file written by `mergedistill predict`")
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise RecordError(f"{path}: found no JSON ({error}), expected a JSON object") from error
    known = {field.name for field in dataclasses.fields(cls)}
    expected = {field.name for field in dataclasses.fields(cls) if not field.metadata}
    if not isinstance(fields, dict) or not expected <= set(fields) <= known:
        difference = sorted((set(fields) - known) | (expected - set(fields))) if isinstance(fields, dict) else fields
        raise RecordError(f"{path}: fields {difference} missing or unknown, expected {sorted(expected)}")
    for field in dataclasses.fields(cls):
        accepted = set(typing.get_args(field.type)) - {types.NoneType} or {field.type}
        accepted |= {int} if float in accepted else set()
        if field.name in fields and type(fields[field.name]) not in accepted:
            kind = getattr(field.type, "__name__", field.type)
            raise RecordError(f"{path}: field {field.name}: found {fields[field.name]!r}, expected {kind}")
    return cls(**fields)


def file_checksum(path: epath.PathLike) -> str:
    """blake2b-128 of a file, hexadecimal."""
    digest = hashlib.blake2b(digest_size=16)
    with tf.io.gfile.GFile(str(path), "rb") as file:
        for block in iter(functools.partial(file.read, 1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_shard(folder: epath.PathLike, shard: int, records: Iterable[Record], width: int) -> ShardEntry:
    """Writes one shard aside, syncs, checksums, renames and lists it; returns what it listed."""
    folder = epath.Path(folder)
    path = folder / shard_name(shard)
    temporary = folder / f".{shard_name(shard)}.tmp"
    count = masked = tokens = 0
    words: list[int | None] = []
    losses: list[float | None] = []
    with tf.io.TFRecordWriter(str(temporary)) as writer:
        for record in records:
            writer.write(encode_record(record, width))
            count += 1
            masked += len(record.masked_positions)
            tokens += len(record.input_ids)
            words.append(record.masked_words)
            gold = record.gold_log_probs
            losses.append(None if gold is None else -float(gold.sum(dtype=np.float64)))
    sync(temporary)
    checksum = file_checksum(temporary)
    size = tf.io.gfile.stat(str(temporary)).length
    tf.io.gfile.rename(str(temporary), str(path), overwrite=True)
    entry = ShardEntry(
        shard=shard,
        records=count,
        masked_positions=masked,
        tokens=tokens,
        bytes=size,
        checksum=checksum,
        masked_words=None if None in words else sum(filter(None, words)),
        gold_nll_nats=None if None in losses else sum(filter(None, losses), 0.0),
    )
    list_shard(folder, entry)
    return entry


def check_shard(folder: epath.PathLike, entry: ShardEntry) -> None:
    """Compares a shard's size and checksum with its entry; raises RecordError naming the file and the field."""
    path = epath.Path(folder) / shard_name(entry.shard)
    if not path.exists():
        raise RecordError(f"{path}: not found, expected {entry.records} records as {entry_name(entry.shard)} lists")
    size = tf.io.gfile.stat(str(path)).length
    if size != entry.bytes:
        raise RecordError(f"{path}: field bytes: found {size}, expected {entry.bytes}")
    checksum = file_checksum(path)
    if checksum != entry.checksum:
        raise RecordError(f"{path}: field checksum: found {checksum}, expected {entry.checksum}")


def read_records(folder: epath.PathLike, shard: int, *, k: int, width: int) -> Iterable[Record]:
    """The records of one shard, decoded in numpy."""
    path = str(epath.Path(folder) / shard_name(shard))
    for serialized in tf.data.TFRecordDataset(path).as_numpy_iterator():
        yield decode_record(bytes(serialized), k=k, width=width)
