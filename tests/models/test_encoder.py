"""The encoder's numerics: normalisation, activations, padding, positions. For parity, see test_huggingface."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.layers import REMATERIALISE, LayerLoop
from mergedistill_jax.models.activations import ACTIVATIONS
from mergedistill_jax.models.encoder import Encoder, sinusoidal_init
from mergedistill_jax.models.heads import MaskedLanguageModel
from mergedistill_jax.models.linear import LayerNorm

CONFIG = EncoderConfig(
    vocab_size=30,
    num_layers=2,
    hidden_size=8,
    num_heads=2,
    intermediate_size=12,
    max_length=10,
    initializer_range=0.3,
)


@pytest.fixture(scope="module")
def encoder():
    model = Encoder(CONFIG)
    ids, mask = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), ids, mask))
    return jax.jit(lambda ids, mask: model.apply(params, ids, mask)), params


def layer_norm(x, epsilon):
    norm = LayerNorm(epsilon)
    return np.asarray(norm.apply(nn.unbox(norm.init(jax.random.key(0), x)), x))


def test_layer_norm_of_one_and_three_is_minus_one_and_one():
    np.testing.assert_allclose(layer_norm(jnp.array([[1.0, 3.0]]), 1e-12), [[-1.0, 1.0]], rtol=1e-6)


def test_layer_norm_adds_epsilon_to_the_variance():
    # mean 2, variance 1, epsilon 3: divided by sqrt(4).
    np.testing.assert_allclose(layer_norm(jnp.array([[1.0, 3.0]]), 3.0), [[-0.5, 0.5]], rtol=1e-6)


def test_layer_norm_keeps_the_variance_far_from_zero():
    # E[x^2] - E[x]^2 in float32 loses a variance of 2/3 beside 1e8 altogether.
    x = jnp.array([[1e4, 1e4 + 1, 1e4 + 2]])
    np.testing.assert_allclose(layer_norm(x, 1e-12), [[-math.sqrt(1.5), 0.0, math.sqrt(1.5)]], rtol=1e-4, atol=1e-4)


def test_layer_norm_of_bfloat16_takes_its_statistics_in_float32():
    # The mean 200 2/3 is no bfloat16: rounded to 201 first, the outcome would be -1.73, 0, 0.
    x = jnp.array([[200.0, 201.0, 201.0]], jnp.bfloat16)
    expected = [[-math.sqrt(2), math.sqrt(0.5), math.sqrt(0.5)]]
    np.testing.assert_allclose(layer_norm(x, 1e-12).astype(np.float32), expected, rtol=2**-8)


@pytest.mark.parametrize("x", [-3.0, -0.5, 0.0, 0.7, 2.5])
def test_gelu_is_the_exact_one_and_gelu_new_its_tanh_approximation(x):
    exact = x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
    approximate = x * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert float(ACTIVATIONS["gelu"](jnp.float32(x))) == pytest.approx(exact, abs=1e-6)
    for name in ("gelu_new", "gelu_pytorch_tanh"):
        assert float(ACTIVATIONS[name](jnp.float32(x))) == pytest.approx(approximate, abs=1e-6)


def test_padding_changes_nothing_at_the_other_positions(encoder):
    apply, _ = encoder
    ids = jnp.array([[3, 7, 1, 9]])
    alone = apply(ids, jnp.ones((1, 4), bool))
    for filler in (0, 29):
        padded = jnp.concatenate([ids, jnp.full((1, 3), filler)], axis=1)
        together = apply(padded, jnp.arange(7)[None] < 4)
        np.testing.assert_allclose(together[:, :4], alone, atol=1e-6)


def test_a_row_without_any_valid_key_stays_finite_in_value_and_gradient(encoder):
    _, params = encoder
    ids = jnp.array([[3, 7, 1, 9], [5, 5, 5, 5]])
    mask = jnp.array([[True, True, True, False], [False] * 4])

    def loss(params):
        return jnp.sum(Encoder(CONFIG).apply(params, ids, mask)[1] ** 3)

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert math.isfinite(value)
    norms = [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(gradient)]
    assert all(math.isfinite(norm) for norm in norms)
    assert max(norms) > 0  # the row did reach the parameters


@pytest.mark.parametrize(("length", "width"), [(512, 768), (16, 8)])
def test_sinusoidal_table_has_the_stated_size_and_the_stated_waves(length, width):
    table = np.asarray(sinusoidal_init(0.02)(jax.random.key(0), (length, width)))
    assert np.sqrt(np.mean(table**2)) == pytest.approx(0.02, rel=1e-5)  # sin^2 + cos^2 = 1: exact at any length
    scale = 0.02 * math.sqrt(2)
    assert table[5, 0] == pytest.approx(scale * math.sin(5), rel=1e-4)
    assert table[5, width // 2] == pytest.approx(scale * math.cos(5), rel=1e-4)
    last = width // 2 - 1
    assert table[5, last] == pytest.approx(scale * math.sin(5 / 10_000 ** (2 * last / width)), rel=1e-4)


def test_position_init_reaches_the_parameters():
    config = EncoderConfig(
        vocab_size=5,
        num_layers=1,
        hidden_size=8,
        num_heads=1,
        intermediate_size=8,
        max_length=16,
        position_init="sinusoidal",
    )
    ids = jnp.zeros((1, 2), jnp.int32)
    params = nn.unbox(jax.jit(Encoder(config).init)(jax.random.key(0), ids, ids == 0))["params"]
    expected = sinusoidal_init(config.initializer_range)(jax.random.key(1), (16, 8))
    np.testing.assert_allclose(params["embeddings"]["position"], expected, atol=1e-7)


def test_a_length_over_max_length_is_refused(encoder):
    _, params = encoder
    ids = jnp.zeros((1, 11), jnp.int32)
    with pytest.raises(ValueError, match="found length 11, expected at most max_length=10"):
        Encoder(CONFIG).apply(params, ids, ids == 0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_heads", 3, "hidden_size: found 8, expected a multiple of num_heads=3"),
        ("activation", "tanh", "activation: found 'tanh', expected one of"),
        ("position_init", "zeros", "position_init: found 'zeros', expected 'normal' or 'sinusoidal'"),
    ],
)
def test_a_config_that_cannot_be_is_refused(field, value, message):
    fields = {"vocab_size": 5, "num_layers": 1, "hidden_size": 8, "num_heads": 2, "intermediate_size": 8}
    with pytest.raises(ValueError, match=message):
        EncoderConfig(**{**fields, field: value})


def test_masked_positions_select_rows_of_the_logits_of_all_positions():
    model = MaskedLanguageModel(CONFIG)
    ids = jax.random.randint(jax.random.key(1), (2, 6), 0, 30)
    mask = jnp.ones((2, 6), bool)
    everywhere = jnp.broadcast_to(jnp.arange(6), (2, 6))
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), ids, mask, everywhere))
    apply = jax.jit(model.apply)
    logits = apply(params, ids, mask, everywhere)
    positions = jnp.array([[4, 1], [0, 0]])
    rows = apply(params, ids, mask, positions)
    np.testing.assert_allclose(rows, np.asarray(logits)[np.arange(2)[:, None], positions], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("dropout_rate", [0.0, 0.2])
def test_scanned_and_rematerialised_layers_give_the_same(dropout_rate: float) -> None:
    """Value and gradient of every way to run the layers, dropout included."""
    config = dataclasses.replace(CONFIG, num_layers=3, dropout_rate=dropout_rate)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, CONFIG.vocab_size, (2, 7)))
    mask = jnp.arange(7) < jnp.asarray([[7], [4]])
    params = nn.unbox(Encoder(config).init(jax.random.key(0), ids, mask))["params"]

    def run(loop: LayerLoop) -> tuple:
        def loss(params: dict) -> jax.Array:
            rngs = {"dropout": jax.random.key(1)}
            x = Encoder(config, loop=loop).apply({"params": params}, ids, mask, deterministic=False, rngs=rngs)
            return jnp.sum(jnp.sin(jnp.asarray(x) * jnp.arange(1, x.shape[-1] + 1)))

        return jax.jit(jax.value_and_grad(loss))(params)

    expected = run(LayerLoop())
    for scan in (False, True):
        for rematerialise in REMATERIALISE:
            found = run(LayerLoop(scan=scan, rematerialise=rematerialise))
            jax.tree.map(
                lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4), found, expected
            )


def test_an_unknown_way_to_rematerialise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"LayerLoop\.rematerialise: found 'all', expected one of"):
        LayerLoop(rematerialise="all")
