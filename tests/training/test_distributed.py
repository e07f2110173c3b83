"""Alone, a process is its own leader, and what it tells the others is what it knows. Several: tests/distributed/."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mergedistill_jax import cli
from mergedistill_jax.training import distributed
from mergedistill_jax.training.partitioning import make_mesh
from mergedistill_jax.training.shutdown import Preempted


def test_alone_nothing_is_waited_for_or_added() -> None:
    assert distributed.leads()
    distributed.wait_for_all("nobody else")
    np.testing.assert_array_equal(distributed.sum_over_processes(np.array([1, 2**45])), [1, 2**45])
    np.testing.assert_array_equal(distributed.max_over_processes(np.float32([0.5])), [0.5])
    assert distributed.lead_first("here", lambda: 7) == 7


def test_sums_of_large_numbers_are_exact_on_devices_without_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of 16 bits, added on the device as those of several processes are."""
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(distributed, "_summed", lambda parts: jnp.sum(jnp.stack([parts] * 3), axis=0))
    numbers = np.array([0, 1, 65535, 65536, 2**31 - 1, 2**32 + 5, 2**46 - 1])
    np.testing.assert_array_equal(distributed.sum_over_processes(numbers), 3 * numbers)


def test_arrays_go_to_the_host_and_back_onto_their_devices() -> None:
    mesh = make_mesh()
    tree = {"rows": np.arange(16, dtype=np.float32).reshape(8, 2), "step": np.int32(3)}
    shardings = {"rows": NamedSharding(mesh, P("data")), "step": NamedSharding(mesh, P())}
    placed = distributed.from_host(tree, shardings)
    assert placed["rows"].sharding == shardings["rows"]
    back = distributed.to_host(placed)
    for name, value in tree.items():
        np.testing.assert_array_equal(back[name], value)


def test_without_being_asked_a_stage_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(distributed.VARIABLE, raising=False)
    assert distributed.run_as_member(lambda: 5) == 5
    assert not jax.distributed.is_initialized()


def test_a_process_that_fails_says_so_and_leaves_at_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class LeftError(Exception):
        pass

    def leave(status: int) -> None:
        raise LeftError(status)

    monkeypatch.setenv(distributed.VARIABLE, "auto")
    monkeypatch.setattr(distributed, "_initialise", lambda found: None)  # noqa: ARG005
    monkeypatch.setattr(distributed.os, "_exit", leave)
    with pytest.raises(LeftError, match="1"):
        distributed.run_as_member(lambda: {}["missing"])
    assert "KeyError: 'missing'" in capfd.readouterr().err
    with pytest.raises(LeftError, match="2"):
        distributed.run_as_member(lambda: 2)
    assert distributed.run_as_member(lambda: 0) == 0
    with pytest.raises(Preempted):  # asked to leave: all do, and wait for each other
        distributed.run_as_member(asked_to_leave)


class Coordinator:
    """Keeps what one process tells and another asks for."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}

    def key_value_set(self, name: str, value: str) -> None:
        self.told[name] = value

    def blocking_key_value_get(self, name: str, _timeout_ms: int) -> str:
        return self.told[name]


def test_the_leading_process_works_alone_and_the_others_end_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes one after another, each counting its meetings from the first. Real ones: tests/distributed/."""
    coordinator, calls, parted = Coordinator(), [], []

    def work(status: int) -> int:
        calls.append(status)
        if status == 9:
            raise KeyError(status)
        return status

    def process(*, leads: bool) -> list[int | str]:
        monkeypatch.setattr(distributed, "leads", lambda: leads)
        monkeypatch.setattr(distributed, "_ALONE", itertools.count())
        outcomes = []
        for status in (0, 2, 9):
            try:
                outcomes.append(distributed.lead_alone(lambda status=status: work(status)))
            except KeyError:
                outcomes.append("raised")
        return outcomes

    assert distributed.lead_alone(lambda: work(3)) == 3  # no job
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: parted.append(1))
    monkeypatch.setattr(distributed.global_state, "client", coordinator)
    assert process(leads=True) == [0, 2, "raised"]
    assert process(leads=False) == [0, 2, 1]
    assert calls == [3, 0, 2, 9]
    assert len(parted) == 4  # where a status ends the job, and only there


def asked_to_leave() -> int:
    raise Preempted


@pytest.mark.parametrize("found", ["1", "2/1", "0/2@localhost", "a/b@c:1"])
def test_an_environment_that_makes_no_sense_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: str
) -> None:
    """By the command line, before it looks at anything else."""
    monkeypatch.setenv(distributed.VARIABLE, found)
    assert cli.main(["train", "--gin_file=missing.gin"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mergedistill: MERGEDISTILL_DISTRIBUTED: found '{found}', expected 'auto' or 'PROCESS/")
    assert error.count("\n") == 1
    assert not jax.distributed.is_initialized()
