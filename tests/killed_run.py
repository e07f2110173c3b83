"""A sitting of a run that ends in SIGKILL, at a chosen batch or while a checkpoint is written: for test_train.py."""

import dataclasses
import os
import signal
import threading
from typing import Any

from small_merge import Merge, train_config

from mergedistill_jax import train as verb
from mergedistill_jax.training.checkpoints import Checkpoints


@dataclasses.dataclass(frozen=True, kw_only=True)
class Death:
    """When.

    Attributes:
        at_batch: as the sitting's batch of this number is placed on the devices.
        during_save_s: so many seconds after the sitting's first checkpoint was begun.
    """

    at_batch: int = 0
    during_save_s: float | None = None


def train_and_die(merge: Merge, output: str, death: Death) -> None:
    """Trains; does not return where the moment comes."""
    place, save, calls = verb.place_batch, Checkpoints.save, iter(range(1, 10**9))

    def place_batch(*arguments: Any) -> Any:
        if next(calls) == death.at_batch:
            kill()
        return place(*arguments)

    def begin(self: Checkpoints, step: int, *arguments: Any, **options: Any) -> None:
        if death.during_save_s is not None:
            threading.Timer(death.during_save_s, kill).start()
        save(self, step, *arguments, **options)

    verb.place_batch, Checkpoints.save = place_batch, begin
    verb.train(train_config(merge, output))


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
