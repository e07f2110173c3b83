"""Which share of the words is masked, and how: the settings of corpus/masking.py."""

import dataclasses

REPLACEMENTS = ("bert", "mask")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Whole-word masking.

    Attributes:
        rate: expected share of words chosen.
        max_share: at most this share of a sequence's tokens is chosen; the words beyond it, last in the random
            order, stay visible. It bounds the padding of masked positions. None: four thirds of the rate.
        replacement: what stands for a chosen word. "bert": [MASK] for 80 %, random tokens for 10 %, the word itself for
            10 %. "mask": always [MASK].
        cover: N = 1 / rate draws hide every word exactly once. Words beyond `max_share` then go into further records of
            the same draw, and none stays visible; a word that alone is longer than `max_share` of a full sequence is
            hidden whole in several records, each of which predicts a part of it.
        max_count: at most this many masked positions in a sequence, whatever its length (80 in MuRIL); None: no bound.
    """

    rate: float = 0.15
    seed: int = 0
    max_share: float | None = None
    replacement: str = "bert"
    cover: bool = False
    max_count: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.rate < 1.0:
            raise ValueError(f"MaskingConfig.rate: found {self.rate}, expected a share between 0 and 1")
        if self.max_share is None:
            object.__setattr__(self, "max_share", min(round(self.rate * 4 / 3, 6), 1.0))
        if not self.rate <= self.bound <= 1.0:
            raise ValueError(
                f"MaskingConfig.max_share: found {self.max_share}, expected between rate={self.rate} and 1"
            )
        if self.replacement not in REPLACEMENTS:
            raise ValueError(
                f"MaskingConfig.replacement: found {self.replacement!r}, expected one of {', '.join(REPLACEMENTS)}"
            )
        if self.max_count is not None and self.max_count < 1:
            raise ValueError(f"MaskingConfig.max_count: found {self.max_count}, expected at least 1, or None")

    @property
    def bound(self) -> float:
        """The largest share of a sequence's tokens that is chosen."""
        return self.max_share or 0.0

    def max_predictions(self, length: int) -> int:
        """Most masked positions of a sequence of `length` tokens."""
        by_share = int(length * self.bound)
        return by_share if self.max_count is None else min(by_share, self.max_count)

    def require_draws(self, draws: int, max_length: int) -> None:
        """Raises ValueError unless so many draws of sequences of that length can keep what the config promises."""
        if not self.cover:
            return
        expected = round(1 / self.rate)
        if draws != expected:
            raise ValueError(
                f"draws: found {draws}, expected {expected}, 1 / rate={self.rate}, because MaskingConfig.cover"
                " shares the words out among the draws"
            )
        if self.max_predictions(max_length) < 1:
            raise ValueError(
                f"MaskingConfig.max_share: found {self.max_share} of sequences of {max_length}, expected at least one"
                " position, because MaskingConfig.cover hides every word"
            )
