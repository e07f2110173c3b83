"""Records as T5X's datasets."""

import dataclasses
import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("t5x.train", reason="T5X is not importable here: README.md says how it is installed")

import t5x.utils
from small_merge import Merge, make_merge, train_config
from t5x_runs import dataset, partitioner, spec_of

from mergedistill_jax.configs.train import TrainConfig
from mergedistill_jax.data.batches import batches, describe_mixture
from mergedistill_jax.t5x_adapter import annealing, datasets, student


@pytest.fixture(scope="module")
def merge(teachers: dict[str, Path]) -> Merge:
    return make_merge(next(iter(teachers.values())).parent)


@pytest.fixture(scope="module")
def config(merge: Merge) -> TrainConfig:
    return train_config(merge, "unused")


@pytest.mark.parametrize("step", [0, 5])
def test_the_batches_are_those_of_our_runner(config: TrainConfig, tmp_path: Path, step: int) -> None:
    if step:
        (tmp_path / f"checkpoint_{step}").mkdir()
    found = datasets.same_batches(dataset(config.mixture, 8), 0, 1, config=config, model_dir=str(tmp_path))
    expected = batches(describe_mixture(config.mixture), 8, seed=config.seed, start_step=step)
    for one, other in itertools.islice(zip(found, expected, strict=False), 3):
        assert set(one) == set(other)
        for name in other:
            np.testing.assert_array_equal(one[name], other[name])
        assert spec_of(one) == found.element_spec
    found.reset()
    first = next(iter(batches(describe_mixture(config.mixture), 8, seed=config.seed, start_step=step)))
    np.testing.assert_array_equal(next(found)["token_ids"], first["token_ids"])


def test_shards_of_the_data_are_rows_of_one_batch(config: TrainConfig, tmp_path: Path) -> None:
    whole, *parts = (
        next(datasets.same_batches(dataset(config.mixture, 8), shard, shards, config=config, model_dir=str(tmp_path)))
        for shard, shards in ((0, 1), (0, 2), (1, 2))
    )
    for name, rows in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), rows)


def test_the_first_step_is_the_one_that_t5x_restores(tmp_path: Path) -> None:
    assert datasets.first_step(tmp_path) == 0
    assert datasets.first_step(tmp_path, "gs://bucket/run/checkpoints/checkpoint_700/") == 700
    for step in (30, 200):
        (tmp_path / f"checkpoint_{step}").mkdir()
    (tmp_path / "checkpoint_900.orbax-checkpoint-tmp").mkdir()
    assert datasets.first_step(tmp_path, "somewhere/checkpoint_700") == 200
    with pytest.raises(ValueError, match="INITIAL_CHECKPOINT_PATH: found 'weights', expected a path to checkpoint_"):
        datasets.first_step(tmp_path / "new", "weights")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pack": True}, "DatasetConfig.pack: found True, expected False"),
        ({"use_cached": True}, "DatasetConfig.use_cached: found True, expected False"),
        ({"batch_size": 9}, "DatasetConfig.batch_size: found 9, expected a multiple of 2 shards"),
    ],
)
def test_what_has_no_meaning_is_refused(config: TrainConfig, tmp_path: Path, changes: dict, message: str) -> None:
    described = dataset(config.mixture, **{"batch_size": 8, **changes})
    with pytest.raises(ValueError, match=message):
        datasets.same_batches(described, 0, 2, config=config, model_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["token_ids", "masked_positions", "teacher_ids"])
def test_lengths_that_are_not_the_records_are_refused(config: TrainConfig, tmp_path: Path, name: str) -> None:
    described = dataset(config.mixture, 8)
    lengths = datasets.feature_lengths(config.mixture)
    same = dataclasses.replace(described, task_feature_lengths=lengths)
    assert next(datasets.same_batches(same, 0, 1, config=config, model_dir=str(tmp_path)))
    for other in ({**lengths, name: lengths[name] - 1}, {name: lengths[name]}):
        changed = dataclasses.replace(described, task_feature_lengths=other)
        with pytest.raises(ValueError, match=rf"TASK_FEATURE_LENGTHS: found .*'{name}': .*, expected .*'{name}': "):
            datasets.same_batches(changed, 0, 1, config=config, model_dir=str(tmp_path))


def key_of(batch: dict, row: int) -> bytes:
    """What tells a record from the others: its tokens, and which of them are masked."""
    return batch["token_ids"][row].tobytes() + batch["masked_positions"][row].tobytes()


def test_seqio_gives_the_same_examples(config: TrainConfig) -> None:
    """T5X's own way to data: all records of an epoch are those of ours, sources as numbers."""
    model = student.distilled(config, partitioner())
    found = t5x.utils.get_dataset(dataset(config.mixture, 4), 0, 1, model.FEATURE_CONVERTER_CLS, num_epochs=1)
    mixture = describe_mixture(config.mixture)
    ours = {}
    for batch in itertools.islice(batches(mixture, 4, seed=0), 3 * mixture.records // 4):
        for row in range(4):
            ours[key_of(batch, row)] = {name: rows[row] for name, rows in batch.items()}
    seen = 0
    for batch in found.as_numpy_iterator():
        for row in range(len(batch["lengths"])):
            example = ours.get(key_of(batch, row))
            if example is None:  # the shares of the languages decide what three epochs hold
                continue
            seen += 1
            for name, value in example.items():
                np.testing.assert_allclose(batch[name][row], value, err_msg=name)
    assert seen > 10


def test_packing_is_refused_by_the_converter(config: TrainConfig) -> None:
    model = student.distilled(config, partitioner())
    assert model.FEATURE_CONVERTER_CLS(pack=False, use_custom_packing_ops=False)
    with pytest.raises(ValueError, match=r"DatasetConfig.pack: found True, expected False: records are packed"):
        model.FEATURE_CONVERTER_CLS(pack=True)


def test_precompile_sees_the_shapes_of_a_trained_batch(config: TrainConfig, tmp_path: Path) -> None:
    shapes = datasets.shapes_alone(dataset(config.mixture, 8), 0, 1, config=config)
    batch = next(datasets.same_batches(dataset(config.mixture, 8), 0, 1, config=config, model_dir=str(tmp_path)))
    trained = annealing.with_weight(batch, jnp.float32(0.5))
    assert shapes.element_spec == spec_of(trained)
    with pytest.raises(StopIteration):
        next(shapes)


def test_mixtures_are_named_by_the_config(config: TrainConfig, merge: Merge) -> None:
    assert datasets.train_mixture(config) == config.mixture
    assert datasets.heldout_mixture(config) == config.heldout
    assert datasets.feature_lengths(config.mixture)["token_ids"] == describe_mixture(config.mixture).max_length
    with pytest.raises(ValueError, match=r"TrainConfig.heldout: found None, expected a mixture"):
        datasets.heldout_mixture(train_config(merge, "unused", heldout=None))
