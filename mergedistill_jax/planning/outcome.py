"""What a plan found, and the numbers that follow from it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mergedistill_jax.planning.compiling import Compiled
from mergedistill_jax.planning.hardware import Chip
from mergedistill_jax.planning.records import RecordBytes
from mergedistill_jax.planning.students import Parameters


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One way to run the training step.

    Attributes:
        changes: to the settings of the run.
        microbatch_per_chip: sequences that the devices of one copy of the model work on at a time.
        useful_flops: of one step on one chip.
        chip: None for CPU.
        compiled: None where it does not fit.
        problem: then, what the compiler says; `needed` bytes, if it tells.
    """

    name: str
    changes: dict[str, Any]
    batch_size: int
    microbatch_per_chip: float
    parameters: Parameters
    useful_flops: float
    chip: Chip | None
    devices: int
    length: int
    compiled: Compiled | None
    problem: str
    needed: int | None

    @property
    def fits(self) -> bool:
        """Whether the step has room; on CPU, whether it compiles."""
        if self.compiled is None:
            return False
        return self.chip is None or self.compiled.memory.total <= self.chip.available_hbm

    @property
    def step_seconds(self) -> float | None:
        """Estimated; None for CPU and for what does not compile."""
        estimate = self.compiled.estimate if self.compiled else None
        return estimate.total if estimate else None

    @property
    def tokens_per_second(self) -> float | None:
        """Of all chips together."""
        seconds = self.step_seconds
        return self.batch_size * self.length / seconds if seconds else None

    @property
    def utilisation(self) -> float | None:
        """Useful FLOPs per second over the chip's peak (MFU)."""
        seconds = self.step_seconds
        return self.useful_flops / seconds / self.chip.peak_flops if seconds and self.chip else None

    @property
    def core_utilisation(self) -> float | None:
        """The same over the compiler's cycles alone, as if links and unestimated operations took no time."""
        if self.compiled is None or self.chip is None or not self.compiled.cycles:
            return None
        return self.useful_flops / (self.compiled.cycles * self.chip.flops_per_cycle)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
    """One candidate on two slices, with as many sequences per chip on both."""

    topology: str
    small: Candidate
    large: Candidate

    @property
    def ratio(self) -> float | None:
        """Estimated step time on the large slice over that on the small one."""
        small, large = self.small.step_seconds, self.large.step_seconds
        return large / small if small and large else None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The predict step of one teacher on one chip.

    Attributes:
        vocabulary_size: the teacher's.
        tokens: of all corpora and draws, for every teacher of each.
    """

    vocabulary_size: int
    batch_size: int
    length: int
    parameters: Parameters
    useful_flops: float
    chip: Chip | None
    compiled: Compiled | None
    problem: str
    tokens: float

    @property
    def tokens_per_second(self) -> float | None:
        """Of one chip, estimated."""
        estimate = self.compiled.estimate if self.compiled else None
        return self.batch_size * self.length / estimate.total if estimate else None

    @property
    def utilisation(self) -> float | None:
        """Useful FLOPs per second over the chip's peak."""
        estimate = self.compiled.estimate if self.compiled else None
        return self.useful_flops / estimate.total / self.chip.peak_flops if estimate and self.chip else None

    @property
    def chip_hours(self) -> float | None:
        """For all tokens, as if every teacher were this one."""
        rate = self.tokens_per_second
        return self.tokens / rate / 3600 if rate and self.tokens else None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """Everything that a plan tells.

    Attributes:
        run: settings of the run as configured, which candidates change.
    """

    topology: str
    chip: Chip | None
    devices: int
    vocabulary_size: int
    vocabulary_origin: str
    length: int
    steps: int
    run: dict[str, Any]
    candidates: Sequence[Candidate]
    best: Candidate | None
    scaling: Scaling | None
    prediction: Prediction | None
    records: Sequence[RecordBytes]

    @property
    def training_hours(self) -> float | None:
        """Of all steps of the best candidate, without start, evaluation and checkpoints."""
        seconds = self.best.step_seconds if self.best else None
        return seconds * self.steps / 3600 if seconds else None

    @property
    def training_tokens(self) -> float | None:
        """That the student reads, padding included."""
        return float(self.steps) * self.best.batch_size * self.length if self.best else None


def best_of(tried: Sequence[Candidate]) -> Candidate | None:
    """The one with most estimated tokens per second among those that fit; on CPU, the one with least memory."""
    fitting = [one for one in tried if one.fits and one.compiled]
    if any(one.tokens_per_second for one in fitting):
        return max(fitting, key=lambda one: one.tokens_per_second or 0.0)
    return min(fitting, key=lambda one: one.compiled.memory.total if one.compiled else 0, default=None)
