import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
import seqio
import tensorflow as tf
from conftest import TEXTS

from mergedistill_jax.data.batches import (
    SEQIO_ORDER,
    batches,
    describe_mixture,
    evaluation_batches,
    order_of,
    seqio_dataset,
)
from mergedistill_jax.data.order import ORDER
from mergedistill_jax.data.records import IMPOSSIBLE_LOG_PROB, ReadRecords, add_record_mixture, add_record_task
from mergedistill_jax.manifest import Identity, open_for_writing, read_manifest, read_records, write_shard
from mergedistill_jax.schema import Record, RecordError
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
    open_for_writing(folder, identity)
    records = list(make_records(language, count, max_length, k))
    for shard in range(3):
        write_shard(folder, shard, records[shard::3], identity.layout)
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


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [8, 300])
def test_rows_of_several_processes_are_those_of_one(mixture, processes, batch_size):
    """Each process makes its own rows, here every n-th; together they are the batch, in training and in evaluation."""
    shares = [np.arange(process, batch_size, processes) for process in range(processes)]

    def streams(rows):
        return [
            *itertools.islice(batches(mixture, batch_size, seed=7, start_step=2, rows=rows), 5),
            *evaluation_batches(mixture, batch_size, rows=rows),
        ]

    parts = [streams(rows) for rows in shares]
    for index, whole in enumerate(streams(None)):
        for name in whole:
            found = np.zeros_like(whole[name])
            for rows, part in zip(shares, parts, strict=True):
                assert len(part[index][name]) == len(rows)
                found[rows] = part[index][name]
            np.testing.assert_array_equal(found, whole[name])


def test_batches_of_another_size_hold_the_same_examples_in_the_same_order(mixture):
    """Example n is row n % b of batch n // b: the order does not know the batch."""
    small = [row for batch in itertools.islice(batches(mixture, 5, seed=7), 40) for row in rows_of(batch)]
    large = [row for batch in itertools.islice(batches(mixture, 40, seed=7), 5) for row in rows_of(batch)]
    assert small == large


def test_a_step_far_into_the_run_is_found_at_once(mixture):
    """After a billion steps: whoever had to read up to there would not come back."""
    far = 10**9
    first, second = itertools.islice(batches(mixture, 8, seed=3, start_step=far), 2)
    assert_equal_batches(next(batches(mixture, 8, seed=3, start_step=far + 1)), second)
    assert list(rows_of(first)) != list(rows_of(second))


def test_every_epoch_of_a_language_has_each_of_its_records_once(mixture):
    """Counted by source: each run of as many examples as the language has records has them all, in another order."""
    seen = {source: [] for source in range(3)}
    for batch in itertools.islice(batches(mixture, 10, seed=0), 50):
        for source, row in zip(batch["source"].tolist(), rows_of(batch), strict=True):
            seen[source].append(row)
    orders = []
    for source, (size, _, _) in enumerate(SIZES.values()):
        epochs = [seen[source][start : start + size] for start in range(0, len(seen[source]) - size + 1, size)]
        assert len(epochs) >= 3
        assert all(len(set(epoch)) == size for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)
        orders.append(len(epochs))
    assert max(orders) - min(orders) <= 1


@pytest.mark.slow
def test_the_same_examples_as_seqio_gives_of_the_same_tasks(mixture):
    """What a user of seqio.get_dataset sees, of every source and in the mixture's shapes; the orders are two."""
    ours = Counter(row for batch in evaluation_batches(mixture, 13) for row in rows_of(batch))
    theirs = Counter()
    for task in mixture.sources:
        examples = seqio_dataset(mixture, task, seed=0, shuffle=True, num_epochs=1)
        for batch in examples.batch(7).as_numpy_iterator():
            theirs.update(rows_of(batch))
    assert ours == theirs
    assert sum(ours.values()) == 130


def register_with(name, folder, vocabulary, *more):
    """A task over a record folder with preprocessors of a user's own after ours."""
    plain = seqio.TaskRegistry.get(add_record_task(f"{name}_plain", folder, vocabulary))
    if name in seqio.TaskRegistry.names():
        seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=plain.source,
        preprocessors=[ReadRecords(plain.source, name), *more],
        output_features=plain.output_features,
    )
    return name


@pytest.mark.slow
def test_preprocessors_of_a_users_own_are_applied_in_seqios_order(folders, vocabulary):
    """A short-sequence filter: our order, which counts records, could not follow it, and so gives way."""

    def only_short(dataset):
        return dataset.filter(lambda example: tf.size(example["token_ids"]) < 10)

    ours = describe_mixture(register_with("batches_nothing_more", folders["es"], vocabulary))
    theirs = describe_mixture(register_with("batches_short", folders["es"], vocabulary, only_short))
    assert (order_of(ours), order_of(theirs)) == (ORDER, SEQIO_ORDER)
    expected = Counter(row for batch in evaluation_batches(ours, 7) for row in rows_of(batch))
    short = sum(len(r.input_ids) < 10 for r in make_records("es", *SIZES["es"]))
    assert 0 < short < 30
    found = Counter(row for batch in evaluation_batches(theirs, 7) for row in rows_of(batch))
    assert sum(found.values()) == short
    assert found <= expected
    stream = list(itertools.islice(batches(theirs, 4, seed=1), 6))
    assert max(batch["lengths"].max() for batch in stream) < 10
    assert_equal_batches(next(batches(theirs, 4, seed=1, start_step=5)), stream[5])
    half = next(batches(theirs, 4, seed=1, start_step=5, rows=np.array([1, 3])))
    assert_equal_batches(half, {name: values[[1, 3]] for name, values in stream[5].items()})


def test_a_reader_of_another_name_is_refused(folders, vocabulary):
    """Its rows would be trained on and counted in no metric."""
    plain = seqio.TaskRegistry.get(add_record_task("name_plain", folders["en"], vocabulary))
    for name, given in (("name_one", "another"), ("name_two", "name_plain"), ("name_three", "")):
        seqio.TaskRegistry.add(
            name,
            source=plain.source,
            preprocessors=[ReadRecords(plain.source, given)],
            output_features=plain.output_features,
        )
        with pytest.raises(RecordError, match=f"task {name}: ReadRecords: name: found '{given}', expected '{name}'"):
            describe_mixture(name)


def test_preprocessors_that_leave_nothing_are_refused(folders, vocabulary):
    plain = seqio.TaskRegistry.get(add_record_task("none_plain", folders["en"], vocabulary))
    seqio.TaskRegistry.add(
        "none",
        source=plain.source,
        preprocessors=[ReadRecords(plain.source, "none"), lambda dataset: dataset.filter(lambda _: False)],
        output_features=plain.output_features,
    )
    with pytest.raises(RecordError, match="task none: found no example behind its preprocessors"):
        next(batches(describe_mixture("none"), 4, seed=0))


@pytest.mark.parametrize("length", [3, 4, 5])
def test_a_cut_that_loses_masked_positions_is_refused(folders, vocabulary, length):
    mixture = describe_mixture(add_record_task("cut", folders["en"], vocabulary))
    short = dataclasses.replace(mixture, max_length=length)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"task_feature_lengths: found token_ids={length}"):
        list(seqio_dataset(short, "cut", seed=0, shuffle=False, num_epochs=1).as_numpy_iterator())


def test_a_mixture_of_which_one_task_has_more_is_seqios(folders, vocabulary):
    tasks = [
        add_record_task("batches_ours", folders["en"], vocabulary),
        register_with("batches_theirs", folders["es"], vocabulary, lambda dataset: dataset),
    ]
    mixture = describe_mixture(add_record_mixture("batches_of_both", tasks, 1.0))
    assert order_of(mixture) == SEQIO_ORDER
    assert next(batches(mixture, 8, seed=0))["token_ids"].shape == (8, 24)


def test_a_flipped_bit_is_named_before_a_record_of_its_shard_is_given(tmp_path, tokenizer, vocabulary):
    """In training and in evaluation; one shard of three is damaged."""
    folder = tmp_path / "records"
    write_records(folder, "es", tokenizer, 30, 16, K)
    good = describe_mixture(add_record_task("batches_good", str(folder), vocabulary))
    rows = Counter(row for batch in evaluation_batches(good, 5) for row in rows_of(batch))
    shard = folder / "shard-00001.tfrecord"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    damaged = describe_mixture(add_record_task("batches_damaged", str(folder), vocabulary))
    for stream in (batches(damaged, 2, seed=0), evaluation_batches(damaged, 2)):
        given = Counter()
        with pytest.raises(RecordError, match=rf"{shard}: field checksum: found \w+, expected \w+"):
            given.update(row for batch in itertools.islice(stream, 100) for row in rows_of(batch))
        assert given <= rows
        assert sum(given.values()) <= 20


def test_a_source_without_a_share_is_never_read(folders, vocabulary):
    tasks = [add_record_task(f"batches_zero_{name}", folders[name], vocabulary) for name in ("en", "es")]
    name = "batches_one_at_zero"
    seqio.MixtureRegistry.add(name, [(tasks[0], 0.0), (tasks[1], 2.0)])
    batch = next(batches(describe_mixture(name), 64, seed=0))
    assert set(batch["source"].tolist()) == {1}
    assert batch["lengths"].max() <= SIZES["es"][1]


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
    assert len(seen) == len(records)


@pytest.mark.parametrize(("exponent", "expected"), [(0.5, (9.487, 5.477, 3.162)), (0.0, (1, 1, 1))])
def test_the_exponent_sets_the_shares(folders, vocabulary, exponent, expected):
    """Over 1,600 rows, to the example: order.py says how near; 0.5 takes square roots."""
    mixture = register(folders, vocabulary, exponent, f"share_{exponent}".replace(".", "_"))
    counts = Counter()
    for batch in itertools.islice(batches(mixture, 32, seed=0), 50):
        counts.update(batch["source"].tolist())
    total = sum(counts.values())
    for source, weight in enumerate(expected):
        share = weight / sum(expected)
        assert counts[source] == pytest.approx(share * total, abs=1 + 3 * share + 0.1)


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


@pytest.mark.parametrize("field", ["input_ids", "gold_ids", "top_ids", "length", "count"])
@pytest.mark.parametrize("evaluation", [True, False])
def test_a_record_beyond_its_manifest_is_refused_by_the_folder(tmp_path, tokenizer, vocabulary, field, evaluation):
    """Its checksum is right, so that nothing notices it before it is laid out."""
    folder = tmp_path / "hostile"
    write_records(folder, "en", tokenizer, 9, 24, 4)
    layout = read_manifest(folder).identity.layout
    (first, *rest) = read_records(folder, 1, layout)
    if field == "length":
        longer = np.concatenate([first.input_ids, np.full(60, 7, np.int32)])
        first = dataclasses.replace(first, input_ids=longer)
    elif field == "count":
        rows = np.zeros(22, np.int64)
        first = dataclasses.replace(
            first,
            input_ids=np.full(24, 7, np.int32),
            masked_positions=np.arange(1, 23, dtype=np.int32),
            gold_ids=first.gold_ids[rows],
            top_ids=first.top_ids[rows],
            top_log_probs=first.top_log_probs[rows],
        )
    else:
        ids = getattr(first, field).copy()
        ids.reshape(-1)[-1] = len(tokenizer.tokens)
        first = dataclasses.replace(first, **{field: ids})
    write_shard(folder, 1, [first, *rest], layout)
    mixture = register({"en": str(folder)}, vocabulary, name="hostile")
    read = evaluation_batches(mixture, 3) if evaluation else itertools.islice(batches(mixture, 3, seed=0), 9)
    with pytest.raises(RecordError, match=rf"^{folder}: found a record beyond its manifest\.json") as error:
        list(read)
    assert "\n" not in str(error.value)
