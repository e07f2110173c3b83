"""The rows of a batch that a process makes, places and counts."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mergedistill_jax.training import partitioning
from mergedistill_jax.training.partitioning import LocalRows, local_rows, make_mesh, place_batch


def test_one_process_has_all_rows() -> None:
    rows = local_rows(16, make_mesh(2))
    assert rows.numbers.tolist() == list(range(16))
    assert rows.counted.all()
    batch = {"source": np.arange(16)}
    assert rows.to_count(batch) is batch


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size: found 12, expected a multiple of the data axis"):
        local_rows(12, make_mesh())


@pytest.mark.parametrize(
    ("spans", "process", "numbers", "counted"),
    [
        # Two processes that hold half of the rows each: all are counted.
        ([(0, 0, 4), (0, 4, 8), (1, 8, 12), (1, 12, 16)], 0, range(8), [True] * 8),
        ([(0, 0, 4), (0, 4, 8), (1, 8, 12), (1, 12, 16)], 1, range(8, 16), [True] * 8),
        # A model axis over both: they hold the same rows, and the first counts them.
        ([(0, 0, 8), (1, 0, 8), (0, 8, 16), (1, 8, 16)], 0, range(16), [True] * 16),
        ([(0, 0, 8), (1, 0, 8), (0, 8, 16), (1, 8, 16)], 1, range(16), [False] * 16),
        # Three processes, the middle one beside both others, and rows that are no range.
        ([(0, 0, 4), (1, 4, 8), (2, 8, 12), (0, 12, 16)], 0, [*range(4), *range(12, 16)], [True] * 8),
        ([(0, 0, 8), (1, 0, 8), (1, 8, 16), (2, 8, 16)], 1, range(16), [False] * 8 + [True] * 8),
    ],
)
def test_rows_of_several_processes(monkeypatch, spans, process, numbers, counted) -> None:
    """Where the devices of several processes lie, as (process, first row, end)."""
    found = [(SimpleNamespace(process_index=holder), (slice(start, end),)) for holder, start, end in spans]
    sharding = SimpleNamespace(devices_indices_map=lambda _: SimpleNamespace(items=lambda: found))
    monkeypatch.setattr(partitioning, "NamedSharding", lambda *_: sharding)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    rows = local_rows(16, make_mesh())
    assert rows.numbers.tolist() == list(numbers)
    assert rows.counted.tolist() == counted
    batch = rows.to_count({"source": rows.numbers})
    assert batch["source"].tolist() == [n for n, one in zip(numbers, counted, strict=True) if one]


def test_local_rows_land_where_the_whole_batch_would_put_them() -> None:
    mesh = make_mesh(2, fsdp_parallelism=2)
    batch = {"token_ids": np.arange(48).reshape(16, 3), "lengths": np.arange(16)}
    whole, local = place_batch(batch, mesh), place_batch(batch, mesh, local_rows(16, mesh))
    for name, values in batch.items():
        assert local[name].sharding == whole[name].sharding
        np.testing.assert_array_equal(local[name], values)


def test_rows_with_gaps_are_found_in_the_part_that_a_process_made() -> None:
    """Asked for rows 8 to 12 of 16, a process that made 0 to 4 and 8 to 16 gives the second four of its own."""
    mesh = make_mesh(2)
    numbers = np.array([*range(4), *range(8, 16)])
    rows = LocalRows(batch_size=16, numbers=numbers, counted=np.ones(12, bool))
    asked = []

    def make(shape, _sharding, part):
        asked.append((shape, part((slice(8, 12), slice(None))).tolist()))
        return jnp.zeros(shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "make_array_from_callback", make)
        place_batch({"token_ids": 10 * numbers[:, None]}, mesh, rows)
    assert asked == [((16, 1), [[80], [90], [100], [110]])]
