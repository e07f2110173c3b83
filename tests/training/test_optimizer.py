"""Which parameters decay, and AdamW's first update worked by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.optimizer import AdamWConfig, clip_by_global_norm, decayed
from mergedistill_jax.configs.schedules import LearningRate
from mergedistill_jax.models.heads import MaskedLanguageModel


def config(**settings: float) -> AdamWConfig:
    return AdamWConfig(learning_rate=LearningRate(peak=0.1, warmup_steps=0, final_share=1.0), **settings)


@pytest.fixture(scope="module")
def mask_by_name() -> dict[str, bool]:
    encoder = EncoderConfig(vocab_size=7, num_layers=1, hidden_size=4, num_heads=2, intermediate_size=8, max_length=5)
    shapes = (jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool), jnp.zeros((1, 1), jnp.int32))
    boxed = jax.eval_shape(lambda: MaskedLanguageModel(encoder).init(jax.random.key(0), *shapes))
    mask = decayed(nn.unbox(boxed)["params"])
    return {"/".join(key.key for key in path): value for path, value in jax.tree_util.tree_flatten_with_path(mask)[0]}


def test_biases_and_norms_do_not_decay(mask_by_name: dict[str, bool]) -> None:
    excluded = {name for name, value in mask_by_name.items() if not value}
    assert "decoder_bias" in excluded
    assert {name for name in mask_by_name if name.endswith("bias")} <= excluded
    assert {name for name in mask_by_name if name.endswith("scale")} <= excluded
    assert excluded == {name for name in mask_by_name if name.endswith(("bias", "scale"))}


def test_matrices_and_tables_decay(mask_by_name: dict[str, bool]) -> None:
    included = {name for name, value in mask_by_name.items() if value}
    assert {f"encoder/embeddings/{table}" for table in ("token", "position", "segment")} <= included
    assert {name for name in mask_by_name if name.endswith("kernel")} <= included
    assert "transform/kernel" in included


def test_only_decayed_parameters_shrink_without_a_gradient() -> None:
    params = {"dense": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "some_norm": {"scale": jnp.ones(2)}}
    optimizer = config(weight_decay=0.5).optimizer(10)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_allclose(moved["dense"]["kernel"], 1 - 0.1 * 0.5)
    np.testing.assert_array_equal(moved["dense"]["bias"], 1.0)
    np.testing.assert_array_equal(moved["some_norm"]["scale"], 1.0)


def test_the_first_update_is_the_learning_rate_against_the_sign_of_the_gradient() -> None:
    params = {"kernel": jnp.zeros(3)}
    optimizer = config(weight_decay=0.0).optimizer(10)
    gradient = {"kernel": jnp.array([0.3, -0.2, 0.1])}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], [-0.1, 0.1, -0.1], rtol=1e-4)


def test_gradients_are_clipped_by_their_global_norm() -> None:
    """First moments after one step are a tenth of the clipped gradient: (3, 4) of norm 5 becomes (0.6, 0.8)."""
    params = {"kernel": jnp.zeros(2)}
    optimizer = config(max_gradient_norm=1.0).optimizer(10)
    _, state = optimizer.update({"kernel": jnp.array([3.0, 4.0])}, optimizer.init(params), params)
    first_moment = optax.tree_utils.tree_get(state, "mu")["kernel"]
    np.testing.assert_allclose(first_moment, [0.06, 0.08], rtol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 100.0])
def test_clipping_is_optax_s(scale: float) -> None:
    gradient = {"kernel": scale * jnp.array([[0.3, -0.2], [0.1, 0.5]]), "bias": scale * jnp.array([0.7, -0.4])}
    ours, theirs = clip_by_global_norm(1.0), optax.clip_by_global_norm(1.0)
    found, state = ours.update(gradient, ours.init(gradient))
    expected, expected_state = theirs.update(gradient, theirs.init(gradient))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), found, expected)
    assert state == expected_state  # so that checkpoints stay what they are
