import json
import types

import numpy as np
import pytest
import seqio
import tensorflow as tf
from conftest import TEXTS

from mergedistill_jax import schema
from mergedistill_jax.corpus.masking import MaskingConfig
from mergedistill_jax.corpus.packing import masked_records
from mergedistill_jax.data.records import IMPOSSIBLE_LOG_PROB, add_record_mixture, add_record_task, to_student_ids
from mergedistill_jax.predict import PredictConfig, predict
from mergedistill_jax.schema import RecordError
from mergedistill_jax.teachers.inference import predict_records
from mergedistill_jax.teachers.loading import load_teacher
from mergedistill_jax.vocab import LearnConfig, UnionConfig, VocabConfig, vocab
from mergedistill_jax.vocabulary.tokenizer import VocabularyError, load_tokenizer
from tasks import corpora, distillation

MASKING = MaskingConfig(rate=0.2, max_share=0.25)
LENGTH, K, DRAWS, DOCUMENTS_PER_SHARD = 32, 4, 2, 2


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


def test_dropped_candidates_lose_their_mass_and_nothing_else():
    """A teacher's [unused0] among its candidates: a finite log-probability of no mass, and a valid id beside it."""
    parsed = {
        "input_ids": tf.constant([2, 4, 3]),
        "masked_positions": tf.constant([1]),
        "gold_ids": tf.constant([0]),
        "top_ids": tf.constant([[0, 1, 4]]),
        "top_log_probs": tf.constant([[-0.5, -1.0, -2.0]]),
    }
    mapped = to_student_ids(np.array([7, -1, 2, 3, 4], np.int32), parsed)
    assert mapped["token_ids"].numpy().tolist() == [2, 4, 3]
    assert mapped["gold_ids"].numpy().tolist() == [7]
    assert mapped["teacher_ids"].numpy().tolist() == [[7, 0, 4]]
    assert mapped["teacher_log_probs"].numpy().tolist() == [[-0.5, IMPOSSIBLE_LOG_PROB, -2.0]]
    assert np.isfinite(IMPOSSIBLE_LOG_PROB)
    assert np.exp(np.float32(IMPOSSIBLE_LOG_PROB)) == 0


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
    identity = json.loads((folders.root / "en/manifest.json").read_text())
    wide = schema.open_for_writing(tmp_path, schema.Identity(**identity | {"vocabulary_size": 70_000}))
    narrow = schema.read_manifest(folders.en)
    for entry in narrow.shards:
        records = schema.read_records(folders.en, entry.shard, k=K, width=2)
        schema.write_shard(tmp_path, entry.shard, records, wide.identity.id_bytes)
    expected = read(add_record_task("narrow", folders.en, folders.union))
    found = read(add_record_task("wide", str(tmp_path), folders.union))
    assert wide.identity.id_bytes == 3
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
        (lambda f: flip(f / "shard-00000.tfrecord"), r"shard-00000\.tfrecord: field checksum"),
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


def test_a_folder_without_records_is_refused(tmp_path, folders):
    identity = json.loads((folders.root / "en/manifest.json").read_text())
    schema.open_for_writing(tmp_path, schema.Identity(**identity | {"documents": 1}))
    schema.write_shard(tmp_path, 0, [], 2)
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
    counts = {f"rate_{language}": schema.read_manifest(folders.root / language).records for language in TEXTS}
    assert len(set(counts.values())) == 2
    for task in mixture.tasks:
        assert mixture.get_rate(task) == pytest.approx(counts[task.name] ** exponent)
