"""The predict step of a teacher, lowered for one chip: the same program that `predict` compiles."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.models.heads import ModelConfig, masked_language_model
from mergedistill_jax.models.huggingface import load_encoder_config
from mergedistill_jax.planning.flops import Sizes
from mergedistill_jax.planning.students import Parameters, count_parameters, sizes_of
from mergedistill_jax.planning.topology import Topology
from mergedistill_jax.teachers.buckets import expected_rows
from mergedistill_jax.teachers.hub import local_teacher
from mergedistill_jax.teachers.program import lower_predictions


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LoweredPredictions:
    """A predict step before it is compiled."""

    lowered: Any
    parameters: Parameters
    sizes: Sizes


def known_config(source: str) -> ModelConfig | None:
    """The config of a teacher that is on this machine, or None; no hub is asked."""
    found = local_teacher(source)
    return load_encoder_config(found.folder) if found else None


def lower_predict(
    config: ModelConfig,
    topology: Topology,
    *,
    batch_size: int,
    length: int,
    masking: MaskingConfig,
    k: int,
    dtype: str,
) -> LoweredPredictions:
    """Lowers the predict step for the first of the topology's devices: each chip predicts by itself.

    Args:
        config: the teacher's.
        topology: from open_topology.
        batch_size: sequences at a time.
        length: tokens of a sequence.
        masking: decides how many rows are projected on the vocabulary.
        k: predictions per masked position.
        dtype: of the matrix products, as in `predict`.
    """
    mesh = Mesh(np.array(topology.devices[:1]), ("data",))
    one = NamedSharding(mesh, P())
    inputs = (jnp.zeros((1, 8), jnp.int32), jnp.ones((1, 8), bool), jnp.zeros((1, 1), jnp.int32))
    init = masked_language_model(config).init
    shapes = nn.unbox(jax.eval_shape(init, jax.random.key(0), *inputs))["params"]
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), shapes)
    lowered = lower_predictions(
        config,
        params,
        batch_size=batch_size,
        length=length,
        max_predictions=masking.max_predictions(length),
        rows=expected_rows(batch_size, length, masking.rate),
        k=k,
        dtype=dtype,
        mesh=mesh,
    )
    return LoweredPredictions(lowered=lowered, parameters=count_parameters(params), sizes=sizes_of(params, config))
