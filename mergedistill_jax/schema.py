"""The record of one masked sequence: the only code that knows its layout. A folder of records: see manifest.py.

One record is one `tf.train.Example` with one bytes feature, `r`: a row of 16-bit words, little-endian. With l tokens, m
masked positions, k candidates each, n = l + m (1 + k) ids in all, and p the bits of an id beyond the sixteenth:

    4                text id
    1, 1, 1          draw, l, m
    n                the low 16 bits of every id: l of the masked input exactly as the teacher saw it, without padding;
                     then row by row the gold id of a masked position and the teacher's k candidates, best first
    m k              float16 log-probabilities of the candidates, over the teacher's whole vocabulary; or the shares of
                     sampled ones, see teachers/sampling.py
    ceil(l / 16)     one bit per position, lowest bit first, set where the position is masked
    p ceil(n / 16)   bit 16 of every id, lowest bit first; then bit 17 of every id; and so on

Ids are the teacher's own, so p is the bits of its largest id beyond 16: none up to 65,536 tokens. A folder of records
without predictions has k = 0: text masked for training on gold labels alone.

Version 1, still read and continued, keeps the same content in features of their own, see the end of the file.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from jaxtyping import Float, Int

SCHEMA_VERSION = 2
VERSIONS = (1, 2)
"""What can be read; a folder is continued in the version that it was begun in."""
FEATURE = "r"
WORD_BITS = 16
HEAD_WORDS = 7
LARGEST_COUNT = (1 << WORD_BITS) - 1
NO_MASS = -65504.0
"""Log-probability of a slot that no sampled id fills: the lowest number of half precision, and exp of it is 0."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What a reader must know beside the bytes of a record; a manifest's identity tells it.

    Attributes:
        k: candidates of every masked position.
        vocabulary_size: tokens of the teacher.
        version: of the layout, one of VERSIONS.
    """

    k: int
    vocabulary_size: int
    version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        largest = _V1_LARGEST_VOCABULARY if self.version == 1 else 1 << 31
        if not 1 <= self.vocabulary_size <= largest:
            raise ValueError(f"vocabulary_size: found {self.vocabulary_size}, expected from 1 to {largest}")
        if self.version not in VERSIONS:
            raise ValueError(f"schema version: found {self.version}, expected one of {VERSIONS}")

    @property
    def id_bits(self) -> int:
        """Bits of one stored id."""
        if self.version == 1:
            return 8 * _v1_width(self)
        return max(WORD_BITS, (self.vocabulary_size - 1).bit_length())

    @property
    def high_bits(self) -> int:
        """Bits of an id that are stored beside its low word."""
        return self.id_bits - WORD_BITS

    def sections(self, length: int, count: int) -> tuple[int, int, int, int]:
        """Words of the ids, log-probabilities, mask and high bits of a record of l tokens, m of them masked."""
        ids = length + count * (1 + self.k)
        return ids, count * self.k, _words(length), self.high_bits * _words(ids)


def _words(bits: int) -> int:
    return -(-bits // WORD_BITS)


def encode_record(record: Record, layout: Layout) -> bytes:
    """Serialises one record. Equal records give equal bytes.

    Raises:
        ValueError: an id, a draw or a length that the layout cannot hold.
    """
    if record.top_ids.shape[1] != layout.k:
        raise ValueError(f"record top_ids: found {record.top_ids.shape[1]} candidates, expected k={layout.k}")
    if layout.version == 1:
        return _serialised(_v1_features(record, _v1_width(layout)))
    numbers = (record.draw, len(record.input_ids), len(record.masked_positions))
    if max(numbers) > LARGEST_COUNT:
        raise ValueError(f"record draw, tokens, masked positions: found {numbers}, expected at most {LARGEST_COUNT}")
    labels = np.concatenate([record.gold_ids[:, None], record.top_ids], axis=1)
    ids = np.concatenate([record.input_ids, labels.reshape(-1)]).astype(np.int64)
    _require_ids(ids, layout.id_bits)
    masked = np.zeros(len(record.input_ids), bool)
    masked[record.masked_positions] = True
    parts = (
        record.text_id,
        np.array(numbers, "<u2").tobytes(),
        (ids & LARGEST_COUNT).astype("<u2").tobytes(),
        record.top_log_probs.astype("<f2").tobytes(),
        _packed(masked[None]),
        _packed((ids >> np.arange(WORD_BITS, layout.id_bits)[:, None]) & 1) if layout.high_bits else b"",
    )
    return _serialised({FEATURE: b"".join(parts)})


def _require_ids(ids: Int[np.ndarray, " n"], bits: int) -> None:
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < 1 << bits:
        wrong = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise ValueError(f"ids: found {wrong}, expected from 0 and below {1 << bits}")


def _packed(rows: np.ndarray) -> bytes:
    """Bits [r, n], each row lowest bit first and filled up to whole words."""
    packed = np.packbits(rows, axis=1, bitorder="little")
    if packed.shape[1] % 2:
        packed = np.concatenate([packed, np.zeros((len(packed), 1), np.uint8)], axis=1)
    return packed.tobytes()


def _serialised(features: Mapping[str, bytes]) -> bytes:
    example = tf.train.Example()
    for name, value in features.items():
        example.features.feature[name].bytes_list.value.append(value)
    return example.SerializeToString(deterministic=True)


def decode_record(serialized: bytes, layout: Layout) -> Record:
    """Inverse of encode_record in numpy; raises RecordError where the record contradicts itself or the layout."""
    example = tf.train.Example()
    try:
        example.ParseFromString(serialized)
    except Exception as error:  # protobuf's own DecodeError has no public, stable home
        raise RecordError("record: found bytes that are no tf.train.Example, expected one") from error
    lists = {name: value.bytes_list.value for name, value in example.features.feature.items()}
    features = {name: values[0] for name, values in lists.items() if len(values) == 1}
    expected = _v1_names(layout.k) if layout.version == 1 else {FEATURE}
    if set(features) != expected:
        raise RecordError(f"record fields: found {sorted(features)}, expected {sorted(expected)}")
    if layout.version == 1:
        return _v1_record(features, layout.k, _v1_width(layout))
    return _record_of_words(features[FEATURE], layout)


def _record_of_words(data: bytes, layout: Layout) -> Record:
    if len(data) % 2 or len(data) < 2 * HEAD_WORDS:
        raise RecordError(f"record: found {len(data)} bytes, expected an even number from {2 * HEAD_WORDS} on")
    words = np.frombuffer(data, "<u2")
    draw, length, count = words[4:HEAD_WORDS].tolist()
    sections = layout.sections(length, count)
    expected = HEAD_WORDS + sum(sections)
    if len(words) != expected:
        raise RecordError(
            f"record: found {len(words)} words, expected {expected} ({length} tokens, {count} masked positions,"
            f" k={layout.k}, {layout.id_bits} bits an id)"
        )
    low, log_probs, mask, high = np.split(words[HEAD_WORDS:], np.cumsum(sections)[:-1])
    positions = np.flatnonzero(_unpacked(mask, 1)[0]).astype(np.int32)
    if len(positions) != count or (count and positions[-1] >= length):
        raise RecordError(f"record mask: found {len(positions)} bits set, expected {count} among {length} tokens")
    ids = low.astype(np.int32)
    for bit, plane in enumerate(_unpacked(high, layout.high_bits), WORD_BITS):
        ids |= plane[: len(ids)].astype(np.int32) << bit
    labels = ids[length:].reshape(count, 1 + layout.k)
    return Record(
        text_id=data[:8],
        draw=draw,
        input_ids=ids[:length],
        masked_positions=positions,
        gold_ids=labels[:, 0],
        top_ids=labels[:, 1:],
        top_log_probs=log_probs.view("<f2").reshape(count, layout.k).astype(np.float32),
    )


def _unpacked(words: np.ndarray, rows: int) -> np.ndarray:
    """Inverse of _packed, as uint8 with the filling."""
    return (
        np.unpackbits(words.view(np.uint8), bitorder="little").reshape(rows, -1) if rows else np.zeros((0, 0), np.uint8)
    )


def parse_record(serialized: tf.Tensor, layout: Layout) -> dict[str, tf.Tensor]:
    """The same as decode_record in TensorFlow operations, for tf.data; the caller has checked the folder.

    Returns:
        input_ids [l], masked_positions [m], gold_ids [m], top_ids [m, k] in int32, top_log_probs [m, k] in float32.
    """
    if layout.version == 1:
        return _v1_parsed(serialized, layout.k, _v1_width(layout))
    spec = {FEATURE: tf.io.FixedLenFeature((), tf.string)}
    data = tf.io.parse_single_example(serialized, spec)[FEATURE]
    words = tf.cast(tf.io.decode_raw(data, tf.uint16), tf.int32)
    length, count = words[5], words[6]
    ids, values = length + count * (1 + layout.k), count * layout.k
    mask = HEAD_WORDS + ids + values
    high = mask + (length + WORD_BITS - 1) // WORD_BITS
    all_ids = words[HEAD_WORDS : HEAD_WORDS + ids]
    if layout.high_bits:
        planes = tf.reshape(_bits(words[high:]), [layout.high_bits, -1])[:, :ids]
        shifts = tf.range(WORD_BITS, layout.id_bits)[:, None]
        all_ids += tf.reduce_sum(tf.bitwise.left_shift(planes, shifts), axis=0)
    labels = tf.reshape(all_ids[length:], [-1, 1 + layout.k])
    log_probs = tf.io.decode_raw(data, tf.float16)[HEAD_WORDS + ids : mask]
    return {
        "input_ids": all_ids[:length],
        "masked_positions": tf.cast(tf.where(_bits(words[mask:high]) > 0)[:, 0], tf.int32),
        "gold_ids": labels[:, 0],
        "top_ids": labels[:, 1:],
        "top_log_probs": tf.reshape(tf.cast(log_probs, tf.float32), [-1 if layout.k else count, layout.k]),
    }


def _bits(words: tf.Tensor) -> tf.Tensor:
    """The bits [16 n] of n words in int32, lowest first."""
    shifts = tf.range(WORD_BITS)[None, :]
    return tf.reshape(tf.bitwise.bitwise_and(tf.bitwise.right_shift(words[:, None], shifts), 1), [-1])


# Version 1: the same content in up to four bytes features.
#
#     head        8 bytes text id, 2 bytes draw, then one bit per position: set where the position is masked
#     input       [l] ids
#     labels      [m, 1 + k] ids: the gold id of each masked position, then the k candidates
#     log_probs   [m, k] float16 (absent where k = 0)
#
# Ids have two bytes, or three where the vocabulary has more than 65,536 tokens.

_V1_HEAD_BYTES = 10
_V1_LARGEST_VOCABULARY = 1 << 24


def _v1_width(layout: Layout) -> int:
    return 2 if layout.vocabulary_size <= 1 << WORD_BITS else 3


def _v1_names(k: int) -> set[str]:
    return {"head", "input", "labels"} | ({"log_probs"} if k else set())


def _v1_features(record: Record, width: int) -> dict[str, bytes]:
    bits = np.zeros(len(record.input_ids), np.uint8)
    bits[record.masked_positions] = 1
    labels = np.concatenate([record.gold_ids[:, None], record.top_ids], axis=1)
    features = {
        "head": record.text_id + record.draw.to_bytes(2, "little") + np.packbits(bits, bitorder="little").tobytes(),
        "input": _v1_packed(record.input_ids, width),
        "labels": _v1_packed(labels, width),
    }
    if record.top_ids.shape[1]:
        features["log_probs"] = record.top_log_probs.astype("<f2").tobytes()
    return features


def _v1_packed(ids: Int[np.ndarray, "..."], width: int) -> bytes:
    flat = np.ascontiguousarray(ids, np.int64).reshape(-1)
    _require_ids(flat, 8 * width)
    return flat.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :width].tobytes()


def _v1_unpacked(data: bytes, width: int) -> Int[np.ndarray, " n"]:
    raw = np.frombuffer(data, np.uint8).reshape(-1, width)
    wide = np.zeros((len(raw), 4), np.uint8)
    wide[:, :width] = raw
    return wide.view("<i4").reshape(-1)


def _v1_record(features: Mapping[str, bytes], k: int, width: int) -> Record:
    head = features["head"]
    if len(head) < _V1_HEAD_BYTES or len(features["input"]) % width:
        raise RecordError(
            f"record head and input: found {len(head)} and {len(features['input'])} bytes,"
            f" expected at least {_V1_HEAD_BYTES} and a multiple of {width}"
        )
    input_ids = _v1_unpacked(features["input"], width)
    bits = np.unpackbits(np.frombuffer(head[_V1_HEAD_BYTES:], np.uint8), bitorder="little")
    positions = np.flatnonzero(bits).astype(np.int32)
    count = len(positions)
    if len(bits) != -(-len(input_ids) // 8) * 8 or (count and positions[-1] >= len(input_ids)):
        raise RecordError(f"record head: found {len(bits)} mask bits, expected one for each of {len(input_ids)} ids")
    if len(features["labels"]) != count * (1 + k) * width:
        raise RecordError(
            f"record labels: found {len(features['labels'])} bytes, expected {count * (1 + k) * width}"
            f" ({count} masked positions, k={k})"
        )
    labels = _v1_unpacked(features["labels"], width).reshape(count, 1 + k)
    log_probs = np.frombuffer(features.get("log_probs", b""), "<f2")
    if log_probs.size != count * k:
        raise RecordError(f"record log_probs: found {log_probs.size} values, expected {count * k}")
    return Record(
        text_id=head[:8],
        draw=int.from_bytes(head[8:_V1_HEAD_BYTES], "little"),
        input_ids=input_ids,
        masked_positions=positions,
        gold_ids=labels[:, 0],
        top_ids=labels[:, 1:],
        top_log_probs=log_probs.reshape(count, k).astype(np.float32),
    )


def _v1_parsed(serialized: tf.Tensor, k: int, width: int) -> dict[str, tf.Tensor]:
    spec = {name: tf.io.FixedLenFeature((), tf.string) for name in _v1_names(k)}
    features = tf.io.parse_single_example(serialized, spec)
    mask_bytes = tf.io.decode_raw(tf.strings.substr(features["head"], _V1_HEAD_BYTES, -1), tf.uint8)
    shifts = tf.constant(np.arange(8, dtype=np.uint8))[None, :]
    bits = tf.bitwise.bitwise_and(tf.bitwise.right_shift(mask_bytes[:, None], shifts), tf.constant(1, tf.uint8))
    labels = tf.reshape(_v1_parsed_ids(features["labels"], width), [-1, 1 + k])
    log_probs = tf.cast(tf.io.decode_raw(features["log_probs"], tf.float16), tf.float32) if k else tf.zeros([0])
    return {
        "input_ids": _v1_parsed_ids(features["input"], width),
        "masked_positions": tf.cast(tf.where(tf.reshape(bits, [-1]) > 0)[:, 0], tf.int32),
        "gold_ids": labels[:, 0],
        "top_ids": labels[:, 1:],
        "top_log_probs": tf.reshape(log_probs, [-1, k]) if k else tf.zeros([tf.shape(labels)[0], 0], tf.float32),
    }


def _v1_parsed_ids(data: tf.Tensor, width: int) -> tf.Tensor:
    if width == 2:
        return tf.cast(tf.io.decode_raw(data, tf.uint16), tf.int32)
    parts = tf.cast(tf.reshape(tf.io.decode_raw(data, tf.uint8), [-1, width]), tf.int32)
    return tf.reduce_sum(parts * tf.constant([1 << (8 * i) for i in range(width)], tf.int32), axis=1)
