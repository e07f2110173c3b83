"""The compiler's estimated cycles: loops unrolled, every operation in one category."""

import pytest

from mergedistill_jax.planning.cycles import (
    category_of,
    cycles_by_category,
    direction_of,
    moved_bytes,
    operations,
    total_cycles,
)
from mergedistill_jax.planning.hlo import parse

MODEL = "jit(step_fn)/jvp(MaskedLanguageModel.projection)/MaskedLanguageModel.hidden_rows/encoder"
BACK = "jit(step_fn)/transpose(jvp(MaskedLanguageModel.projection))/MaskedLanguageModel.hidden_rows/encoder"


@pytest.mark.parametrize(
    ("op_name", "category", "direction"),
    [
        (f"{MODEL}/EncoderLayer/attention/bkhe,bqhe->bhkq/dot_general", "attention matmuls", "forward"),
        (f"{BACK}/EncoderLayer/jit(gelu)/tanh", "mlp activation", "backward"),
        (f"{MODEL}/layers_0/attention/query/dot_general", "attention projections", "forward"),
        (f"{BACK}/layers_11/attention/bqhe,bkhe->bhqk/dot_general", "attention matmuls", "backward"),
        (f"{BACK}/layers_11/attention/sub", "attention softmax", "backward"),
        (f"{MODEL}/layers_0/attention/Dropout_0/jit(_bernoulli)/jit(_uniform)/lt", "dropout", "forward"),
        (f"{MODEL}/layers_0/attention_norm/norm/mul", "layer norm", "forward"),
        (f"{BACK}/layers_0/wo/dot_general", "mlp matmuls", "backward"),
        (f"{MODEL}/layers_0/jit(gelu)/erf", "mlp activation", "forward"),
        (f"{BACK}/embeddings/scatter-add", "embedding", "backward"),
        ("jit(step_fn)/jvp(M.projection)/M.hidden_rows/transform/dot_general", "head transform", "forward"),
        ("jit(step_fn)/jvp()/while/body/closed_call/nd,swd->nsw/dot_general", "vocabulary", "forward"),
        ("jit(f)/rematted_computation/transpose(jvp(M))/encoder/layers/wi/dot_general", "mlp matmuls", "recomputed"),
        ("jit(step_fn)/add", "optimizer", "update"),
        ("", "copies and layout", "update"),
    ],
)  # fmt: skip
def test_categories(op_name: str, category: str, direction: str) -> None:
    assert (category_of(op_name), direction_of(op_name)) == (category, direction)


PROGRAM = """\
%product (p0: bf16[8,16], p1: bf16[16,4]) -> f32[8,4] {
  %p0 = bf16[8,16]{1,0} parameter(0)
  %p1 = bf16[16,4]{1,0} parameter(1)
  ROOT %conv = f32[8,4]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf, metadata={op_name="jit(f)/jvp()/while/body/dot_general"}
}

%body (p: (s32[], bf16[8,16], bf16[16,4])) -> (s32[], bf16[8,16], bf16[16,4]) {
  %p = (s32[], bf16[8,16], bf16[16,4]) parameter(0)
  %a = bf16[8,16]{1,0} get-tuple-element(%p), index=1
  %b = bf16[16,4]{1,0} get-tuple-element(%p), index=2
  ROOT %fusion = f32[8,4]{1,0} fusion(%a, %b), kind=kOutput, calls=%product, metadata={op_name="jit(f)/embeddings/add"}, backend_config={"window_config":{"estimated_cycles":"100"}}
}

%rows (t: f32[1000,8], i: s32[5], u: f32[5,8]) -> f32[1000,8] {
  %t = f32[1000,8]{1,0} parameter(0)
  %i = s32[5]{0} parameter(1)
  %u = f32[5,8]{1,0} parameter(2)
  ROOT %scatter = f32[1000,8]{1,0} scatter(%t, %i, %u), to_apply=%add
}

ENTRY %main (a: bf16[8,16], b: bf16[16,4], t: f32[1000,8], i: s32[5], u: f32[5,8]) -> f32[1000,8] {
  %a = bf16[8,16]{1,0} parameter(0)
  %b = bf16[16,4]{1,0} parameter(1)
  %t = f32[1000,8]{1,0} parameter(2)
  %i = s32[5]{0} parameter(3)
  %u = f32[5,8]{1,0} parameter(4)
  %start = s32[] constant(0)
  %given = (s32[], bf16[8,16], bf16[16,4]) tuple(%start, %a, %b)
  %loop = (s32[], bf16[8,16], bf16[16,4]) while(%given), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"30"}}
  %copy = f32[8,4]{1,0} copy(%t), backend_config={"window_config":{"estimated_cycles":"7"}}
  %ahead = (f32[1000,8]{1,0}, f32[1000,8]{1,0:S(1)}, u32[]) copy-start(%t)
  ROOT %added = f32[1000,8]{1,0} fusion(%t, %i, %u), kind=kCustom, calls=%rows, metadata={op_name="jit(f)/add"}
}
"""  # noqa: E501 - the compiler's


def test_a_fusion_is_what_its_matrix_product_is_and_counts_as_often_as_its_loop_turns() -> None:
    """Its own op_name says embeddings: that of its last part."""
    assert cycles_by_category(PROGRAM) == {"vocabulary, forward": 3000, "copies and layout, update": 7}
    assert total_cycles(parse(PROGRAM)) == 3007
    (first, second) = operations(parse(PROGRAM))
    assert (first.name, first.times, first.cycles) == ("fusion", 30, 3000)
    assert first.flops == 30 * 2 * 8 * 16 * 4
    assert (second.op_name, second.cycles, second.flops) == ("", 7, 0)


def test_bytes_of_what_has_no_estimate() -> None:
    """Five rows of eight numbers are read, added to and written; a thousand are copied beside the core."""
    assert moved_bytes(parse(PROGRAM)) == (3 * 5 * 8 * 4, 1000 * 8 * 4)
