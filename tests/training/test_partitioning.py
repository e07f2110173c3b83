"""Where parameters and batches lie on a mesh."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.models.heads import MaskedLanguageModel
from mergedistill_jax.training.partitioning import make_mesh, place_batch, shardings_of


def model_specs(vocab_size: int, model_parallelism: int, fsdp_parallelism: int = 1) -> dict[str, P]:
    encoder = EncoderConfig(
        vocab_size=vocab_size, num_layers=1, hidden_size=8, num_heads=2, intermediate_size=16, max_length=5
    )
    shapes = (jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool), jnp.zeros((1, 1), jnp.int32))
    boxed = jax.eval_shape(lambda: MaskedLanguageModel(encoder).init(jax.random.key(0), *shapes))["params"]
    mesh = make_mesh(model_parallelism, fsdp_parallelism=fsdp_parallelism)
    found = jax.tree_util.tree_flatten_with_path(shardings_of(boxed, mesh))[0]
    sizes = {path: leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(nn.unbox(boxed))[0]}
    for path, sharding in found:
        assert sharding.shard_shape(sizes[path])  # raises where an axis does not divide
    return {"/".join(key.key for key in path): sharding.spec for path, sharding in found}


def named_axes(spec: P) -> set[str]:
    return {axis for axis in spec if axis is not None}


def test_the_mesh_has_a_data_an_fsdp_and_a_model_axis() -> None:
    assert dict(make_mesh(2).shape) == {"data": 4, "fsdp": 1, "model": 2}
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "model": 1}
    assert dict(make_mesh(2, fsdp_parallelism=4).shape) == {"data": 1, "fsdp": 4, "model": 2}


def test_devices_that_do_not_divide_twice_are_refused_by_name() -> None:
    expected = r"model_parallelism \* fsdp_parallelism: found 12, expected a divisor of 8 devices"
    with pytest.raises(ValueError, match=expected):
        make_mesh(4, fsdp_parallelism=3)


def test_parameters_are_divided_over_the_fsdp_axis_too() -> None:
    specs = model_specs(vocab_size=24, model_parallelism=2, fsdp_parallelism=4)
    assert specs["encoder/embeddings/token"] == P("model", "fsdp")
    assert specs["encoder/layers_0/wi/kernel"] == P("fsdp", "model")
    assert specs["encoder/layers_0/wo/kernel"] == P("model", "fsdp")


def test_devices_that_do_not_divide_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="model_parallelism: found 3, expected a divisor of 8 devices"):
        make_mesh(3)


def test_vocabulary_heads_and_feed_forward_lie_on_the_model_axis() -> None:
    specs = model_specs(vocab_size=24, model_parallelism=2)
    assert specs["encoder/embeddings/token"][0] == "model"
    assert specs["decoder_bias"][0] == "model"
    assert specs["encoder/layers_0/attention/query/kernel"] == P(None, "model", None)
    assert specs["encoder/layers_0/wi/kernel"] == P(None, "model")
    assert specs["encoder/layers_0/wo/kernel"] == P("model", None)
    assert not named_axes(specs["encoder/layers_0/output_norm/norm/scale"])


def test_a_vocabulary_that_does_not_divide_is_replicated_and_nothing_else() -> None:
    specs = model_specs(vocab_size=25, model_parallelism=2)
    assert not named_axes(specs["encoder/embeddings/token"])
    assert not named_axes(specs["decoder_bias"])
    assert specs["encoder/layers_0/wi/kernel"] == P(None, "model")


def test_two_heads_over_eight_devices_are_replicated() -> None:
    specs = model_specs(vocab_size=24, model_parallelism=8)
    assert not named_axes(specs["encoder/layers_0/attention/query/kernel"])
    assert specs["encoder/layers_0/wi/kernel"] == P(None, "model")


def test_a_batch_lies_over_the_data_axis_unchanged() -> None:
    batch = {"token_ids": np.arange(24, dtype=np.int32).reshape(8, 3), "source": np.arange(8, dtype=np.int32)}
    placed = place_batch(batch, make_mesh(2))
    for name, rows in batch.items():
        np.testing.assert_array_equal(placed[name], rows)
        assert placed[name].sharding.spec == P(("data", "fsdp"))
        assert {shard.data.shape[0] for shard in placed[name].addressable_shards} == {2}


def test_a_batch_that_does_not_divide_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match="batch_size: found 6, expected a multiple of the data axis times the fsdp axis, 8"
    ):
        place_batch({"token_ids": np.zeros((6, 3), np.int32)}, make_mesh())
