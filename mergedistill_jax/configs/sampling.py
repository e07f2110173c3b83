"""How targets are drawn from the teacher: the settings of teachers/sampling.py."""

import dataclasses

TARGETS = ("top", "sampled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How targets are drawn.

    Attributes:
        samples: N, how many ids are drawn for each masked position.
        seed: of the draws, and of the masks.
    """

    samples: int
    seed: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples: found {self.samples}, expected at least 1")


def require_targets(targets: str, samples: int | None, k: int) -> None:
    """Raises ValueError unless the k slots hold whatever may be drawn."""
    if targets not in TARGETS:
        raise ValueError(f"targets: found {targets!r}, expected one of {', '.join(TARGETS)}")
    if targets == "top" and samples is not None:
        raise ValueError(f"samples: found {samples}, expected None: nothing is drawn where targets='top'")
    if samples is not None and not 1 <= samples <= k:
        raise ValueError(f"samples: found {samples}, expected from 1 to k={k}: all of them may be different ids")
