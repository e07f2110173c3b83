"""The compiled program of a run on a mesh: how its state starts, and one step.

`train` runs it; `plan` compiles the same thing for devices that are not there. Nothing here holds an array.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mergedistill_jax.configs.losses import DistillationConfig
from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.schedules import GoldWeight, Schedule
from mergedistill_jax.training.host_memory import return_freed
from mergedistill_jax.training.microbatches import Layout
from mergedistill_jax.training.partitioning import BATCH_SPEC, require_divisible, shardings_of, vocabulary_shards
from mergedistill_jax.training.step import ApplyFn, StepConfig, TrainState, make_train_step


@runtime_checkable
class RunSettings(Protocol):
    """What a training run's config says about its program; TrainConfig is one."""

    @property
    def optimizer(self) -> AdamWConfig: ...  # noqa: D102 - as in TrainConfig
    @property
    def gold_weight(self) -> GoldWeight: ...  # noqa: D102
    @property
    def distillation(self) -> DistillationConfig: ...  # noqa: D102
    @property
    def steps(self) -> int: ...  # noqa: D102
    @property
    def num_microbatches(self) -> int: ...  # noqa: D102
    @property
    def reduce_gradients(self) -> str: ...  # noqa: D102
    @property
    def vocabulary_chunk(self) -> int: ...  # noqa: D102


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchShape:
    """What the records say about a batch.

    Attributes:
        length: tokens of a sequence.
        predictions: masked positions of a sequence, the padding of shorter ones included.
        k: teacher's candidates per position; 0: gold labels alone.
        sources: record folders, for the metrics.
    """

    length: int
    predictions: int
    k: int
    sources: int


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


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """What the compiler of the mesh's devices is told.

    Left alone, the TPU's cuts a product whose result is scattered over the fsdp axis into one narrow product a device,
    to send each while the next is made. A BERT's products are too small for that: the narrow ones took four times as
    long as the whole.
    """
    if mesh.devices.flat[0].platform != "tpu":
        return None
    return {f"xla_tpu_enable_windowed_einsum_for_{kind}": "false" for kind in ("reduce_scatter", "all_gather")}


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
            make_train_step(
                apply_fn, optimizer, gold_weight, step_config, Layout(mesh=mesh, shardings=shardings.params)
            ),
            donate_argnums=0,
            compiler_options=compiler_options(mesh),
            # The sums whole on every device: each of several processes reads them.
            out_shardings=(shardings, NamedSharding(mesh, P())),
        ),
    )


def run_program(model: Any, settings: RunSettings, shape: BatchShape, mesh: Mesh) -> Program:
    """The program of a run, from its settings: the one place where `train` and `plan` get it.

    Args:
        model: a masked language model with `init`, `projection` and a `config`; see models/heads.py.
        settings: of the run.
        shape: of its batches.
        mesh: from make_mesh.
    """
    inputs = (jnp.zeros((1, shape.length), jnp.int32), jnp.ones((1, shape.length), bool))
    positions = jnp.zeros((1, shape.predictions), jnp.int32)
    step_config = StepConfig(
        num_sources=shape.sources,
        has_teacher=shape.k > 0,
        distillation=settings.distillation,
        num_microbatches=settings.num_microbatches,
        reduce_gradients=settings.reduce_gradients,
        with_dropout=model.config.dropout_rate > 0,
        chunk_size=settings.vocabulary_chunk,
        vocabulary_shards=vocabulary_shards(model.config.vocab_size, mesh),
    )
    return make_program(
        lambda key: model.init(key, *inputs, positions)["params"],
        functools.partial(model.apply, method="projection"),
        settings.optimizer.optimizer(settings.steps),
        settings.gold_weight.schedule(settings.steps),
        step_config,
        mesh,
    )


def compile_step(program: Program, shape: BatchShape, batch_size: int) -> Callable[..., Any]:
    """`program.train_step`, compiled for batches of that shape, before there is any state beside the compiler.

    Raises:
        ValueError: the batch does not divide by the data and the fsdp axis.
    """
    compiled = program.train_step.lower(*abstract_arguments(program, shape, batch_size)).compile()
    return_freed()
    return compiled


def abstract_arguments(program: Program, shape: BatchShape, batch_size: int) -> tuple[TrainState, dict[str, Any], Any]:
    """State, batch and key of the training step as shapes on the program's mesh, for `train_step.lower`.

    Raises:
        ValueError: the batch does not divide by the data and the fsdp axis.
    """
    require_divisible(batch_size, program.mesh)
    state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        program.abstract_state,
        program.shardings,
    )
    rows = (batch_size, shape.predictions)
    arrays = {
        "token_ids": ((batch_size, shape.length), jnp.int32),
        "lengths": ((batch_size,), jnp.int32),
        "masked_positions": (rows, jnp.int32),
        "gold_ids": (rows, jnp.int32),
        "loss_weights": (rows, jnp.float32),
        "teacher_ids": ((*rows, shape.k), jnp.int32),
        "teacher_log_probs": ((*rows, shape.k), jnp.float32),
        "source": ((batch_size,), jnp.int32),
    }
    batch = {
        name: jax.ShapeDtypeStruct(size, dtype, sharding=program.batch_sharding)
        for name, (size, dtype) in arrays.items()
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    return state, batch, jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(program.mesh, P()))
