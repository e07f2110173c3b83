import itertools
from collections import Counter

import numpy as np
import pytest
from conftest import TEXTS

from mergedistill_jax import schema
from mergedistill_jax.data.batches import batches, describe_mixture, evaluation_batches
from mergedistill_jax.data.records import IMPOSSIBLE_LOG_PROB, add_record_mixture, add_record_task
from mergedistill_jax.schema import Identity, Record, RecordError
from mergedistill_jax.vocabulary.folder import write_vocabulary
from mergedistill_jax.vocabulary.id_map import whole_map
from mergedistill_jax.vocabulary.learning import learn_wordpiece
from mergedistill_jax.vocabulary.tokenizer import wrap_tokenizer
from tasks import corpora

K = 4
SIZES = {"en": (90, 24, K), "es": (30, 16, K + 2), "hi": (10, 20, K)}
"""Records, max_length and k of each language's folder."""


def make_records(language, count, max_length, k):
    """The first token after [CLS] and the draw name the record."""
    generator = np.random.default_rng(len(language) + count)
    for number in range(count):
        length = int(generator.integers(6, max_length + 1))
        masked = int(generator.integers(1, max(2, length // 4)))
        ids = generator.integers(5, 60, length).astype(np.int32)
        ids[1] = 5 + number % 50
        log_probs = -np.cumsum(generator.exponential(1.0, (masked, k)), axis=1)
        yield Record(
            text_id=number.to_bytes(8, "little"),
            draw=0,
            input_ids=ids,
            masked_positions=np.sort(generator.choice(np.arange(2, length - 1), masked, replace=False)).astype(
                np.int32
            ),
            gold_ids=generator.integers(5, 60, masked).astype(np.int32),
            top_ids=np.stack([generator.choice(np.arange(5, 60), k, replace=False) for _ in range(masked)]).astype(
                np.int32
            ),
            top_log_probs=log_probs.astype(np.float16).astype(np.float32),
        )


def write_records(folder, language, tokenizer, count, max_length, k):
    identity = Identity(
        teacher=f"bert-{language}" if k else "",
        weights_hash=language,
        vocabulary_hash=tokenizer.vocabulary_hash,
        tokenizer_hash=tokenizer.tokenizer_hash,
        vocabulary_size=len(tokenizer.tokens),
        corpus=f"{language}:train",
        language=language,
        corpus_hash="",
        documents=3,
        documents_per_shard=1,
        rate=0.15,
        max_share=0.25,
        draws=1,
        seed=0,
        max_length=max_length,
        k=k,
    )
    schema.open_for_writing(folder, identity)
    records = list(make_records(language, count, max_length, k))
    for shard in range(3):
        schema.write_shard(folder, shard, records[shard::3], identity.id_bytes)
    return str(folder)


@pytest.fixture(scope="module")
def tokenizer():
    return wrap_tokenizer(learn_wordpiece(TEXTS["en"], 100), "test")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("vocabulary")
    identity = np.arange(len(tokenizer.tokens), dtype=np.int32)
    write_vocabulary(folder, tokenizer, {"one": (tokenizer, whole_map(identity))}, {})
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    root = tmp_path_factory.mktemp("records")
    return {name: write_records(root / name, name, tokenizer, *size) for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def mixture(folders, vocabulary):
    return register(folders, vocabulary)


def register(folders, vocabulary, exponent=1.0, name="batches_mixture"):
    tasks = [add_record_task(f"{name}_{language}", folder, vocabulary) for language, folder in folders.items()]
    return describe_mixture(add_record_mixture(name, tasks, exponent))


def rows_of(batch):
    """Each real row of a batch as something to compare and count."""
    for row in range(len(batch["lengths"])):
        if batch["loss_weights"][row].any():
            yield tuple(np.asarray(batch[name][row]).tobytes() for name in sorted(batch))


def assert_equal_batches(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_the_description_is_of_all_folders(mixture, folders):
    assert mixture.sources == ("batches_mixture_en", "batches_mixture_es", "batches_mixture_hi")
    assert mixture.languages == ("en", "es", "hi")
    assert mixture.teachers == ("bert-en", "bert-es", "bert-hi")
    assert mixture.folders == tuple(folders.values())
    assert (mixture.records, mixture.max_length, mixture.max_predictions, mixture.k) == (130, 24, 6, K)


def test_shapes_types_and_padding(mixture):
    batch = next(batches(mixture, 8, seed=0))
    m = mixture.max_predictions
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "token_ids": ((8, 24), np.int32),
        "lengths": ((8,), np.int32),
        "masked_positions": ((8, m), np.int32),
        "gold_ids": ((8, m), np.int32),
        "loss_weights": ((8, m), np.float32),
        "teacher_ids": ((8, m, K), np.int32),
        "teacher_log_probs": ((8, m, K), np.float32),
        "source": ((8,), np.int32),
    }
    for row in range(8):
        length, real = batch["lengths"][row], batch["loss_weights"][row].astype(bool)
        assert (batch["token_ids"][row, length:] == 0).all()  # [PAD]
        assert (batch["token_ids"][row, :length] > 0).all()
        assert real.sum() >= 1
        assert list(real) == sorted(real, reverse=True)
        assert (batch["masked_positions"][row][real] < length).all()
        for name, padding in (("gold_ids", 0), ("teacher_ids", 0), ("teacher_log_probs", IMPOSSIBLE_LOG_PROB)):
            assert (batch[name][row][~real] == padding).all()
            assert (batch[name][row][real] != padding).all()
    assert np.isfinite(batch["teacher_log_probs"]).all()


def test_batches_are_a_function_of_seed_and_step(mixture, folders, vocabulary):
    """More steps than an epoch has, so that reshuffling is seen too."""
    stream = list(itertools.islice(batches(mixture, 8, seed=3), 30))
    again = register(folders, vocabulary)  # what a restarted process does
    for start in (1, 25):
        for batch, expected in zip(batches(again, 8, seed=3, start_step=start), stream[start:], strict=False):
            assert_equal_batches(batch, expected)
    other = next(batches(mixture, 8, seed=4))
    assert list(rows_of(other)) != list(rows_of(stream[0]))
    assert len({tuple(rows_of(batch)) for batch in stream}) == len(stream)


def test_every_row_is_a_record_of_its_source(mixture):
    """The batch says what the record says, padded."""
    records = {}
    for source, (language, size) in enumerate(SIZES.items()):
        for record in make_records(language, *size):
            records[source, record.input_ids.tobytes()] = record
    seen = set()
    for batch in itertools.islice(batches(mixture, 8, seed=0), 40):
        for row, source in enumerate(batch["source"]):
            ids = batch["token_ids"][row, : batch["lengths"][row]]
            record = records[int(source), ids.tobytes()]
            real = batch["loss_weights"][row] > 0
            np.testing.assert_array_equal(batch["masked_positions"][row][real], record.masked_positions)
            np.testing.assert_array_equal(batch["gold_ids"][row][real], record.gold_ids)
            np.testing.assert_array_equal(batch["teacher_ids"][row][real], record.top_ids[:, :K])
            np.testing.assert_array_equal(batch["teacher_log_probs"][row][real], record.top_log_probs[:, :K])
            seen.add((int(source), ids.tobytes()))
    assert len(seen) > 0.8 * len(records)


@pytest.mark.parametrize(("exponent", "expected"), [(0.5, (9.487, 5.477, 3.162)), (0.0, (1, 1, 1))])
def test_the_exponent_sets_the_shares(folders, vocabulary, exponent, expected):
    """Four standard deviations over 1,600 rows; 0.5 takes square roots."""
    mixture = register(folders, vocabulary, exponent, f"share_{exponent}".replace(".", "_"))
    counts = Counter()
    for batch in itertools.islice(batches(mixture, 32, seed=0), 50):
        counts.update(batch["source"].tolist())
    total = sum(counts.values())
    for source, weight in enumerate(expected):
        share = weight / sum(expected)
        assert counts[source] / total == pytest.approx(share, abs=4 * (share * (1 - share) / total) ** 0.5 + 0.005)


@pytest.mark.parametrize("batch_size", [13, 200])  # 130 records: nothing to fill up, and more than there are
def test_evaluation_reads_every_record_once(mixture, batch_size):
    """A SeqIO mixture would end with its smallest task: here with the 10 records of one of three languages."""
    found = list(evaluation_batches(mixture, batch_size))
    assert all(len(batch["lengths"]) == batch_size for batch in found)
    assert len(found) == -(-130 // batch_size)
    rows = [row for batch in found for row in rows_of(batch)]
    assert len(rows) == len(set(rows)) == 130
    sources = np.concatenate([batch["source"][batch["loss_weights"].any(axis=1)] for batch in found])
    assert Counter(sources.tolist()) == {0: 90, 1: 30, 2: 10}
    masked = sum(int(batch["loss_weights"].sum()) for batch in found)
    assert masked == sum(len(r.gold_ids) for name, size in SIZES.items() for r in make_records(name, *size))


def test_evaluation_is_the_same_again_and_fills_up_its_last_batch(mixture):
    one = describe_mixture(mixture.sources[1])
    assert (one.records, one.max_length, one.k) == (30, 16, K + 2)
    found = list(evaluation_batches(one, 8))
    assert [sum(1 for _ in rows_of(batch)) for batch in found] == [8, 8, 8, 6]
    assert all(len(batch["lengths"]) == 8 for batch in found)
    for batch, again in zip(found, evaluation_batches(one, 8), strict=True):
        assert_equal_batches(batch, again)


def test_fewer_candidates_than_stored_are_the_best_ones(mixture):
    few = describe_mixture(mixture.name, k=2)
    assert few.k == 2
    full = next(batches(mixture, 8, seed=1))
    cut = next(batches(few, 8, seed=1))
    np.testing.assert_array_equal(cut["teacher_ids"], full["teacher_ids"][..., :2])
    np.testing.assert_array_equal(cut["teacher_log_probs"], full["teacher_log_probs"][..., :2])
    np.testing.assert_array_equal(cut["token_ids"], full["token_ids"])


def test_more_candidates_than_stored_are_refused_by_folder(mixture, folders):
    with pytest.raises(RecordError, match=f"field k: found {K}, expected at least {K + 1}") as error:
        describe_mixture(mixture.name, k=K + 1)
    assert f"{folders['en']}/manifest.json" in str(error.value)


def test_gold_only_folders_have_no_candidates(tmp_path, tokenizer, vocabulary):
    folder = write_records(tmp_path, "en", tokenizer, 20, 16, 0)
    gold = describe_mixture(add_record_task("batches_gold", folder, vocabulary))
    assert (gold.k, gold.teachers) == (0, ("",))
    batch = next(batches(gold, 4, seed=0))
    assert batch["teacher_ids"].shape == batch["teacher_log_probs"].shape == (4, gold.max_predictions, 0)
    assert batch["loss_weights"].sum() >= 4
    with pytest.raises(RecordError, match="field k: found 0, expected at least 1"):
        describe_mixture("batches_gold", k=1)


def test_a_later_mixture_of_tasks_of_the_same_names_changes_nothing(folders, vocabulary):
    """Training and held-out folders of one split have one task name: each mixture keeps its own records."""

    def add(name, language):
        return describe_mixture(
            add_record_mixture(name, [add_record_task("batches_same", folders[language], vocabulary)], 1)
        )

    first = add("batches_first", "es")
    expected = [row for batch in evaluation_batches(first, 8) for row in rows_of(batch)]
    second = add("batches_second", "hi")
    assert [row for batch in evaluation_batches(first, 8) for row in rows_of(batch)] == expected
    assert len(expected) == SIZES["es"][0]
    assert sum(1 for batch in evaluation_batches(second, 8) for _ in rows_of(batch)) == SIZES["hi"][0]


def test_the_hash_is_of_the_folders(mixture, folders, vocabulary):
    assert register(folders, vocabulary).hash == mixture.hash
    fewer = register({name: folders[name] for name in ("en", "es")}, vocabulary, name="batches_fewer")
    assert fewer.hash != mixture.hash


def test_wrong_mixtures_are_refused(tmp_path, folders, vocabulary, tokenizer):
    with pytest.raises(RecordError, match="mixture: found 'no_such', expected a registered mixture or task"):
        describe_mixture("no_such")
    corpora.add_corpus("batches_text", lambda _: iter(TEXTS["en"]), ["train"])
    with pytest.raises(RecordError, match="task batches_text: found a FunctionDataSource, expected a record folder"):
        describe_mixture("batches_text")
    larger = wrap_tokenizer(learn_wordpiece(TEXTS["es"], 110), "other")
    nowhere = np.zeros(len(tokenizer.tokens), np.int32)
    write_vocabulary(tmp_path, larger, {"one": (tokenizer, whole_map(nowhere))}, {})
    tasks = [
        add_record_task("batches_here", folders["en"], vocabulary),
        add_record_task("batches_there", folders["es"], str(tmp_path)),
    ]
    with pytest.raises(RecordError, match="found 2 vocabularies, expected one for all tasks"):
        describe_mixture(add_record_mixture("batches_two", tasks, 1.0))
