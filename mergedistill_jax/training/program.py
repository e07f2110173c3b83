"""The compiled program of a run on a mesh: how its state starts, and one step.

`train` runs it; `plan` compiles the same thing for devices that are not there. Nothing here holds an array.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from mergedistill_jax.training.partitioning import BATCH_SPEC, shardings_of
from mergedistill_jax.training.schedules import Schedule
from mergedistill_jax.training.step import ApplyFn, StepConfig, TrainState, make_train_step


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """What a run executes.

    Attributes:
        abstract_state: shapes and dtypes of the state.
        shardings: NamedSharding of every leaf of the state.
        batch_sharding: of every array of a batch.
        initialise: key -> a fresh state, laid out over the mesh.
        train_step: (state, batch, key) -> (state, metric sums); the state given is donated.
    """

    mesh: Mesh
    abstract_state: TrainState
    shardings: TrainState
    batch_sharding: NamedSharding
    initialise: Callable[[jax.Array], TrainState]
    train_step: Any


def make_program(
    init_params: Callable[[jax.Array], Any],
    apply_fn: ApplyFn,
    optimizer: optax.GradientTransformation,
    gold_weight: Schedule,
    step_config: StepConfig,
    mesh: Mesh,
) -> Program:
    """Jits the two functions for a mesh; nothing is compiled before the first call or `lower`.

    Args:
        init_params: key -> parameters with logical axis names (flax Partitioned).
        apply_fn: gives a Projection, see step.py.
        optimizer: of the parameters.
        gold_weight: lambda at a step.
        step_config: of the training step.
        mesh: from make_mesh.
    """

    def initialise(key: jax.Array) -> TrainState:
        params = init_params(key)
        return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))

    boxed = jax.eval_shape(initialise, jax.random.key(0))
    shardings = shardings_of(boxed, mesh)
    return Program(
        mesh=mesh,
        abstract_state=nn.unbox(boxed),
        shardings=shardings,
        batch_sharding=NamedSharding(mesh, BATCH_SPEC),
        initialise=jax.jit(lambda key: nn.unbox(initialise(key)), out_shardings=shardings),
        train_step=jax.jit(
            make_train_step(apply_fn, optimizer, gold_weight, step_config),
            donate_argnums=0,
            out_shardings=(shardings, None),
        ),
    )
