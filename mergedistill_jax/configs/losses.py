"""How the teacher's top-k becomes a target: the settings of training/losses.py."""

import dataclasses

MISSING_MASS = ("renormalise", "truncate", "tail", "to_gold")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """How the teacher's top-k is read.

    Attributes:
        missing_mass: one of MISSING_MASS.
        temperature: of both distributions; other than 1 only with "renormalise", because the teacher's mass outside
            its top-k is known at temperature 1 alone. The loss is scaled by its square (Hinton et al. 2015).
    """

    missing_mass: str = "renormalise"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.missing_mass not in MISSING_MASS:
            raise ValueError(
                f"DistillationConfig.missing_mass: found {self.missing_mass!r}, expected one of {MISSING_MASS}"
            )
        if self.temperature <= 0:
            raise ValueError(f"DistillationConfig.temperature: found {self.temperature}, expected more than 0")
        if self.temperature != 1.0 and self.missing_mass != "renormalise":
            raise ValueError(
                f"DistillationConfig.temperature: found {self.temperature} with missing_mass={self.missing_mass!r},"
                " expected 1 unless missing_mass is 'renormalise'"
            )
