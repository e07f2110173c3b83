"""One training step, as a function of arrays: loss, gradient over microbatches, update, and sums for the metrics."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mergedistill_jax.configs.losses import DistillationConfig
from mergedistill_jax.configs.schedules import Schedule
from mergedistill_jax.training.log_normalizer import vocabulary_scores
from mergedistill_jax.training.losses import Scores, distillation_loss, gold_cross_entropy
from mergedistill_jax.training.microbatches import ROW_NUMBERS, Layout, over_microbatches

Batch = Mapping[str, Array]
ApplyFn = Callable[..., Any]


class Projection(NamedTuple):
    """What a model's apply function gives: logits are rows . table + bias, and are never made whole.

    Attributes:
        rows: [b, m, d] of the masked positions.
        table: [v, d], read in the dtype of the rows; bias: [v].
    """

    rows: Any
    table: Any
    bias: Any


class TrainState(flax.struct.PyTreeNode):
    """What a step changes: `step`, an int32 scalar, counts finished steps.

    The fields are Any because a pytree's leaves may also be shapes or shardings.
    """

    step: Any
    params: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What a step is besides model, optimizer and data.

    Attributes:
        reduce_gradients: when the gradients of microbatches cross the chips, see microbatches.py.
        chunk_size, vocabulary_shards: of the vocabulary, see log_normalizer.
    """

    num_sources: int
    has_teacher: bool
    distillation: DistillationConfig = DistillationConfig()
    num_microbatches: int = 1
    reduce_gradients: str = "step"
    with_dropout: bool = True
    chunk_size: int = 4096
    vocabulary_shards: int = 1


def score(projection: Projection, batch: Batch, config: StepConfig) -> Scores:
    """The student's scores at the masked positions [b, m] of a batch."""
    # A padded position may hold anything, and 0 * inf would be NaN in the gradient: what is left out below is 0 here.
    rows = jnp.where(batch["loss_weights"][..., None] > 0, projection.rows, 0.0)
    shape, table, bias = rows.shape[:2], projection.table, projection.bias
    flat = rows.reshape(-1, rows.shape[-1])
    temperature = config.distillation.temperature if config.has_teacher else 1.0
    chunks: dict[str, int] = {"chunk_size": config.chunk_size, "shards": config.vocabulary_shards}
    gold_ids, teacher_ids = batch["gold_ids"].reshape(-1, 1), batch["teacher_ids"].reshape(len(flat), -1)
    if temperature == 1.0:
        ids = jnp.concatenate([gold_ids, teacher_ids], axis=-1)
        found = tempered = vocabulary_scores(flat, table, bias, ids, **chunks)
        teacher = found.picked[:, 1:]
    else:
        found = vocabulary_scores(flat, table, bias, gold_ids, **chunks)
        tempered = vocabulary_scores(flat, table, bias, teacher_ids, temperature=temperature, **chunks)
        teacher = tempered.picked
    return Scores(
        log_normalizer=found.log_normalizer.reshape(shape),
        tempered_log_normalizer=tempered.log_normalizer.reshape(shape),
        gold=found.picked[:, 0].reshape(shape),
        teacher=teacher.reshape(*shape, -1),
        best=found.best.reshape(shape),
    )


def position_sums(scores: Scores, batch: Batch, config: StepConfig) -> dict[str, Float[Array, "s"]]:
    """Per source, sums over its masked positions: their count, losses, hits on gold, hits on the teacher's best."""
    weights = batch["loss_weights"]
    values = {
        "count": jnp.ones_like(weights),
        "gold_loss": gold_cross_entropy(scores),
        "gold_hits": (scores.best == batch["gold_ids"]).astype(jnp.float32),
    }
    if config.has_teacher:
        values["teacher_loss"] = distillation_loss(scores, batch["teacher_log_probs"], config.distillation)
        values["teacher_hits"] = (scores.best == batch["teacher_ids"][..., 0]).astype(jnp.float32)
    of_source = jax.nn.one_hot(batch["source"], config.num_sources, dtype=jnp.float32)
    return {
        name: jnp.einsum("bs,b->s", of_source, jnp.sum(jnp.where(weights > 0, value * weights, 0.0), axis=1))
        for name, value in values.items()
    }


def project(apply_fn: ApplyFn, params: Any, batch: Batch, dropout_key: Array | None) -> Projection:
    """The model at the masked positions of a batch; dropout where a key is given.

    A row's dropout is a function of the key and its number, which is its place in the batch unless the batch tells it.
    """
    attention_mask = jnp.arange(batch["token_ids"].shape[1]) < batch["lengths"][:, None]
    drawn: dict[str, Any] = {} if dropout_key is None else {"rngs": {"dropout": dropout_key}}
    if drawn and ROW_NUMBERS in batch:
        drawn[ROW_NUMBERS] = batch[ROW_NUMBERS]
    return Projection(
        *apply_fn(
            {"params": params},
            batch["token_ids"],
            attention_mask,
            batch["masked_positions"],
            deterministic=dropout_key is None,
            **drawn,
        )
    )


def make_train_step(
    apply_fn: ApplyFn,
    optimizer: optax.GradientTransformation,
    gold_weight: Schedule,
    config: StepConfig,
    layout: Layout | None = None,
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]:
    """The step (state, batch, key) -> (state, metric sums).

    The loss is a sum over all masked positions of the global batch divided by their number, which is counted first: the
    parts of the microbatches add up to it, and no second copy of the gradient is made to divide it.

    Args:
        apply_fn: gives a Projection; with dropout it is called with a key and, for a part of a batch, row_numbers [b].
        optimizer: of the parameters.
        gold_weight: lambda at a step.
        config: of the step.
        layout: of the parameters, for microbatches on a mesh.
    """

    def summed_loss(params: Any, batch: Batch, shares: Array, key: Array) -> tuple[Array, dict[str, Array]]:
        projection = project(apply_fn, params, batch, key if config.with_dropout else None)
        sums = position_sums(score(projection, batch, config), batch, config)
        loss = shares[0] * jnp.sum(sums["gold_loss"])
        if config.has_teacher:
            loss += shares[1] * jnp.sum(sums["teacher_loss"])
        return loss, sums

    gradient = over_microbatches(
        jax.grad(summed_loss, has_aux=True), config.num_microbatches, layout, config.reduce_gradients
    )

    def step_fn(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
        weight = gold_weight(state.step)
        key = jax.random.fold_in(key, state.step)
        share = 1.0 / jnp.maximum(jnp.sum(batch["loss_weights"]), 1.0)
        shares = jnp.stack([weight, 1.0 - weight]) * share
        gradients, sums = gradient(state.params, batch, shares, key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        sums = {**sums, "gradient_norm": optax.global_norm(gradients), "gold_weight": weight}
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), sums

    return step_fn


def make_eval_step(apply_fn: ApplyFn, config: StepConfig) -> Callable[[Any, Batch], dict[str, Array]]:
    """(params, batch) -> metric sums per source, without dropout."""

    def eval_fn(params: Any, batch: Batch) -> dict[str, Array]:
        return position_sums(score(project(apply_fn, params, batch, None), batch, config), batch, config)

    return eval_fn
