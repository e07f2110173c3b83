"""The plan compiles what training runs, and its useful work is that of the matrix products."""

import functools
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from small_merge import MAX_LENGTH, make_merge, train_config

from mergedistill_jax import train as train_module
from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.schedules import LearningRate
from mergedistill_jax.configs.train import TrainConfig
from mergedistill_jax.data.batches import batches, describe_mixture
from mergedistill_jax.models.heads import masked_language_model
from mergedistill_jax.planning.flops import matmul_flops, useful_flops
from mergedistill_jax.planning.hlo import parse
from mergedistill_jax.planning.search import candidates, described
from mergedistill_jax.planning.students import count_parameters, lower_step, sizes_of, varied
from mergedistill_jax.planning.topology import open_topology
from mergedistill_jax.train import train
from mergedistill_jax.training.program import BatchShape, Program, abstract_arguments

VOCABULARY, LENGTH, ROWS = 300, 24, 5
SIZES: dict[str, Any] = {
    "num_layers": 2,
    "hidden_size": 128,
    "num_heads": 2,
    "intermediate_size": 256,
    "dropout_rate": 0.0,
}
SHAPE = BatchShape(length=LENGTH, predictions=ROWS, k=3, sources=2)


def settings(**changes: Any) -> TrainConfig:
    fields: dict[str, Any] = {
        "output": "",
        "mixture": "",
        "model": functools.partial(EncoderConfig, **SIZES),
        "optimizer": AdamWConfig(learning_rate=LearningRate(peak=1e-3, warmup_steps=1)),
        "steps": 10,
        "batch_size": 16,
        "vocabulary_chunk": VOCABULARY,
    }
    return TrainConfig(**{**fields, **changes})


@pytest.mark.slow
def test_the_program_is_the_one_that_train_runs(
    teachers: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arguments of the same names, shapes, dtypes and places; and the same text when they are lowered."""
    merge = make_merge(next(iter(teachers.values())).parent)
    config = train_config(merge, tmp_path, steps=10, heldout=None)
    made: list[Program] = []

    def kept(*arguments: Any) -> Program:
        made.append(train_module_run_program(*arguments))
        return made[-1]

    train_module_run_program = train_module.run_program
    monkeypatch.setattr(train_module, "run_program", kept)
    train(config)
    mixture = describe_mixture(config.mixture)
    shape = BatchShape(
        length=mixture.max_length,
        predictions=mixture.max_predictions,
        k=mixture.k,
        sources=len(mixture.sources),
    )
    assert shape.length == MAX_LENGTH
    (program,) = made
    state, batch, key = abstract_arguments(program, shape, config.batch_size)
    real = next(iter(batches(mixture, config.batch_size, seed=0)))
    assert {name: (rows.shape, rows.dtype) for name, rows in real.items()} == {
        name: (rows.shape, rows.dtype) for name, rows in batch.items()
    }
    planned = lower_step(config, shape, mixture.vocabulary_size, open_topology("cpu:8"))
    assert planned.lowered.as_text() == program.train_step.lower(state, batch, key).as_text()


def encoder(**changes: Any) -> EncoderConfig:
    return EncoderConfig(vocab_size=VOCABULARY, max_length=LENGTH, **{**SIZES, **changes})


@pytest.mark.parametrize("changes", [{}, {"num_layer_groups": 1, "embedding_size": 32}])
def test_the_useful_work_is_that_of_the_matrix_products(changes: dict[str, Any]) -> None:
    """Of a forward pass: every product of the model, layers that share parameters too, and nothing else."""
    config = encoder(**changes)
    model = masked_language_model(config)
    inputs = (jnp.zeros((4, LENGTH), jnp.int32), jnp.ones((4, LENGTH), bool), jnp.zeros((4, ROWS), jnp.int32))
    params = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *inputs))["params"]
    text = jax.jit(lambda p: model.apply({"params": p}, *inputs)).lower(params).compile().as_text()
    assert text is not None
    useful = useful_flops(sizes_of(params, config), sequences=4, length=LENGTH, masked=4 * ROWS, backward=False)
    assert matmul_flops(parse(text)) - useful in (0, column_of_ones(sequences=4))


def column_of_ones(sequences: int) -> int:
    """What a column beside the values costs, by which attention gets the sums of its softmax."""
    return 2 * SIZES["num_layers"] * SIZES["num_heads"] * sequences * LENGTH**2


def test_the_training_step_does_three_times_the_work_and_some_again() -> None:
    """The gradient makes scores and logits once more; candidates' logits and sums over rows are small products."""
    step = lower_step(settings(), SHAPE, VOCABULARY, open_topology("cpu:1"))
    useful = useful_flops(step.sizes, sequences=16, length=LENGTH, masked=16 * ROWS)
    width = SIZES["hidden_size"]
    logits = 2 * VOCABULARY * width * 16 * ROWS
    picked = 3 * 2 * (SHAPE.k + 1) * width * 16 * ROWS
    scores = 2 * SIZES["num_layers"] * width * 16 * LENGTH**2 + 4 * column_of_ones(sequences=16)
    found = matmul_flops(parse(step.lowered.compile().as_text()))
    assert useful < found <= 1.1 * (useful + logits + picked + scores)


@pytest.mark.slow
def test_microbatches_do_not_change_the_work() -> None:
    """They are a loop, which XLA's own analysis counts once."""
    topology = open_topology("cpu:1")
    compiled = [
        lower_step(one, SHAPE, VOCABULARY, topology).lowered.compile()
        for one in (settings(), settings(num_microbatches=4))
    ]
    once, looped = (matmul_flops(parse(one.as_text())) for one in compiled)
    assert looped == pytest.approx(once, rel=1e-2)
    assert compiled[1].cost_analysis()["flops"] < 0.5 * once


def test_parameters_are_all_counted_once() -> None:
    step = lower_step(settings(), SHAPE, VOCABULARY, open_topology("cpu:2"))
    width, inner, layers = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["num_layers"]
    assert step.parameters.embeddings == (VOCABULARY + LENGTH + 2 + 2) * width
    assert step.parameters.head == width * width + width + 2 * width + VOCABULARY
    one_layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    assert step.parameters.body == layers * one_layer
    (state, _, _), _ = step.lowered.args_info
    leaves = jax.tree.leaves(state.params)
    assert step.parameters.total == sum(math.prod(leaf.shape) for leaf in leaves)


def test_settings_of_the_run_and_of_its_model_are_changed_by_name() -> None:
    changed = varied(settings(), {"num_microbatches": 2, "dropout_rate": 0.3})
    assert changed.num_microbatches == 2
    assert changed.model(vocab_size=VOCABULARY).dropout_rate == 0.3
    with pytest.raises(ValueError, match=r"^model: .*unexpected keyword argument 'layers'"):
        lower_step(varied(settings(), {"layers": 3}), SHAPE, VOCABULARY, open_topology("cpu:1"))


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^batch_size: found 20, expected a multiple of 8 parts x num_microbatches=1$"
    ):
        lower_step(settings(batch_size=20), SHAPE, VOCABULARY, open_topology("cpu:8"))
    with pytest.raises(ValueError, match=r"^model_parallelism: found 3, expected a divisor of 8 devices$"):
        lower_step(settings(model_parallelism=3), SHAPE, VOCABULARY, open_topology("cpu:8"))


def test_candidates_keep_the_batch_and_divide_it() -> None:
    run = settings(batch_size=64, num_microbatches=4)
    found = candidates(run, 8, 20)
    assert found[0] == {}
    assert {"num_microbatches": 2} in found
    assert {"fsdp_parallelism": 8} in found
    assert {"num_microbatches": 2, "model_parallelism": 2} in found
    assert len({described(one) for one in found}) == len(found)
    for one in found:
        lower = varied(run, one)
        assert lower.batch_size == 64
        assert 64 % (8 // lower.model_parallelism * lower.num_microbatches) == 0
    assert candidates(run, 8, 2) == found[:2]
    assert candidates(settings(batch_size=8), 8, 9)[0] == {}


def test_shapes_alone_are_counted() -> None:
    params = {"encoder": {"layers_0": {"wi": {"kernel": jax.ShapeDtypeStruct((3, 5), jnp.float32)}}}}
    assert count_parameters(params).body == 15
