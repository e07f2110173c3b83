"""The real model's program on every kind of mesh: the same losses and the same parameters as on one device.

The batches are unevenly masked (PEERS.md trap 8): some rows have no masked position, and so have whole devices.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.losses import DistillationConfig
from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.schedules import GoldWeight, LearningRate
from mergedistill_jax.models.heads import masked_language_model
from mergedistill_jax.models.placement import Placement
from mergedistill_jax.training.distributed import from_host
from mergedistill_jax.training.partitioning import ACTIVATION_AXES, make_mesh, place_batch, vocabulary_shards
from mergedistill_jax.training.program import Program, make_program
from mergedistill_jax.training.step import StepConfig

pytestmark = pytest.mark.slow

ROWS, LENGTH, POSITIONS, K, STEPS = 16, 12, 3, 4, 3
DIVIDES, DIVIDES_NOT = 96, 97
PEAK = 1e-2


def make_batch(vocabulary: int, seed: int) -> dict[str, np.ndarray]:
    """Rows of 0 to 3 masked positions; the last four rows, two devices' worth, have none."""
    random = np.random.default_rng(seed)
    counts = np.where(np.arange(ROWS) < 12, random.integers(0, POSITIONS + 1, ROWS), 0)
    lengths = random.integers(4, LENGTH + 1, ROWS)
    return {
        "token_ids": random.integers(0, vocabulary, (ROWS, LENGTH)).astype(np.int32),
        "lengths": lengths.astype(np.int32),
        "masked_positions": random.integers(0, 4, (ROWS, POSITIONS)).astype(np.int32),
        "gold_ids": random.integers(0, vocabulary, (ROWS, POSITIONS)).astype(np.int32),
        "loss_weights": (np.arange(POSITIONS) < counts[:, None]).astype(np.float32),
        "teacher_ids": np.argsort(random.random((ROWS, POSITIONS, vocabulary)))[..., :K].astype(np.int32),
        "teacher_log_probs": np.log(random.dirichlet(np.ones(8), (ROWS, POSITIONS))[..., :K]).astype(np.float32),
        "source": (np.arange(ROWS) % 2).astype(np.int32),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One way to run the same three steps, with dropout."""

    devices: int = 1
    fsdp: int = 1
    model: int = 1
    microbatches: int = 1
    reduce: str = "step"
    vocabulary: int = DIVIDES

    @property
    def alone(self) -> "Case":
        """The same on one device, in one piece."""
        return Case(vocabulary=self.vocabulary)


def program_of(case: Case) -> Program:
    mesh = make_mesh(case.model, jax.devices()[: case.devices], fsdp_parallelism=case.fsdp)
    encoder = EncoderConfig(
        vocab_size=case.vocabulary,
        num_layers=1,
        hidden_size=16,
        num_heads=8,
        intermediate_size=32,
        max_length=LENGTH,
        dropout_rate=0.1,
        initializer_range=0.2,
    )
    network = masked_language_model(encoder, jnp.dtype("float32"), Placement(mesh=mesh, **ACTIVATION_AXES))
    inputs = (jnp.zeros((1, LENGTH), jnp.int32), jnp.ones((1, LENGTH), bool), jnp.zeros((1, POSITIONS), jnp.int32))
    return make_program(
        lambda key: network.init(key, *inputs)["params"],
        functools.partial(network.apply, method="projection"),
        AdamWConfig(learning_rate=LearningRate(peak=PEAK, warmup_steps=0)).optimizer(STEPS),
        GoldWeight(start=0.3).schedule(STEPS),
        StepConfig(
            num_sources=2,
            has_teacher=True,
            distillation=DistillationConfig(missing_mass="tail"),
            num_microbatches=case.microbatches,
            reduce_gradients=case.reduce,
            chunk_size=24,
            vocabulary_shards=vocabulary_shards(case.vocabulary, mesh),
        ),
        mesh,
    )


@functools.cache
def start_of(vocabulary: int) -> Any:
    """A fresh state on the host."""
    return jax.device_get(program_of(Case(vocabulary=vocabulary)).initialise(jax.random.key(0)))


@functools.cache
def run(case: Case) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Metric sums of each of three steps, and the parameters after them."""
    program, sums = program_of(case), []
    state = from_host(start_of(case.vocabulary), program.shardings)
    for step in range(STEPS):
        placed = place_batch(make_batch(case.vocabulary, step), program.mesh)
        state, found = program.train_step(state, placed, jax.random.key(1))
        sums.append(jax.device_get(found))
    return sums, by_name(state.params)


def by_name(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(jax.device_get(tree))[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


@pytest.mark.parametrize(
    "case",
    [
        Case(devices=2),
        Case(devices=8),
        Case(devices=8, fsdp=8),
        Case(devices=8, model=8),
        Case(devices=8, fsdp=2, model=2),
        Case(devices=8, model=8, vocabulary=DIVIDES_NOT),
        Case(microbatches=4),
        Case(devices=8, fsdp=2, microbatches=2),
        Case(devices=8, fsdp=2, model=2, microbatches=2),
        Case(devices=8, fsdp=2, model=2, microbatches=2, reduce="microbatch"),
    ],
    ids=lambda case: "-".join(f"{name}{value}" for name, value in dataclasses.asdict(case).items()),
)
def test_every_mesh_gives_the_losses_and_parameters_of_one_device(case: Case) -> None:
    """Sums to 1e-5 of their size; parameters to a hundredth of what one step of 1e-2 moves them.

    Adam divides a gradient by its own size, so that where it is zero but for rounding, as for the bias of keys, any
    two ways to add up differ by more than rounding: hence a bound against the step, not against the parameter.
    """
    found, params = run(case)
    expected, others = run(case.alone)
    for step in range(STEPS):
        for name, value in expected[step].items():
            np.testing.assert_allclose(found[step][name], value, rtol=1e-5, atol=1e-5, err_msg=f"step {step}: {name}")
    for name, leaf in others.items():
        np.testing.assert_allclose(params[name], leaf, atol=1e-2 * PEAK, err_msg=name)


def test_a_fresh_state_is_the_same_on_every_mesh_bit_for_bit() -> None:
    mixed = program_of(Case(devices=8, fsdp=2, model=2)).initialise(jax.random.key(0))
    theirs = by_name(start_of(DIVIDES).params)
    for name, leaf in by_name(mixed.params).items():
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)


def test_the_batches_are_as_uneven_as_they_should_be() -> None:
    """Else nothing here could fail for a mean of means: masked positions of each of eight devices."""
    for seed in range(STEPS):
        counts = make_batch(DIVIDES, seed)["loss_weights"].reshape(8, -1).sum(axis=1)
        assert counts.min() == 0
        assert len(set(counts)) > 3
