"""The training step: one loss whatever the devices and microbatches, and metric sums worked by hand."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from mergedistill_jax.configs.losses import DistillationConfig
from mergedistill_jax.configs.schedules import GoldWeight
from mergedistill_jax.data.records import IMPOSSIBLE_LOG_PROB
from mergedistill_jax.training.microbatches import Layout
from mergedistill_jax.training.partitioning import make_mesh, place_batch, shardings_of
from mergedistill_jax.training.step import (
    Projection,
    StepConfig,
    TrainState,
    make_eval_step,
    make_train_step,
    position_sums,
    project,
    score,
)

VOCABULARY, WIDTH = 24, 8


class Model(nn.Module):
    """The smallest model with the interface of the real one: rows see their context, the table is tied, axes are named.

    The step is given an apply function and knows no model; this one compiles in a moment.
    """

    dropout_rate: float = 0.0

    @nn.compact
    def __call__(
        self,
        token_ids: jax.Array,
        attention_mask: jax.Array,
        masked_positions: jax.Array,
        *,
        deterministic: bool = True,
        row_numbers: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        named, normal = nn.with_logical_partitioning, nn.initializers.normal(1.0)
        table = self.param("token", named(normal, ("vocab", "embed")), (VOCABULARY, WIDTH))
        kernel = self.param("kernel", named(normal, ("embed", "mlp")), (WIDTH, WIDTH))
        bias = self.param("decoder_bias", named(nn.initializers.zeros, ("vocab",)), (VOCABULARY,))
        x = table[token_ids] * attention_mask[..., None]
        x = x + jnp.mean(x, axis=1, keepdims=True)
        rows = jnp.tanh(jnp.take_along_axis(x, masked_positions[..., None], axis=1) @ kernel)
        if not deterministic:
            numbers = jnp.arange(len(rows)) if row_numbers is None else row_numbers
            keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("dropout"), numbers)
            keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.dropout_rate, rows.shape[1:]))(keys)
            rows = jnp.where(keep, rows / (1 - self.dropout_rate), 0.0)
        return rows, table, bias


MODEL = Model()
ROWS, LENGTH, POSITIONS, CANDIDATES = 16, 6, 3, 2
LAMBDA = 0.3

# Plain descent that keeps the last gradient as its state: Adam would divide the gradient's size away.
DESCENT = optax.GradientTransformation(
    lambda params: jax.tree.map(jnp.zeros_like, params),
    lambda gradient, state, params=None: (jax.tree.map(lambda g: -0.1 * g, gradient), gradient),  # noqa: ARG005 - optax's signature
)


def as_arrays(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(rows) for name, rows in batch.items()}


def make_batch(seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of 0 to 3 masked positions, unevenly spread, so that a mean of means differs from the mean."""
    random = np.random.default_rng(seed)
    counts = np.array([3, 0, 1, 3, 0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 1, 0])
    weights = (np.arange(POSITIONS) < counts[:, None]).astype(np.float32)
    log_probs = np.log(random.dirichlet(np.ones(8), (ROWS, POSITIONS))[..., :CANDIDATES])
    return {
        "token_ids": random.integers(0, VOCABULARY, (ROWS, LENGTH)).astype(np.int32),
        "lengths": random.integers(2, LENGTH + 1, ROWS).astype(np.int32),
        "masked_positions": random.integers(0, 2, (ROWS, POSITIONS)).astype(np.int32),
        "gold_ids": random.integers(0, VOCABULARY, (ROWS, POSITIONS)).astype(np.int32),
        "loss_weights": weights,
        "teacher_ids": random.integers(0, VOCABULARY, (ROWS, POSITIONS, CANDIDATES)).astype(np.int32),
        "teacher_log_probs": np.where(weights[..., None] > 0, log_probs, IMPOSSIBLE_LOG_PROB).astype(np.float32),
        "source": (np.arange(ROWS) % 2).astype(np.int32),
    }


@functools.cache
def initial() -> Any:
    shapes = (jnp.zeros((1, LENGTH), jnp.int32), jnp.ones((1, LENGTH), bool), jnp.zeros((1, POSITIONS), jnp.int32))
    return jax.jit(MODEL.init)(jax.random.key(0), *shapes)["params"]


def run_steps(
    *,
    devices: int = 1,
    microbatches: int = 1,
    model_parallelism: int = 1,
    fsdp_parallelism: int = 1,
    reduce: str = "step",
    dropout: float = 0.0,
    gold: float = LAMBDA,
    has_teacher: bool = True,
    batch: dict[str, np.ndarray] | None = None,
    steps: int = 1,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Some steps from the same start; the state's opt_state is the last gradient."""
    mesh = make_mesh(model_parallelism, jax.devices()[:devices], fsdp_parallelism=fsdp_parallelism)
    config = StepConfig(
        num_sources=2,
        has_teacher=has_teacher,
        num_microbatches=microbatches,
        reduce_gradients=reduce,
        with_dropout=dropout > 0,
    )
    schedule = GoldWeight(shape="constant", stop=gold).schedule(1)
    state, layout = placed_start(mesh)
    step_fn = jax.jit(make_train_step(Model(dropout).apply, DESCENT, schedule, config, layout))
    sums = {}
    for number in range(steps):
        placed = place_batch(make_batch(number) if batch is None else batch, mesh)
        state, sums = step_fn(state, placed, jax.random.key(1))
    return state, jax.device_get(sums)


def placed_start(mesh: Mesh) -> tuple[TrainState, Layout]:
    boxed = initial()
    shardings = shardings_of(boxed, mesh)
    params = jax.device_put(nn.unbox(boxed), shardings)
    state = TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=DESCENT.init(params))
    return state, Layout(mesh=mesh, shardings=shardings)


def assert_same(found: Any, expected: Any) -> None:
    """Equal to 1e-5 of each entry, or of the largest entry of all: some gradients are exactly zero in theory."""
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5 * largest), found, expected)


@pytest.fixture(scope="module")
def reference() -> tuple[TrainState, dict[str, np.ndarray]]:
    return run_steps(steps=2, dropout=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "microbatches", "fsdp_parallelism", "model_parallelism", "reduce"),
    [
        (2, 1, 1, 1, "step"),
        (8, 1, 1, 1, "step"),
        (1, 2, 1, 1, "step"),
        (1, 4, 1, 1, "step"),
        (8, 2, 1, 1, "step"),
        (2, 1, 1, 2, "step"),
        (8, 2, 1, 2, "step"),
        (8, 4, 1, 1, "step"),  # fewer rows on a device than microbatches
        (8, 2, 8, 1, "step"),
        (8, 4, 2, 2, "step"),
        (8, 4, 2, 2, "microbatch"),
    ],
)
def test_devices_microbatches_and_parallelism_change_nothing(
    reference: tuple[TrainState, dict[str, np.ndarray]],
    devices: int,
    microbatches: int,
    fsdp_parallelism: int,
    model_parallelism: int,
    reduce: str,
) -> None:
    """Trap 8: sum over sum. And dropout belongs to a row of the whole batch."""
    state, sums = run_steps(
        devices=devices,
        microbatches=microbatches,
        fsdp_parallelism=fsdp_parallelism,
        model_parallelism=model_parallelism,
        reduce=reduce,
        steps=2,
        dropout=0.5,
    )
    assert_same(sums, reference[1])
    assert_same(state.opt_state, reference[0].opt_state)
    assert_same(state.params, reference[0].params)


def plain_loss(params: Any, batch: dict[str, np.ndarray], gold: float) -> jax.Array:
    """The loss by its definition, over all masked positions of the batch at once."""
    attention_mask = jnp.arange(LENGTH) < batch["lengths"][:, None]
    rows, table, bias = MODEL.apply({"params": params}, batch["token_ids"], attention_mask, batch["masked_positions"])
    logits = rows @ table.T + bias
    log_probs = jax.nn.log_softmax(logits)
    losses = -gold * jnp.take_along_axis(log_probs, batch["gold_ids"][..., None], -1)[..., 0]
    shares = jax.nn.softmax(jnp.asarray(batch["teacher_log_probs"]))
    losses -= (1 - gold) * jnp.sum(shares * jnp.take_along_axis(log_probs, batch["teacher_ids"], -1), -1)
    return jnp.sum(losses * batch["loss_weights"]) / jnp.sum(batch["loss_weights"])


def test_the_gradient_is_that_of_the_mean_over_all_masked_positions() -> None:
    state, sums = run_steps()
    params = nn.unbox(initial())
    expected = jax.jit(jax.grad(plain_loss))(params, make_batch(), LAMBDA)
    assert_same(state.opt_state, expected)
    assert_same(state.params, jax.tree.map(lambda p, g: p - 0.1 * g, params, expected))
    assert sums["gradient_norm"] == pytest.approx(float(optax.global_norm(expected)), rel=1e-5)
    assert int(state.step) == 1


def test_these_masks_would_show_a_mean_of_means() -> None:
    """Means over halves, then their mean: another gradient, so that the tests above can fail."""
    params, batch = nn.unbox(initial()), make_batch()
    gradient = jax.jit(jax.grad(plain_loss))
    halves = [{name: rows[half::2] for name, rows in batch.items()} for half in (0, 1)]
    wrong = jax.tree.map(lambda a, b: (a + b) / 2, *(gradient(params, half, LAMBDA) for half in halves))
    right = gradient(params, batch, LAMBDA)
    difference = optax.global_norm(jax.tree.map(jnp.subtract, wrong, right)) / optax.global_norm(right)
    assert difference > 1e-2


def test_lambda_1_is_a_step_on_gold_labels_alone() -> None:
    with_teacher, sums = run_steps(gold=1.0)
    without, gold_sums = run_steps(gold=1.0, has_teacher=False)
    assert_same(with_teacher.params, without.params)
    assert set(sums) - set(gold_sums) == {"teacher_loss", "teacher_hits"}


def test_lambda_0_never_looks_at_the_gold_labels() -> None:
    batch = make_batch()
    other = {**batch, "gold_ids": (batch["gold_ids"] + 1) % VOCABULARY}
    assert_same(run_steps(gold=0.0, batch=batch)[0].params, run_steps(gold=0.0, batch=other)[0].params)


def test_a_batch_without_any_masked_position_moves_nothing() -> None:
    """Trap 7: 0 / 0, and the gradient of what was masked away."""
    batch = make_batch()
    empty = {**batch, "loss_weights": np.zeros_like(batch["loss_weights"])}
    state, sums = run_steps(batch=empty)
    for leaf in jax.tree.leaves(state.opt_state):
        np.testing.assert_array_equal(leaf, 0.0)
    assert all(np.isfinite(value).all() for value in sums.values())
    assert float(np.sum(sums["count"])) == 0.0


def hand_made() -> tuple[np.ndarray, dict[str, np.ndarray], StepConfig]:
    """Three tokens, two rows of two positions; the second position of row 0 is padding. Gold id 0 counts."""
    ln2, ln4 = np.log(2), np.log(4)
    logits = np.array([[[0, ln2, 0], [0, 0, 0]], [[ln4, 0, 0], [0, 0, ln2]]], np.float32)
    batch = {
        "gold_ids": np.array([[1, 0], [0, 0]], np.int32),
        "loss_weights": np.array([[1, 0], [1, 1]], np.float32),
        "teacher_ids": np.array([[[1], [0]], [[2], [2]]], np.int32),
        "teacher_log_probs": np.zeros((2, 2, 1), np.float32),
        "source": np.array([2, 0], np.int32),
    }
    return logits, batch, StepConfig(num_sources=3, has_teacher=True, distillation=DistillationConfig())


def sums_of_rows(rows: jax.Array, batch: dict[str, np.ndarray], config: StepConfig) -> dict[str, jax.Array]:
    """With the identity as the table, the rows are the logits."""
    projection = Projection(rows=rows, table=jnp.eye(rows.shape[-1]), bias=jnp.zeros(rows.shape[-1]))
    return position_sums(score(projection, as_arrays(batch), config), as_arrays(batch), config)


def test_metric_sums_per_source_by_hand() -> None:
    """Probabilities are (1, 2, 1)/4; (4, 1, 1)/6 and (1, 1, 2)/4. Source 1 has no row."""
    logits, batch, config = hand_made()
    found = sums_of_rows(jnp.asarray(logits), batch, config)
    expected = {
        "count": [2, 0, 1],
        "gold_loss": [np.log(6 / 4) + np.log(4), 0, np.log(2)],
        "gold_hits": [1, 0, 1],
        "teacher_loss": [np.log(6) + np.log(2), 0, np.log(2)],
        "teacher_hits": [1, 0, 1],
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("garbage", [np.inf, -np.inf, np.nan])
def test_garbage_in_a_padded_position_reaches_neither_sums_nor_gradient(garbage: float) -> None:
    logits, batch, config = hand_made()
    expected = sums_of_rows(jnp.asarray(logits), batch, config)
    logits[0, 1] = [garbage, 0.0, garbage]
    batch["teacher_log_probs"][0, 1] = IMPOSSIBLE_LOG_PROB

    def loss(logits: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        sums = sums_of_rows(logits, batch, config)
        return jnp.sum(sums["gold_loss"]) + jnp.sum(sums["teacher_loss"]), sums

    gradient, found = jax.grad(loss, has_aux=True)(jnp.asarray(logits))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[0, 1], 0.0)
    assert np.abs(gradient[1]).max() > 0.1


def test_padding_beyond_a_rows_length_is_not_seen() -> None:
    batch, params = make_batch(), nn.unbox(initial())
    other = dict(batch)
    other["token_ids"] = np.where(np.arange(LENGTH) < batch["lengths"][:, None], batch["token_ids"], 5)
    assert (other["token_ids"] != batch["token_ids"]).any()
    one, two = (project(MODEL.apply, params, as_arrays(b), None) for b in (batch, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_evaluation_equals_the_sums_of_a_step_before_its_update() -> None:
    config = StepConfig(num_sources=2, has_teacher=True)
    found = jax.jit(make_eval_step(MODEL.apply, config))(nn.unbox(initial()), as_arrays(make_batch()))
    _, sums = run_steps()
    assert_same(found, {name: sums[name] for name in found})


def test_dropout_is_a_function_of_key_and_step() -> None:
    model = Model(dropout_rate=0.5)
    params = nn.unbox(initial())
    config = StepConfig(num_sources=2, has_teacher=True)
    step_fn = jax.jit(make_train_step(model.apply, DESCENT, GoldWeight().schedule(10), config))

    def loss(step: int, key: int) -> float:
        state = TrainState(step=jnp.asarray(step, jnp.int32), params=params, opt_state=DESCENT.init(params))
        return float(np.sum(step_fn(state, as_arrays(make_batch()), jax.random.key(key))[1]["gold_loss"]))

    assert loss(3, 1) == loss(3, 1)
    assert loss(3, 1) != loss(4, 1)
    assert loss(3, 1) != loss(3, 2)
