"""A teacher over masked sequences: its top-k log-probabilities at the masked positions.

    records -> batches of static shapes -> devices (program.py) -> records, in their order
               in a thread, ahead          some batches ahead of the one whose results are fetched

What a record is given depends on its batch in the last bits alone: a matrix product may add in another order where its
shape is another. Which records share a batch, and in which shape, depends on the records and the sizes asked for alone
(buckets.py), and not on the number of devices or on what runs when. So the same records and sizes give the same bits
again on the same kind of device and software.
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mergedistill_jax.configs.predict import require_dtype
from mergedistill_jax.configs.sampling import Sampling
from mergedistill_jax.data.prefetch import in_background
from mergedistill_jax.models.heads import ModelConfig
from mergedistill_jax.schema import NO_MASS, Record
from mergedistill_jax.teachers.buckets import Batch, Shape, batch_arrays, batches, shapes_for
from mergedistill_jax.teachers.program import local_mesh, on_every_device, run_batches
from mergedistill_jax.teachers.sampling import padded_uniforms, sampled_target
from mergedistill_jax.teachers.top_k import NO_TOKEN_LOGIT

LOWEST_LOG_PROB = NO_TOKEN_LOGIT / 2
"""Below it a token could not be told from what is no token, see top_k.py."""
PREPARED, IN_FLIGHT = 4, 2
"""Batches (for each device) that wait for the devices, and those still with them when results are fetched."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A loaded teacher: what to run and what it calls its tokens.

    Attributes:
        num_tokens: tokens of its tokenizer; output rows beyond them have no token.
    """

    config: ModelConfig
    params: Any
    num_tokens: int
    pad_id: int

    @functools.cached_property
    def placed_params(self) -> Any:
        """The parameters on every device of this process, put there once."""
        return on_every_device(self.params)


def top_log_probs(
    logits: Float[Array, "*m v"], num_tokens: int, k: int
) -> tuple[Int[Array, "*m k"], Float[Array, "*m k"]]:
    """The k largest log-probabilities, best first, normalised over the rows that have a token.

    Keeping log-probabilities and not raw logits leaves the softmax over the k unchanged and makes the missing mass,
    one minus the sum of their probabilities, known to whoever reads them. For a few rows of logits that exist; see
    top_k.py for many that need not.
    """
    has_token = jnp.arange(logits.shape[-1]) < num_tokens
    logits = jnp.where(has_token, logits, NO_TOKEN_LOGIT)
    best, ids = jax.lax.top_k(logits, k)
    return ids, best - jax.nn.logsumexp(logits, axis=-1, keepdims=True)


def predict_records(
    teacher: Teacher,
    records: Iterable[Record],
    *,
    k: int,
    batch_size: int,
    length: int,
    max_predictions: int,
    rows: int | None = None,
    dtype: str = "float32",
    sampling: Sampling | None = None,
    on_tokens: Callable[[int], None] = lambda _: None,
) -> Iterator[Record]:
    """The records with the teacher's top-k and gold log-probabilities at their masked positions, in order.

    Args:
        teacher: of at least k tokens.
        records: taken in a thread, ahead of the devices, so that making records and running the teacher overlap.
        k: predictions for each masked position.
        batch_size: sequences of full length in a batch; of shorter ones there are more.
        length: of the longest sequence, in tokens.
        max_predictions: most masked positions of a sequence.
        rows: masked positions in a batch, see buckets.expected_rows; None: as many as there can be.
        dtype: of the matrix products, one of program.DTYPES.
        sampling: None: the k best. Else ids drawn from the teacher and the log of their shares in k slots, see
            sampling.py.
        on_tokens: called with the input tokens of every stack of batches when the devices are done with it, which may
            be long before its records come: they wait for those before them.

    Raises:
        ValueError: an unknown dtype, a record that is too long, or a teacher whose numbers are not finite.
    """
    require_dtype(dtype)
    shapes = shapes_for(batch_size=batch_size, length=length, max_predictions=max_predictions, rows=rows)
    stacks = _stacks(batches(records, shapes), teacher.pad_id, local_mesh().size, sampling)
    run = functools.partial(run_batches, config=teacher.config, num_tokens=teacher.num_tokens, k=k, dtype=dtype)
    running: collections.deque[tuple[Sequence[Batch], Sequence[Array]]] = collections.deque()
    ordered = _Ordered()
    slots = None if sampling is None else k
    ahead: Any = in_background(stacks, PREPARED)  # a generator: closed, it ends its thread

    def finished() -> Iterator[Record]:
        stack, found = running.popleft()
        yield from ordered.add(_results(stack, found, slots))
        on_tokens(sum(len(record.input_ids) for batch in stack for record in batch.records))

    with contextlib.closing(ahead) as prepared:
        for stack, arrays in prepared:
            running.append((stack, run(teacher.placed_params, arrays)))
            if len(running) > IN_FLIGHT:
                yield from finished()
        while running:
            yield from finished()


def _stacks(
    made: Iterable[Batch], pad_id: int, devices: int, sampling: Sampling | None
) -> Iterator[tuple[Sequence[Batch], Sequence[np.ndarray]]]:
    """Batches of one shape, one for each device or fewer, and their arrays with a leading axis over the devices."""
    waiting: dict[Shape, list[Batch]] = {}
    for batch in made:
        stack = waiting.setdefault(batch.shape, [])
        stack.append(batch)
        if len(stack) == devices:
            yield waiting.pop(batch.shape), _stacked(stack, pad_id, devices, sampling)
    for stack in waiting.values():
        yield stack, _stacked(stack, pad_id, devices, sampling)


def _stacked(stack: Sequence[Batch], pad_id: int, devices: int, sampling: Sampling | None) -> Sequence[np.ndarray]:
    shape = stack[0].shape

    def arrays(records: Sequence[Record]) -> tuple[np.ndarray, ...]:
        uniforms = () if sampling is None else (padded_uniforms(records, sampling, shape.rows),)
        return batch_arrays(records, shape, pad_id).as_tuple() + uniforms

    each = [arrays(batch.records) for batch in stack]
    each += [arrays([])] * (devices - len(stack))
    return [np.stack(arrays) for arrays in zip(*each, strict=True)]


def _results(stack: Sequence[Batch], found: Sequence[Array], slots: int | None) -> Iterator[tuple[int, Record]]:
    """The records of a stack with what was found for them, and their numbers; waits for the devices.

    With slots, what was found are drawn ids.
    """
    for batch, ids, log_probs, gold in zip(stack, *map(np.asarray, found), strict=False):
        start = 0
        for number, record in zip(batch.numbers, batch.records, strict=True):
            rows = slice(start, start + len(record.masked_positions))
            start = rows.stop
            if not (_are_log_probs(log_probs[rows]) and _are_log_probs(gold[rows])):
                raise ValueError(
                    f"teacher: text {record.text_id.hex()}: field log_probs: found numbers that are not finite, or"
                    f" below {LOWEST_LOG_PROB:g}, expected weights and a dtype that give log-probabilities"
                )
            # Half precision ends at NO_MASS; of either number exp is 0.
            kept = (ids[rows], np.maximum(log_probs[rows], np.float32(NO_MASS)))
            if slots is not None:
                kept = sampled_target(ids[rows], slots)
            predicted = {"top_ids": kept[0], "top_log_probs": kept[1], "gold_log_probs": gold[rows]}
            yield number, dataclasses.replace(record, **predicted)


def _are_log_probs(values: np.ndarray) -> bool:
    return bool((np.isfinite(values) & (values >= LOWEST_LOG_PROB)).all())


class _Ordered:
    """Numbered records in the order of their numbers, each as soon as all before it are there."""

    def __init__(self) -> None:
        self._waiting: dict[int, Record] = {}
        self._next = 0

    def add(self, numbered: Iterable[tuple[int, Record]]) -> Iterator[Record]:
        """Takes some records and gives those whose turn has come."""
        self._waiting.update(numbered)
        while self._next in self._waiting:
            yield self._waiting.pop(self._next)
            self._next += 1
