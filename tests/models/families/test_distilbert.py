"""DistilBERT: parity with transformers, and refusals."""

import pytest
from family_models import (
    assert_defaults,
    assert_goes_back,
    assert_outputs_equal,
    assert_refused,
    assert_right_length,
    assert_shards_load_alike,
    assert_wrong_weights_are_refused,
    rewritten,
    their_model,
)

from mergedistill_jax.models.huggingface import load_masked_lm

SIZE = {"vocab_size": 50, "dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 20, "max_position_embeddings": 16}


@pytest.fixture(scope="module")
def theirs():
    return their_model("DistilBertForMaskedLM", **SIZE)


@pytest.fixture
def folder(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "sinusoidal"), [("gelu", False), ("relu", True), ("gelu_new", False)])
def test_outputs_equal_those_of_transformers(tmp_path, activation, sinusoidal):
    theirs = their_model("DistilBertForMaskedLM", **SIZE, activation=activation, sinusoidal_pos_embds=sinusoidal)
    theirs.save_pretrained(tmp_path)
    assert_outputs_equal(theirs, tmp_path, [16, 6, 1])
    assert_right_length(tmp_path, 16)


def test_there_are_no_segments(folder):
    assert "segment" not in load_masked_lm(folder)[1]["encoder"]["embeddings"]


def test_the_weight_map_goes_back(folder):
    assert_goes_back(folder)


def test_wrong_weights_are_refused_by_name(folder, tmp_path):
    assert_wrong_weights_are_refused(folder, tmp_path)


def test_shards_load_alike(theirs, folder, tmp_path):
    assert_shards_load_alike(theirs, folder, tmp_path)


def test_defaults_are_those_of_transformers(tmp_path):
    assert_defaults("DistilBertConfig", ("vocab_size", "dim", "n_layers", "n_heads", "hidden_dim"), tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n_layers": 0}, "config.json: n_layers: found 0, expected a positive integer"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads: found {'0': \\[1\\]}, expected {}"),
        ({"activation": "mish"}, "EncoderConfig.activation: found 'mish', expected one of"),
    ],
)
def test_an_unsupported_config_is_refused_by_name(folder, tmp_path, fields, message):
    assert_refused(rewritten(folder, tmp_path / "other", fields=fields), message)
