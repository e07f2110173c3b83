"""Losses against dense float64 references, against one another, and against the traps other systems fell into."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mergedistill_jax.configs.losses import MISSING_MASS, DistillationConfig
from mergedistill_jax.data.records import IMPOSSIBLE_LOG_PROB
from mergedistill_jax.training import losses
from mergedistill_jax.training.losses import scores_of_logits

POSITIONS, VOCABULARY, CANDIDATES = 5, 23, 4


def gold_cross_entropy(logits: jax.Array, gold_ids: jax.Array) -> jax.Array:
    return losses.gold_cross_entropy(scores_of_logits(logits, gold_ids, gold_ids[..., None]))


def distillation_loss(
    logits: jax.Array,
    gold_ids: jax.Array,
    teacher_ids: jax.Array,
    teacher_log_probs: jax.Array,
    config: DistillationConfig,
) -> jax.Array:
    scores = scores_of_logits(logits, gold_ids, teacher_ids, config.temperature)
    return losses.distillation_loss(scores, teacher_log_probs, config)


def make_inputs(seed: int, *, k: int = CANDIDATES, scale: float = 2.0) -> dict[str, np.ndarray]:
    """Random logits [m, v], gold ids [m], and the teacher's top k of its own random distribution."""
    random = np.random.default_rng(seed)
    teacher = random.normal(0, scale, (POSITIONS, VOCABULARY))
    teacher -= np.log(np.exp(teacher).sum(-1, keepdims=True))
    ids = np.argsort(-teacher, axis=-1)[:, :k]
    return {
        "logits": random.normal(0, scale, (POSITIONS, VOCABULARY)).astype(np.float32),
        "gold_ids": random.integers(0, VOCABULARY, POSITIONS).astype(np.int32),
        "teacher_ids": ids.astype(np.int32),
        "teacher_log_probs": np.take_along_axis(teacher, ids, -1).astype(np.float32),
    }


def loss_of(inputs: dict[str, np.ndarray], missing_mass: str, temperature: float = 1.0) -> np.ndarray:
    arrays = {name: jnp.asarray(array) for name, array in inputs.items()}
    return np.asarray(
        distillation_loss(**arrays, config=DistillationConfig(missing_mass=missing_mass, temperature=temperature))
    )


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def dense_reference(inputs: dict[str, np.ndarray], missing_mass: str, temperature: float = 1.0) -> np.ndarray:
    """The loss by its definition: a dense target over the vocabulary, or over the k and one more outcome."""
    found = []
    for logits, gold, ids, log_probs in zip(*(inputs[name] for name in inputs), strict=True):
        student = log_softmax(logits / temperature)
        kept = np.exp(log_probs.astype(np.float64))
        missing = 1.0 - kept.sum()
        target = np.zeros(len(logits))
        if missing_mass == "renormalise":
            kept = np.exp(log_softmax(log_probs / temperature))
        target[ids] = kept
        if missing_mass == "to_gold":
            target[gold] += missing
        loss = -(target * student).sum()
        if missing_mass == "tail":
            others = [index for index in range(len(logits)) if index not in ids]
            loss -= missing * np.log(np.exp(student[others]).sum())
        found.append(loss * temperature**2)
    return np.array(found)


def numerical_gradient(loss: Callable[[np.ndarray], float], logits: np.ndarray) -> np.ndarray:
    """Central differences in float64."""
    logits, step = logits.astype(np.float64), 1e-6
    gradient = np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        for sign in (1, -1):
            moved = logits.copy()
            moved[index] += sign * step
            gradient[index] += sign * loss(moved) / (2 * step)
    return gradient


def test_gold_cross_entropy_and_its_gradient_equal_the_dense_reference() -> None:
    inputs = make_inputs(0)
    gold, rows = inputs["gold_ids"], np.arange(POSITIONS)

    found = gold_cross_entropy(jnp.asarray(inputs["logits"]), jnp.asarray(gold))
    np.testing.assert_allclose(found, -log_softmax(inputs["logits"])[rows, gold], rtol=1e-5)

    gradient = jax.grad(lambda logits: gold_cross_entropy(logits, jnp.asarray(gold)).sum())(
        jnp.asarray(inputs["logits"])
    )
    expected = np.exp(log_softmax(inputs["logits"]))
    expected[rows, gold] -= 1.0
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("missing_mass", "temperature"),
    [*((name, 1.0) for name in MISSING_MASS), ("renormalise", 2.0), ("renormalise", 0.5)],
)
def test_every_treatment_and_its_gradient_equal_the_dense_reference(missing_mass: str, temperature: float) -> None:
    inputs = make_inputs(1)
    np.testing.assert_allclose(
        loss_of(inputs, missing_mass, temperature), dense_reference(inputs, missing_mass, temperature), rtol=1e-5
    )
    rest = {name: jnp.asarray(array) for name, array in inputs.items() if name != "logits"}
    config = DistillationConfig(missing_mass=missing_mass, temperature=temperature)
    found = jax.grad(lambda logits: distillation_loss(logits, **rest, config=config).sum())(
        jnp.asarray(inputs["logits"])
    )
    expected = numerical_gradient(
        lambda logits: dense_reference({**inputs, "logits": logits}, missing_mass, temperature).sum(), inputs["logits"]
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_number_worked_by_hand() -> None:
    """A student uniform over four tokens, a teacher that gives 1/2 and 1/4 to its two: shares of ln 4 and ln 2."""
    inputs = {
        "logits": np.zeros((1, 4), np.float32),
        "gold_ids": np.array([3], np.int32),
        "teacher_ids": np.array([[1, 2]], np.int32),
        "teacher_log_probs": np.log([[0.5, 0.25]]).astype(np.float32),
    }
    expected = {"renormalise": 1.386294, "truncate": 1.039721, "tail": 1.213008, "to_gold": 1.386294}
    assert {name: float(loss_of(inputs, name)[0]) for name in MISSING_MASS} == pytest.approx(expected, abs=1e-6)


def test_all_candidates_renormalised_are_the_full_cross_entropy() -> None:
    inputs = make_inputs(2, k=VOCABULARY)
    teacher = np.zeros((POSITIONS, VOCABULARY))
    np.put_along_axis(teacher, inputs["teacher_ids"], np.exp(inputs["teacher_log_probs"]), -1)
    expected = -(teacher * log_softmax(inputs["logits"])).sum(-1)
    np.testing.assert_allclose(loss_of(inputs, "renormalise"), expected, rtol=1e-5)


@pytest.mark.parametrize("missing_mass", MISSING_MASS)
def test_all_treatments_agree_where_no_mass_is_missing(missing_mass: str) -> None:
    inputs = make_inputs(3, k=VOCABULARY)
    np.testing.assert_allclose(loss_of(inputs, missing_mass), loss_of(inputs, "renormalise"), rtol=1e-5)


def test_treatments_differ_where_mass_is_missing() -> None:
    found = [loss_of(make_inputs(3), name) for name in MISSING_MASS]
    for index, one in enumerate(found):
        for other in found[index + 1 :]:
            assert np.abs(one - other).max() > 1e-2


def test_normalised_log_probabilities_leave_the_renormalised_loss_unchanged() -> None:
    """What is stored is normalised over the teacher's vocabulary; the paper's loss is over raw logits (DESIGN 2.3)."""
    inputs = make_inputs(4)
    raw = {**inputs, "teacher_log_probs": inputs["teacher_log_probs"] + np.float32(3.0)}
    np.testing.assert_allclose(loss_of(raw, "renormalise"), loss_of(inputs, "renormalise"), rtol=1e-6)


def test_a_student_that_equals_its_teacher_rests_in_the_tail_treatment() -> None:
    """Only "tail" asks for the teacher's own distribution: there its gradient is zero, elsewhere not."""
    inputs = make_inputs(5, k=VOCABULARY)
    logits = np.zeros((POSITIONS, VOCABULARY), np.float32)
    np.put_along_axis(logits, inputs["teacher_ids"], inputs["teacher_log_probs"], -1)
    top = {name: jnp.asarray(inputs[name][:, :CANDIDATES]) for name in ("teacher_ids", "teacher_log_probs")}

    def gradient(missing_mass: str) -> float:
        config = DistillationConfig(missing_mass=missing_mass)
        gold = jnp.asarray(inputs["gold_ids"])
        found = jax.grad(lambda x: distillation_loss(x, gold, **top, config=config).sum())(jnp.asarray(logits))
        return float(jnp.abs(found).max())

    assert gradient("tail") < 1e-5
    assert gradient("renormalise") > 1e-2
    assert gradient("truncate") > 1e-2


@pytest.mark.parametrize("missing_mass", MISSING_MASS)
def test_mass_pushed_off_the_candidates_costs(missing_mass: str) -> None:
    """Trap 1: with both sides renormalised over the top-k, this student would lose nothing."""
    inputs = make_inputs(6)
    outside = next(i for i in range(VOCABULARY) if i not in inputs["teacher_ids"] and i not in inputs["gold_ids"])
    found = []
    for push in (0.0, 3.0, 6.0, 12.0):
        logits = inputs["logits"].copy()
        logits[:, outside] += push
        found.append(loss_of({**inputs, "logits": logits}, missing_mass).sum())
    if missing_mass == "tail":  # its optimum holds the teacher's own tail, so that only mass beyond it costs
        found = found[1:]
    assert (np.diff(found) > 0.1).all()


@pytest.mark.parametrize("missing_mass", MISSING_MASS)
@pytest.mark.parametrize("scale", [0.1, 2.0, 30.0])
def test_no_treatment_is_ever_negative(missing_mass: str, scale: float) -> None:
    """Trap 2, without a clamp on the loss; rounding to half precision may lift the teacher's mass above one."""
    for seed in range(20):
        inputs = make_inputs(seed, scale=scale)
        inputs["teacher_log_probs"] = inputs["teacher_log_probs"].astype(np.float16).astype(np.float32)
        found = loss_of(inputs, missing_mass)
        assert np.isfinite(found).all()
        assert (found >= 0).all(), (seed, found)


@pytest.mark.parametrize("missing_mass", MISSING_MASS)
def test_candidates_without_mass_change_nothing_and_stay_finite(missing_mass: str) -> None:
    """Teachers' tokens that the student's vocabulary lacks: their id is 0, their log-probability finite, massless."""
    inputs = make_inputs(7)
    dropped = {
        **inputs,
        "teacher_ids": np.pad(inputs["teacher_ids"], [(0, 0), (0, 2)]),
        "teacher_log_probs": np.pad(inputs["teacher_log_probs"], [(0, 0), (0, 2)], constant_values=IMPOSSIBLE_LOG_PROB),
    }
    np.testing.assert_allclose(loss_of(dropped, missing_mass), loss_of(inputs, missing_mass), rtol=1e-6)


@pytest.mark.parametrize("missing_mass", MISSING_MASS)
def test_rows_of_padding_are_finite_in_value_and_gradient(missing_mass: str) -> None:
    """Trap 7: a padded position holds id 0 and IMPOSSIBLE_LOG_PROB for every candidate."""
    inputs = make_inputs(8)
    ids = jnp.zeros((POSITIONS, CANDIDATES), jnp.int32)
    log_probs = jnp.full((POSITIONS, CANDIDATES), IMPOSSIBLE_LOG_PROB, jnp.float32)
    config = DistillationConfig(missing_mass=missing_mass)
    value, gradient = jax.value_and_grad(
        lambda x: distillation_loss(x, jnp.zeros(POSITIONS, jnp.int32), ids, log_probs, config).sum()
    )(jnp.asarray(inputs["logits"]))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("missing_mass", MISSING_MASS)
def test_a_student_sure_of_the_candidates_has_a_finite_gradient(missing_mass: str) -> None:
    """All the student's mass on the top-k: log(1 - covered) must not reach log 0."""
    inputs = make_inputs(9)
    logits = np.full((POSITIONS, VOCABULARY), -1e4, np.float32)
    np.put_along_axis(logits, inputs["teacher_ids"], 0.0, -1)
    rest = {name: jnp.asarray(array) for name, array in inputs.items() if name != "logits"}
    config = DistillationConfig(missing_mass=missing_mass)
    value, gradient = jax.value_and_grad(lambda x: distillation_loss(x, **rest, config=config).sum())(
        jnp.asarray(logits)
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"missing_mass": "ignore"}, "missing_mass: found 'ignore'"),
        ({"temperature": 0.0}, "temperature: found 0.0"),
        ({"missing_mass": "tail", "temperature": 2.0}, "temperature: found 2.0"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: dict, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        DistillationConfig(**settings)
