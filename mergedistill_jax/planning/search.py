"""Which ways to run a step are worth compiling."""

from collections.abc import Mapping
from typing import Any

from mergedistill_jax.planning.students import TrainSettings


def candidates(settings: TrainSettings, devices: int, limit: int) -> list[dict[str, Any]]:
    """Changes to the settings, the settings as they are first; at most `limit`, each with the same batch.

    In the order in which they tend to help a model that fits into one chip: fewer microbatches, parameters divided over
    all devices, both, a vocabulary divided in two, more microbatches. What does not divide is left out.
    """
    parts = devices // settings.model_parallelism
    micro = settings.num_microbatches
    everything: list[dict[str, Any]] = [
        {},
        {"num_microbatches": micro // 2},
        {"num_microbatches": micro // 4},
        {"fsdp_parallelism": parts},
        {"num_microbatches": micro // 2, "fsdp_parallelism": parts},
        {"num_microbatches": micro // 2, "model_parallelism": 2},
        {"num_microbatches": 1},
        {"num_microbatches": 1, "fsdp_parallelism": parts},
        {"num_microbatches": micro * 2},
    ]
    now = _current(settings)
    kept: list[dict[str, Any]] = []
    for changes in everything:
        changed = {name: value for name, value in changes.items() if value != now[name]}
        if _divides({**now, **changed}, settings.batch_size, devices) and changed not in kept:
            kept.append(changed)
    return kept[:limit] if kept else [{}]


def _current(settings: TrainSettings) -> dict[str, int]:
    names = ("num_microbatches", "fsdp_parallelism", "model_parallelism")
    return {name: getattr(settings, name) for name in names}


def _divides(changed: Mapping[str, int], batch_size: int, devices: int) -> bool:
    shared = changed["fsdp_parallelism"] * changed["model_parallelism"]
    if changed["num_microbatches"] < 1 or devices % shared:
        return False
    return batch_size % (devices // changed["model_parallelism"] * changed["num_microbatches"]) == 0


def described(changes: Mapping[str, Any]) -> str:
    """A candidate's name in a table: `fsdp_parallelism=16`, or `as configured`."""
    return " ".join(f"{name}={value}" for name, value in changes.items()) or "as configured"
