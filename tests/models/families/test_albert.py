"""ALBERT: parity with transformers, with one group of layers and several; and refusals."""

import numpy as np
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

SIZE = {
    "vocab_size": 50,
    "hidden_size": 12,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
}


@pytest.fixture(scope="module")
def theirs():
    return their_model("AlbertForMaskedLM", **SIZE, embedding_size=8, num_hidden_layers=3)


@pytest.fixture
def folder(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("embedding_size", "layers", "groups", "activation"),
    [(8, 3, 1, "gelu_new"), (12, 2, 1, "gelu"), (6, 4, 2, "relu"), (8, 2, 2, "silu")],
)
def test_outputs_equal_those_of_transformers(tmp_path, embedding_size, layers, groups, activation):
    theirs = their_model(
        "AlbertForMaskedLM",
        **SIZE,
        embedding_size=embedding_size,
        num_hidden_layers=layers,
        num_hidden_groups=groups,
        hidden_act=activation,
    )
    theirs.save_pretrained(tmp_path)
    assert_outputs_equal(theirs, tmp_path, [16, 6, 1])
    assert_right_length(tmp_path, 16)
    assert len([name for name in load_masked_lm(tmp_path)[1]["encoder"] if name.startswith("layers_")]) == groups


def test_the_weight_map_goes_back(folder):
    assert_goes_back(folder)


def test_wrong_weights_are_refused_by_name(folder, tmp_path):
    assert_wrong_weights_are_refused(folder, tmp_path)


def test_shards_load_alike(theirs, folder, tmp_path):
    assert_shards_load_alike(theirs, folder, tmp_path)


def test_heads_of_pretraining_are_harmless(folder, tmp_path):
    more = {"sop_classifier.classifier.weight": np.ones((2, 12)), "albert.pooler.bias": np.ones(12)}
    load_masked_lm(rewritten(folder, tmp_path / "more", tensors=more))


def test_defaults_are_those_of_transformers(tmp_path):
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert_defaults("AlbertConfig", required, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inner_group_num": 2}, "inner_group_num: found 2, expected 1"),
        ({"num_hidden_groups": 2}, "EncoderConfig.num_layer_groups: found 2, expected a divisor of num_layers=3"),
        ({"num_hidden_groups": 3}, r"found no weights albert\.encoder\.albert_layer_groups\.1\.albert_layers\.0\."),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: found 'relative_key', expected 'absol"),
    ],
)
def test_an_unsupported_config_is_refused_by_name(folder, tmp_path, fields, message):
    assert_refused(rewritten(folder, tmp_path / "other", fields=fields), message)
