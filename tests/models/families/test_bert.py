"""BERT, as the first of the families; more of it stands in ../test_huggingface.py."""

import dataclasses

import numpy as np
import pytest
from family_models import (
    assert_goes_back,
    assert_outputs_equal,
    assert_right_length,
    assert_shards_load_alike,
    assert_wrong_weights_are_refused,
    rewritten,
    their_model,
)

from mergedistill_jax.configs.encoder import EncoderConfig, config_fields
from mergedistill_jax.models.huggingface import load_masked_lm, require_bert


@pytest.fixture(scope="module")
def theirs():
    return their_model(
        "BertForMaskedLM",
        vocab_size=50,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=20,
        max_position_embeddings=16,
        hidden_act="relu",
    )


@pytest.fixture
def folder(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_outputs_equal_those_of_transformers(theirs, folder):
    assert_outputs_equal(theirs, folder, [16, 5, 1])
    assert_right_length(folder, 16)


def test_the_weight_map_goes_back(folder):
    assert_goes_back(folder)


def test_wrong_weights_are_refused_by_name(folder, tmp_path):
    assert_wrong_weights_are_refused(folder, tmp_path)


def test_shards_load_alike(theirs, folder, tmp_path):
    assert_shards_load_alike(theirs, folder, tmp_path)


def test_heads_of_pretraining_are_harmless(folder, tmp_path):
    more = {"cls.seq_relationship.weight": np.ones((2, 12)), "bert.pooler.dense.bias": np.ones(12)}
    load_masked_lm(rewritten(folder, tmp_path / "more", tensors=more))


def test_the_config_of_a_bert_is_hashed_and_stored_as_ever():
    # The fields that EncoderConfig had when the first runs and manifests were written.
    size = {"vocab_size": 50, "num_layers": 2, "hidden_size": 12, "num_heads": 3, "intermediate_size": 20}
    expected = {
        **size,
        "max_length": 512,
        "type_vocab_size": 2,
        "activation": "gelu",
        "layer_norm_epsilon": 1e-12,
        "dropout_rate": 0.1,
        "initializer_range": 0.02,
        "position_init": "normal",
    }
    config = EncoderConfig(**size)
    assert config_fields(config) == expected
    assert EncoderConfig(**config_fields(config)) == config
    other = dataclasses.replace(config, embedding_size=4, num_layer_groups=1, head_activation="relu", position_offset=2)
    assert len(config_fields(other)) == len(expected) + 4
    assert EncoderConfig(**config_fields(other)) == other


@pytest.mark.parametrize(
    ("field", "value"),
    [("embedding_size", 4), ("num_layer_groups", 1), ("head_activation", "relu"), ("type_vocab_size", 0)],
)
def test_what_a_bert_folder_cannot_hold_is_not_written(field, value):
    config = EncoderConfig(vocab_size=50, num_layers=2, hidden_size=12, num_heads=3, intermediate_size=20)
    assert require_bert(config) is config
    with pytest.raises(ValueError, match=f"model to save: {field}: found {value!r}, expected .* as in BERT"):
        require_bert(dataclasses.replace(config, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [("num_layer_groups", 4, "a divisor of num_layers=6"), ("head_activation", "mish", "one of")],
)
def test_settings_that_make_no_encoder_are_refused(field, value, expected):
    with pytest.raises(ValueError, match=f"EncoderConfig.{field}: found {value!r}, expected {expected}"):
        EncoderConfig(vocab_size=50, num_layers=6, hidden_size=12, num_heads=3, intermediate_size=20, **{field: value})
