"""Settings of `train`."""

import dataclasses
from collections.abc import Callable

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.layers import LayerLoop
from mergedistill_jax.configs.losses import DistillationConfig
from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.schedules import GoldWeight
from mergedistill_jax.configs.start import StartConfig

REDUCE = ("step", "microbatch")
"""When the gradients of microbatches are summed over devices, see training/microbatches.py."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        output: folder for checkpoints and logs; a run found there is resumed.
        mixture: name of a registered SeqIO mixture or task of records (see tasks/distillation.py).
        model: the encoder's size, called with the vocabulary's size: `@encoder.EncoderConfig` in gin.
        steps: training steps of `batch_size` sequences.
        save_every: a multiple of `log_every`, so that a resumed run logs the means of an undisturbed one. None: a tenth
            of the steps, at most 500, as near as `log_every` lets it be.
        k: predictions used per position; all that are stored by default.
        start: where a student's first parameters come from; None: all are drawn at random.
        gold_weight: lambda over training.
        heldout: mixture to evaluate on every `evaluate_every` steps and at the end, or None. What is saved too is saved
            first; where the sitting ends in between, the next one begins with the evaluation.
        evaluate_every: None: never, although held-out records are named.
        num_microbatches: parts that a step takes its batch in, for memory, and the size of what is evaluated at a time.
            They change no number beyond rounding, and dropout neither.
        reduce_gradients: when the gradients of microbatches cross the chips: once a "step", or with every "microbatch",
            which needs less memory where fsdp_parallelism divides the parameters; see training/microbatches.py.
        model_parallelism: devices that share the width and the vocabulary of one copy of the model.
        fsdp_parallelism: groups of devices over which parameters and optimizer state are divided; what is left of the
            devices is the data axis.
        scan_layers, rematerialise: how the layers are run, see models/layers.py: for compile time and for memory.
        vocabulary_chunk: tokens of the vocabulary that the loss takes at a time, on all devices together. Small chunks
            save memory; the result is the same.
        stop_after: leaves after this many steps in total, resumable (for sittings); None runs to the end. A multiple
            of `log_every`, as `save_every`.
    """

    output: str
    mixture: str
    model: Callable[..., EncoderConfig]
    optimizer: AdamWConfig
    steps: int
    batch_size: int
    k: int | None = None
    start: StartConfig | None = None
    gold_weight: GoldWeight = GoldWeight()
    distillation: DistillationConfig = DistillationConfig()
    num_microbatches: int = 1
    reduce_gradients: str = "step"
    model_parallelism: int = 1
    fsdp_parallelism: int = 1
    vocabulary_chunk: int = 2048
    scan_layers: bool = False
    rematerialise: str = "nothing"
    dtype: str = "float32"
    seed: int = 0
    heldout: str | None = None
    evaluate_every: int | None = 1000
    log_every: int = 50
    save_every: int | None = None
    stop_after: int | None = None

    @property
    def save_interval(self) -> int:
        """Steps from one checkpoint to the next."""
        return self.save_every or max(min(500, self.steps // 10) // self.log_every, 1) * self.log_every

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"TrainConfig.seed: found {self.seed}, expected at least 0")
        for name in (
            "steps",
            "batch_size",
            "k",
            "num_microbatches",
            "vocabulary_chunk",
            "log_every",
            "save_every",
            "evaluate_every",
        ):
            if (getattr(self, name) if getattr(self, name) is not None else 1) < 1:
                raise ValueError(f"TrainConfig.{name}: found {getattr(self, name)}, expected at least 1")
        # A sum that a kill loses must be one that the resumed run makes again, or its log would tell other means.
        for name in ("save_every", "stop_after"):
            found = getattr(self, name) or 0
            if found % self.log_every:
                expected = f"a multiple of log_every={self.log_every}"
                raise ValueError(f"TrainConfig.{name}: found {found}, expected {expected}")
        if self.batch_size % self.num_microbatches:
            raise ValueError(
                f"TrainConfig.batch_size: found {self.batch_size}, expected a multiple of"
                f" num_microbatches={self.num_microbatches}"
            )
        LayerLoop(scan=self.scan_layers, rematerialise=self.rematerialise)  # refuses what it does not know
        require_reduce(self.reduce_gradients)
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"TrainConfig.dtype: found {self.dtype!r}, expected 'float32' or 'bfloat16'")


def require_reduce(name: str) -> None:
    """Raises ValueError where there is no such time to reduce."""
    if name not in REDUCE:
        raise ValueError(f"reduce_gradients: found {name!r}, expected one of {REDUCE}")
