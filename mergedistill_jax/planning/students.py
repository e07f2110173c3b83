"""The training step of a run, lowered for a topology: the same program that `train` compiles."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from mergedistill_jax.configs.layers import LayerLoop
from mergedistill_jax.models.heads import masked_language_model
from mergedistill_jax.models.placement import Placement
from mergedistill_jax.planning.flops import Sizes
from mergedistill_jax.planning.topology import Topology
from mergedistill_jax.training.partitioning import ACTIVATION_AXES, batch_parts, make_mesh
from mergedistill_jax.training.program import (
    BatchShape,
    RunSettings,
    abstract_arguments,
    compiler_options,
    run_program,
)


@runtime_checkable
class TrainSettings(RunSettings, Protocol):
    """What a plan needs to know of a training run; `TrainConfig` is one."""

    @property
    def model(self) -> Callable[..., Any]: ...  # noqa: D102 - as in TrainConfig
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def model_parallelism(self) -> int: ...  # noqa: D102
    @property
    def fsdp_parallelism(self) -> int: ...  # noqa: D102
    @property
    def scan_layers(self) -> bool: ...  # noqa: D102
    @property
    def rematerialise(self) -> str: ...  # noqa: D102
    @property
    def dtype(self) -> str: ...  # noqa: D102


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameters:
    """How many numbers a model has.

    Attributes:
        body: of the encoder, without embeddings.
        embeddings: tables of tokens, positions and segments, with their norm.
        head: of the masked-LM head, without the tied table.
    """

    body: int
    embeddings: int
    head: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.body + self.embeddings + self.head


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LoweredStep:
    """A training step before it is compiled.

    Attributes:
        options: for the compiler.
        sequences_per_chip: of the whole batch, over all microbatches; what is shared by devices of the model axis is
            divided among them.
    """

    lowered: Any
    options: Mapping[str, str] | None
    parameters: Parameters
    sizes: Sizes
    sequences_per_chip: float


def varied(settings: TrainSettings, changes: Mapping[str, Any]) -> TrainSettings:
    """The settings with others in place: fields of the run, or of its model where the run has none of that name.

    Raises:
        ValueError: neither has such a field.
    """
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        raise ValueError(f"train: found {settings!r}, expected a config")
    own = {field.name for field in dataclasses.fields(settings)}
    of_run = {name: value for name, value in changes.items() if name in own}
    of_model = {name: value for name, value in changes.items() if name not in own}
    if of_model:
        of_run["model"] = functools.partial(settings.model, **of_model)
    return dataclasses.replace(settings, **of_run)


_TOLD = (
    "batch_size",
    "num_microbatches",
    "reduce_gradients",
    "fsdp_parallelism",
    "model_parallelism",
    "dtype",
    "rematerialise",
    "scan_layers",
)


def run_settings(settings: TrainSettings, vocabulary_size: int) -> dict[str, Any]:
    """What a plan tells of a run: the settings that decide about memory and time."""
    model = settings.model(vocab_size=vocabulary_size)
    return {name: getattr(settings, name) for name in _TOLD} | {"dropout_rate": model.dropout_rate}


def lower_step(settings: TrainSettings, shape: BatchShape, vocabulary_size: int, topology: Topology) -> LoweredStep:
    """Lowers the training step for the topology's devices.

    Args:
        settings: of the run.
        shape: of its batches.
        vocabulary_size: the student's.
        topology: from open_topology.

    Raises:
        ValueError: devices or batch do not divide as the settings want, or the model has no such field.
    """
    try:
        config = settings.model(vocab_size=vocabulary_size, max_length=shape.length)
    except TypeError as error:
        raise ValueError(f"model: {error}") from error
    mesh = make_mesh(settings.model_parallelism, topology.devices, fsdp_parallelism=settings.fsdp_parallelism)
    parts = batch_parts(mesh)
    if settings.batch_size % (parts * settings.num_microbatches):
        expected = f"a multiple of {parts} parts x num_microbatches={settings.num_microbatches}"
        raise ValueError(f"batch_size: found {settings.batch_size}, expected {expected}")
    loop = LayerLoop(scan=settings.scan_layers, rematerialise=settings.rematerialise)
    model = masked_language_model(config, jnp.dtype(settings.dtype), Placement(mesh=mesh, **ACTIVATION_AXES), loop)
    program = run_program(model, settings, shape, mesh)
    arguments = abstract_arguments(program, shape, settings.batch_size)
    return LoweredStep(
        lowered=program.train_step.lower(*arguments),
        options=compiler_options(mesh),
        parameters=count_parameters(program.abstract_state.params),
        sizes=sizes_of(program.abstract_state.params, config),
        sequences_per_chip=settings.batch_size / len(topology.devices),
    )


def count_parameters(params: Any) -> Parameters:
    """Counts the leaves of a masked language model's parameters, shapes or arrays."""
    counts = {"body": 0, "embeddings": 0, "head": 0}
    for path, leaf in _leaves(params):
        part = "head" if path[0] != "encoder" else "embeddings" if path[1] == "embeddings" else "body"
        counts[part] += math.prod(leaf.shape)
    return Parameters(**counts)


def sizes_of(params: Any, config: Any) -> Sizes:
    """What the useful work of a model depends on, from its parameters' shapes.

    Args:
        params: of a masked language model.
        config: its EncoderConfig or another encoder's.
    """
    kernels = [(path, math.prod(leaf.shape)) for path, leaf in _leaves(params) if path[-1] == "kernel"]
    body = sum(count for path, count in kernels if path[0] == "encoder")
    groups = getattr(config, "num_layer_groups", None)
    if groups:  # layers that are used several times
        once = sum(count for path, count in kernels if path[0] == "encoder" and path[1].startswith("layers"))
        body += once * (config.num_layers // groups - 1)
    return Sizes(
        body=body,
        transform=sum(count for path, count in kernels if path[0] != "encoder"),
        width=getattr(config, "embedding_width", config.hidden_size),
        layers=config.num_layers,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
    )


def _leaves(params: Any) -> list[tuple[tuple[str, ...], Any]]:
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    return [(tuple(str(getattr(key, "key", key)) for key in path), leaf) for path, leaf in flat]
