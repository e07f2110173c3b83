"""Collectives of programs whose bytes are known, and the time of links worked by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mergedistill_jax.planning.collectives import Collective, collectives, group_of, largest, seconds, totals
from mergedistill_jax.planning.hardware import CHIPS
from mergedistill_jax.planning.hlo import parse

MESH = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("a", "b"))


def found_in(function, *shapes, specs, out) -> tuple[Collective, ...]:
    arguments = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(MESH, spec))
        for shape, spec in zip(shapes, specs, strict=True)
    ]
    text = jax.jit(function, out_shardings=NamedSharding(MESH, out)).lower(*arguments).compile().as_text()
    assert text is not None
    return collectives(parse(text), 8)


def on_each(function, in_specs, out_specs):
    return jax.shard_map(function, mesh=MESH, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def test_a_sum_over_devices_is_an_all_reduce() -> None:
    (one,) = found_in(lambda x: jnp.sum(x, axis=0), (64, 128), specs=[P(("a", "b"))], out=P())
    assert (one.kind, one.bytes, one.times, len(one.group)) == ("all-reduce", 128 * 4, 1, 8)
    assert one.wire_bytes == 2 * 7 / 8 * 128 * 4


def test_groups_are_those_of_the_axis() -> None:
    for axis, group in (("b", (0, 1)), ("a", (0, 2, 4, 6))):
        summed = on_each(functools.partial(lax.psum, axis_name=axis), P(axis), P())
        (one,) = found_in(summed, (64, 128), specs=[P(axis)], out=P())
        assert (one.group, one.bytes) == (group, 64 // len(group) * 128 * 4)


def test_gathering_scattering_and_exchanging() -> None:
    """Bytes are of the whole array: what is gathered, what is summed, what a device sends and keeps."""
    shape, size = (64, 32), 64 * 32 * 4
    (gathered,) = found_in(lambda x: x * 2, shape, specs=[P("a")], out=P())
    assert (gathered.kind, gathered.bytes, gathered.wire_bytes) == ("all-gather", size, size * 3 / 4)
    scatter = on_each(lambda x: lax.psum_scatter(x, "a", tiled=True), P(), P("a"))
    (scattered,) = found_in(scatter, shape, specs=[P()], out=P("a"))
    assert (scattered.kind, scattered.bytes, scattered.wire_bytes) == ("reduce-scatter", size, size * 3 / 4)
    exchange = on_each(lambda x: lax.all_to_all(x, "a", 1, 0, tiled=True), P("a"), P(None, "a"))
    (exchanged,) = found_in(exchange, shape, specs=[P("a")], out=P(None, "a"))
    assert (exchanged.kind, exchanged.bytes) == ("all-to-all", size // 4)
    turn = on_each(lambda x: lax.ppermute(x, "a", [(i, (i + 1) % 4) for i in range(4)]), P("a"), P("a"))
    (sent,) = found_in(turn, shape, specs=[P("a")], out=P("a"))
    assert (sent.kind, sent.bytes, sent.wire_bytes) == ("collective-permute", size // 4, size // 4)


def test_collectives_in_a_loop_count_as_often_as_it_turns() -> None:
    def summed(x: jax.Array) -> jax.Array:
        return lax.scan(lambda c, _: (jnp.tanh(lax.psum(c, "a")), None), x, length=6)[0]

    found = found_in(on_each(summed, P("a"), P("a")), (8, 16), specs=[P("a")], out=P("a"))
    assert totals(found) == {"all-reduce": {"count": 6, "bytes": 6 * 2 * 16 * 4, "overlapped_bytes": 0}}
    assert [one.bytes for one in largest(found, 3)] == [6 * 2 * 16 * 4]


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,2},{1,3}}, x", (0, 2)),
        ("replica_groups=[2,4]<=[8], x", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4)),
        ("replica_groups=[4,4]<=[2,4,2]T(0,2,1), x", (0, 2, 4, 6)),
        ("replica_groups=mesh['i'=2,'j'=1,'k'=4] {'k'}, x", (0, 1, 2, 3)),
        ("replica_groups=mesh['i'=2,'j'=1,'k'=4] {'i','j'}, x", (0, 4)),
        ("replica_groups={}, x", tuple(range(8))),
        ("x", tuple(range(8))),
    ],
)
def test_all_the_ways_to_write_a_group(text: str, group: tuple[int, ...]) -> None:
    assert group_of(text, 8) == group


ASYNCHRONOUS = """\
%start (p: f32[4,8]) -> f32[16,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %g = f32[16,8]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
}

%middle (p: f32[4,8]) -> f32[16,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %g = f32[16,8]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
}

%all-reduce-scatter.1 (p: f32[16,8]) -> f32[4,8] {
  %p = f32[16,8]{1,0} parameter(0)
  %r = f32[16,8]{1,0} all-reduce(%p), channel_id=8, replica_groups=[1,4]<=[4], to_apply=%add
  ROOT %s = f32[4,8]{1,0} slice(%r), slice={[0:4], [0:8]}
}

ENTRY %main (a: f32[4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %first = f32[16,8]{1,0} fusion(%a), kind=kCustom, calls=%start
  %second = f32[16,8]{1,0} fusion(%first), kind=kOutput, calls=%middle
  %sent = (f32[4,8]{1,0}, f32[4,8]{1,0}, u32[], u32[]) collective-permute-start(%a), channel_id=9, source_target_pairs={{0,1}}
  %came = f32[4,8]{1,0} collective-permute-done(%sent)
  ROOT %part = f32[4,8]{1,0} fusion(%second), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501 - the compiler's


def test_forms_of_the_tpus_compiler() -> None:
    """A collective spread over fusions counts once, and beside the core; an all-reduce-scatter is a reduce-scatter."""
    found = {one.kind: one for one in collectives(parse(ASYNCHRONOUS), 4)}
    assert {kind: (one.bytes, one.overlapped) for kind, one in found.items()} == {
        "all-gather": (512, True),
        "collective-permute": (128, True),
        "reduce-scatter": (512, False),
    }


def one_of(kind: str, size: int, group: tuple[int, ...]) -> Collective:
    return Collective(kind=kind, bytes=size, times=1, group=group, overlapped=False, op_name="")


def test_links_by_hand() -> None:
    """v5e: 45 GB/s a link each way. A line has one link a chip, a ring two, and a whole plane those of both ways."""
    chip = CHIPS["v5e"]
    square = {place: (place % 4, place // 4, 0) for place in range(16)}
    everyone, row = tuple(range(16)), (0, 1, 2, 3)
    size = 45_000_000_000
    assert seconds(one_of("all-gather", size, row), chip, (4, 4), square) == pytest.approx(3 / 4)
    assert seconds(one_of("all-reduce", size, row), chip, (4, 4), square) == pytest.approx(2 * 3 / 4)
    assert seconds(one_of("all-reduce", size, everyone), chip, (4, 4), square) == pytest.approx(2 * 15 / 16 / 2)
    assert seconds(one_of("collective-permute", size, row), chip, (4, 4), square) == 1.0
    # From one of four chips in a line to another it is 5/3 links on average.
    assert seconds(one_of("all-to-all", size, row), chip, (4, 4), square) == pytest.approx(3 / 4 * 5 / 3)
    plane = {place: (place % 16, place // 16, 0) for place in range(256)}
    ring = tuple(range(16))
    assert seconds(one_of("all-gather", size, ring), chip, (16, 16), plane) == pytest.approx(15 / 16 / 2)
