"""The tree of a train state in a checkpoint: T5X's, so that either runner goes on from what the other saved.

    target          the parameters
    state
      step
      param_states  the optimizer's state: a tuple as {"0": ..., "1": ...}, a named tuple by its fields, nothing empty

Checkpoints written before this layout have {step, params, opt_state}; they are still read.
"""

from typing import Any

from flax import serialization, traverse_util

from mergedistill_jax.training.step import TrainState


def to_tree(state: TrainState) -> dict[str, Any]:
    """The tree that is saved; leaves may be arrays, shapes or shardings."""
    flat = traverse_util.flatten_dict(serialization.to_state_dict(state.opt_state))  # leaves out what is empty
    return {
        "target": state.params,
        "state": {"step": state.step, "param_states": traverse_util.unflatten_dict(flat)},
    }


def from_tree(tree: Any, like: TrainState) -> TrainState:
    """The state that was saved as `tree`, in either layout; `like` says how the optimizer's state is built."""
    if is_old(tree):
        return like.replace(**tree)
    empty = traverse_util.flatten_dict(serialization.to_state_dict(like.opt_state), keep_empty_nodes=True)
    flat = {**empty, **traverse_util.flatten_dict(tree["state"]["param_states"])}
    opt_state = serialization.from_state_dict(like.opt_state, traverse_util.unflatten_dict(flat))
    return like.replace(step=tree["state"]["step"], params=tree["target"], opt_state=opt_state)


def to_old_tree(state: TrainState) -> dict[str, Any]:
    """The tree of an old checkpoint."""
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}


def is_old(tree: Any) -> bool:
    """Whether a tree is of the layout before T5X's."""
    return "params" in tree


def params_of(tree: Any) -> Any:
    """The parameters in a tree of either layout."""
    return tree["params" if is_old(tree) else "target"]
