"""The tree of a checkpoint: there and back, T5X's names, and the layout before it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.schedules import LearningRate
from mergedistill_jax.training.checkpoints import Checkpoints, checkpoint_folder
from mergedistill_jax.training.state_tree import from_tree, params_of, to_old_tree, to_tree
from mergedistill_jax.training.step import TrainState


@pytest.fixture
def state() -> TrainState:
    """After two steps of AdamW, so that no moment is zero."""
    optimizer = AdamWConfig(learning_rate=LearningRate(peak=1.0, warmup_steps=1)).optimizer(10)
    params: Any = {"layer": {"kernel": jnp.ones((2, 3)), "bias": jnp.arange(3.0)}, "decoder_bias": jnp.ones(4)}
    opt_state = optimizer.init(params)
    for _ in range(2):
        updates, opt_state = optimizer.update(jax.tree.map(jnp.cos, params), opt_state, params)
        params = optax.apply_updates(params, updates)
    return TrainState(step=jnp.asarray(2), params=params, opt_state=opt_state)


def assert_same(found: TrainState, expected: TrainState) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_there_and_back(state: TrainState) -> None:
    fresh = jax.tree.map(jnp.zeros_like, state)
    assert_same(from_tree(to_tree(state), fresh), state)
    assert_same(from_tree(to_old_tree(state), fresh), state)
    for tree in (to_tree(state), to_old_tree(state)):
        assert params_of(tree) is state.params


def test_the_names_are_t5xs_and_nothing_is_empty(state: TrainState) -> None:
    paths = {
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(to_tree(state))
    }
    moments = {f"state/param_states/1/0/{m}/{p}" for m in ("mu", "nu") for p in ("layer/kernel", "layer/bias")}
    assert moments <= paths
    assert {"target/layer/kernel", "target/decoder_bias", "state/step", "state/param_states/1/0/count"} <= paths
    empty = jax.tree.leaves(to_tree(state), is_leaf=lambda node: isinstance(node, dict) and not node)
    assert not [node for node in empty if isinstance(node, dict)]


def test_the_names_are_those_of_t5x_itself(state: TrainState) -> None:
    pytest.importorskip("t5x.train", reason="T5X is not importable here: README.md says how it is installed")
    from t5x.optimizers import OptaxWrapper  # noqa: PLC0415 - where it is importable

    optimizer = AdamWConfig(learning_rate=LearningRate(peak=1.0, warmup_steps=1)).optimizer(10)
    theirs = OptaxWrapper(optimizer).create(state.params).state_dict()
    assert jax.tree.structure(theirs) == jax.tree.structure(to_tree(state))


def test_a_checkpoint_of_the_layout_before_is_read(state: TrainState, tmp_path: Path) -> None:
    options = ocp.CheckpointManagerOptions(step_prefix="checkpoint")
    with ocp.CheckpointManager(
        tmp_path / "checkpoints", options=options, item_handlers={"state": ocp.StandardCheckpointHandler()}
    ) as manager:
        manager.save(2, args=ocp.args.Composite(state=ocp.args.StandardSave(to_old_tree(state))))
    checkpoints = Checkpoints(tmp_path)
    assert_same(checkpoints.restore(jax.tree.map(jnp.zeros_like, state)), state)
    np.testing.assert_array_equal(checkpoints.restore_params()["layer"]["kernel"], state.params["layer"]["kernel"])
    checkpoints.save(3, state.replace(step=jnp.asarray(3)), force=True)
    checkpoints.close()
    again = Checkpoints(tmp_path)
    assert_same(again.restore(jax.tree.map(jnp.zeros_like, state)), state.replace(step=jnp.asarray(3)))


def test_checkpoints_lie_where_the_run_was_begun(tmp_path: Path) -> None:
    assert checkpoint_folder(tmp_path) == tmp_path / "checkpoints"
    (tmp_path / "checkpoint_5").mkdir()
    assert checkpoint_folder(tmp_path) == tmp_path
