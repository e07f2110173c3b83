"""Schedules over training steps: the weight of the gold labels, and the learning rate."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

Schedule = Callable[[Any], Any]
"""Step, an int or a scalar array, to a scalar float32 array."""

_ADDED = {"added": True}
"""Marks a field that descriptions of older runs lack: where it has its default, they leave it out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldWeight:
    """lambda of the loss over training: teacher annealing (Clark et al. 2019) by default.

    Attributes:
        shape: "linear" or "cosine" from `start` to `stop` over all steps, or "constant" at `stop`.
        floor: lambda is never below it, whatever the shape says: the schedule is cut off there, not squeezed.
        teacher_floor: nor is the teachers' weight, 1 - lambda, ever below this.

    With `teacher_floor=0.2`, a linear schedule of eleven steps:

        step      0    1   ...   7    8    9    10
        lambda    0   0.1  ...  0.7  0.8  0.8  0.8
    """

    shape: str = "linear"
    start: float = 0.0
    stop: float = 1.0
    floor: float = dataclasses.field(default=0.0, metadata=_ADDED)
    teacher_floor: float = dataclasses.field(default=0.0, metadata=_ADDED)

    def __post_init__(self) -> None:
        if self.shape not in ("linear", "cosine", "constant"):
            raise ValueError(f"GoldWeight.shape: found {self.shape!r}, expected 'linear', 'cosine' or 'constant'")
        for name in ("start", "stop", "floor", "teacher_floor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"GoldWeight.{name}: found {getattr(self, name)}, expected a weight from 0 to 1")
        if self.floor + self.teacher_floor > 1.0:
            raise ValueError(
                f"GoldWeight.floor: found {self.floor} beside teacher_floor={self.teacher_floor},"
                " expected floors that leave room for each other, at most 1 together"
            )

    @property
    def gold_only(self) -> bool:
        """Whether the teacher never counts."""
        always_one = self.stop == 1.0 and (self.shape == "constant" or self.start == 1.0)
        return self.floor == 1.0 or (always_one and self.teacher_floor == 0.0)

    def schedule(self, steps: int) -> Schedule:
        """The weight of the gold labels at a step; `stop` is reached at the last one."""
        import jax.numpy as jnp
        from jaxtyping import Array, Float

        def weight(step: Array | int) -> Float[Array, ""]:
            done = jnp.clip(jnp.asarray(step, jnp.float32) / max(steps - 1, 1), 0.0, 1.0)
            if self.shape == "cosine":
                done = (1.0 - jnp.cos(jnp.pi * done)) / 2.0
            if self.shape == "constant":
                done = jnp.ones_like(done)
            return jnp.clip(self.start + (self.stop - self.start) * done, self.floor, 1.0 - self.teacher_floor)

        return weight


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear warm-up to `peak`, then linear decay to `final_share` of it at the last step, as in BERT."""

    peak: float
    warmup_steps: int
    final_share: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("peak", 0.0), ("warmup_steps", 0), ("final_share", 0.0)):
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"LearningRate.{name}: found {getattr(self, name)}, expected at least {least}")

    def schedule(self, steps: int) -> Schedule:
        """Learning rate at a step."""
        import optax

        warmup = min(self.warmup_steps, max(steps - 1, 1))
        return optax.join_schedules(
            [
                optax.linear_schedule(0.0, self.peak, warmup),
                optax.linear_schedule(self.peak, self.peak * self.final_share, max(steps - warmup, 1)),
            ],
            [warmup],
        )
