"""What a student takes from its teachers at the start: the settings of teachers/start.py."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartConfig:
    """What is taken from the teachers.

    Attributes:
        teachers: folders by the names in the student's vocabulary; the first one's coordinates are kept.
        embeddings: "average" or "first", for tokens that several teachers have.
        align: rotate the other teachers' embeddings into the first one's coordinates.
        layers_from: a teacher whose other parameters are copied as well: positions, layers, head. Of a deeper teacher
            evenly spaced layers. None: they stay random.
    """

    teachers: Mapping[str, str]
    embeddings: str = "average"
    align: bool = False
    layers_from: str | None = None

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError("StartConfig.teachers: found none, expected at least one teacher")
        if self.embeddings not in ("average", "first"):
            raise ValueError(f"StartConfig.embeddings: found {self.embeddings!r}, expected 'average' or 'first'")
        if self.layers_from is not None and self.layers_from not in self.teachers:
            raise ValueError(
                f"StartConfig.layers_from: found {self.layers_from!r}, expected one of {sorted(self.teachers)}"
            )
