"""What each of two real processes does, one after another, for test_processes.py: started by launch/local.py.

    job.py MERGE.json FOLDER

The last thing fails on process 1 alone; what went before is in FOLDER/outcome_PROCESS.json.
"""
# ruff: noqa: E402 - the environment comes before the imports that read it

import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DEVICES = os.environ["XLA_FLAGS"]
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import conftest  # noqa: F401 - checks shapes, and asks for eight devices

os.environ["XLA_FLAGS"] = DEVICES

import jax
import numpy as np
from small_merge import Merge, train_config

from mergedistill_jax import cli
from mergedistill_jax import train as verb
from mergedistill_jax.evaluation import heldout
from mergedistill_jax.training import distributed
from mergedistill_jax.training.nonfinite import NonFiniteError
from mergedistill_jax.training.shutdown import Preempted

SETTINGS: dict[str, Any] = {"steps": 20, "log_every": 5, "save_every": 10, "evaluate_every": 10}
"""Of all runs here, and of those that one process does for comparison."""


@contextmanager
def at_batch(number: int, function: Callable[[], None]) -> Iterator[None]:
    """Calls a function before the batch of that number, counted from 1, is placed: two steps before its own.

    Those of evaluations count too.
    """
    place, calls = verb.place_batch, iter(range(1, 10**9))

    def place_batch(*arguments: Any) -> Any:
        if next(calls) == number:
            function()
        return place(*arguments)

    verb.place_batch = heldout.place_batch = place_batch
    try:
        yield
    finally:
        verb.place_batch = heldout.place_batch = place


def tell_each_other() -> dict[str, Any]:
    """Sums, maxima, votes and whole arrays, of numbers that differ between the processes."""
    here = jax.process_index()
    mesh = verb.make_mesh()
    rows = np.arange(8.0, dtype=np.float32).reshape(4, 2)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    placed = distributed.from_host({"rows": rows}, {"rows": sharding})
    return {
        "leads": distributed.leads(),
        "sum": distributed.sum_over_processes(np.array([here, 2**45 + here, 70_000])).tolist(),
        "max": distributed.max_over_processes(np.array([here, -here], np.float32)).tolist(),
        "votes": [int(distributed.votes_of_processes(vote)) for vote in (False, here == 1, True)],
        "host": np.asarray(distributed.to_host(placed)["rows"]).tolist(),
        "local_rows": len(placed["rows"].addressable_shards),
    }


def asked_to_leave(config: verb.TrainConfig, batch: int) -> tuple[int, list[str]]:
    """Process 1 alone is asked, before that batch; gives this one's exit status, and the checkpoints that there are."""
    status = 0

    def ask() -> None:
        if jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with at_batch(batch, ask):
            verb.train(config)
    except Preempted as error:
        status = int(error.code or 0)
    left = sorted(path.name for path in (Path(config.output) / "checkpoints").iterdir())
    distributed.wait_for_all(f"looked after {batch}")
    return status, left


def broken(config: verb.TrainConfig) -> str:
    """The message with which a run ends of which the fourth batch holds a NaN on the devices."""
    place, calls = verb.place_batch, iter(range(1, 10**9))

    def poisoned(*arguments: Any) -> Any:
        placed = place(*arguments)
        if next(calls) == 4:
            placed["teacher_log_probs"] = placed["teacher_log_probs"] * np.float32(np.nan)
        return placed

    verb.place_batch = poisoned
    try:
        verb.train(config)
    except NonFiniteError as error:
        return str(error)
    finally:
        verb.place_batch = place
    return ""


def export(run: Path, output: Path) -> int:
    """A stage for one process; its exit status here."""
    given = {"RUN": str(run), "OUTPUT": str(output), "LANGUAGES": ("en", "es")}
    return cli._main(["export", "--gin_file=gin/runs/export.gin", *(f"--gin.{k}={v!r}" for k, v in given.items())])


def fail() -> None:
    if jax.process_index() == 1:
        raise RuntimeError("process 1 lost its disk")


def main(merge_file: str, folder: Path) -> int:
    merge = Merge(**json.loads(Path(merge_file).read_text()))
    configure = functools.partial(train_config, merge, **SETTINGS)
    outcome: dict[str, Any] = {"told": tell_each_other()}
    verb.train(configure(folder / "whole", fsdp_parallelism=2))
    verb.train(configure(folder / "begun_by_one", model_parallelism=4))
    outcome["exported"] = export(folder / "whole", folder / "export")
    stopped = configure(folder / "stopped", fsdp_parallelism=2)
    # Step 10 is evaluated after batches 1 to 12 are placed; the next sitting begins with that, three batches long.
    outcome["evaluating"] = asked_to_leave(stopped, 13)
    outcome["training"] = asked_to_leave(stopped, 6)
    verb.train(stopped)
    outcome["broken"] = broken(configure(folder / "broken", fsdp_parallelism=2))
    (folder / f"outcome_{jax.process_index()}.json").write_text(json.dumps(outcome))
    distributed.wait_for_all("told")
    with at_batch(5, fail):
        verb.train(configure(folder / "failed", fsdp_parallelism=2))
    return 0


if __name__ == "__main__":
    sys.exit(distributed.run_as_member(lambda: main(sys.argv[1], Path(sys.argv[2]))))
