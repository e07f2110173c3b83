"""Fine-tuning of a token classifier, as functions of arrays: loss, learning rates, a training step, a prediction."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from mergedistill_jax.configs.optimizer import decayed

Params = Any
Batch = Mapping[str, Any]


def token_classification_loss(
    logits: Float[Array, "b l c"], label_ids: Int[Array, "b l"], weights: Float[Array, "b l"]
) -> Float[Array, ""]:
    """Cross-entropy in nats per labelled word: weighted sum over sum of weights; 0 where nothing is labelled."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label_ids)
    return (losses * weights).sum() / jnp.maximum(weights.sum(), 1.0)


def learning_rates(peak: float, num_steps: int, warmup_share: float) -> Float[np.ndarray, " s"]:
    """Rate of each step: up linearly, then down; 0 before the first step and after the last, so none is wasted."""
    warmup = max(1, round(warmup_share * num_steps))
    steps = np.arange(1, num_steps + 1)
    return (peak * np.minimum(steps / warmup, (num_steps + 1 - steps) / (num_steps + 1 - warmup))).astype(np.float32)


def tagging_optimizer(weight_decay: float) -> optax.GradientTransformation:
    """AdamW at rate 1; gradients clipped to norm 1, no decay of biases and normalisation (BERT)."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1.0, weight_decay=weight_decay, mask=decayed))


# The steps are jitted once here, not in a closure per run: runs of one model and batch size share the compiled code.
@functools.partial(jax.jit, static_argnames=("model", "weight_decay"), donate_argnames=("params", "state"))
def train_step(
    params: Params,
    state: Any,
    batch: Batch,
    rate: jax.Array,
    key: jax.Array,
    *,
    model: nn.Module,
    weight_decay: float,
) -> tuple[Params, Any, jax.Array]:
    """New parameters, new optimizer state and the batch's loss; the given parameters and state are consumed."""

    def loss_fn(params: Params) -> jax.Array:
        logits: Any = model.apply(
            {"params": params}, batch["token_ids"], batch["attention_mask"], deterministic=False, rngs={"dropout": key}
        )
        return token_classification_loss(logits, batch["label_ids"], batch["weights"])

    loss, gradients = jax.value_and_grad(loss_fn)(params)
    updates, state = tagging_optimizer(weight_decay).update(gradients, state, params)
    return jax.tree.map(lambda value, update: value + rate * update, params, updates), state, loss


@functools.partial(jax.jit, static_argnames="model")
def predict_step(params: Params, batch: Batch, *, model: nn.Module) -> Int[Array, "b l"]:
    """The most probable label id at every position."""
    logits: Any = model.apply({"params": params}, batch["token_ids"], batch["attention_mask"])
    return jnp.argmax(logits, axis=-1)
