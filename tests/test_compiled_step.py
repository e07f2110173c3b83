"""The compiled training step of the real model: what it must not hold."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.schedules import GoldWeight, LearningRate
from mergedistill_jax.models.heads import MaskedLanguageModel
from mergedistill_jax.training.step import StepConfig, TrainState, make_train_step

BATCH, LENGTH, POSITIONS, VOCABULARY, K = 4, 16, 3, 1009, 8  # 1009 is prime: no other size is made of it
ENCODER = EncoderConfig(
    vocab_size=VOCABULARY, num_layers=1, hidden_size=8, num_heads=2, intermediate_size=16, max_length=LENGTH
)


def float32_shapes(chunk_size: int) -> set[tuple[int, ...]]:
    """Shapes of all float32 arrays in the compiled step."""
    model = MaskedLanguageModel(ENCODER)
    optimizer = AdamWConfig(learning_rate=LearningRate(peak=1e-3, warmup_steps=1)).optimizer(10)
    config = StepConfig(num_sources=1, has_teacher=True, chunk_size=chunk_size)
    step_fn = make_train_step(
        functools.partial(model.apply, method="projection"), optimizer, GoldWeight().schedule(10), config
    )
    integers, rows = functools.partial(jnp.zeros, dtype=jnp.int32), (BATCH, POSITIONS)
    batch = {
        "token_ids": integers((BATCH, LENGTH)),
        "lengths": integers(BATCH),
        "masked_positions": integers(rows),
        "gold_ids": integers(rows),
        "loss_weights": jnp.zeros(rows),
        "teacher_ids": integers((*rows, K)),
        "teacher_log_probs": jnp.zeros((*rows, K)),
        "source": integers(BATCH),
    }
    inputs = (batch["token_ids"], batch["token_ids"] == 0, batch["masked_positions"])
    params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *inputs))["params"]
    state = TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=jax.eval_shape(optimizer.init, params))
    text = jax.jit(step_fn).lower(state, batch, jax.random.key(0)).compile().as_text()
    return {tuple(map(int, found.split(","))) for found in re.findall(r"f32\[([\d,]+)\]", text)}


def logits_in(shapes: set[tuple[int, ...]]) -> set[tuple[int, ...]]:
    """Arrays with a number for every masked row and every token; parameters and their states have none."""
    return {shape for shape in shapes if VOCABULARY in shape and np.prod(shape) >= BATCH * POSITIONS * VOCABULARY}


def test_no_logits_over_the_vocabulary_stand_in_the_step() -> None:
    """PEERS.md trap 14. With one chunk for all they do, so the test would see them."""
    assert logits_in(float32_shapes(VOCABULARY))
    assert not logits_in(float32_shapes(128))
