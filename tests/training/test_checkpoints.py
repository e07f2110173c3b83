"""Checkpoints: bit-equal round trips, their layout, and the refusal of another run's folder."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.schedules import LearningRate
from mergedistill_jax.training.checkpoints import CheckpointError, Checkpoints, Run, open_run, read_run
from mergedistill_jax.training.partitioning import make_mesh
from mergedistill_jax.training.step import TrainState

OPTIMIZER = AdamWConfig(learning_rate=LearningRate(peak=0.1, warmup_steps=2)).optimizer(10)
RUN = Run(
    model={"vocab_size": 24, "num_layers": 1},
    vocabulary_folder="somewhere",
    vocabulary_hash="abc",
    mixture_hash="def",
    settings={"optimizer": {"learning_rate": {"peak": 0.1}, "beta1": 0.9}, "steps": 10, "k": 8},
)


def make_state(seed: int = 0, devices: int = 8) -> TrainState:
    """A state after one update: parameters over the data axis of a mesh, moments that are not zero."""
    random = np.random.default_rng(seed)
    sharding = NamedSharding(make_mesh(1, jax.devices()[:devices]), P("data"))
    params = {
        "token": jax.device_put(random.normal(size=(16, 4)).astype(np.float32), sharding),
        "layer": {"bias": jax.device_put(random.normal(size=8).astype(np.float32), sharding)},
    }
    updates, opt_state = OPTIMIZER.update(params, OPTIMIZER.init(params), params)
    return TrainState(step=jnp.asarray(3, jnp.int32), params=optax.apply_updates(params, updates), opt_state=opt_state)


def save(folder: Path, state: TrainState, step: int = 3) -> None:
    checkpoints = Checkpoints(folder)
    checkpoints.save(step, state)
    checkpoints.close()


def assert_equal(found: Any, expected: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    state = make_state()
    save(tmp_path, state)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step == 3
    assert_equal(checkpoints.restore(make_state(seed=1)), state)
    checkpoints.close()


def test_a_state_is_restored_onto_another_number_of_devices(tmp_path: Path) -> None:
    state = make_state(devices=8)
    save(tmp_path, state)
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.restore(make_state(seed=1, devices=2))
    checkpoints.close()
    assert_equal(found, state)
    assert found.params["token"].sharding.mesh.size == 2


def test_parameters_alone_come_back_as_a_plain_tree(tmp_path: Path) -> None:
    state = make_state()
    save(tmp_path, state)
    checkpoints = Checkpoints(tmp_path)
    assert_equal(checkpoints.restore_params(), state.params)
    checkpoints.close()


@pytest.mark.slow
def test_parameters_saved_on_eight_devices_are_read_where_there_is_one(tmp_path: Path) -> None:
    state = make_state(devices=8)
    save(tmp_path, state)
    program = (
        "import sys, jax, numpy as np\n"
        "from mergedistill_jax.training.checkpoints import Checkpoints\n"
        "assert jax.device_count() == 1\n"
        "params = Checkpoints(sys.argv[1]).restore_params()\n"
        "np.save(sys.argv[2], np.asarray(params['token']))\n"
    )
    environment = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    command = [sys.executable, "-c", program, str(tmp_path), str(tmp_path / "token.npy")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_array_equal(np.load(tmp_path / "token.npy"), state.params["token"])


def test_the_folders_are_those_of_t5x(tmp_path: Path) -> None:
    save(tmp_path, make_state(), step=7)
    assert (tmp_path / "checkpoints" / "checkpoint_7" / "state").is_dir()


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, make_state(seed=step))
    checkpoints.close()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint_3", "checkpoint_4"}
    checkpoints = Checkpoints(tmp_path)
    assert_equal(checkpoints.restore_params(), make_state(seed=4).params)
    checkpoints.close()


def test_only_every_so_many_steps_are_saved_unless_forced(tmp_path: Path) -> None:
    """Not the first step either: a run resumed from there would log means over other steps than an undisturbed one."""
    checkpoints = Checkpoints(tmp_path, save_every=3)
    for step in (1, 2):
        checkpoints.save(step, make_state())
        assert checkpoints.latest_step is None
    checkpoints.save(3, make_state())
    checkpoints.save(4, make_state(), force=True)
    checkpoints.save(4, make_state(), force=True)
    checkpoints.close()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint_3", "checkpoint_4"}


def test_reading_a_folder_without_checkpoints_makes_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step is None
    for read in (checkpoints.restore_params, checkpoints.restore_position, lambda: checkpoints.restore(make_state())):
        with pytest.raises(CheckpointError, match=f"{tmp_path}/checkpoints: found no checkpoint"):
            read()
    checkpoints.close()
    assert not list(tmp_path.iterdir())


def test_reading_leaves_alone_what_a_run_is_writing_and_writing_clears_what_a_kill_left(tmp_path: Path) -> None:
    save(tmp_path, make_state())
    begun = tmp_path / "checkpoints" / "checkpoint_9.orbax-checkpoint-tmp"
    (begun / "state").mkdir(parents=True)
    reader = Checkpoints(tmp_path)
    reader.restore_params()
    reader.close()
    assert begun.exists()
    save(tmp_path, make_state(seed=1), step=9)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint_3", "checkpoint_9"}


def test_a_position_comes_back_with_its_checkpoint(tmp_path: Path) -> None:
    """Bit for bit: a third has no finite fraction in base 2 or 10."""
    checkpoints = Checkpoints(tmp_path)
    for step in (3, 4):
        checkpoints.save(step, make_state(), position={"batches": step, "metric_sums": {"gold_loss": [step / 3]}})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore_position() == {"batches": 4, "metric_sums": {"gold_loss": [4 / 3]}}
    checkpoints.close()


def test_a_checkpoint_of_an_older_version_has_no_position(tmp_path: Path) -> None:
    """As it was written before there was one: an item less."""
    state = make_state()
    path = tmp_path / "checkpoints"
    handlers = {"state": ocp.StandardCheckpointHandler()}
    options = ocp.CheckpointManagerOptions(step_prefix="checkpoint", create=True)
    with ocp.CheckpointManager(path, options=options, item_handlers=handlers) as manager:
        tree = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
        manager.save(3, args=ocp.args.Composite(state=ocp.args.StandardSave(tree)))
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore_position() == {}
    assert_equal(checkpoints.restore(make_state(seed=1)), state)
    checkpoints.close()


def test_a_state_is_restored_into_shapes_alone(tmp_path: Path) -> None:
    """So that a restart holds the state once, not twice."""
    state = make_state()
    save(tmp_path, state)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.restore(shapes)
    checkpoints.close()
    assert_equal(found, state)
    assert found.params["token"].sharding == state.params["token"].sharding


def test_a_half_written_checkpoint_is_not_the_newest(tmp_path: Path) -> None:
    """Orbax writes aside and renames: what a kill leaves is no checkpoint."""
    save(tmp_path, make_state())
    (tmp_path / "checkpoints" / "checkpoint_9.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step == 3
    checkpoints.close()


def test_a_folder_without_a_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for restore in (checkpoints.restore_params, lambda: checkpoints.restore(make_state())):
        with pytest.raises(CheckpointError, match=f"{tmp_path}/checkpoints: found no checkpoint"):
            restore()
    checkpoints.close()


def test_a_run_is_described_and_read_back(tmp_path: Path) -> None:
    open_run(tmp_path, RUN)
    assert read_run(tmp_path) == RUN
    open_run(tmp_path, RUN)
    assert read_run(tmp_path) == RUN


@pytest.mark.parametrize(
    ("changes", "field", "found", "expected"),
    [
        ({"vocabulary_hash": "other"}, "vocabulary_hash", "'abc'", "'other'"),
        ({"mixture_hash": "other"}, "mixture_hash", "'def'", "'other'"),
        ({"model": {"vocab_size": 25, "num_layers": 1}}, "model.vocab_size", "24", "25"),
        ({"settings": {**RUN.settings, "steps": 20}}, "settings.steps", "10", "20"),
        (
            {"settings": {**RUN.settings, "optimizer": {"learning_rate": {"peak": 0.2}, "beta1": 0.9}}},
            "settings.optimizer.learning_rate.peak",
            "0.1",
            "0.2",
        ),
        ({"settings": {"steps": 10, "k": 8}}, "settings.optimizer.beta1", "0.9", "None"),
    ],
)
def test_another_runs_folder_is_refused_naming_the_field(
    tmp_path: Path, changes: dict, field: str, found: str, expected: str
) -> None:
    open_run(tmp_path, RUN)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(CheckpointError) as error:
        open_run(tmp_path, dataclasses.replace(RUN, **changes))
    assert str(error.value).startswith(f"{tmp_path}/run.json: field {field}: found {found}, expected {expected};")
    assert (tmp_path / "run.json").read_bytes() == before


def test_the_same_vocabulary_in_another_place_is_the_same_run(tmp_path: Path) -> None:
    open_run(tmp_path, RUN)
    open_run(tmp_path, dataclasses.replace(RUN, vocabulary_folder="elsewhere"))


def test_tuples_and_lists_are_the_same_after_json(tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, settings={"files": ("a", "b")})
    open_run(tmp_path, run)
    open_run(tmp_path, run)


def test_a_folder_that_is_no_runs_or_a_damaged_one_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path}/run.json: not found, expected a folder written by"):
        read_run(tmp_path)
    whole = dataclasses.asdict(RUN)
    for text, message in (
        ("{", "found no JSON"),
        ("[" * 100_000, "found no JSON"),
        ("[]", "found list, expected a JSON object"),
        (json.dumps({"model": {}}), "field vocabulary_folder: not found, expected it"),
        (
            json.dumps({**whole, "mixture_hasi": ""}),
            "field mixture_hasi: found an unknown field, expected one of",
        ),
        (json.dumps({**whole, "settings": None}), "field settings: found None, expected dict"),
        (json.dumps({**whole, "vocabulary_folder": None}), "field vocabulary_folder: found None, expected str"),
        (json.dumps({**whole, "model": [1]}), r"field model: found \[1\], expected dict"),
    ):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(CheckpointError, match=f"^{tmp_path}/run.json: {message}") as caught:
            read_run(tmp_path)
        assert "\n" not in str(caught.value)
