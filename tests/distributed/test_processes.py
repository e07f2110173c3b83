"""Two real processes of two devices each, through launch/local.py, against one process of eight.

One job does everything (job.py), for most of what it takes is starting; the tests look at what it left.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from distributed.job import SETTINGS
from small_merge import Merge, make_merge, train_config

from launch.local import run
from mergedistill_jax.data.batches import batches, describe_mixture
from mergedistill_jax.models.huggingface import load_masked_lm
from mergedistill_jax.train import train
from mergedistill_jax.training.checkpoints import Checkpoints
from mergedistill_jax.training.metrics import LOG_NAME, read_log

pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What the job left: its runs' folders by name, its exit status, output, and each process's own account."""

    folder: Path
    status: int
    output: str
    outcomes: list[dict[str, Any]]


@pytest.fixture(scope="module")
def merge(teachers: dict[str, Path]) -> Merge:
    return make_merge(next(iter(teachers.values())).parent)


@pytest.fixture(scope="module")
def alone(merge: Merge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(train_config(merge, folder, **SETTINGS))
    return folder


@pytest.fixture(scope="module")
def job(merge: Merge, alone: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Job:
    del alone  # but its compiled program and its time come first
    folder = tmp_path_factory.mktemp("job")
    (folder / "merge.json").write_text(json.dumps(dataclasses.asdict(merge)))
    train(train_config(merge, folder / "begun_by_one", stop_after=10, **SETTINGS))
    command = [sys.executable, str(Path(__file__).parent / "job.py"), str(folder / "merge.json"), str(folder)]
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    assert capture
    with pytest.MonkeyPatch.context() as patch, (folder / "output.txt").open("w+") as output:
        patch.setattr(sys, "stdout", output)
        patch.setattr(sys, "stderr", output)
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        status = run(command, processes=2, devices_per_process=2)
        output.seek(0)
        said = output.read()
    paths = [folder / f"outcome_{process}.json" for process in range(2)]
    assert all(path.exists() for path in paths), said[-5000:]
    return Job(folder=folder, status=status, output=said, outcomes=[json.loads(path.read_text()) for path in paths])


def params_of(folder: Path) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(folder)
    found = jax.tree_util.tree_flatten_with_path(checkpoints.restore_params())[0]
    checkpoints.close()
    return {jax.tree_util.keystr(path): leaf for path, leaf in found}


def assert_same_numbers(found: Path, expected: Path) -> None:
    """Logs to 1e-5 of each number, held-out ones included; parameters to 1e-4, after twenty updates of up to 3e-2."""
    rows, others = read_log(found), read_log(expected)
    assert [set(row) for row in rows] == [set(row) for row in others]
    assert any("heldout/gold_loss" in row for row in rows)
    for row, other in zip(rows, others, strict=True):
        for name, value in row.items():
            assert value == pytest.approx(other[name], rel=1e-5), (row["step"], name)
    ours, theirs = params_of(found), params_of(expected)
    for name, leaf in ours.items():
        np.testing.assert_allclose(leaf, theirs[name], atol=1e-4, err_msg=name)
    assert (found / "token_counts-20.bin").read_bytes() == (expected / "token_counts-20.bin").read_bytes()


def test_what_processes_tell_each_other_arrives(job: Job) -> None:
    for process, outcome in enumerate(job.outcomes):
        assert outcome["told"] == {
            "leads": process == 0,
            "sum": [1, 2**46 + 1, 140_000],
            "max": [1.0, 0.0],
            "votes": [0, 1, 2],
            "host": [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]],
            "local_rows": 2,
        }


def test_two_processes_give_the_numbers_of_one(job: Job, alone: Path) -> None:
    """Parameters divided over two devices, batches over all four; uneven masks, dropout, an evaluation."""
    assert_same_numbers(job.folder / "whole", alone)


def test_a_run_goes_on_with_other_processes_and_another_mesh(job: Job, alone: Path) -> None:
    """Ten steps of one process with eight rows of devices, ten of two processes that share every row."""
    assert_same_numbers(job.folder / "begun_by_one", alone)


def test_one_process_goes_on_with_the_run_of_two(job: Job, merge: Merge, alone: Path, tmp_path: Path) -> None:
    """From its checkpoint of step 10, the newer one being lost."""
    folder = tmp_path / "run"
    copied = job.folder / "whole"
    for path in sorted(copied.rglob("*")):
        kept = "checkpoint_20" not in str(path) and "token_counts-20" not in path.name
        if path.is_file() and kept:
            target = folder / path.relative_to(copied)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    train(train_config(merge, folder, **SETTINGS))
    assert_same_numbers(folder, alone)


def test_sigterm_to_one_process_ends_both_after_the_same_step_and_loses_nothing(job: Job) -> None:
    """Within an evaluation, then between two logs; and the run that goes on is the undisturbed one, bit for bit."""
    assert [outcome["evaluating"] for outcome in job.outcomes] == [[75, ["checkpoint_10"]]] * 2
    (status, first), (_, second) = (outcome["training"] for outcome in job.outcomes)
    assert (status, first) == (75, second)
    (step,) = {int(name.removeprefix("checkpoint_")) for name in first} - {10}
    assert 10 < step < 15  # between two logs
    stopped, whole = job.folder / "stopped", job.folder / "whole"
    assert (stopped / LOG_NAME).read_bytes() == (whole / LOG_NAME).read_bytes()
    theirs = params_of(whole)
    for name, leaf in params_of(stopped).items():
        np.testing.assert_array_equal(leaf, theirs[name], err_msg=name)
    assert job.output.count("stopped by a signal, and saved; the same command goes on from here") == 2


def test_a_stage_for_one_process_is_run_by_the_leading_one_alone(job: Job) -> None:
    """Which reads a checkpoint that both wrote, while the other waits."""
    assert [outcome["exported"] for outcome in job.outcomes] == [0, 0]
    assert [line[:4] for line in job.output.splitlines() if "export: " in line] == ["[0] ", "[0] "]
    config, params = load_masked_lm(str(job.folder / "export"))
    assert config.num_layers == 1
    stored = params_of(job.folder / "whole")
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(leaf.size for leaf in stored.values())


def test_a_broken_step_ends_both_and_each_keeps_its_rows_of_the_batch(job: Job, merge: Merge) -> None:
    mixture = describe_mixture(train_config(merge, "unused", **SETTINGS).mixture)
    fourth = next(batches(mixture, 8, seed=0, start_step=3))
    rows = []
    for process, outcome in enumerate(job.outcomes):
        path = job.folder / "broken" / f"nonfinite_step_4_process_{process}.npz"
        assert outcome["broken"].startswith(f"{path}: step 4, whose batch this is: field ")
        with np.load(path) as kept:
            rows.append(kept["row_numbers"])
            for name, values in fourth.items():
                np.testing.assert_array_equal(kept[name], values[kept["row_numbers"]])
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(8))
    assert not list((job.folder / "broken").glob("checkpoints/*"))


def test_a_process_that_fails_ends_the_job_on_both_with_its_message(job: Job) -> None:
    """PEERS.md trap 15."""
    assert job.status == 1
    assert "[1] RuntimeError: process 1 lost its disk" in job.output
    assert "launch.local: process 1 failed first, with exit status 1" in job.output
    assert not list((job.folder / "failed").glob("checkpoints/checkpoint_*"))


def test_the_leading_process_alone_speaks_and_writes(job: Job) -> None:
    told = [line for line in job.output.splitlines() if " steps done, checkpoints and logs in " in line]
    assert told
    assert all(line.startswith("[0] ") for line in told)
    assert len(list((job.folder / "whole" / "tensorboard").iterdir())) == 1


REFUSED = """
import os, sys, time
from mergedistill_jax.training.distributed import run_as_member, told_by_lead

def refused():
    told = told_by_lead(lambda: "the folder is in use")
    time.sleep(float(sys.argv[1 + int(os.environ["MERGEDISTILL_DISTRIBUTED"][0])]))
    print(f"mergedistill: {told}", file=sys.stderr)
    return 2

sys.exit(run_as_member(refused))
"""


@pytest.mark.parametrize("seconds", [("0", "0"), ("0", "1"), ("1", "0")])
def test_what_all_processes_refuse_each_of_them_says(
    seconds: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Whichever comes first; the end of the leading one would make JAX abort the other, with a trace of its stack."""
    assert run([sys.executable, "-c", REFUSED, *seconds], processes=2) == 2
    found = capfd.readouterr()
    lines = [line for line in found.out.splitlines() if "$ " not in line and line.startswith("[")]
    assert sorted(line for line in lines if "mergedistill:" in line) == [
        f"[{process}] mergedistill: the folder is in use" for process in range(2)
    ]
    assert "Check failure" not in found.out
