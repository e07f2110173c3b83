"""Scores over a vocabulary in chunks: equal to dense ones in value and gradient, and without an array of their size."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mergedistill_jax.configs.losses import MISSING_MASS, DistillationConfig
from mergedistill_jax.products import on_each
from mergedistill_jax.training.log_normalizer import log_normalizer, token_logits, vocabulary_scores
from mergedistill_jax.training.losses import distillation_loss, gold_cross_entropy, scores_of_logits
from mergedistill_jax.training.partitioning import make_mesh
from mergedistill_jax.training.step import Projection, StepConfig, position_sums, score

ROWS, WIDTH, VOCABULARY = 6, 5, 44


def arrays(seed: int = 0, vocabulary: int = VOCABULARY) -> tuple[jax.Array, jax.Array, jax.Array]:
    random = np.random.default_rng(seed)
    shapes = ((ROWS, WIDTH), (vocabulary, WIDTH), (vocabulary,))
    rows, table, bias = (jnp.asarray(random.normal(0, 2, shape), jnp.float32) for shape in shapes)
    return rows, table, bias


PICKED = np.random.default_rng(3).integers(0, VOCABULARY, (ROWS, 3))


def float64_reference(rows: jax.Array, table: jax.Array, bias: jax.Array, weights: np.ndarray) -> tuple:
    """Log-normalisers [n], and the gradients of their weighted sum, by definition; and the whole logits."""
    rows64, table64 = np.asarray(rows, np.float64), np.asarray(table, np.float64)
    logits = rows64 @ table64.T + np.asarray(bias, np.float64)
    top = logits.max(-1, keepdims=True)
    value = top[:, 0] + np.log(np.exp(logits - top).sum(-1))
    share = np.exp(logits - value[:, None]) * weights[:, None]
    return value, (share @ table64, share.T @ rows64, share.sum(0)), logits


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("chunk_size", [4, 8, 12, 40, 44, 1000])
def test_value_and_gradient_equal_float64_whatever_the_chunks(chunk_size: int, shards: int) -> None:
    """44 columns in chunks that divide them, that do not, and that are larger."""
    given = arrays()
    weights = np.linspace(-1, 2, ROWS)

    def summed(*given: jax.Array) -> tuple[jax.Array, tuple]:
        found = vocabulary_scores(*given, jnp.asarray(PICKED), chunk_size=chunk_size, shards=shards)
        return jnp.sum(found.log_normalizer * jnp.asarray(weights, jnp.float32)), tuple(found)

    gradients, (value, best, picked) = jax.jit(jax.grad(summed, argnums=(0, 1, 2), has_aux=True))(*given)
    expected_value, expected_gradients, logits = float64_reference(*given, weights)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_array_equal(best, logits.argmax(-1))
    np.testing.assert_allclose(picked, np.take_along_axis(logits, PICKED, axis=1), rtol=1e-5, atol=1e-5)
    for found, expected in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_single_tokens_have_their_own_gradient() -> None:
    """A token picked twice counts twice; against automatic differentiation of whole logits."""
    given, picked = arrays(), jnp.asarray(np.repeat(PICKED[:, :1], 2, axis=1))
    factors = jnp.asarray(np.random.default_rng(4).normal(size=picked.shape), jnp.float32)

    def chunked(*given: jax.Array) -> jax.Array:
        return jnp.sum(factors * vocabulary_scores(*given, picked, chunk_size=8).picked)

    def whole(rows: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
        return jnp.sum(factors * jnp.take_along_axis(rows @ table.T + bias, picked, axis=1))

    found, expected = (jax.grad(function, argnums=(0, 1, 2))(*given) for function in (chunked, whole))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), found, expected)


@pytest.mark.parametrize("chunk_size", [4, 12, 1000])
def test_the_best_token(chunk_size: int) -> None:
    given = arrays()
    value, best = log_normalizer(*given, chunk_size=chunk_size)
    expected, _, logits = float64_reference(*given, np.ones(ROWS))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_array_equal(best, logits.argmax(-1))


def test_a_table_in_float32_is_read_in_the_dtype_of_the_rows_and_its_gradient_is_float32() -> None:
    rows, table, bias = arrays()
    narrow = rows.astype(jnp.bfloat16)
    ids = jnp.asarray(PICKED)

    def loss(table: jax.Array) -> jax.Array:
        found = vocabulary_scores(narrow, table, bias, ids, chunk_size=8)
        return jnp.sum(found.log_normalizer) - jnp.sum(found.picked)

    gradient = jax.grad(loss)(table)
    assert gradient.dtype == jnp.float32
    rounded = table.astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_array_equal(gradient, jax.grad(loss)(rounded))
    assert not np.array_equal(gradient, gradient.astype(jnp.bfloat16))


def test_huge_and_equal_logits_stay_finite() -> None:
    rows, table, bias = arrays()
    value, *_ = vocabulary_scores(rows * 1e4, table, bias, jnp.asarray(PICKED), chunk_size=8)
    expected, _, _ = float64_reference(rows * 1e4, table, bias, np.ones(ROWS))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    value, best = log_normalizer(rows * 0, table, bias * 0, chunk_size=8)
    np.testing.assert_allclose(value, np.log(VOCABULARY), rtol=1e-6)
    assert (best == 0).all()  # of equal ones the first, as argmax has it


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("chunk_size", [4, 12, 1000])
def test_of_equal_logits_the_lowest_id_is_the_best(chunk_size: int, shards: int) -> None:
    rows, table, _ = arrays()
    same = jnp.zeros((VOCABULARY,)).at[jnp.asarray([7, 9, 23, 40])].set(1.0)
    found = vocabulary_scores(rows * 0, table, same, jnp.asarray(PICKED), chunk_size=chunk_size, shards=shards)
    np.testing.assert_array_equal(found.best, 7)


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("chunk_size", [64, 100, 256, 1000])
def test_the_best_of_many_equal_logits_is_that_of_argmax(chunk_size: int, shards: int) -> None:
    """Small integers, exact in any order of sums; chunks that divide the vocabulary, that do not, and one for all."""
    random = np.random.default_rng(9)
    rows, table, bias = (random.integers(-2, 3, shape).astype(np.float32) for shape in ((64, 3), (512, 3), (512,)))
    expected = np.argmax(rows @ table.T + bias, axis=1)  # of equal ones the first
    given = (*map(jnp.asarray, (rows, table, bias)), jnp.asarray(expected[:, None]))
    found = vocabulary_scores(*given, chunk_size=chunk_size, shards=shards)
    np.testing.assert_array_equal(found.best, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_no_picked_logit_is_above_the_normalizer_and_its_gradient_is_the_softmax(scale: float, dtype: Any) -> None:
    """Rows of which one token has all the mass: its logit and the sum differ by rounding alone."""
    random = np.random.default_rng(5)
    table = jnp.asarray(random.normal(size=(640, 96)), jnp.float32)
    gold = jnp.asarray(random.integers(0, 640, (256, 1)))
    rows = scale * table[gold[:, 0]]

    def losses(rows: jax.Array) -> jax.Array:
        # The conversion stands in the program: XLA may keep in one use of the rows what it rounds in another.
        found = vocabulary_scores(rows.astype(dtype), table, jnp.zeros(640), gold, chunk_size=64)
        return found.log_normalizer - found.picked[:, 0]

    for program in (losses, on_each(losses, make_mesh(1, jax.devices()[:1]))):
        found = jax.jit(program)(rows)
        assert float(found.min()) >= 0.0
        assert float(found.max()) < 1e-3 * scale
    gradient = jax.jit(jax.grad(lambda rows: jnp.sum(losses(rows))))(rows * 0)
    expected = table.mean(0) - table[gold[:, 0]]
    np.testing.assert_allclose(gradient, expected, atol=1e-5 if dtype == jnp.float32 else 0.05)


@pytest.mark.parametrize("devices", [1, 2, 8])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_hits_equal_those_of_an_argmax_over_the_same_rows(dtype: Any, devices: int) -> None:
    """In a program that makes the rows too; half of the tokens asked for are the best, half the second."""
    random = np.random.default_rng(6)
    inner = jnp.asarray(random.normal(size=(32, 16, 256)), jnp.float32)
    table = jnp.asarray(random.normal(size=(4096, 256)) / 4, jnp.float32)
    bias = jnp.asarray(random.normal(size=4096), jnp.float32)

    def rows_of(inner: jax.Array) -> jax.Array:
        return jnp.tanh(inner).astype(dtype)

    narrow = [np.asarray(x.astype(jnp.float32), np.float64) for x in (rows_of(inner), table.astype(dtype))]
    order = np.argsort(-(narrow[0] @ narrow[1].T + np.asarray(bias, np.float64)), axis=-1)
    gold = np.where(random.random((32, 16)) < 0.5, order[..., 0], order[..., 1]).astype(np.int32)
    mesh = make_mesh(1, jax.devices()[:devices])
    batch = {
        "gold_ids": jnp.asarray(gold),
        "teacher_ids": jnp.asarray(gold[..., None]),
        "teacher_log_probs": jnp.zeros((32, 16, 1)),
        "loss_weights": jnp.ones((32, 16)),
        "source": jnp.zeros(32, jnp.int32),
    }
    step = StepConfig(num_sources=1, has_teacher=True, chunk_size=1024)

    def sums(inner: jax.Array, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return position_sums(score(Projection(rows_of(inner), table, bias), batch, step), batch, step)

    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    found = jax.jit(on_each(sums, mesh))(*jax.device_put((inner, batch), spread))
    expected = float((gold == order[..., 0]).sum())
    for name in ("gold_hits", "teacher_hits"):
        assert abs(float(found[name][0]) - expected) <= 1, name  # of 512: two logits may be equal but for rounding


@pytest.mark.parametrize("devices", [1, 2])
def test_all_logits_are_those_of_the_rounded_operands(devices: int) -> None:
    """XLA may drop the rounding of rows and table to bfloat16 where a backend multiplies in float32."""
    random = np.random.default_rng(8)
    inner = jnp.asarray(random.normal(size=(512, 256)), jnp.float32)
    table = jnp.asarray(random.normal(size=(4096, 256)) / 4, jnp.float32)

    def rows_of(inner: jax.Array) -> jax.Array:
        return jnp.tanh(inner).astype(jnp.bfloat16)

    narrow = [np.asarray(x.astype(jnp.float32), np.float64) for x in (rows_of(inner), table.astype(jnp.bfloat16))]
    logits = narrow[0] @ narrow[1].T
    best = np.argmax(logits, axis=1)
    mesh = make_mesh(1, jax.devices()[:devices])

    def scores(inner: jax.Array, table: jax.Array) -> Any:
        return vocabulary_scores(rows_of(inner), table, jnp.zeros(4096), jnp.asarray(best[:, None]), chunk_size=1024)

    found = jax.jit(on_each(scores, mesh))(inner, table)
    top = logits.max(axis=1)
    np.testing.assert_allclose(found.picked[:, 0], top, atol=1e-3)
    np.testing.assert_allclose(found.log_normalizer, top + np.log(np.exp(logits - top[:, None]).sum(1)), atol=1e-3)
    assert (found.best == best).mean() > 0.99


def test_tempered_logits_are_divided_after_their_product() -> None:
    """Rows in bfloat16 divided by 3 would be other rows."""
    random = np.random.default_rng(7)
    rows = jnp.asarray(random.normal(size=(64, 32)), jnp.bfloat16)
    table = jnp.asarray(random.normal(size=(300, 32)), jnp.float32).astype(jnp.bfloat16)
    bias, ids = jnp.zeros(300), jnp.asarray(random.integers(0, 300, (64, 2)))
    found = vocabulary_scores(rows, table, bias, ids, chunk_size=64, temperature=3.0)
    logits = np.asarray(rows, np.float64) @ np.asarray(table, np.float64).T / 3
    np.testing.assert_allclose(found.log_normalizer, np.log(np.exp(logits).sum(-1)), rtol=1e-5)
    np.testing.assert_allclose(found.picked, np.take_along_axis(logits, np.asarray(ids), 1), atol=1e-5)


def test_a_vocabulary_that_the_shards_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="shards: found 3, expected a divisor of the vocabulary, 44"):
        vocabulary_scores(*arrays(), jnp.asarray(PICKED), chunk_size=8, shards=3)


def test_logits_of_single_tokens() -> None:
    rows, table, bias = arrays()
    ids = jnp.asarray(np.random.default_rng(1).integers(0, VOCABULARY, (ROWS, 3)))
    expected = np.take_along_axis(np.asarray(rows @ table.T + bias), np.asarray(ids), axis=1)
    np.testing.assert_allclose(token_logits(rows, table, bias, ids), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("missing_mass", "temperature"), [*((name, 1.0) for name in MISSING_MASS), ("renormalise", 2.0)]
)
def test_every_loss_and_its_gradient_equal_those_of_whole_logits(missing_mass: str, temperature: float) -> None:
    random = np.random.default_rng(2)
    rows, table, bias = arrays()
    config = DistillationConfig(missing_mass=missing_mass, temperature=temperature)
    batch = {
        "gold_ids": jnp.asarray(random.integers(0, VOCABULARY, (2, 3))),
        "teacher_ids": jnp.asarray(random.integers(0, VOCABULARY, (2, 3, 4))),
        "teacher_log_probs": jnp.asarray(np.log(random.dirichlet(np.ones(8), (2, 3))[..., :4]), jnp.float32),
        "loss_weights": jnp.ones((2, 3)),
    }
    step = StepConfig(num_sources=1, has_teacher=True, distillation=config, chunk_size=8)

    def chunked(rows: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
        scores = score(Projection(rows.reshape(2, 3, WIDTH), table, bias), batch, step)
        return jnp.sum(gold_cross_entropy(scores) + 0.7 * distillation_loss(scores, batch["teacher_log_probs"], config))

    def whole(rows: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
        logits = rows.reshape(2, 3, WIDTH) @ table.T + bias
        scores = scores_of_logits(logits, batch["gold_ids"], batch["teacher_ids"], temperature)
        return jnp.sum(gold_cross_entropy(scores) + 0.7 * distillation_loss(scores, batch["teacher_log_probs"], config))

    found = jax.jit(jax.value_and_grad(chunked, argnums=(0, 1, 2)))(rows, table, bias)
    expected = jax.jit(jax.value_and_grad(whole, argnums=(0, 1, 2)))(rows, table, bias)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5), found, expected)


def shapes_in(compiled: str) -> set[tuple[int, ...]]:
    """Every shape of a float32 array in the text of a compiled program."""
    return {tuple(map(int, match.split(","))) for match in re.findall(r"f32\[([\d,]+)\]", compiled)}


def test_no_array_of_rows_by_vocabulary_is_compiled() -> None:
    """PEERS.md trap 14. The dense loss shows that the test would find one."""
    vocabulary, chunk = 512, 64
    given = arrays(vocabulary=vocabulary)

    def compiled(chunk_size: int) -> set[tuple[int, ...]]:
        def summed(*given: jax.Array) -> jax.Array:
            return jnp.sum(vocabulary_scores(*given, jnp.asarray(PICKED), chunk_size=chunk_size).log_normalizer)

        loss = jax.jit(jax.grad(summed, argnums=(0, 1, 2)))
        return shapes_in(loss.lower(*given).compile().as_text())

    assert any(np.prod(shape) == ROWS * vocabulary for shape in compiled(vocabulary))
    assert not any(np.prod(shape) >= ROWS * vocabulary and ROWS in shape for shape in compiled(chunk))


def test_a_table_over_devices_gives_the_same_and_is_never_gathered() -> None:
    mesh = make_mesh(4, jax.devices()[:8])
    given = arrays(vocabulary=512)
    spec = jax.sharding.PartitionSpec
    placed = [
        jax.device_put(array, jax.sharding.NamedSharding(mesh, axes))
        for array, axes in zip(given, (spec("data"), spec("model"), spec("model")), strict=True)
    ]
    placed[0] = jax.device_put(given[0], jax.sharding.NamedSharding(mesh, spec("data")))

    def loss(shards: int, *given: jax.Array) -> jax.Array:
        return jnp.sum(vocabulary_scores(*given, jnp.asarray(PICKED), chunk_size=64, shards=shards).log_normalizer)

    sharded = jax.jit(jax.value_and_grad(lambda *a: loss(4, *a), argnums=(0, 1, 2)))
    expected = jax.value_and_grad(lambda *a: loss(1, *a), argnums=(0, 1, 2))(*given)
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5), sharded(*placed), expected
    )
    text = sharded.lower(*placed).compile().as_text()
    gathered = [shape for line in text.splitlines() if "all-gather" in line for shape in shapes_in(line)]
    assert not [shape for shape in gathered if np.prod(shape) >= 512 * WIDTH], gathered
