"""Reading compiled programs: how often each instruction runs, and how many operations that makes."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from mergedistill_jax.planning.flops import matmul_flops
from mergedistill_jax.planning.hlo import Array, Program, arrays_in, parse


def compiled(function, *arguments) -> Program:
    text = jax.jit(function).lower(*arguments).compile().as_text()
    assert text is not None
    return parse(text)


def cost_flops(function, *arguments) -> float:
    analysis = jax.jit(function).lower(*arguments).compile().cost_analysis()
    assert analysis is not None
    return analysis["flops"]


def test_arrays_of_a_shape() -> None:
    found = arrays_in("(bf16[32,512]{1,0:T(8,128)(2,1)S(1)}, s32[], /*index=5*/pred[3], token[])")
    assert found == (Array("bf16", (32, 512)), Array("s32", ()), Array("pred", (3,)), Array("token", ()))
    assert [array.bytes for array in found] == [32 * 512 * 2, 4, 3, 0]


def test_a_text_without_an_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="found no entry computation, expected the text of an HLO module"):
        parse("HloModule nothing\n")


def test_a_matrix_product() -> None:
    x, y = jnp.ones((16, 32)), jnp.ones((32, 8))
    assert matmul_flops(compiled(jnp.matmul, x, y)) == 2 * 16 * 32 * 8


def test_a_loop_counts_as_often_as_it_turns() -> None:
    """XLA's own analysis counts its body once, which is why there is this one."""
    weights = jnp.ones((5, 64, 64))

    def chain(x: jax.Array, weights: jax.Array) -> jax.Array:
        return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    x = jnp.ones((32, 64))
    once = 2 * 32 * 64 * 64
    assert matmul_flops(compiled(chain, x, weights)) == 5 * once
    assert cost_flops(chain, x, weights) < 2 * once


def test_loops_in_loops_multiply() -> None:
    def twice(x: jax.Array) -> jax.Array:
        def outer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, length=3)[0], None

        return lax.scan(outer, x, length=7)[0]

    assert matmul_flops(compiled(twice, jnp.ones((16, 16)))) == 21 * 2 * 16**3


def test_a_loop_without_an_end_is_counted_once_and_named() -> None:
    def until(x: jax.Array) -> jax.Array:
        return lax.while_loop(lambda x: jnp.sum(x) < 1e6, lambda x: jnp.cosh(x @ x), x)

    program = compiled(until, jnp.ones((16, 16)))
    assert len(program.unknown_loops) == 1
    assert matmul_flops(program) == 2 * 16**3
    assert not compiled(jnp.sin, jnp.ones(3)).unknown_loops


TPU_LOOP = """\
HloModule jit_f, is_scheduled=true

%fused_product (p0: bf16[8,16], p1: bf16[16,4]) -> f32[8,4] {
  %p0 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[16,4]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %conv = f32[8,4]{1,0:T(8,128)} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%body (p: (s32[], bf16[8,16], bf16[16,4])) -> (s32[], bf16[8,16], bf16[16,4]) {
  %p = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[16,4]{1,0}) parameter(0)
  %n = s32[]{:T(128)} get-tuple-element(%p), index=0
  %a = bf16[8,16]{1,0} get-tuple-element(%p), index=1
  %b = bf16[16,4]{1,0} get-tuple-element(%p), index=2
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%n, %one)
  %product = f32[8,4]{1,0} fusion(%a, %b), kind=kOutput, calls=%fused_product
  ROOT %t = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[16,4]{1,0}) tuple(%next, %a, %b)
}

%condition (p: (s32[], bf16[8,16], bf16[16,4])) -> pred[] {
  %p = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[16,4]{1,0}) parameter(0)
  %stop = s32[]{:T(128)} constant(30)
  %n = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%n, %stop), direction=LT
}

ENTRY %main (a: bf16[8,16], b: bf16[16,4]) -> (s32[], bf16[8,16], bf16[16,4]) {
  %a = bf16[8,16]{1,0} parameter(0)
  %b = bf16[16,4]{1,0} parameter(1)
  %start = s32[]{:T(128)} constant(10)
  %moved = s32[]{:T(128)} copy(%start)
  %given = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[16,4]{1,0}) tuple(%moved, %a, %b)
  ROOT %loop = (s32[]{:T(128)}, bf16[8,16]{1,0}, bf16[16,4]{1,0}) while(%given), condition=%condition, body=%body
}
"""
"""As the compiler for TPU writes it: no note of the turns, the product a convolution."""


def test_turns_are_read_from_a_loops_condition() -> None:
    """From 10 to 30, since nothing notes their number."""
    program = parse(TPU_LOOP)
    times = {each.instruction.name: each.times for each in program.executed}
    assert (times["loop"], times["product"]) == (1, 20)
    assert "conv" not in times  # it runs inside of the fusion
    assert matmul_flops(program) == 20 * 2 * 8 * 16 * 4


@pytest.mark.parametrize(
    ("strides", "padding", "left", "right"),
    [
        ((1, 1), "SAME", (1, 1), (1, 1)),
        ((2, 3), "VALID", (1, 1), (1, 1)),
        ((1, 2), ((3, 1), (0, 2)), (2, 1), (1, 1)),
        ((1, 1), ((4, 4), (2, 0)), (1, 3), (2, 2)),
    ],
)
def test_convolutions_as_xla_counts_them(strides, padding, left, right) -> None:
    """The windows that fall on padding or between the elements of a dilated input are left out by both."""
    conv = functools.partial(
        lax.conv_general_dilated, window_strides=strides, padding=padding, lhs_dilation=left, rhs_dilation=right
    )
    x, kernel = jnp.ones((2, 3, 11, 13)), jnp.ones((5, 3, 4, 3))
    program = compiled(conv, x, kernel)
    if not any(each.opcode == "convolution" for scope in program.computations.values() for each in scope.values()):
        pytest.skip("the compiler for CPU writes this convolution as something else")
    assert matmul_flops(program) == cost_flops(conv, x, kernel)


def test_a_batch_axis_written_as_a_spatial_one() -> None:
    """The TPU's form of `bqe,bke->bqk` with b = 12: each window meets one element, so it is 2 b q k e."""
    text = """\
ENTRY %main (a: f32[12,8,64], b: f32[12,16,64]) -> f32[12,8,16] {
  %a = f32[12,8,64]{2,1,0} parameter(0)
  %b = f32[12,16,64]{2,1,0} parameter(1)
  ROOT %conv = f32[12,8,16]{2,1,0} convolution(%a, %b), window={size=12 stride=11 pad=0_0 lhs_dilate=12}, dim_labels=0bf_0oi->0bf
}
"""  # noqa: E501 - a line of the compiler's
    assert matmul_flops(parse(text)) == 2 * 12 * 8 * 16 * 64
