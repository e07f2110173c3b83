"""Schedules at their ends, in the middle, and under impossible settings."""

import numpy as np
import pytest

from mergedistill_jax.configs.encoder import config_fields
from mergedistill_jax.configs.schedules import GoldWeight, LearningRate


def gold_weights(config: GoldWeight, steps: int) -> np.ndarray:
    schedule = config.schedule(steps)
    return np.array([float(schedule(step)) for step in range(steps)])


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [2, 3, 101])
def test_gold_weight_runs_from_0_at_the_first_step_to_1_at_the_last(shape: str, steps: int) -> None:
    weights = gold_weights(GoldWeight(shape=shape), steps)
    assert weights[0] == 0.0
    assert weights[-1] == 1.0
    assert (np.diff(weights) > 0).all()


def test_linear_gold_weight_is_a_straight_line() -> None:
    np.testing.assert_allclose(gold_weights(GoldWeight(), 5), [0, 0.25, 0.5, 0.75, 1], atol=1e-6)


def test_cosine_gold_weight_is_slow_at_both_ends() -> None:
    np.testing.assert_allclose(gold_weights(GoldWeight(shape="cosine"), 5), [0, 0.146447, 0.5, 0.853553, 1], atol=1e-6)


def test_constant_gold_weight_stays_at_stop() -> None:
    np.testing.assert_array_equal(gold_weights(GoldWeight(shape="constant", stop=0.25), 4), [0.25] * 4)


def test_gold_weight_between_other_bounds_may_fall() -> None:
    np.testing.assert_allclose(gold_weights(GoldWeight(start=0.8, stop=0.2), 3), [0.8, 0.5, 0.2], atol=1e-6)


def test_a_floor_cuts_the_schedule_off_and_does_not_squeeze_it() -> None:
    """The drawing in the docstring, and its mirror image."""
    straight = np.arange(11) / 10
    weights = gold_weights(GoldWeight(teacher_floor=0.2), 11)
    np.testing.assert_allclose(weights, np.minimum(straight, 0.8), atol=1e-6)
    np.testing.assert_allclose(gold_weights(GoldWeight(floor=0.3), 11), np.maximum(straight, 0.3), atol=1e-6)
    both = gold_weights(GoldWeight(shape="cosine", floor=0.3, teacher_floor=0.2), 11)
    np.testing.assert_allclose(both, np.clip(gold_weights(GoldWeight(shape="cosine"), 11), 0.3, 0.8), atol=1e-6)


def test_floors_hold_for_a_constant_and_for_a_falling_weight() -> None:
    constant = GoldWeight(shape="constant", stop=1.0, teacher_floor=0.1)
    np.testing.assert_allclose(gold_weights(constant, 3), [0.9] * 3, atol=1e-6)
    falling = GoldWeight(start=1.0, stop=0.0, floor=0.25)
    np.testing.assert_allclose(gold_weights(falling, 5), [1.0, 0.75, 0.5, 0.25, 0.25], atol=1e-6)


def test_without_floors_the_weights_are_the_very_bits_they_were() -> None:
    steps = 37
    expected = [float(np.float32(step) / np.float32(steps - 1)) for step in range(steps)]
    np.testing.assert_array_equal(gold_weights(GoldWeight(), steps), expected)


def test_floors_of_0_are_not_described_so_that_old_runs_resume() -> None:
    assert config_fields(GoldWeight()) == {"shape": "linear", "start": 0.0, "stop": 1.0}
    assert config_fields(GoldWeight(teacher_floor=0.1))["teacher_floor"] == 0.1


def test_gold_weight_of_one_step_and_beyond_the_last_is_defined() -> None:
    assert gold_weights(GoldWeight(), 1) == [0.0]
    assert float(GoldWeight().schedule(10)(1000)) == 1.0


@pytest.mark.parametrize(
    ("config", "gold_only"),
    [
        (GoldWeight(shape="constant", stop=1.0), True),
        (GoldWeight(start=1.0, stop=1.0), True),
        (GoldWeight(shape="constant", stop=0.5), False),
        (GoldWeight(), False),
        (GoldWeight(floor=1.0), True),
        (GoldWeight(shape="constant", stop=1.0, teacher_floor=0.1), False),
    ],
)
def test_gold_only_is_told_by_the_schedule_itself(config: GoldWeight, gold_only: bool) -> None:  # noqa: FBT001 - a table
    assert config.gold_only == gold_only
    assert bool((gold_weights(config, 10) == 1.0).all()) == gold_only


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"shape": "square"}, "shape: found 'square'"),
        ({"start": -0.1}, "start: found -0.1"),
        ({"stop": 2.0}, "stop: found 2.0"),
        ({"floor": -0.5}, "floor: found -0.5"),
        ({"teacher_floor": 1.5}, "teacher_floor: found 1.5"),
        ({"floor": 0.6, "teacher_floor": 0.5}, "floor: found 0.6 beside teacher_floor=0.5"),
    ],
)
def test_a_wrong_gold_weight_is_refused_by_name(settings: dict, field: str) -> None:
    with pytest.raises(ValueError, match=f"GoldWeight.{field}"):
        GoldWeight(**settings)


def learning_rates(config: LearningRate, steps: int) -> np.ndarray:
    schedule = config.schedule(steps)
    return np.array([float(schedule(step)) for step in range(steps + 1)])


def test_learning_rate_warms_up_linearly_and_decays_linearly_to_zero() -> None:
    """Peak 8 after 4 warm-up steps of 12, then a step of 1 down each of the 8 that are left."""
    expected = [0, 2, 4, 6, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    np.testing.assert_allclose(learning_rates(LearningRate(peak=8.0, warmup_steps=4), 12), expected, atol=1e-6)


def test_learning_rate_ends_at_its_final_share() -> None:
    rates = learning_rates(LearningRate(peak=1.0, warmup_steps=2, final_share=0.1), 10)
    assert rates[2] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert rates.max() == rates[2]


def test_learning_rate_without_warmup_starts_at_its_peak() -> None:
    assert learning_rates(LearningRate(peak=3.0, warmup_steps=0), 4)[0] == pytest.approx(3.0)


def test_a_warmup_longer_than_the_run_still_reaches_its_peak() -> None:
    rates = learning_rates(LearningRate(peak=1.0, warmup_steps=1000), 10)
    assert rates.max() == pytest.approx(1.0)
    assert np.isfinite(rates).all()
