"""A step whose loss or gradient is not a number ends the run, with its batch kept for inspection.

The numbers of a step are looked at two steps later, when they are there without waiting: the device never idles for
the check. What must not be built on a broken step, a checkpoint above all, calls `drain` first.
"""

import collections
import io
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Int

from mergedistill_jax.files import write_atomically
from mergedistill_jax.training.distributed import wait_for_all

_LAG = 2


class NonFiniteError(ValueError):
    """A step gave a number that is not finite; the message is one line, and names the file that holds the batch."""


class FiniteWatch:
    """Looks at the metric sums of every step; keeps the batches of the last few."""

    def __init__(self, folder: epath.PathLike, row_numbers: Int[np.ndarray, " r"]) -> None:
        """Takes the folder to keep a batch in, and which rows of it this process holds."""
        self._folder, self._row_numbers = epath.Path(folder), row_numbers
        self._steps: collections.deque[tuple[int, Mapping[str, Any], Mapping[str, Any]]] = collections.deque()

    def add(self, step: int, batch: Mapping[str, Any], sums: Mapping[str, Any]) -> None:
        """Takes a step just started, and looks at an older one.

        Args:
            step: the number that the step has in the logs.
            batch: the rows of this process, arrays of the host.
            sums: of the step, on the devices; the same on all processes.

        Raises:
            NonFiniteError: the older step's sums are not finite.
        """
        for value in sums.values():
            if isinstance(value, jax.Array):
                value.copy_to_host_async()
        self._steps.append((step, batch, sums))
        if len(self._steps) > _LAG:
            self._look(*self._steps.popleft())

    def drain(self, params: Any = None) -> None:
        """Looks at all steps so far, and at the parameters they led to where they are given; waits for them.

        Raises:
            NonFiniteError: a step's sums, or the parameters, are not finite.
        """
        newest = self._steps[-1] if self._steps else None
        while self._steps:
            self._look(*self._steps.popleft())
        if params is not None and newest is not None and not bool(_all_finite(params)):
            self._stop(newest[0], newest[1], "params", found="nan or inf")

    def _look(self, step: int, batch: Mapping[str, Any], sums: Mapping[str, Any]) -> None:
        # A loss says more than the norm of the gradient that it spoils.
        for name in sorted(sums, key=lambda name: (name == "gradient_norm", name)):
            values = np.ravel(np.asarray(sums[name]))
            if not np.isfinite(values).all():
                self._stop(step, batch, name, found=f"{values[~np.isfinite(values)][0]}")

    def _stop(self, step: int, batch: Mapping[str, Any], name: str, *, found: str) -> None:
        process = f"_process_{jax.process_index()}" if jax.process_count() > 1 else ""
        path = self._folder / f"nonfinite_step_{step}{process}.npz"
        content = io.BytesIO()
        kept = {"row_numbers": self._row_numbers, **batch}
        np.savez(content, allow_pickle=False, **{field: np.asarray(rows) for field, rows in kept.items()})
        write_atomically(path, content.getvalue())
        # The sums are the same everywhere, so all processes come here; the first to leave must not cut the others off.
        wait_for_all("nonfinite")
        raise NonFiniteError(
            f"{path}: step {step}, whose batch this is: field {name}: found {found}, expected finite numbers"
        )


@jax.jit
def _all_finite(params: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))
