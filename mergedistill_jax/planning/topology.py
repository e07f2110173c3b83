"""Devices to compile for: those of a TPU slice that is not there, or this machine's CPU.

    v5e:4x4     16 chips of v5e in a square
    v4:2x2x4    16 chips of v4, and as many devices: two cores are one
    cpu, cpu:8  one or several CPU devices

A slice of TPU needs libtpu, the compiler's library, and no TPU.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from mergedistill_jax.planning.hardware import CHIPS, Chip

INSTALL = "pip install 'mergedistill_jax[plan]'"

_SIZES = {2: "AxB", 3: "AxBxC"}
_EXPECTED = f"{', '.join(f'{chip.name}:{_SIZES[chip.dimensions]}' for chip in CHIPS.values())}, cpu or cpu:N"

# Else libtpu asks a cloud machine's metadata server what it runs on; and it lets one process in at a time, for the sake
# of a TPU that nobody touches here.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Topology:
    """Devices to compile for.

    Attributes:
        chip: None for CPU.
        sizes: chips along each dimension, (n,) for CPU.
    """

    name: str
    chip: Chip | None
    sizes: tuple[int, ...]
    devices: Sequence[Any]

    @functools.cached_property
    def coordinates(self) -> dict[int, tuple[int, ...]]:
        """Where each device stands, by its number in the mesh's program, which is its place in the list."""
        return {index: tuple(getattr(device, "coords", (index,))) for index, device in enumerate(self.devices)}


def parse_topology(name: str) -> tuple[str, tuple[int, ...]]:
    """Kind and sizes of a topology: ("v5e", (4, 4)).

    Raises:
        ValueError: no such kind, or not as many dimensions as it has.
    """
    kind, _, text = name.partition(":")
    sizes = tuple(int(size) for size in text.split("x")) if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text) else ()
    if kind == "cpu" and (len(sizes) == 1 or name == "cpu"):
        return kind, sizes or (1,)
    if kind not in CHIPS or len(sizes) != CHIPS[kind].dimensions:
        raise ValueError(f"topology: found {name!r}, expected {_EXPECTED}")
    return kind, sizes


def open_topology(name: str) -> Topology:
    """The devices of a topology.

    Raises:
        ValueError: no such topology, libtpu is not installed, or fewer CPU devices than asked for.
    """
    kind, sizes = parse_topology(name)
    if not os.environ.get("JAX_PLATFORMS"):
        jax.config.update("jax_platforms", "cpu")  # else JAX looks for the TPU whose compiler is installed
    if kind == "cpu":
        return Topology(name=name, chip=None, sizes=sizes, devices=_cpu_devices(name, sizes[0]))
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"topology {name}: found no libtpu, the compiler for TPU, expected it from {INSTALL}")
    return Topology(name=name, chip=CHIPS[kind], sizes=sizes, devices=_tpu_devices(name, CHIPS[kind], sizes))


def _cpu_devices(name: str, count: int) -> Sequence[Any]:
    with contextlib.suppress(RuntimeError, ValueError):  # devices exist already, or XLA_FLAGS says how many
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(f"topology {name}: found {len(devices)} CPU devices in this process, expected {count}")
    return devices[:count]


def _tpu_devices(name: str, chip: Chip, sizes: tuple[int, ...]) -> Sequence[Any]:
    counted = math.prod(sizes) * (chip.cores if chip.accelerator == chip.name and chip.cores > 1 else 1)
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    os.environ["TPU_ACCELERATOR_TYPE"] = f"{chip.accelerator}-{counted}"
    options: dict[str, Any] = {"chip_config_name": chip.chip_config} if chip.chip_config else {}
    if math.prod(sizes) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # a host has four else
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].partition(": ")[2] or str(error)
        raise ValueError(f"topology: found {name!r}, expected a slice that the compiler knows: {reason}") from error
    return found.devices
