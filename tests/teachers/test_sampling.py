"""Targets drawn from the teacher: unbiased, the same whatever the batch, and stored in the layout of the k best."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TEXTS
from scipy.special import log_softmax

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.losses import DistillationConfig
from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.configs.sampling import Sampling, require_targets
from mergedistill_jax.configs.schedules import LearningRate
from mergedistill_jax.configs.train import TrainConfig
from mergedistill_jax.configs.verify import VerifyConfig
from mergedistill_jax.configs.vocab import UnionConfig, VocabConfig
from mergedistill_jax.corpus.packing import masked_records
from mergedistill_jax.data.batches import describe_mixture
from mergedistill_jax.data.records import add_record_task
from mergedistill_jax.manifest import read_manifest, read_records
from mergedistill_jax.predict import predict
from mergedistill_jax.schema import NO_MASS, Layout, Record, RecordError, decode_record, encode_record
from mergedistill_jax.teachers.inference import predict_records
from mergedistill_jax.teachers.loading import load_teacher
from mergedistill_jax.teachers.sampling import projected_samples, sampled_target, uniforms_of
from mergedistill_jax.train import train
from mergedistill_jax.training.losses import distillation_loss, scores_of_logits
from mergedistill_jax.verify import verify
from mergedistill_jax.vocab import vocab
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer
from tasks import corpora


def projection(size=50, width=6, rows=4, seed=0, scale=1.5):
    generator = np.random.default_rng(seed)
    return [
        jnp.asarray(generator.normal(size=shape) * scale, jnp.float32)
        for shape in ((rows, width), (size, width), (size,))
    ]


def drawn(rows, table, bias, uniforms, num_tokens=None, chunk_size=16):
    gold = jnp.zeros(len(rows), jnp.int32)
    size = num_tokens or len(table)
    found = projected_samples(
        rows, table, bias, gold, jnp.asarray(uniforms, jnp.float32), num_tokens=size, chunk_size=chunk_size
    )
    return [np.asarray(part) for part in found]


def exact_log_probs(rows, table, bias, num_tokens=None):
    logits = np.asarray(rows, np.float64) @ np.asarray(table, np.float64).T + np.asarray(bias, np.float64)
    return log_softmax(logits[:, : num_tokens or len(table)], axis=-1)


def test_a_worked_example():
    """The drawing of the module's docstring."""
    table, rows = jnp.zeros((4, 2)), jnp.zeros((1, 2))
    bias = jnp.log(jnp.array([0.1, 0.5, 1e-38, 0.4]))
    ids, log_probs, gold = drawn(rows, table, bias, [[0.05, 0.30, 0.55, 0.70]], chunk_size=2)
    assert ids.tolist() == [[0, 1, 1, 3]]
    np.testing.assert_allclose(np.exp(log_probs), [[0.1, 0.5, 0.5, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(gold), [0.1], rtol=1e-6)
    top_ids, shares = sampled_target(ids, 5)
    assert top_ids.tolist() == [[1, 0, 3, 1, 1]]
    np.testing.assert_allclose(np.exp(shares.astype(np.float64)), [[0.5, 0.25, 0.25, 0, 0]], rtol=1e-6)
    assert shares[0, 3:].tolist() == [NO_MASS] * 2


def test_every_token_is_drawn_by_its_share_of_the_unit_interval():
    """An even grid of 5,000 numbers in place of random ones: counts are the probabilities, to one grid step."""
    rows, table, bias = projection()
    count = 5_000
    uniforms = np.broadcast_to((np.arange(count) + 0.5) / count, (len(rows), count))
    probs = np.exp(exact_log_probs(rows, table, bias))
    for chunk_size in (7, 16, 50, 1000):
        ids, log_probs, _ = drawn(rows, table, bias, uniforms, chunk_size=chunk_size)
        counts = np.stack([np.bincount(row, minlength=50) for row in ids])
        np.testing.assert_allclose(counts / count, probs, atol=2.1 / count)
        picked = np.take_along_axis(exact_log_probs(rows, table, bias), ids.astype(int), axis=1)
        np.testing.assert_allclose(log_probs, picked, atol=2e-5)


def test_the_expected_target_is_the_distribution():
    """Over 10,000 independent targets of 4 draws, every share within five standard errors; so is the mean loss."""
    rows, table, bias = projection(rows=1, scale=0.9)
    trials, samples = 10_000, 4
    uniforms = np.random.default_rng(1).random((trials, samples))
    repeated = jnp.broadcast_to(rows, (trials, rows.shape[1]))
    ids, _, _ = drawn(repeated, table, bias, uniforms)
    top_ids, shares = sampled_target(ids, samples)
    total = np.zeros(50)
    np.add.at(total, top_ids.reshape(-1), np.exp(shares.reshape(-1).astype(np.float64)))
    probs = np.exp(exact_log_probs(rows, table, bias))[0]
    error = np.sqrt(probs * (1 - probs) / (trials * samples))
    assert (np.abs(total / trials - probs) <= 5 * error + 1e-9).all()
    student = np.random.default_rng(2).normal(size=50)
    scores = scores_of_logits(
        jnp.broadcast_to(jnp.asarray(student, jnp.float32), (trials, 50)),
        jnp.zeros(trials, jnp.int32),
        jnp.asarray(top_ids),
    )
    losses = np.asarray(distillation_loss(scores, jnp.asarray(shares), DistillationConfig()), np.float64)
    full = -(probs * log_softmax(student)).sum()
    assert abs(losses.mean() - full) < 5 * losses.std() / trials**0.5


def test_the_default_loss_is_the_cross_entropy_of_the_shares():
    """Worked with numpy: unused slots count for nothing, in the loss and in its gradient."""
    ids = np.array([[5, 9, 5, 5], [1, 2, 3, 4]], np.int32)
    top_ids, shares = sampled_target(ids, 6)
    student = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32)
    target = np.zeros((2, 12))
    np.add.at(target, (np.arange(2)[:, None], ids), 0.25)

    def loss(logits, log_shares):
        scores = scores_of_logits(logits, jnp.zeros(2, jnp.int32), jnp.asarray(top_ids))
        return distillation_loss(scores, log_shares, DistillationConfig())

    stored = jnp.asarray(shares.astype(np.float16).astype(np.float32))
    np.testing.assert_allclose(
        loss(jnp.asarray(student), stored), -(target * log_softmax(student, -1)).sum(-1), rtol=1e-3
    )
    np.testing.assert_allclose(
        loss(jnp.asarray(student), jnp.asarray(shares)), -(target * log_softmax(student, -1)).sum(-1), rtol=1e-5
    )
    gradient = jax.grad(lambda logits: loss(logits, jnp.asarray(shares)).sum())(jnp.asarray(student))
    np.testing.assert_allclose(gradient, np.exp(log_softmax(student, -1)) - target, atol=1e-5)


def test_rows_without_a_token_are_never_drawn_and_the_last_sum_has_no_gap():
    rows, table, bias = projection()
    bias = bias.at[40:].set(30.0)  # far the largest, and no tokens
    uniforms = np.concatenate([np.linspace(0, 1, 999, endpoint=False), [np.nextafter(np.float32(1), np.float32(0))]])
    ids, _, _ = drawn(rows, table, bias, np.broadcast_to(uniforms, (4, 1000)), num_tokens=40)
    assert ids.max() < 40
    assert len(set(ids.reshape(-1).tolist())) > 20
    ordered = np.diff(ids[:, :-1], axis=1)
    assert (ordered >= 0).all()  # ascending numbers draw ascending ids


def test_slots_hold_the_most_frequent_first_and_then_the_lowest():
    for ids in itertools.product(range(3), repeat=4):
        (top_ids,), (shares,) = sampled_target(np.array([ids], np.int32), 4)
        counts = {value: ids.count(value) for value in ids}
        expected = sorted(counts, key=lambda value: (-counts[value], value))
        assert top_ids[: len(expected)].tolist() == expected
        assert (top_ids[len(expected) :] == expected[0]).all()
        np.testing.assert_allclose(np.exp(shares[: len(expected)]), [counts[v] / 4 for v in expected], rtol=1e-6)
        assert (shares[len(expected) :] == NO_MASS).all()
        assert np.exp(shares.astype(np.float64)).sum() == pytest.approx(1)


def test_an_unused_slot_survives_the_record_and_has_no_mass():
    top_ids, shares = sampled_target(np.array([[7, 7, 7, 7]], np.int32), 8)
    record = Record(
        text_id=b"12345678",
        draw=0,
        input_ids=np.array([2, 4, 3], np.int32),
        masked_positions=np.array([1], np.int32),
        gold_ids=np.array([7], np.int32),
        top_ids=top_ids,
        top_log_probs=shares,
    )
    layout = Layout(k=8, vocabulary_size=100)
    found = decode_record(encode_record(record, layout), layout)
    assert found.top_log_probs.tolist() == [[0.0] + [NO_MASS] * 7]
    assert np.exp(found.top_log_probs).tolist() == [[1.0] + [0.0] * 7]


MASKING = MaskingConfig(rate=0.3, max_share=0.5, seed=4)
SAMPLING = Sampling(samples=3, seed=4)


@pytest.fixture(scope="module")
def masked(teachers):
    tokenizer = load_tokenizer(teachers["en"])
    return list(masked_records(TEXTS["en"], tokenizer, MASKING, max_length=32, draws=2))


def sampled_records(teachers, records, **changes):
    teacher = load_teacher(str(teachers["en"]), max_length=32, k=4)
    settings = {"k": 4, "batch_size": 3, "length": 32, "max_predictions": 16, "sampling": SAMPLING, **changes}
    return list(predict_records(teacher, records, **settings))


def test_the_draws_do_not_depend_on_the_batch(teachers, masked):
    together = sampled_records(teachers, masked[:5], batch_size=8)
    alone = [found for record in masked[:5] for found in sampled_records(teachers, [record], batch_size=1)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.top_ids, other.top_ids)
        np.testing.assert_array_equal(one.top_log_probs, other.top_log_probs)
    other_seed = sampled_records(teachers, masked[:5], sampling=Sampling(samples=3, seed=5))
    assert any((a.top_ids != b.top_ids).any() for a, b in zip(together, other_seed, strict=True))


def only(record, index, **changes):
    """The record with one masked position left."""
    fields = ("masked_positions", "gold_ids", "top_ids", "top_log_probs")
    return dataclasses.replace(record, **{field: getattr(record, field)[[index]] for field in fields}, **changes)


def test_the_numbers_of_a_position_depend_on_it_alone(masked):
    """Another mask of the same draw draws the same there; other draws, texts and positions draw others."""
    record = masked[0]
    uniforms = uniforms_of(record, SAMPLING)
    last = only(record, -1)
    np.testing.assert_array_equal(uniforms_of(last, SAMPLING), uniforms[-1:])
    everything = np.concatenate([uniforms_of(one, SAMPLING).reshape(-1) for one in masked])
    assert len(np.unique(everything)) > 0.99 * len(everything)
    assert 0 <= everything.min() < everything.max() < 1
    assert uniforms.shape == (len(record.masked_positions), 3)


def test_the_uniforms_are_what_they_were(masked):
    record = only(masked[0], 0, text_id=b"12345678", draw=1)
    record = dataclasses.replace(record, masked_positions=np.array([2], np.int32))
    np.testing.assert_array_equal(
        uniforms_of(record, SAMPLING),
        np.array([[0.944273829460144, 0.35421669483184814, 0.33324968814849854]], np.float32),
    )


def test_the_draws_are_those_of_the_teachers_own_distribution(teachers, masked):
    """Against the k best of the same teacher over its whole vocabulary, and numpy's inverse of the running sum."""
    teacher = load_teacher(str(teachers["en"]), max_length=32, k=4)
    size = teacher.num_tokens
    whole = list(predict_records(teacher, masked, k=size, batch_size=3, length=32, max_predictions=16))
    agreed = total = 0
    for record, full, found in zip(masked, whole, sampled_records(teachers, masked), strict=True):
        probs = np.zeros((len(full.top_ids), size))
        np.put_along_axis(probs, full.top_ids.astype(int), np.exp(full.top_log_probs.astype(np.float64)), axis=1)
        sums = np.cumsum(probs, axis=1)
        expected = (sums[:, None, :] <= uniforms_of(record, SAMPLING)[:, :, None]).sum(axis=2)
        top_ids, _ = sampled_target(expected.astype(np.int32), 4)
        agreed += (top_ids == found.top_ids).all(axis=1).sum()
        total += len(top_ids)
        np.testing.assert_allclose(found.gold_log_probs, full.gold_log_probs, atol=1e-5)
    assert agreed >= total - 1  # a number may lie within rounding of a step


@pytest.mark.parametrize(
    ("targets", "samples", "named"),
    [
        ("best", None, "targets: found 'best', expected one of top, sampled"),
        ("sampled", 9, "samples: found 9, expected from 1 to k=8"),
        ("sampled", 0, "samples: found 0, expected from 1 to k=8"),
        ("top", 4, "samples: found 4, expected None"),
    ],
)
def test_more_draws_than_slots_and_unknown_targets_are_refused(targets, samples, named):
    with pytest.raises(ValueError, match=named):
        require_targets(targets, samples, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, teachers):
    root = tmp_path_factory.mktemp("sampled")
    corpora.add_corpus("sampled_text", lambda _: iter(TEXTS["en"]), ["train"])
    config = PredictConfig(
        output=str(root / "records"),
        corpus="sampled_text",
        split="train",
        language="en",
        teacher=str(teachers["en"]),
        k=4,
        targets="sampled",
        samples=3,
        max_length=32,
        draws=2,
        masking=MASKING,
        batch_size=4,
        documents_per_shard=2,
    )
    predict(config)
    names = {"en": str(teachers["en"])}
    vocab(VocabConfig(output=str(root / "union"), method=UnionConfig(teachers=names)))
    return root


def test_a_folder_of_sampled_targets_says_so_and_holds_them(folder):
    manifest = read_manifest(folder / "records").require_complete()
    assert (manifest.identity.targets, manifest.identity.samples, manifest.identity.k) == ("sampled", 3, 4)
    stored = [
        record
        for entry in manifest.shards
        for record in read_records(folder / "records", entry.shard, manifest.identity.layout)
    ]
    assert sum(entry.gold_nll_nats for entry in manifest.shards) > 0
    for record in stored:
        shares = np.exp(record.top_log_probs.astype(np.float64))
        np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-3)
        np.testing.assert_allclose(shares * 3, np.round(shares * 3), atol=2e-3)
        assert (record.top_log_probs[:, 3] == NO_MASS).all()  # three draws fill three slots at most


def train_config(folder, mixture, **changes):
    return TrainConfig(
        output=str(folder),
        mixture=mixture,
        model=lambda vocab_size, max_length: EncoderConfig(
            vocab_size=vocab_size,
            max_length=max_length,
            num_layers=1,
            hidden_size=16,
            num_heads=2,
            intermediate_size=32,
        ),
        optimizer=AdamWConfig(learning_rate=LearningRate(peak=1e-3, warmup_steps=1)),
        steps=2,
        batch_size=8,
        log_every=1,
        save_every=2,
        evaluate_every=None,
        **changes,
    )


@pytest.mark.slow
def test_a_student_trains_on_them_and_other_readings_are_refused(tmp_path, folder):
    name = add_record_task("sampled_en", str(folder / "records"), str(folder / "union"))
    mixture = describe_mixture(name)
    assert mixture.sampled == (str(folder / "records"),)
    with pytest.raises(RecordError, match="field k: found 4, expected 2 as used"):
        describe_mixture(name, 2)
    for distillation in (
        DistillationConfig(missing_mass="tail"),
        DistillationConfig(missing_mass="to_gold"),
        DistillationConfig(temperature=2.0),
    ):
        with pytest.raises(RecordError, match="field targets: found 'sampled' with Dist") as error:
            train(train_config(tmp_path / "refused", name, distillation=distillation))
        assert "\n" not in str(error.value)
    state = train(train_config(tmp_path / "run", name))
    assert int(state.step) == 2


def test_verify_checks_them_and_draws_them_again(folder, teachers):
    (report,) = verify(VerifyConfig(folder=str(folder / "records"), tokenizer=str(teachers["en"])))
    assert report.sound
    (report,) = verify(VerifyConfig(folder=str(folder / "records"), teacher=str(teachers["en"])))
    assert report.replay.same_candidates == 1.0
