"""Held-out records, measured while a student is trained: when, on how many sequences at a time, and under which names.

The numbers are the training step's own, without dropout: losses and hits at masked positions, per language.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mergedistill_jax.data.batches import RecordMixture, evaluation_batches
from mergedistill_jax.data.prefetch import placed_ahead
from mergedistill_jax.products import on_each
from mergedistill_jax.training.distributed import leads, votes_of_processes
from mergedistill_jax.training.journal import Journal
from mergedistill_jax.training.metrics import MetricSums, read_log
from mergedistill_jax.training.partitioning import batch_parts, local_rows, place_batch, vocabulary_shards
from mergedistill_jax.training.step import ApplyFn, StepConfig, make_eval_step

PREFIX = "heldout/"
"""Begins the names of held-out numbers in the log."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heldout:
    """Measures a student on held-out records at some steps of its run, and logs the numbers.

    Attributes:
        mixture: of the records.
        apply_fn: the student's, gives a Projection; see training/step.py.
        mesh: that it is trained on.
        every: steps between two evaluations; the last step of the run has one always.
        steps: of the run.
        sequences: at most this many at a time, over all devices; rounded up to a multiple of their number.
        vocabulary_chunk: see training/log_normalizer.py.
        folder: of the run.
        journal: of the run.
    """

    mixture: RecordMixture
    apply_fn: ApplyFn
    mesh: Mesh
    every: int
    steps: int
    sequences: int
    vocabulary_chunk: int
    folder: epath.PathLike
    journal: Journal

    def due(self, step: int) -> bool:
        """Whether the student is measured after that step."""
        return step > 0 and (step % self.every == 0 or step == self.steps)

    def owed(self, step: int) -> bool:
        """Whether the sitting before was ended between saving this step and measuring it; alike on all processes."""
        if not self.due(step):
            return False
        rows = read_log(self.folder) if leads() else []
        here = any(row["step"] == step and any(name.startswith(PREFIX) for name in row) for row in rows)
        return not int(votes_of_processes(here))

    def log(self, step: int, params: Any, asked_to_leave: Callable[[], bool]) -> bool:
        """Measures and logs; False where the run was asked to leave before the numbers were there."""
        numbers = self.measure(params, asked_to_leave)
        if numbers is not None:
            self.journal.write(step, numbers)
        return numbers is not None

    def measure(self, params: Any, asked_to_leave: Callable[[], bool]) -> dict[str, float] | None:
        """The numbers, named PREFIX...; None where the run is asked to leave before they are there."""
        config = StepConfig(
            num_sources=len(self.mixture.sources),
            has_teacher=self.mixture.k > 0,
            chunk_size=self.vocabulary_chunk,
            vocabulary_shards=vocabulary_shards(self.mixture.vocabulary_size, self.mesh),
        )
        eval_fn = _compiled(self.apply_fn, config, self.mesh)
        sums = MetricSums({"language": self.mixture.languages})
        parts = batch_parts(self.mesh)
        size = -(-self.sequences // parts) * parts
        rows = local_rows(size, self.mesh)
        made = evaluation_batches(self.mixture, size, rows=rows.numbers)
        for _, placed in placed_ahead(made, lambda batch: place_batch(batch, self.mesh, rows)):
            if asked_to_leave():
                return None
            sums.add(eval_fn(params, placed))
        return {f"{PREFIX}{name}": value for name, value in sums.means().items()}


@functools.cache
def _compiled(apply_fn: ApplyFn, config: StepConfig, mesh: Mesh) -> Callable[..., dict[str, Any]]:
    # The sums whole on every device: each of several processes reads them.
    step = on_each(make_eval_step(apply_fn, config), mesh)
    return jax.jit(step, out_shardings=NamedSharding(mesh, P()))
