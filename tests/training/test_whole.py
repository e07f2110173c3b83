"""A newest checkpoint that is not whole is passed over by name, and stands in no later save's way."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mergedistill_jax.training.checkpoints import CheckpointError, Checkpoints
from mergedistill_jax.training.step import TrainState


def state_of(step: int) -> TrainState:
    """Arrays large enough to have files of their own beside the index."""
    random = np.random.default_rng(step)
    params = {name: jnp.asarray(random.normal(size=(64, 64)).astype(np.float32)) for name in ("one", "two")}
    return TrainState(step=jnp.asarray(step, jnp.int32), params=params, opt_state={"moments": params})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 10 and 20."""
    folder = tmp_path_factory.mktemp("run") / "a run of 100 % [really?] #1"
    checkpoints = Checkpoints(folder)
    for step in (10, 20):
        checkpoints.save(step, state_of(step), position={"batches": step})
    checkpoints.close()
    return folder


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def empty_folder(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def plain_file(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.touch()


def metadata_without_a_key(checkpoint: Path) -> None:
    path = checkpoint / "state" / "_METADATA"
    path.write_text(path.read_text().replace('"tree_metadata"', '"tree_metadats"'))


def metadata_of_another_tree(checkpoint: Path) -> None:
    path = checkpoint / "state" / "_METADATA"
    content = json.loads(path.read_text())
    content["tree_metadata"] = dict(list(content["tree_metadata"].items())[:1])
    path.write_text(json.dumps(content))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (empty_folder, "is empty"),
    "a file": (plain_file, "is no folder"),
    "no state": (lambda path: shutil.rmtree(path / "state"), "has no state"),
    "no position": (lambda path: shutil.rmtree(path / "position"), "has no position"),
    "no description": (lambda path: (path / "_CHECKPOINT_METADATA").unlink(), "has no _CHECKPOINT_METADATA"),
    "empty description": (lambda path: (path / "_CHECKPOINT_METADATA").write_bytes(b""), "has a damaged _CHECKPOINT"),
    "deep description": (lambda path: (path / "_CHECKPOINT_METADATA").write_text("[" * 10**5), "has a damaged _CHECK"),
    "no data": (lambda path: shutil.rmtree(path / "state" / "d"), r"has no state/d/\w+"),
    "a data file gone": (lambda path: largest(path).unlink(), r"has no state/ocdbt.process_0/d/\w+"),
    "a data file cut": (lambda path: cut(largest(path)), r"has [\d,]+ of [\d,]+ bytes of state/ocdbt.process_0/d/\w+"),
    "a data file of zeros": (lambda path: zero(largest(path)), "cannot be read"),
    "no index": (lambda path: (path / "state" / "manifest.ocdbt").unlink(), "has no state/manifest.ocdbt"),
    "index of zeros": (lambda path: zero(path / "state" / "manifest.ocdbt"), "has a damaged index of state"),
    "empty metadata": (lambda path: (path / "state" / "_METADATA").write_bytes(b""), "has a damaged state/_METADATA"),
    "metadata cut": (lambda path: cut(path / "state" / "_METADATA"), "has a damaged state/_METADATA"),
    "metadata of zeros": (lambda path: zero(path / "state" / "_METADATA"), "has a damaged state/_METADATA"),
    "metadata of another key": (metadata_without_a_key, "has a damaged state/_METADATA"),
    "metadata of another tree": (metadata_of_another_tree, "cannot be read"),
    "shardings of zeros": (lambda path: zero(path / "state" / "_sharding"), "has a damaged state/_sharding"),
    "position cut": (lambda path: cut(path / "position" / "metadata"), "has a damaged position/metadata"),
    "position a list": (lambda path: (path / "position" / "metadata").write_text("[]"), "has a damaged position/meta"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_newest_checkpoint_is_passed_over_by_name_and_its_step_saved_again(
    run: Path, tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, flaw = DAMAGE[kind]
    folder = tmp_path / run.name
    shutil.copytree(run, folder)
    newest = folder / "checkpoints" / "checkpoint_20"
    damage(newest)
    for _ in range(2):  # the second one is not told again
        checkpoints = Checkpoints(folder)
        found = checkpoints.restore(state_of(0))
        assert checkpoints.restore_position() == {"batches": 10}
        assert checkpoints.latest_step == 10
        np.testing.assert_array_equal(checkpoints.restore_params()["one"], state_of(10).params["one"])
        np.testing.assert_array_equal(found.opt_state["moments"]["two"], state_of(10).params["two"])
    told = [line for line in capfd.readouterr().err.splitlines() if "mergedistill" in line]
    assert len(told) == 1
    assert re.search(f"passed over {re.escape(str(newest))}: it ({flaw})", told[0])
    assert not re.search(r"source locations|See full|bound method|0x", told[0])
    assert newest.exists()

    aside = newest.with_name("damaged_checkpoint_20")
    aside.symlink_to("nowhere")  # left by an earlier damage, or by hand
    checkpoints.save(20, state_of(21), position={"batches": 20}, force=True)
    checkpoints.save(30, state_of(31), position={"batches": 30}, force=True)
    checkpoints.close()
    names = {path.name for path in newest.parent.iterdir()}
    assert names == {"checkpoint_20", "checkpoint_30", "damaged_checkpoint_20"}
    shutil.rmtree(newest.parent / "checkpoint_30")
    again = Checkpoints(folder)
    np.testing.assert_array_equal(again.restore_params()["one"], state_of(21).params["one"])
    again.close()


@pytest.mark.parametrize("kind", DAMAGE)
def test_where_no_checkpoint_is_whole_one_line_names_them(run: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    for step in (10, 20):
        DAMAGE[kind][0](folder / "checkpoints" / f"checkpoint_{step}")
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(folder).restore_params()
    message = str(caught.value)
    assert message.startswith(f"{folder}/checkpoints: found no whole checkpoint: checkpoint_20 ")
    assert "checkpoint_10 " in message
    assert "\n" not in message


def test_checkpoints_that_are_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}/checkpoints: found a file, expected a folder of"):
        Checkpoints(tmp_path)


@pytest.mark.parametrize("name", ["checkpoint_999999", "checkpoint_21", "checkpoint_7", "checkpoint_0"])
def test_an_empty_folder_of_any_step_stops_no_save_and_counts_for_none(run: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "checkpoints" / name).mkdir()
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest_step == 20
    for step in (30, 40):
        checkpoints.save(step, state_of(step), position={}, force=True)
    checkpoints.close()
    assert {path.name for path in (folder / "checkpoints").glob("checkpoint_*")} >= {"checkpoint_30", "checkpoint_40"}
    again = Checkpoints(folder)
    assert again.latest_step == 40
    again.close()


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint_x",
        "checkpoint_",
        "checkpoint_030",
        "checkpoint_٣٠",
        "checkpoint_30.bak",
        "checkpoint_30.orbax-checkpoint-tmp",
        "checkpoint_30.orbax-checkpoint-tmp-17",
    ],
)
def test_what_is_not_named_like_a_checkpoint_is_none(
    run: Path, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.copytree(run / "checkpoints" / "checkpoint_10", folder / "checkpoints" / name)
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest_step == 20
    checkpoints.restore(state_of(0))
    checkpoints.save(30, state_of(30), position={}, force=True)
    checkpoints.close()
    assert "passed over" not in capfd.readouterr().err
    again = Checkpoints(folder)
    assert again.latest_step == 30
    again.close()


def test_a_reader_goes_on_with_the_newer_one_where_a_running_job_deletes_what_it_reads(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    reader = Checkpoints(folder, alone=True)
    newer = folder / "checkpoints" / "checkpoint_30"
    shutil.copytree(run / "checkpoints" / "checkpoint_20", newer)
    for step in (10, 20):
        shutil.rmtree(folder / "checkpoints" / f"checkpoint_{step}")
    np.testing.assert_array_equal(reader.restore_params()["one"], state_of(20).params["one"])
    assert reader.latest_step == 30
    reader.close()
    assert "passed over" not in capfd.readouterr().err
