"""The walk over the vocabulary against the whole row: values, ids, ties, normalisers; and what is never made."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from mergedistill_jax.teachers.inference import top_log_probs
from mergedistill_jax.teachers.top_k import Chunks, default_chunks, projected_top_log_probs

SMALL = Chunks(chunk_size=64, block_size=4)


def made(rows, tokens, width=6, seed=0, scale=1.0) -> list[Any]:
    """Rows, table, bias and gold ids."""
    generator = np.random.default_rng(seed)
    return [
        generator.normal(0, scale, (rows, width)).astype(np.float32),
        generator.normal(0, scale, (tokens, width)).astype(np.float32),
        generator.normal(0, scale, tokens).astype(np.float32),
        generator.integers(0, tokens, rows).astype(np.int32),
    ]


def found(*inputs: Any, num_tokens, k, chunks=SMALL):
    program = jax.jit(functools.partial(projected_top_log_probs, num_tokens=num_tokens, k=k, chunks=chunks))
    return [np.asarray(array) for array in program(*map(jnp.asarray, inputs))]


@pytest.mark.parametrize(
    ("tokens", "num_tokens", "k"),
    [
        (256, 256, 8),  # whole chunks
        (300, 277, 8),  # a last chunk that overlaps, rows without a token
        (65, 65, 3),  # a last chunk of one new column
        (130, 128, 1),
        (300, 277, 40),  # more candidates than blocks are worth: every column of a chunk is ordered
        (300, 277, 100),  # more than a chunk has
        (50, 41, 41),  # one chunk, all its tokens
    ],
)
def test_equals_sorting_whole_rows(tokens, num_tokens, k):
    rows, table, bias, gold = made(23, tokens, seed=tokens + k)
    bias[num_tokens:] += 50  # rows without a token would win everything
    gold %= num_tokens
    ids, log_probs, gold_log_probs = found(rows, table, bias, gold, num_tokens=num_tokens, k=k)
    logits = (rows.astype(np.float64) @ table.T.astype(np.float64) + bias)[:, :num_tokens]
    expected = log_softmax(logits, axis=-1)
    order = np.argsort(-expected, axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_allclose(log_probs, np.take_along_axis(expected, order, axis=-1), atol=1e-5)
    np.testing.assert_allclose(gold_log_probs, expected[np.arange(len(rows)), gold], atol=1e-5)


def test_all_tokens_kept_have_the_whole_mass():
    _, log_probs, _ = found(*made(9, 150), num_tokens=150, k=150)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1.0, atol=1e-6)


def test_a_number_worked_by_hand():
    """Probabilities 1/2, 1/4, 1/8, 1/8 from the bias alone, over two chunks of two columns; the last has no token."""
    bias = np.log(np.array([1 / 8, 1 / 2, 1 / 8, 1 / 4, 80.0], np.float32))
    rows, table, gold = np.zeros((1, 3), np.float32), np.zeros((5, 3), np.float32), np.array([2], np.int32)
    pair = Chunks(chunk_size=2, block_size=1)
    ids, log_probs, gold_log_probs = found(rows, table, bias, gold, num_tokens=4, k=2, chunks=pair)
    assert ids.tolist() == [[1, 3]]
    np.testing.assert_allclose(np.exp(log_probs), [[0.5, 0.25]], rtol=1e-6)
    np.testing.assert_allclose(np.exp(gold_log_probs), [0.125], rtol=1e-6)


@pytest.mark.parametrize("levels", [1, 2, 5])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_equal_logits_are_ordered_as_top_k_of_the_whole_row_orders_them(levels, k):
    """Small whole numbers, exact in any order of addition, so that ties abound within and across blocks and chunks."""
    generator = np.random.default_rng(levels * 10 + k)
    rows = generator.integers(0, 2, (40, 3)).astype(np.float32)
    table = generator.integers(0, levels, (333, 3)).astype(np.float32)
    bias = generator.integers(0, levels, 333).astype(np.float32)
    gold = np.zeros(40, np.int32)
    ids, log_probs, _ = found(rows, table, bias, gold, num_tokens=327, k=k)
    expected_ids, expected = top_log_probs(jnp.asarray(rows @ table.T + bias), 327, k)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(log_probs, expected, atol=1e-5)


@pytest.mark.parametrize("chunks", [Chunks(chunk_size=8, block_size=2), Chunks(chunk_size=100, block_size=10)])
def test_how_the_vocabulary_is_cut_changes_nothing(chunks):
    inputs = made(11, 205, seed=4)
    kept: Any = {"num_tokens": 203, "k": 5}
    inputs[3] %= 203
    ids, *log_probs = found(*inputs, **kept, chunks=chunks)
    expected_ids, *expected = found(*inputs, **kept)
    np.testing.assert_array_equal(ids, expected_ids)
    for one, other in zip(log_probs, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("shift", [1e4, -1e4])
def test_large_logits_stay_finite(shift):
    rows, table, bias, gold = made(5, 150, scale=3.0)
    _, log_probs, gold_log_probs = found(rows, table, bias + np.float32(shift), gold, num_tokens=150, k=8)
    _, expected, expected_gold = found(rows, table, bias, gold, num_tokens=150, k=8)
    np.testing.assert_allclose(log_probs, expected, atol=0.01)  # a float32 near 1e4 has steps of 1e-3
    np.testing.assert_allclose(gold_log_probs, expected_gold, atol=0.01)


def test_what_is_not_a_number_is_not_hidden():
    """A teacher whose weights are broken must not look sound."""
    rows, table, bias, gold = made(3, 150)
    table[77, 0] = np.nan
    _, log_probs, gold_log_probs = found(rows, table, bias, gold, num_tokens=150, k=8)
    assert np.isnan(log_probs).all()
    assert np.isnan(gold_log_probs).all()


def test_bfloat16_rows_have_float32_sums():
    """With the products in bfloat16 and the sums in float32 nothing is lost beyond the rounding of the inputs."""
    rows, table, bias, gold = made(7, 150, seed=2)
    narrow = [jnp.asarray(array, jnp.bfloat16) for array in (rows, table)]
    _, log_probs, gold_log_probs = found(*narrow, bias, gold, num_tokens=150, k=8)
    rounded = [np.asarray(array, np.float32) for array in narrow]
    _, expected, expected_gold = found(*rounded, bias, gold, num_tokens=150, k=8)
    np.testing.assert_allclose(log_probs, expected, atol=1e-5)
    np.testing.assert_allclose(gold_log_probs, expected_gold, atol=1e-5)


def largest_with(tokens, chunks):
    """Entries of the largest float32 array in the compiled walk that is not the table or its bias."""
    rows, table, bias, gold = made(31, tokens)
    program = jax.jit(functools.partial(projected_top_log_probs, num_tokens=tokens, k=8, chunks=chunks))
    text: Any = program.lower(rows, table, bias, gold).compile().as_text()
    shapes = {tuple(map(int, shape.split(","))) for shape in re.findall(r"f32\[([\d,]+)\]", text)}
    return max(int(np.prod(shape)) for shape in shapes if tokens not in shape or len(rows) in shape)


def test_no_row_of_logits_over_the_vocabulary_is_made():
    """With one chunk for all there is one, so the test would see it."""
    tokens = 2003
    assert largest_with(tokens, Chunks(chunk_size=4096)) >= 31 * tokens
    assert largest_with(tokens, SMALL) <= 31 * SMALL.chunk_size


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("scale", [0.5, 3.0, 20.0])
def test_the_gold_log_probability_is_that_of_the_same_token_among_the_best(scale, dtype):
    """In a program that makes the rows too, where XLA may round the operands of one product and not of the other."""
    inner, table, bias, _ = made(64, 1000, scale=scale, seed=4)
    table, bias = jnp.asarray(table, dtype), jnp.asarray(bias)

    def program(inner, gold):
        rows = (3 * jnp.tanh(inner)).astype(dtype)
        return projected_top_log_probs(rows, table, bias, gold, num_tokens=1000, k=4, chunks=Chunks())

    compiled = jax.jit(program)
    ids, log_probs, _ = compiled(inner, np.zeros(64, np.int32))
    for rank in range(4):
        np.testing.assert_array_equal(compiled(inner, ids[:, rank])[2], np.minimum(log_probs[:, rank], 0))
    others = np.asarray((ids[:, 0] + 1 + np.arange(64)) % 1000)
    outside = (np.asarray(ids) != others[:, None]).all(axis=1)
    assert outside.any()
    assert (compiled(inner, others)[2] <= log_probs[:, -1])[outside].all()


def test_chunks():
    with pytest.raises(ValueError, match=r"Chunks.chunk_size: found 100, expected a multiple of block_size=32"):
        Chunks(chunk_size=100)
    for platform in ("cpu", "gpu", "tpu"):
        assert default_chunks(platform).chunk_size >= 4096
