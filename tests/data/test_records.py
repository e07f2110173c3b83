import dataclasses
import types

import numpy as np
import pytest
import seqio
import tensorflow as tf
from conftest import TEXTS

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.configs.vocab import LearnConfig, UnionConfig, VocabConfig
from mergedistill_jax.corpus.packing import masked_records
from mergedistill_jax.data.records import IMPOSSIBLE_LOG_PROB, add_record_mixture, add_record_task, to_student_ids
from mergedistill_jax.data.student_rows import ToStudent
from mergedistill_jax.manifest import open_for_writing, read_manifest, read_records, write_shard
from mergedistill_jax.predict import predict
from mergedistill_jax.record_rows import RecordRows
from mergedistill_jax.schema import Layout, RecordError
from mergedistill_jax.teachers.inference import predict_records
from mergedistill_jax.teachers.loading import load_teacher
from mergedistill_jax.vocab import vocab
from mergedistill_jax.vocabulary.canonical import surface
from mergedistill_jax.vocabulary.folder import read_vocabulary
from mergedistill_jax.vocabulary.id_map import DROPPED, ragged_map, whole_map
from mergedistill_jax.vocabulary.tokenizer import VocabularyError, load_tokenizer
from tasks import corpora, distillation

MASKING = MaskingConfig(rate=0.2, max_share=0.25)
LENGTH, K, DRAWS, DOCUMENTS_PER_SHARD = 32, 4, 2, 2
LAYOUT = Layout(k=K, vocabulary_size=1000)


def predict_config(language, output, **changes):
    name = corpora.add_corpus(f"records_text_{language}", lambda _: iter(TEXTS[language]), ["train"])
    settings = {"max_length": LENGTH, "k": K, "draws": DRAWS, "documents_per_shard": DOCUMENTS_PER_SHARD}
    return PredictConfig(
        output=str(output),
        corpus=name,
        split="train",
        language=language,
        masking=MASKING,
        batch_size=4,
        **{**settings, **changes},
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory, teachers):
    """Records of both teachers and the union of their vocabularies; nothing in it is changed."""
    root = tmp_path_factory.mktemp("folders")
    for language, teacher in teachers.items():
        predict(predict_config(language, root / language, teacher=str(teacher)))
    vocab(
        VocabConfig(output=str(root / "union"), method=UnionConfig(teachers={n: str(f) for n, f in teachers.items()}))
    )
    return types.SimpleNamespace(root=root, union=str(root / "union"), en=str(root / "en"), es=str(root / "es"))


def read(name):
    dataset = seqio.get_mixture_or_task(name).get_dataset(None, split="train", shuffle=False)
    return list(dataset.as_numpy_iterator())


def predicted(language, folder):
    """What the writer should have written: the masked text and a run of the teacher, without any file."""
    tokenizer, teacher = load_tokenizer(folder), load_teacher(str(folder), max_length=LENGTH, k=K)
    texts = TEXTS[language]
    for start in range(0, len(texts), DOCUMENTS_PER_SHARD):
        group = texts[start : start + DOCUMENTS_PER_SHARD]
        masked = list(masked_records(group, tokenizer, MASKING, max_length=LENGTH, draws=DRAWS))
        yield from predict_records(
            teacher, masked, k=K, batch_size=4, length=LENGTH, max_predictions=MASKING.max_predictions(LENGTH)
        )


@pytest.mark.parametrize("language", ["en", "es"])
def test_shards_read_through_the_task_are_what_was_written_in_union_ids(folders, teachers, language):
    """The union ids are found here by string alone: no id map on the expecting side."""
    raw = load_tokenizer(teachers[language]).tokens
    union = load_tokenizer(folders.union).tokens
    place = {token: index for index, token in enumerate(union)}

    def by_string(ids):
        return np.array([place[raw[i]] for i in ids.reshape(-1)], np.int32).reshape(ids.shape)

    name = add_record_task(f"round_trip_{language}", str(folders.root / language), folders.union)
    examples = read(name)
    records = list(predicted(language, teachers[language]))
    assert len(examples) == len(records) > 6
    moved = 0
    for example, record in zip(examples, records, strict=True):
        np.testing.assert_array_equal(example["token_ids"], by_string(record.input_ids))
        np.testing.assert_array_equal(example["masked_positions"], record.masked_positions)
        np.testing.assert_array_equal(example["gold_ids"], by_string(record.gold_ids))
        np.testing.assert_array_equal(example["teacher_ids"], by_string(record.top_ids))
        np.testing.assert_array_equal(example["teacher_log_probs"], record.top_log_probs.astype(np.float16))
        assert example["source"] == name.encode()
        assert example["teacher_ids"].shape == (len(record.gold_ids), K)
        moved += (example["gold_ids"] != record.gold_ids).sum()
    assert moved or language == "en"  # the first teacher's ids come first in the union, the second's move


def test_the_masked_text_reads_back_as_text(folders):
    """Union tokens of the unmasked sequences are the words of the corpus."""
    union = load_tokenizer(folders.union)
    for language in ("en", "es"):
        texts = " ".join(" ".join(TEXTS[language]).split()).replace(" ", "")
        for example in read(add_record_task(f"text_{language}", str(folders.root / language), folders.union)):
            ids = example["token_ids"].copy()
            ids[example["masked_positions"]] = example["gold_ids"]
            assert (ids[0], ids[-1]) == (union.cls_id, union.sep_id)
            for piece in "".join(union.tokens[i].removeprefix("##") for i in ids[1:-1]).split("[SEP]"):
                assert piece in texts


def parsed_record(input_ids, positions, gold, top_ids, log_probs):
    """As schema.parse_record gives it."""
    return {
        "input_ids": tf.constant(np.array(input_ids, np.int32)),
        "masked_positions": tf.constant(np.array(positions, np.int32)),
        "gold_ids": tf.constant(np.array(gold, np.int32)),
        "top_ids": tf.constant(np.array(top_ids, np.int32)),
        "top_log_probs": tf.constant(np.array(log_probs, np.float32)),
    }


def arrays_of(mapped):
    return {name: value.numpy() for name, value in mapped.items()}


def test_dropped_candidates_lose_their_mass_and_nothing_else():
    """A teacher's [unused0] among its candidates: a finite log-probability of no mass, and a valid id beside it."""
    parsed = parsed_record([2, 4, 3], [1], [0], [[0, 1, 4]], [[-0.5, -1.0, -2.0]])
    mapped = arrays_of(to_student_ids(whole_map(np.array([7, DROPPED, 2, 3, 4], np.int32)), parsed, 8))
    assert mapped["token_ids"].tolist() == [2, 4, 3]
    assert mapped["gold_ids"].tolist() == [7]
    assert mapped["teacher_ids"].tolist() == [[7, 0, 4]]
    assert mapped["teacher_log_probs"].tolist() == [[-0.5, np.float32(IMPOSSIBLE_LOG_PROB), -2.0]]
    assert np.isfinite(IMPOSSIBLE_LOG_PROB)
    assert np.exp(np.float32(IMPOSSIBLE_LOG_PROB)) == 0


# The teacher's: 0 [PAD], 1 [UNK], 2 [CLS], 3 [SEP], 4 [MASK], 5 haus, 6 hausboot (cut), 7 `.`, 8 `▁.`, 9 [unused1]
CUT = ragged_map(
    np.array([0, 1, 2, 3, 4, 5, DROPPED, 7, 7, DROPPED], np.int32),
    [[0], [1], [2], [3], [4], [5], [5, 6], [7], [7], [1]],
)
NONE = np.float32(IMPOSSIBLE_LOG_PROB)
LOG_PROBS = np.log([0.4, 0.3, 0.2]).astype(np.float32)


def test_a_record_in_a_cut_vocabulary_worked_by_hand():
    """
    teacher  [CLS] hausboot   [MASK] hausboot   [MASK] [MASK]   [MASK] . [SEP]
    student  [CLS] haus ##boot [MASK] haus ##boot [MASK] [MASK] [MASK] . [SEP]
    gold                       haus               hausboot .    haus
    """
    parsed = parsed_record(
        [2, 6, 4, 6, 4, 4, 4, 7, 3],
        [2, 4, 5, 6],
        [5, 6, 8, 5],
        [[5, 7, 1], [5, 7, 1], [7, 5, 8], [6, 9, 6]],
        [LOG_PROBS] * 4,
    )
    mapped = arrays_of(to_student_ids(CUT, parsed, 32))
    assert mapped["token_ids"].tolist() == [2, 5, 6, 4, 5, 6, 4, 4, 4, 7, 3]
    # The second has a gold token that is cut, the fourth has no candidate that is left: both are out.
    assert mapped["masked_positions"].tolist() == [3, 7]
    assert mapped["gold_ids"].tolist() == [5, 7]
    assert mapped["teacher_ids"].tolist() == [[5, 7, 1], [7, 5, 7]]
    # `.` and its twin add up their mass at the first of them.
    expected = [LOG_PROBS.tolist(), [np.log(0.6), LOG_PROBS[1], NONE]]
    np.testing.assert_allclose(mapped["teacher_log_probs"], expected, rtol=1e-6)
    for name in ("token_ids", "masked_positions", "gold_ids", "teacher_ids"):
        assert mapped[name].dtype == np.int32


def test_a_masked_position_that_shows_a_word_keeps_one_token():
    """A tenth of the hidden words are shown as they are: one prediction stays one position."""
    parsed = parsed_record([2, 6, 6, 3], [1], [5], [[5, 7, 1]], [LOG_PROBS])
    mapped = arrays_of(to_student_ids(CUT, parsed, 32))
    assert mapped["token_ids"].tolist() == [2, 5, 5, 6, 3]
    assert mapped["masked_positions"].tolist() == [1]


@pytest.mark.parametrize(
    ("max_length", "token_ids", "positions"),
    [
        (8, [2, 5, 6, 4, 5, 6, 4, 3], [3, 6]),
        (7, [2, 5, 6, 4, 5, 6, 3], [3]),  # the second [MASK] has no place before the [SEP]
        (6, [2, 5, 6, 4, 5, 3], [3]),
        (4, [2, 5, 6, 3], []),
    ],
)
def test_the_end_of_a_sequence_that_grew_too_long_is_cut_off(max_length, token_ids, positions):
    parsed = parsed_record([2, 6, 4, 6, 4, 3], [2, 4], [5, 7], [[5, 7, 1], [7, 5, 1]], [LOG_PROBS] * 2)
    mapped = arrays_of(to_student_ids(CUT, parsed, max_length))
    assert mapped["token_ids"].tolist() == token_ids
    assert mapped["masked_positions"].tolist() == positions
    assert mapped["gold_ids"].tolist() == [5, 7][: len(positions)]
    assert mapped["teacher_log_probs"].shape == (len(positions), 3)


def by_numpy(id_map, parsed, max_length):
    """The same, position by position, with the map's own expansion."""
    record = {name: value.numpy() for name, value in parsed.items()}
    masked = np.isin(np.arange(len(record["input_ids"])), record["masked_positions"])
    token_ids, first = id_map.expand(record["input_ids"], masked)
    if len(token_ids) > max_length:
        token_ids = np.append(token_ids[: max_length - 1], token_ids[-1])
    rows = []
    for index, position in enumerate(first[record["masked_positions"]]):
        gold = id_map.labels[record["gold_ids"][index]]
        labels = id_map.labels[record["top_ids"][index]]
        mass = {}
        for label, log_prob in zip(labels, record["top_log_probs"][index].astype(np.float64), strict=True):
            if label != DROPPED:
                mass[label] = mass.get(label, 0.0) + np.exp(log_prob)
        if gold == DROPPED or position >= max_length - 1 or (len(labels) and not mass):
            continue
        log_probs = [np.log(mass.pop(label)) if label in mass else IMPOSSIBLE_LOG_PROB for label in labels]
        rows.append((position, gold, np.maximum(labels, 0), log_probs))
    return token_ids, rows


def random_case(generator, k):
    """A ragged map in which tokens are cut, dropped and merged, and a record of a third masked positions."""
    size, length = 30, 40
    rows = [[int(i)] for i in generator.integers(5, 20, size)]
    labels = np.array([row[0] for row in rows], np.int32)
    for index in np.flatnonzero(generator.random(size) < 0.4):
        labels[index] = DROPPED
        rows[index] = generator.integers(5, 20, generator.integers(1, 5)).tolist()
    positions = np.sort(generator.choice(np.arange(1, length - 1), 13, replace=False))
    # So few that all of a position's candidates are dropped at times.
    top_ids = np.array([generator.choice(size, k, replace=False) for _ in positions], np.int32).reshape(13, k)
    log_probs = np.log(generator.dirichlet(np.ones(k + 1), 13)[:, :k])
    return ragged_map(labels, rows), parsed_record(
        generator.integers(0, size, length), positions, generator.integers(0, size, 13), top_ids, log_probs
    )


@pytest.mark.parametrize("k", [0, 2, 6])
@pytest.mark.parametrize("max_length", [40, 1000])
def test_random_records_are_what_numpy_makes_of_them(k, max_length):
    generator = np.random.default_rng(k + max_length)
    kept = merged = 0
    for _ in range(25):
        id_map, parsed = random_case(generator, k)
        mapped = arrays_of(to_student_ids(id_map, parsed, max_length))
        token_ids, rows = by_numpy(id_map, parsed, max_length)
        np.testing.assert_array_equal(mapped["token_ids"], token_ids)
        assert len(mapped["gold_ids"]) == len(rows)
        kept += len(rows)
        for index, (position, gold, teacher_ids, log_probs) in enumerate(rows):
            assert (mapped["masked_positions"][index], mapped["gold_ids"][index]) == (position, gold)
            np.testing.assert_array_equal(mapped["teacher_ids"][index], teacher_ids)
            np.testing.assert_allclose(mapped["teacher_log_probs"][index], log_probs, rtol=1e-5, atol=1e-6)
            merged += len(set(teacher_ids)) < k
    assert 25 < kept < 25 * 13
    assert merged or not k


def rows_of(parsed_records):
    """As record_rows.decode_records gives them."""
    records = [arrays_of(parsed) for parsed in parsed_records]
    joined = {name: np.concatenate([record[name] for record in records]) for name in records[0]}
    return RecordRows(
        lengths=np.array([len(record["input_ids"]) for record in records]),
        counts=np.array([len(record["gold_ids"]) for record in records]),
        **joined,
    )


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("k", [0, 2, 6])
@pytest.mark.parametrize("max_length", [40, 1000])
def test_many_records_at_once_are_those_one_by_one(k, max_length, whole):
    """In NumPy and in TensorFlow, cut and uncut; positions, ids and [SEP] exactly, summed mass to rounding."""
    generator = np.random.default_rng(k + max_length)
    id_map, first = random_case(generator, k)
    if whole:
        id_map = whole_map(np.where(np.arange(30) % 7, np.arange(30), DROPPED).astype(np.int32))
    parsed = [first, *(random_case(generator, k)[1] for _ in range(20))]
    found = ToStudent(id_map, max_length)(rows_of(parsed))
    expected = [arrays_of(to_student_ids(id_map, record, max_length)) for record in parsed]
    assert found.lengths.tolist() == [len(record["token_ids"]) for record in expected]
    assert found.counts.tolist() == [len(record["gold_ids"]) for record in expected]
    for name in expected[0]:
        joined = np.concatenate([record[name] for record in expected])
        assert getattr(found, name).dtype == joined.dtype
        if name == "teacher_log_probs":
            np.testing.assert_allclose(getattr(found, name), joined, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(getattr(found, name), joined)


def test_merging_keeps_all_mass_and_a_map_without_twins_changes_no_bit():
    """The mass of a position is that of its kept candidates; where nothing is merged, nothing is touched."""
    generator = np.random.default_rng(0)
    top_ids = np.array([generator.choice(30, 6, replace=False) for _ in range(13)])
    log_probs = np.log(generator.dirichlet(np.ones(7), 13)[:, :6]).astype(np.float32)
    parsed = parsed_record(generator.integers(0, 30, 40), range(1, 14), range(13), top_ids, log_probs)
    identity = whole_map(np.arange(30, dtype=np.int32))
    np.testing.assert_array_equal(arrays_of(to_student_ids(identity, parsed, 40))["teacher_log_probs"], log_probs)
    pairs = whole_map(np.arange(30, dtype=np.int32) // 2)
    halved = arrays_of(to_student_ids(pairs, parsed, 40))
    np.testing.assert_allclose(
        np.exp(halved["teacher_log_probs"], dtype=np.float64).sum(-1), np.exp(log_probs).sum(-1), rtol=1e-6
    )
    assert (halved["teacher_log_probs"] == NONE).any()


@pytest.fixture(scope="module")
def cut(folders, teachers):
    """A vocabulary of characters and a few tokens more, cut from the same teachers' union."""

    def texts(language):
        return corpora.add_corpus(f"cut_text_{language}", lambda _: iter(TEXTS[language]), ["transfer"])

    size = read_vocabulary(folders.union).size - 40
    method = UnionConfig(teachers={n: str(f) for n, f in teachers.items()}, corpus=texts, size=size)
    vocab(VocabConfig(output=str(folders.root / "cut"), method=method))
    return str(folders.root / "cut")


@pytest.mark.parametrize("language", ["en", "es"])
def test_records_are_read_in_a_cut_vocabulary(folders, cut, teachers, language):
    """Through the task: the same shards, spelled out, and every kept position what the teacher said of it."""
    vocabulary = read_vocabulary(cut)
    tokens, raw = vocabulary.tokenizer().tokens, load_tokenizer(teachers[language]).tokens
    examples = read(add_record_task(f"cut_{language}", str(folders.root / language), cut))
    records = list(predicted(language, teachers[language]))
    assert len(examples) == len(records)
    id_map = vocabulary.id_map(language)
    grown = excluded = compared = 0
    for example, record in zip(examples, records, strict=True):
        parsed = parsed_record(
            record.input_ids, record.masked_positions, record.gold_ids, record.top_ids, record.top_log_probs
        )
        token_ids, rows = by_numpy(id_map, parsed, LENGTH)
        np.testing.assert_array_equal(example["token_ids"], token_ids)
        assert len(example["token_ids"]) <= LENGTH
        np.testing.assert_array_equal(example["masked_positions"], [row[0] for row in rows])
        np.testing.assert_array_equal(example["gold_ids"], [row[1] for row in rows])
        for row, log_probs in zip(rows, example["teacher_log_probs"], strict=True):
            np.testing.assert_allclose(log_probs, row[3], rtol=2e-3, atol=2e-3)  # stored in half precision
        assert {tokens[i] for i in example["gold_ids"]} <= {raw[i] for i in record.gold_ids}
        # By string: the same text, as far as it goes, where no word that is shown had to keep its first piece alone.
        shown = np.isin(record.input_ids[record.masked_positions], np.flatnonzero(np.diff(id_map.starts) > 1))
        if not shown.any():
            whole = "".join(surface(raw[i]) for i in record.input_ids[:-1])
            assert whole.startswith("".join(surface(tokens[i]) for i in example["token_ids"][:-1]))
            compared += 1
        grown += len(token_ids) > len(record.input_ids)
        excluded += len(record.gold_ids) - len(rows)
    assert min(grown, excluded, compared) > 0


def test_text_of_the_students_own_tokenizer_is_read_as_it_is(tmp_path, folders, cut):
    """Records of the policy `union`: gold labels in the student's ids."""
    manifest = predict(predict_config("en", tmp_path / "own", tokenizer=cut))
    assert manifest.identity.vocabulary_hash == read_vocabulary(cut).hash
    examples = read(add_record_task("own", str(tmp_path / "own"), cut))
    stored = [
        record
        for entry in manifest.shards
        for record in read_records(tmp_path / "own", entry.shard, manifest.identity.layout)
    ]
    assert len(examples) == len(stored) > 0
    for example, record in zip(examples, stored, strict=True):
        np.testing.assert_array_equal(example["token_ids"], record.input_ids)
        np.testing.assert_array_equal(example["gold_ids"], record.gold_ids)
    with pytest.raises(VocabularyError, match="field vocabulary_hash: found"):
        add_record_task("own", str(tmp_path / "own"), folders.union)


def test_gold_only_records_have_no_candidates(tmp_path, folders, teachers):
    config = predict_config("en", tmp_path / "gold", tokenizer=str(teachers["en"]))
    manifest = predict(config)
    assert (manifest.identity.k, manifest.identity.teacher) == (0, "")
    examples = read(add_record_task("gold", str(tmp_path / "gold"), folders.union))
    with_teacher = read(add_record_task("with_teacher", folders.en, folders.union))
    assert len(examples) == len(with_teacher)
    for gold, full in zip(examples, with_teacher, strict=True):
        for field in ("token_ids", "masked_positions", "gold_ids"):
            np.testing.assert_array_equal(gold[field], full[field])
        assert gold["teacher_ids"].shape == gold["teacher_log_probs"].shape == (len(gold["gold_ids"]), 0)


def test_three_byte_ids_read_through_the_task(tmp_path, folders):
    """The same records, said to be of a vocabulary of 70,000 tokens."""
    narrow = read_manifest(folders.en)
    wide = open_for_writing(tmp_path, dataclasses.replace(narrow.identity, vocabulary_size=70_000))
    for entry in narrow.shards:
        records = read_records(folders.en, entry.shard, LAYOUT)
        write_shard(tmp_path, entry.shard, records, wide.identity.layout)
    expected = read(add_record_task("narrow", folders.en, folders.union))
    found = read(add_record_task("wide", str(tmp_path), folders.union))
    assert wide.identity.layout.id_bits == 17
    for one, other in zip(found, expected, strict=True):
        for field in set(one) - {"source"}:
            np.testing.assert_array_equal(one[field], other[field])


def copy_of(folder, target):
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda f: (f / "shard-00001.json").unlink(), r"shard-00001\.json: found 1 finished shards, expected 2"),
        (lambda f: (f / "shard-00001.tfrecord").unlink(), r"shard-00001\.tfrecord: not found"),
        (lambda f: (f / "shard-00000.tfrecord").write_bytes(b""), r"shard-00000\.tfrecord: field bytes: found 0"),
        (lambda f: (f / "manifest.json").unlink(), r"manifest\.json: not found"),
    ],
)
def test_unfinished_and_damaged_folders_are_refused_by_name(tmp_path, folders, damage, named):
    folder = copy_of(folders.root / "en", tmp_path / "copy")
    damage(folder)
    with pytest.raises(RecordError, match=named) as error:
        add_record_task("refused", str(folder), folders.union)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert "refused" not in seqio.TaskRegistry.names()


def test_a_flipped_bit_is_found_before_seqio_reads_a_record(tmp_path, folders):
    folder = copy_of(folders.root / "en", tmp_path / "copy")
    flip(folder / "shard-00001.tfrecord")
    name = add_record_task("flipped", str(folder), folders.union)
    with pytest.raises(RecordError, match=rf"{folder}/shard-00001\.tfrecord: field checksum: found \w+, expected \w+"):
        read(name)


def test_a_folder_without_records_is_refused(tmp_path, folders):
    open_for_writing(tmp_path, dataclasses.replace(read_manifest(folders.en).identity, documents=1))
    write_shard(tmp_path, 0, [], LAYOUT)
    with pytest.raises(RecordError, match="found 0 records, expected at least one"):
        add_record_task("refused", str(tmp_path), folders.union)


def test_another_teachers_vocabulary_is_refused(tmp_path, folders):
    corpus = corpora.add_corpus("other_text", lambda _: iter(TEXTS["es"]), ["train"])
    method = LearnConfig(corpus=corpus, split="train", size=130, name="other")
    vocab(VocabConfig(output=str(tmp_path), method=method))
    with pytest.raises(VocabularyError, match=r"en/manifest\.json: field vocabulary_hash: found [0-9a-f]{32}"):
        add_record_task("refused", folders.en, str(tmp_path))


def test_students_mixture_names_its_tasks_and_refuses_doubles(folders):
    name = distillation.add_students_mixture([folders.en, folders.es], folders.union, exponent=0.5, name="both")
    assert name == "both"
    tasks = {task.name for task in seqio.get_subtasks(seqio.get_mixture_or_task("both"))}
    assert tasks == {"records_en_en_train", "records_es_es_train"}
    with pytest.raises(ValueError, match="found two folders for records_en_en_train"):
        distillation.add_students_mixture([folders.en, folders.en], folders.union)


@pytest.mark.parametrize("exponent", [0.0, 0.3, 0.7, 1.0])
def test_rates_are_records_to_the_power_of_the_exponent(folders, exponent):
    tasks = [add_record_task(f"rate_{language}", str(folders.root / language), folders.union) for language in TEXTS]
    mixture = seqio.get_mixture_or_task(add_record_mixture("rates", tasks, exponent))
    assert isinstance(mixture, seqio.Mixture)
    counts = {f"rate_{language}": read_manifest(folders.root / language).records for language in TEXTS}
    assert len(set(counts.values())) == 2
    for task in mixture.tasks:
        assert mixture.get_rate(task) == pytest.approx(counts[task.name] ** exponent)
