"""When gradients cross the chips: read from the compiled step of a small model on eight devices."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mergedistill_jax.configs.schedules import GoldWeight
from mergedistill_jax.configs.train import require_reduce
from mergedistill_jax.planning.collectives import Collective, collectives
from mergedistill_jax.planning.hlo import parse
from mergedistill_jax.training.partitioning import make_mesh, place_batch
from mergedistill_jax.training.step import StepConfig, TrainState, make_train_step
from training.test_step import DESCENT, LAMBDA, MODEL, make_batch, placed_start

DEVICES = 8
PERMUTE = "collective-permute"  # its pairs are not told apart


def compiled_collectives(
    microbatches: int, *, fsdp: int = 1, model: int = 1, reduce: str = "step"
) -> tuple[Collective, ...]:
    mesh = make_mesh(model, jax.devices()[:DEVICES], fsdp_parallelism=fsdp)
    config = StepConfig(
        num_sources=2,
        has_teacher=True,
        num_microbatches=microbatches,
        reduce_gradients=reduce,
        with_dropout=False,
        vocabulary_shards=model,
    )
    state, layout = placed_start(mesh)
    step_fn = make_train_step(MODEL.apply, DESCENT, GoldWeight(stop=LAMBDA).schedule(1), config, layout)
    # The last gradient, which this optimizer keeps as its state, lies as the parameters do.
    everywhere = NamedSharding(mesh, PartitionSpec())
    kept = TrainState(step=everywhere, params=layout.shardings, opt_state=layout.shardings)
    state = state.replace(opt_state=state.params)
    jitted = jax.jit(step_fn, out_shardings=(kept, everywhere))
    one, two = make_batch(0), make_batch(1)
    batch = {name: np.concatenate([rows, two[name]]) for name, rows in one.items()}
    text = jitted.lower(state, place_batch(batch, mesh), jax.random.key(0)).compile().as_text()
    return collectives(parse(text or ""), DEVICES)


def crossing_chips(found: tuple[Collective, ...], model: int) -> list[Collective]:
    """Those among devices that hold different rows; the last axis of the mesh is the model's."""
    return [one for one in found if len({place // model for place in one.group}) > 1 or one.kind == PERMUTE]


@pytest.mark.slow
@pytest.mark.parametrize(("fsdp", "model"), [(1, 1), (8, 1), (2, 1), (1, 2), (2, 2)])
def test_gradients_cross_the_chips_once_whatever_the_number_of_microbatches(fsdp: int, model: int) -> None:
    """In the loop nothing but what the model axis shares of activations; outside, as many bytes with 2 as with 4.

    The parameters come together once too, where they are divided.
    """
    two, four = (compiled_collectives(count, fsdp=fsdp, model=model) for count in (2, 4))
    for found in (two, four):
        assert [one for one in crossing_chips(found, model) if one.times > 1] == []
    moved = [sum(one.bytes * one.times for one in crossing_chips(found, model)) for found in (two, four)]
    assert moved[0] == moved[1] > 0
    kinds = {one.kind for one in crossing_chips(two, model)}
    assert kinds == ({"all-reduce", "reduce-scatter", "all-gather"} if fsdp > 1 else {"all-reduce"})


@pytest.mark.parametrize("model", [1, 2])
def test_a_whole_batch_is_summed_as_microbatches_are_where_nothing_is_divided(model: int) -> None:
    """Over a data axis alone: one exchange, of as many bytes, in float32."""
    one, two = (crossing_chips(compiled_collectives(count, model=model), model) for count in (1, 2))
    assert {found.kind for found in one} == {"all-reduce"}
    assert sum(found.bytes for found in one) == sum(found.bytes for found in two) > 0


def test_reduced_with_every_microbatch_they_cross_in_the_loop() -> None:
    """So the test above could fail."""
    found = compiled_collectives(2, fsdp=2, reduce="microbatch")
    assert [one for one in crossing_chips(found, 1) if one.times > 1]


def test_no_other_time_to_reduce() -> None:
    with pytest.raises(ValueError, match=r"^reduce_gradients: found 'never', expected one of"):
        require_reduce("never")
