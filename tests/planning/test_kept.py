"""Programs that are kept: read instead of compiled, and told apart by all that a compiler is given."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from mergedistill_jax.planning.compiling import DoesNotFitError, compile_for
from mergedistill_jax.planning.kept import Artifact, keep, key_of, read_kept
from mergedistill_jax.planning.topology import open_topology

X = jax.ShapeDtypeStruct((16, 16), jnp.float32)


def lowered(function: Any = jnp.matmul, x: Any = X) -> Any:
    return jax.jit(function).lower(x, x)


class Uncompiled:
    """Lowered, and refuses to be compiled."""

    def __init__(self, program: Any) -> None:
        self.as_text = program.as_text

    def compile(self) -> None:
        raise AssertionError("compiled again")


def test_what_is_kept_is_not_compiled_again_and_says_the_same(tmp_path: Path) -> None:
    topology = open_topology("cpu:1")
    first = compile_for(lowered(), topology, folder=str(tmp_path))
    again = compile_for(Uncompiled(lowered()), topology, folder=str(tmp_path))
    assert again == first
    assert first.matmul_flops == 2 * 16**3
    with pytest.raises(AssertionError, match="compiled again"):
        compile_for(Uncompiled(lowered()), topology)
    with pytest.raises(AssertionError, match="compiled again"):
        compile_for(Uncompiled(lowered(jnp.add)), topology, folder=str(tmp_path))


def test_the_key_is_of_program_names_devices_and_options() -> None:
    def named(x: jax.Array, y: jax.Array) -> jax.Array:
        with jax.named_scope("encoder"):
            return jnp.matmul(x, y)

    def elsewhere() -> Any:
        return lowered()

    key = key_of(lowered(), "v5e:4x4", None)
    assert key == key_of(elsewhere(), "v5e:4x4", {})
    others = [
        key_of(lowered(jnp.add), "v5e:4x4", None),
        key_of(lowered(named), "v5e:4x4", None),
        key_of(lowered(x=jax.ShapeDtypeStruct((16, 16), jnp.bfloat16)), "v5e:4x4", None),
        key_of(lowered(), "v5e:2x2", None),
        key_of(lowered(), "v5e:4x4", {"xla_some_option": "false"}),
    ]
    assert len({key, *others}) == len(others) + 1


def test_what_does_not_fit_is_known_too(tmp_path: Path) -> None:
    topology = open_topology("cpu:1")
    artifact = Artifact(text="", memory={}, cost_flops=0.0, seconds=9.0, problem="Used 17G of 15.75G hbm.", needed=17)
    keep(tmp_path, key_of(lowered(), topology.name, None), artifact)
    with pytest.raises(DoesNotFitError, match=r"^Used 17G of 15.75G hbm.$") as caught:
        compile_for(Uncompiled(lowered()), topology, folder=str(tmp_path))
    assert caught.value.needed == 17


def test_a_program_whose_facts_are_missing_is_not_there(tmp_path: Path) -> None:
    """They are written last."""
    keep(tmp_path, "key", Artifact(text="HloModule x", memory={}, cost_flops=0.0, seconds=1.0))
    assert read_kept(tmp_path, "key") == Artifact(text="HloModule x", memory={}, cost_flops=0.0, seconds=1.0)
    (tmp_path / "key.json").unlink()
    assert read_kept(tmp_path, "key") is None
