"""A step that is not finite is found two steps later at most, by its number, with its own batch."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from mergedistill_jax.training.nonfinite import FiniteWatch, NonFiniteError

GOOD = {"gold_loss": jnp.array([1.0, 2.0]), "gradient_norm": jnp.float32(0.5)}


def batch_of(step: int) -> dict[str, Any]:
    return {"token_ids": np.full((2, 3), step, np.int32), "lengths": np.array([3, 2], np.int32)}


def watch_of(folder: Path) -> FiniteWatch:
    return FiniteWatch(folder, np.array([4, 5]))


def kept(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as found:
        return dict(found)


@pytest.mark.parametrize(
    ("broken", "field", "found"),
    [
        ({"gradient_norm": jnp.float32(jnp.nan)}, "gradient_norm", "nan"),
        ({"gold_loss": jnp.array([1.0, jnp.inf])}, "gold_loss", "inf"),
        ({"gold_loss": jnp.array([-jnp.inf, 1.0])}, "gold_loss", "-inf"),
    ],
)
def test_the_first_broken_step_ends_the_run_and_its_batch_is_kept(
    tmp_path: Path, broken: dict[str, Any], field: str, found: str
) -> None:
    """Steps 4 and 5 run on before 3 is looked at, and are broken too: 3 it is."""
    watch = watch_of(tmp_path)
    for step in (1, 2):
        watch.add(step, batch_of(step), GOOD)
    watch.add(3, batch_of(3), {**GOOD, **broken})
    watch.add(4, batch_of(4), {**GOOD, **broken})
    with pytest.raises(NonFiniteError) as caught:
        watch.add(5, batch_of(5), {**GOOD, **broken})
    path = tmp_path / "nonfinite_step_3.npz"
    message = f"{path}: step 3, whose batch this is: field {field}: found {found}, expected finite numbers"
    assert str(caught.value) == message
    assert "\n" not in str(caught.value)
    np.testing.assert_equal(kept(path), {**batch_of(3), "row_numbers": np.array([4, 5])})
    assert [path.name for path in tmp_path.iterdir()] == ["nonfinite_step_3.npz"]


def test_nothing_is_built_on_a_broken_step(tmp_path: Path) -> None:
    """What saves or logs drains first: then even the last step has been looked at."""
    watch = watch_of(tmp_path)
    watch.add(1, batch_of(1), GOOD)
    watch.drain()
    watch.add(2, batch_of(2), {**GOOD, "gradient_norm": jnp.float32(jnp.nan)})
    with pytest.raises(NonFiniteError, match="step 2, whose batch this is: field gradient_norm: found nan"):
        watch.drain()


def test_parameters_that_a_finite_step_broke_are_not_saved(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    watch.add(1, batch_of(1), GOOD)
    watch.drain({"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)})
    watch.add(2, batch_of(2), GOOD)
    with pytest.raises(NonFiniteError, match="step 2, whose batch this is: field params: found nan or inf"):
        watch.drain({"kernel": jnp.ones((2, 2)), "bias": jnp.array([0.0, jnp.inf])})


def test_finite_steps_pass_and_leave_nothing(tmp_path: Path) -> None:
    watch = watch_of(tmp_path)
    for step in range(10):
        watch.add(step, batch_of(step), GOOD)
    watch.drain({"kernel": jnp.ones(2)})
    watch.drain()
    assert not list(tmp_path.iterdir())
