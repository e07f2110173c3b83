"""The student as a T5X model: the loss that T5X sums up is our step's, and what T5X asks of a model is there."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("t5x.train", reason="T5X is not importable here: README.md says how it is installed")

import t5x.trainer
from flax.linen import partitioning as flax_partitioning
from jax.sharding import PartitionSpec as P
from small_merge import MODEL, Merge, make_merge, train_config
from t5x_runs import partitioner

from mergedistill_jax.configs.vocab import UnionConfig, VocabConfig
from mergedistill_jax.data.batches import batches
from mergedistill_jax.models.heads import masked_language_model
from mergedistill_jax.t5x_adapter import annealing, axes, student
from mergedistill_jax.t5x_adapter.datasets import GOLD_WEIGHT
from mergedistill_jax.train import student_encoder
from mergedistill_jax.training.checkpoints import CheckpointError
from mergedistill_jax.training.step import StepConfig, TrainState, make_train_step
from mergedistill_jax.vocab import vocab


@pytest.fixture(scope="module")
def merge(teachers: dict[str, Path]) -> Merge:
    return make_merge(next(iter(teachers.values())).parent)


@pytest.fixture(scope="module")
def model(merge: Merge) -> student.Student:
    config = train_config(merge, "unused", model=functools.partial(MODEL, dropout_rate=0.0))
    return student.distilled(config, partitioner(), seed=3)


@pytest.fixture(scope="module")
def batch(model: student.Student) -> dict[str, Any]:
    assert model.mixture is not None
    return jax.tree.map(jnp.asarray, next(iter(batches(model.mixture, 8, seed=0))))


@pytest.fixture(scope="module")
def params(model: student.Student, batch: dict[str, Any]) -> Any:
    shapes = {name: rows.shape for name, rows in batch.items()}
    return model.get_initial_variables(jax.random.PRNGKey(0), shapes)["params"]


def our_step(model: student.Student, params: Any, batch: dict[str, Any], step: int) -> tuple[Any, dict[str, Any]]:
    """The gradient and the sums of our own step, by an optimizer that shows its gradient."""
    import optax  # noqa: PLC0415 - here alone

    assert model.mixture is not None
    shown = optax.GradientTransformation(lambda _: (), lambda gradients, _state, _params: (gradients, ()))
    config = StepConfig(num_sources=len(model.groups.sources), has_teacher=True, with_dropout=False)
    apply_fn = functools.partial(model.module.apply, method="projection")
    step_fn = make_train_step(apply_fn, shown, model.gold_weight, config)
    state = TrainState(step=jnp.asarray(step), params=params, opt_state=())
    after, sums = step_fn(state, batch, jax.random.key(0))
    return jax.tree.map(jnp.subtract, after.params, params), sums


@pytest.mark.parametrize("step", [0, 13, 39])
def test_the_gradient_is_our_steps(model: student.Student, params: Any, batch: dict[str, Any], step: int) -> None:
    weighted = annealing.with_weight(batch, model.gold_weight(step))
    (loss, metrics), gradient = jax.value_and_grad(model.loss_fn, has_aux=True)(params, weighted, None)
    expected, sums = our_step(model, params, batch, step)
    for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    weight, count = float(model.gold_weight(step)), float(jnp.sum(sums["count"]))
    by_hand = (weight * sums["gold_loss"].sum() + (1 - weight) * sums["teacher_loss"].sum()) / count
    assert float(loss) == pytest.approx(float(by_hand), rel=1e-6)
    assert float(metrics["loss"].compute()) == pytest.approx(float(by_hand), rel=1e-6)
    assert float(metrics["gold_loss"].compute()) == pytest.approx(float(sums["gold_loss"].sum()) / count, rel=1e-6)
    assert float(metrics["gold_weight"].compute()) == pytest.approx(weight)


def test_microbatches_add_up_to_the_batch(model: student.Student, params: Any, batch: dict[str, Any]) -> None:
    """Uneven numbers of masked positions: a mean of means would differ."""
    uneven = {**batch, "loss_weights": batch["loss_weights"] * (np.arange(8) % 3 == 0)[:, None]}
    weighted = annealing.with_weight(uneven, jnp.asarray(0.3))
    whole = jax.grad(lambda p: model.loss_fn(p, weighted, None)[0])(params)
    parts = [{name: rows[half] for name, rows in weighted.items()} for half in (slice(0, 4), slice(4, 8))]
    gradients = [jax.grad(lambda p, part=part: model.loss_fn(p, part, None)[0])(params) for part in parts]
    for one, first, second in zip(*map(jax.tree.leaves, (whole, *gradients)), strict=True):
        np.testing.assert_allclose(one, first + second, atol=1e-6)
    counts = [float(part["loss_weights"].sum()) for part in parts]
    assert counts[0] != counts[1]


def test_a_batch_without_a_masked_position_gives_zeros(
    model: student.Student, params: Any, batch: dict[str, Any]
) -> None:
    weighted = annealing.with_weight({**batch, "loss_weights": 0 * batch["loss_weights"]}, jnp.asarray(0.5))
    (loss, _), gradient = jax.value_and_grad(model.loss_fn, has_aux=True)(params, weighted, None)
    assert float(loss) == 0.0
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_a_loss_that_is_not_told_the_weight_says_what_to_do(
    model: student.Student, params: Any, batch: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"batch: found no 'gold_weight', expected trainer_cls = @annealing"):
        model.loss_fn(params, batch, None)


def test_dropout_needs_a_key_and_a_rate(merge: Merge, batch: dict[str, Any]) -> None:
    config = train_config(merge, "unused", model=functools.partial(MODEL, dropout_rate=0.5))
    dropping = student.distilled(config, partitioner(), seed=3)
    params = dropping.get_initial_variables(jax.random.PRNGKey(0), {n: r.shape for n, r in batch.items()})["params"]
    weighted = annealing.with_weight(batch, jnp.asarray(0.5))
    losses = {
        name: float(dropping.loss_fn(params, weighted, key)[0])
        for name, key in (("one", jax.random.key(0)), ("same", jax.random.key(0)), ("other", jax.random.key(1)))
    }
    losses["none"] = float(dropping.loss_fn(params, weighted, None)[0])
    assert losses["one"] == losses["same"]
    assert len({losses["one"], losses["other"], losses["none"]}) == 3


def test_predictions_and_scores(model: student.Student, params: Any, batch: dict[str, Any]) -> None:
    """Against the whole logits."""
    mask = jnp.arange(batch["token_ids"].shape[1]) < batch["lengths"][:, None]
    logits: Any = model.module.apply({"params": params}, batch["token_ids"], mask, batch["masked_positions"])
    log_probs = jax.nn.log_softmax(logits)
    of_gold = np.take_along_axis(np.asarray(log_probs), batch["gold_ids"][..., None], axis=-1)[..., 0]
    best, aux = model.predict_batch_with_aux(params, batch)
    inside = np.asarray(batch["loss_weights"] > 0)
    np.testing.assert_array_equal(np.asarray(best)[inside], np.argmax(logits, axis=-1)[inside])
    np.testing.assert_allclose(np.asarray(aux["gold_nll"])[inside], -of_gold[inside], atol=1e-5)
    np.testing.assert_array_equal(model.predict_batch(params, batch), best)
    np.testing.assert_allclose(model.score_batch(params, batch), (of_gold * inside).sum(axis=1), atol=1e-4)
    _, more = model.score_batch(params, batch, return_intermediates=True)
    np.testing.assert_allclose(more["log_probs"], of_gold * inside, atol=1e-5)


def test_candidates_are_the_most_probable_tokens(model: student.Student, params: Any, batch: dict[str, Any]) -> None:
    filling = student.Student(model.encoder, partitioner(), candidates=4)
    best, aux = filling.predict_batch_with_aux(params, {**batch, "teacher_ids": batch["teacher_ids"][..., :0]})
    inside = np.asarray(batch["loss_weights"] > 0)
    ids, log_probs = np.asarray(aux["candidate_ids"])[inside], np.asarray(aux["candidate_log_probs"])[inside]
    np.testing.assert_array_equal(ids[:, 0], np.asarray(best)[inside])
    assert (np.diff(log_probs, axis=1) <= 0).all()
    mask = jnp.arange(batch["token_ids"].shape[1]) < batch["lengths"][:, None]
    logits: Any = model.module.apply({"params": params}, batch["token_ids"], mask, batch["masked_positions"])
    expected = np.sort(np.asarray(jax.nn.log_softmax(logits))[inside], axis=-1)[:, ::-1][:, :4]
    np.testing.assert_allclose(log_probs, expected, atol=1e-5)


def test_evaluation_metrics_are_means_by_language_and_teacher(
    model: student.Student, params: Any, batch: dict[str, Any]
) -> None:
    _, sums = our_step(model, params, batch, 0)
    loss, metrics = model.eval_fn(params, batch)
    assert float(loss) == pytest.approx(float(sums["gold_loss"].sum() / sums["count"].sum()), rel=1e-6)
    assert GOLD_WEIGHT not in metrics
    for language in ("en", "es"):
        here = np.array([one == language for one in model.groups.languages])
        expected = sums["gold_hits"][here].sum() / sums["count"][here].sum()
        assert float(metrics[f"masked_accuracy/language/{language}"].compute()) == pytest.approx(float(expected))


def test_parameters_are_drawn_as_our_runner_draws_them(model: student.Student, params: Any, batch: Any) -> None:
    length, rows = batch["token_ids"].shape[1], batch["masked_positions"].shape[1]
    inputs = (jnp.zeros((1, length), jnp.int32), jnp.ones((1, length), bool), jnp.zeros((1, rows), jnp.int32))
    key = jax.random.fold_in(jax.random.key(3), 0)
    expected = nn.unbox(masked_language_model(model.encoder).init(key, *inputs))["params"]
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_parameter_has_its_axes_and_what_does_not_divide_has_none(model: student.Student, batch: Any) -> None:
    """On the eight CPU devices of the tests, T5X's model axis has all of them: 2 heads do not divide, 32 of mlp do."""
    found = model.get_initial_variables(jax.random.PRNGKey(0), {name: rows.shape for name, rows in batch.items()})
    names = flax_partitioning.get_axis_names(found["params_axes"])
    assert jax.tree.structure(found["params"]) == jax.tree.structure(names, is_leaf=lambda leaf: isinstance(leaf, P))
    layer = names["encoder"]["layers_0"]
    assert layer["wi"]["kernel"] == P("embed", "mlp")
    assert layer["attention"]["query"]["kernel"] == P("embed", None, "kv")
    divides = model.encoder.vocab_size % jax.device_count() == 0
    assert names["encoder"]["embeddings"]["token"] == P("vocab" if divides else None, "embed")
    assert axes.vocabulary_shards(model.encoder.vocab_size, partitioner().mesh) == (8 if divides else 1)
    assert axes.vocabulary_shards(16, partitioner().mesh) == 8


def test_t5xs_bindings_reach_the_model(merge: Merge) -> None:
    """TRAIN_STEPS and RANDOM_SEED are given beside the config, and MIXTURE_OR_TASK_NAME."""
    config = train_config(merge, "unused")
    model = student.distilled(config, partitioner(), steps=11, seed=5, mixture=config.heldout)
    assert model.config is not None
    assert (model.config.steps, model.config.seed, model.config.mixture) == (11, 5, "small_heldout")
    assert float(model.gold_weight(10)) == 1.0
    rates = student.learning_rate(config, 11)
    assert float(rates(2)) == pytest.approx(3e-2)
    assert float(rates(11)) == pytest.approx(0.0, abs=1e-9)
    assert dataclasses.asdict(model.encoder) == dataclasses.asdict(student_encoder(config, model.mixture))


def test_the_trainer_keeps_t5xs_own_settings() -> None:
    assert issubclass(annealing.annealing(), t5x.trainer.Trainer)

    class Configured(t5x.trainer.Trainer):
        pass

    assert issubclass(annealing.annealing(Configured), Configured)


def test_a_checkpoint_of_another_vocabulary_is_refused(merge: Merge, teachers: dict[str, Path], tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    vocab(VocabConfig(output=other, method=UnionConfig(teachers={"en": str(teachers["en"])})))
    model = student.distilled(train_config(merge, tmp_path), partitioner())
    annealing.open_run(tmp_path, model.run(8, 1))
    found = student.trained(str(tmp_path / "checkpoint_3"), partitioner(), vocabulary=merge.vocabulary)
    assert found.encoder == model.encoder
    with pytest.raises(CheckpointError, match=r"checkpoint_3: field vocabulary_hash: found .*, expected .* of .*other"):
        student.trained(str(tmp_path / "checkpoint_3"), partitioner(), vocabulary=other)


@pytest.mark.parametrize("length", [16, 24, 48])
def test_the_length_of_text_is_the_students(merge: Merge, tmp_path: Path, length: int) -> None:
    run = student.distilled(train_config(merge, tmp_path), partitioner()).run(8, 1)
    annealing.open_run(tmp_path, dataclasses.replace(run, model={**run.model, "max_length": length}))
    for checkpoint in (str(tmp_path / "checkpoint_3"), (str(tmp_path / "checkpoint_3"),)):
        assert student.text_length(checkpoint) == length


def test_the_run_is_found_from_its_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / "checkpoint_3").mkdir(parents=True)
    (tmp_path / "run" / "run.json").write_text("{}")
    for path in ("run", "run/checkpoints", "run/checkpoints/checkpoint_3"):
        assert student.run_folder(tmp_path / path).name == "run"
    assert student.folder_of_model_dir(tmp_path / "run" / "checkpoints").name == "run"
    assert student.folder_of_model_dir(tmp_path / "model").name == "model"
    with pytest.raises(CheckpointError, match=r"found no run.json in it or the two folders above"):
        student.run_folder(tmp_path / "elsewhere" / "checkpoints" / "checkpoint_3")
