"""Means for T5X's logs."""

from typing import Any

import clu.metrics
from jaxtyping import Array


def mean_of(total: Array, count: Array) -> clu.metrics.Metric:
    """Total / count, both summed over microbatches and steps before they are divided; NaN where nothing was counted."""
    average: Any = clu.metrics.Average  # a dataclass, by a decorator that type checkers do not know
    return average(total=total, count=count)
