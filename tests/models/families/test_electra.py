"""ELECTRA's generator: parity with transformers, with narrow embeddings and without; its discriminator is refused."""

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
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
}


@pytest.fixture(scope="module")
def theirs():
    return their_model("ElectraForMaskedLM", **SIZE, embedding_size=8)


@pytest.fixture
def folder(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
@pytest.mark.parametrize(("embedding_size", "activation"), [(8, "gelu"), (12, "gelu_new"), (20, "relu")])
def test_outputs_equal_those_of_transformers(tmp_path, embedding_size, activation):
    theirs = their_model("ElectraForMaskedLM", **SIZE, embedding_size=embedding_size, hidden_act=activation)
    theirs.save_pretrained(tmp_path)
    assert_outputs_equal(theirs, tmp_path, [16, 6, 1])
    assert_right_length(tmp_path, 16)
    config, params = load_masked_lm(tmp_path)
    assert config.embedding_width == embedding_size
    assert ("embedding_projection" in params["encoder"]) == (embedding_size != 12)


def test_the_weight_map_goes_back(folder):
    assert_goes_back(folder)


def test_wrong_weights_are_refused_by_name(folder, tmp_path):
    assert_wrong_weights_are_refused(folder, tmp_path)


def test_shards_load_alike(theirs, folder, tmp_path):
    assert_shards_load_alike(theirs, folder, tmp_path)


def test_the_discriminator_is_refused_with_a_hint(tmp_path):
    their_model("ElectraForPreTraining", **SIZE, embedding_size=8).save_pretrained(tmp_path)
    assert_refused(
        tmp_path,
        r"has no masked-LM head: found no weights generator_\* but discriminator_predictions\.\*"
        r" \(this is ELECTRA's discriminator, and a teacher is its generator\), expected them",
    )


def test_defaults_are_those_of_transformers(tmp_path):
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert_defaults("ElectraConfig", required, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"embedding_size": 0}, "config.json: embedding_size: found 0, expected a positive integer"),
        ({"embedding_size": 9}, r"word_embeddings.weight: found shape \(50, 8\), expected \(50, 9\)"),
        ({"is_decoder": True}, "is_decoder: found True, expected False"),
    ],
)
def test_an_unsupported_config_is_refused_by_name(folder, tmp_path, fields, message):
    assert_refused(rewritten(folder, tmp_path / "other", fields=fields), message)
