"""One job of several processes: how it starts and ends, and the little that its processes tell each other.

A job is asked for by the environment variable MERGEDISTILL_DISTRIBUTED, so that the same command runs alone on a
laptop and on every worker of a pod:

    auto                  a TPU pod, Slurm, Kubernetes or Open MPI: JAX finds the others by itself
    1/2@10.0.0.7:8476     process 1 of 2, of which process 0 listens at that address (see launch/local.py)

Whatever is asked of all processes here hangs unless all of them ask: only what every process decides alike may lead
to such a call.
"""

import contextlib
import functools
import itertools
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.distributed import global_state  # its client, which has no public name, is what Orbax waits with too
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

VARIABLE = "MERGEDISTILL_DISTRIBUTED"

HEARTBEAT_TIMEOUT_S = 30
"""After how long a process that fell silent ends the job on all the others."""

_LONGEST_WAIT_MS = 2**31 - 1
_FAREWELL_MS = 2000
"""How long a process that fails waits for the others to fail too."""
_ALONE, _TOLD = itertools.count(), itertools.count()
"""Numbers of the meetings of `lead_alone` and of `told_by_lead`, the same on all processes."""


def run_as_member(function: Callable[[], int]) -> int:
    """Runs a function in the job that the environment asks for, if it asks for one.

    A process that fails leaves at once, after its message: an ordinary exit would first wait minutes for the others,
    and they in turn would wait for it in the middle of a step. JAX ends them when it is gone.

    Returns:
        The function's exit status, where that is 0 or the process is alone.
    """
    found = os.environ.get(VARIABLE, "")
    if not found:
        return function()
    try:
        _initialise(found)
    except ValueError as error:
        print(f"mergedistill: {error}", file=sys.stderr)
        return 2
    try:
        status = function()
    except SystemExit:
        raise
    except BaseException:  # noqa: BLE001 - whatever it is, the others must not wait for this process
        traceback.print_exc()
        _leave(1)
    if status:
        _leave(status)
    return status


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    client = global_state.client
    if client is not None:
        # Where all fail alike, as of wrong input, each says so first: JAX would abort the others with the leading one.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.wait_at_barrier("mergedistill/leaving", _FAREWELL_MS)
            time.sleep(_FAREWELL_MS / 4000 if leads() else 0)
    os._exit(status)


def _initialise(found: str) -> None:
    address = re.fullmatch(r"(\d+)/(\d+)@(.+:\d+)", found)
    if address is None and found != "auto":
        raise ValueError(f"{VARIABLE}: found {found!r}, expected 'auto' or 'PROCESS/PROCESSES@HOST:PORT'")
    # JAX's own service would swallow SIGTERM in every stage; shutdown.py listens where a stage can save.
    jax.config.update("jax_enable_preemption_service", val=False)
    if address is None:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S)
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        coordinator_address=address[3],
        num_processes=int(address[2]),
        process_id=int(address[1]),
        cluster_detection_method="deactivate",
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
    )


def leads() -> bool:
    """Whether this process writes what is written once: logs, descriptions, counts. Starts no backend."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if leads():
        print(text, flush=True)


def wait_for_all(name: str) -> None:
    """Returns when every process has come here; `name` tells one meeting from another."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def lead_first(name: str, function: Callable[[], Any]) -> Any:
    """Calls a function on the leading process, then, when that is done, on the others."""
    if leads():
        found = function()
        wait_for_all(name)
        return found
    wait_for_all(name)
    return function()


def told_by_lead(function: Callable[[], str]) -> str:
    """Calls a function on the leading process, and gives its result on every process.

    The others wait at the coordinator: no device takes part. Where the function raises, the leading process ends, and
    JAX ends the others.
    """
    if not jax.distributed.is_initialized():
        return function()
    client = global_state.client
    assert client is not None  # noqa: S101 - there is one where jax.distributed is initialised
    name = f"mergedistill/told/{next(_TOLD)}"
    if not leads():
        return client.blocking_key_value_get(name, _LONGEST_WAIT_MS).removeprefix("=")
    found = function()
    client.key_value_set(name, f"={found}")  # never empty: that could read as "not there yet"
    return found


def lead_alone(function: Callable[[], int]) -> int:
    """Calls a function on the leading process alone, and gives its exit status on every process when it is done.

    The others wait at the coordinator and not on the devices, of which a meeting may not take hours. Where the function
    raises, they are given 1.
    """
    if not jax.distributed.is_initialized():
        return function()
    client = global_state.client
    assert client is not None  # noqa: S101 - there is one where jax.distributed is initialised
    name = f"mergedistill/alone/{next(_ALONE)}"
    # Asked of all processes: it starts their devices, and on a pod none of them starts without the others.
    if not leads():
        status = int(client.blocking_key_value_get(name, _LONGEST_WAIT_MS))
        return _parted(status)
    try:
        status = function()
    except BaseException:
        client.key_value_set(name, "1")
        _parted(1)
        raise
    client.key_value_set(name, str(status))
    return _parted(status)


def _parted(status: int) -> int:
    """Where a status ends the job, the processes part first: else the coordinator's end would be that of the others."""
    if status:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another process has gone already
            jax.distributed.shutdown()
    return status


def sum_over_processes(numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The sum of every process's 64-bit numbers, none of them negative, exact below 2**47."""
    if jax.process_count() == 1:
        return numbers
    # Devices hold no 64-bit integers: 16 bits at a time, each sum of which fits 32 bits for 32,768 processes.
    parts = np.stack([(numbers >> shift) & 0xFFFF for shift in (0, 16, 32)]).astype(np.int32)
    sums = np.asarray(_summed(parts)).astype(np.int64)
    return sums[0] + (sums[1] << 16) + (sums[2] << 32)


def max_over_processes(numbers: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The largest of every process's float32 numbers, one by one."""
    if jax.process_count() == 1:
        return numbers
    return np.asarray(_reduced(jnp.max, [numbers] * jax.local_device_count()))


def votes_of_processes(vote: bool) -> Array:  # noqa: FBT001 - it is what is voted
    """How many processes say yes: a scalar on the device, so that nobody waits for it before it is read."""
    return _summed(np.asarray(vote, np.int32))


def _summed(numbers: np.ndarray) -> Array:
    return _reduced(jnp.sum, [numbers] + [np.zeros_like(numbers)] * (jax.local_device_count() - 1))


def _reduced(reduce: Callable[..., Array], rows: Sequence[np.ndarray]) -> Array:
    """One row of each device of this process, reduced over all devices of all processes.

    Over all of them although one each would do: programs over different devices that run at the same time get each
    other's messages on CPU devices (gloo).
    """
    sharding, replicated = _over_devices()
    shape = (jax.device_count(), *rows[0].shape)
    placed = [jax.device_put(row[None], device) for row, device in zip(rows, jax.local_devices(), strict=True)]
    return _reducer(reduce, replicated)(jax.make_array_from_single_device_arrays(shape, sharding, placed))


@functools.cache
def _over_devices() -> tuple[NamedSharding, NamedSharding]:
    mesh = Mesh(np.array(jax.devices()), ("device",))
    return NamedSharding(mesh, P("device")), NamedSharding(mesh, P())


@functools.cache
def _reducer(reduce: Callable[..., Array], sharding: NamedSharding) -> Callable[[Array], Array]:
    return jax.jit(lambda rows: reduce(rows, axis=0), out_shardings=sharding)


def to_host(tree: Any) -> Any:
    """Whole arrays of the host, on every process, of arrays that may lie over all processes' devices."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def from_host(tree: Any, shardings: Any) -> Any:
    """Arrays laid out over the devices of all processes, from whole arrays that every process holds alike."""
    return jax.tree.map(
        lambda leaf, sharding: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index]),
        tree,
        shardings,
    )
