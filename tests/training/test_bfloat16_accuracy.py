"""Accuracy and agreement as they are logged, from the real model's compiled steps, against an argmax over its rows."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.schedules import GoldWeight, LearningRate
from mergedistill_jax.models.heads import masked_language_model
from mergedistill_jax.models.placement import Placement
from mergedistill_jax.products import on_each
from mergedistill_jax.training.microbatches import Layout
from mergedistill_jax.training.partitioning import ACTIVATION_AXES, make_mesh, place_batch, shardings_of
from mergedistill_jax.training.step import StepConfig, TrainState, make_eval_step, make_train_step, project

BATCH, LENGTH, POSITIONS = 32, 32, 16
ENCODER = EncoderConfig(
    vocab_size=4000,
    num_layers=1,
    hidden_size=256,
    num_heads=4,
    intermediate_size=512,
    max_length=LENGTH,
    dropout_rate=0.0,
    initializer_range=0.05,
)


def given_batch() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    rows = (BATCH, POSITIONS)
    return {
        "token_ids": random.integers(5, ENCODER.vocab_size, (BATCH, LENGTH)).astype(np.int32),
        "lengths": np.full(BATCH, LENGTH, np.int32),
        "masked_positions": np.sort(random.permuted(np.tile(np.arange(LENGTH), (BATCH, 1)), axis=1)[:, :POSITIONS]),
        "gold_ids": np.zeros(rows, np.int32),
        "loss_weights": np.ones(rows, np.float32),
        "teacher_ids": np.zeros((*rows, 1), np.int32),
        "teacher_log_probs": np.full((*rows, 1), -0.1, np.float32),
        "source": np.zeros(BATCH, np.int32),
    }


@pytest.mark.parametrize("devices", [1, 2])
def test_logged_hits_are_those_of_an_argmax_over_the_projected_rows(devices: int) -> None:
    """The gold tokens are the model's own best ones, a quarter of them its second: hits must be found as such.

    The rows come from a program of their own: one that returns them beside the losses rounds them for both.
    """
    mesh = make_mesh(1, jax.devices()[:devices])
    model = masked_language_model(ENCODER, jnp.dtype(jnp.bfloat16), Placement(mesh=mesh, **ACTIVATION_AXES))
    apply_fn = functools.partial(model.apply, method="projection")
    batch = given_batch()
    inputs = (batch["token_ids"][:1], batch["token_ids"][:1] > 0, batch["masked_positions"][:1])
    boxed: Any = jax.jit(model.init)(jax.random.key(0), *inputs)["params"]
    shardings = shardings_of(boxed, mesh)
    params: Any = jax.device_put(nn.unbox(boxed), shardings)
    config = StepConfig(num_sources=1, has_teacher=True, with_dropout=False, chunk_size=1024)
    eval_fn = make_eval_step(apply_fn, config)

    def rows_of(params: Any, batch: Any) -> Any:
        return project(apply_fn, params, batch, None)

    rows, table, bias = jax.jit(on_each(rows_of, mesh))(params, place_batch(batch, mesh))
    logits = np.einsum(
        "bmd,vd->bmv",
        np.asarray(rows, np.float64),
        np.asarray(jnp.asarray(table).astype(jnp.bfloat16), np.float64),
    ) + np.asarray(bias, np.float64)
    order = np.argsort(-logits, axis=-1)
    second = np.random.default_rng(1).random(order.shape[:2]) < 0.25
    gold = np.where(second, order[..., 1], order[..., 0]).astype(np.int32)
    placed = place_batch({**batch, "gold_ids": gold, "teacher_ids": gold[..., None]}, mesh)
    optimizer = AdamWConfig(learning_rate=LearningRate(peak=1e-4, warmup_steps=1)).optimizer(10)
    layout = Layout(mesh=mesh, shardings=shardings)
    step_fn = jax.jit(make_train_step(apply_fn, optimizer, GoldWeight().schedule(10), config, layout))
    state = TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))
    found = {
        "held-out": jax.jit(on_each(eval_fn, mesh))(params, placed),
        "training": step_fn(state, placed, jax.random.key(0))[1],
    }
    expected = 1 - second.mean()
    for where, sums in found.items():
        for name in ("gold_hits", "teacher_hits"):
            share = float(sums[name][0]) / float(sums["count"][0])
            assert abs(share - expected) < 0.01, f"{where}: {name}"
