"""RoBERTa, XLM-RoBERTa and CamemBERT: parity with transformers, with their position rows; and refusals."""

import json

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

from mergedistill_jax.models.huggingface import load_encoder_config, require_bert

SIZE = {
    "vocab_size": 50,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 18,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
POSITIONS = "roberta.embeddings.position_embeddings.weight"


@pytest.fixture(scope="module")
def theirs():
    return their_model("XLMRobertaForMaskedLM", **SIZE)


@pytest.fixture
def folder(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "activation", "pad_id"),
    [
        ("RobertaForMaskedLM", "gelu", 1),
        ("RobertaForMaskedLM", "relu", 1),
        ("XLMRobertaForMaskedLM", "gelu_new", 1),
        ("CamembertForMaskedLM", "gelu", 0),
        ("CamembertForMaskedLM", "silu", 4),
    ],
)
def test_outputs_equal_those_of_transformers(tmp_path, kind, activation, pad_id):
    theirs = their_model(kind, **{**SIZE, "hidden_act": activation, "pad_token_id": pad_id})
    theirs.save_pretrained(tmp_path)
    longest = 18 - pad_id - 1
    assert_outputs_equal(theirs, tmp_path, [longest, 7, 1])  # of different lengths: positions count no padding
    assert_outputs_equal(theirs, tmp_path, [4, 4])
    assert_right_length(tmp_path, longest)


def test_the_weight_map_goes_back_but_for_rows_that_no_token_reads(folder):
    assert_goes_back(folder, unread=(POSITIONS, 2))


def test_wrong_weights_are_refused_by_name(folder, tmp_path):
    assert_wrong_weights_are_refused(folder, tmp_path)


def test_shards_load_alike(theirs, folder, tmp_path):
    assert_shards_load_alike(theirs, folder, tmp_path)


@pytest.mark.parametrize("kind", ["RobertaConfig", "XLMRobertaConfig", "CamembertConfig"])
def test_defaults_are_those_of_transformers(tmp_path, kind):
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert_defaults(kind, required, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pad_token_id": -1}, "config.json: pad_token_id: found -1, expected an integer of at least 0"),
        (
            {"pad_token_id": 17},
            "max_position_embeddings: found 18, expected more than the 18 rows up to pad_token_id=17",
        ),
        (
            {"max_position_embeddings": 20},
            r"position_embeddings.weight: found shape \(18, 12\), expected \(20, 12\)",
        ),
        ({"is_decoder": True}, "is_decoder: found True, expected False"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type: found 'relative_key', expected 'absol"),
    ],
)
def test_an_unsupported_config_is_refused_by_name(folder, tmp_path, fields, message):
    assert_refused(rewritten(folder, tmp_path / "other", fields=fields), message)


def test_a_roberta_with_gelu_is_a_bert_once_loaded(folder, tmp_path):
    config = load_encoder_config(folder)
    assert require_bert(config) is config
    other = rewritten(folder, tmp_path / "other", fields={"hidden_act": "relu"})
    with pytest.raises(ValueError, match="head_activation: found 'gelu', expected None as in BERT"):
        require_bert(load_encoder_config(other))
    assert json.loads((folder / "config.json").read_text())["model_type"] == "xlm-roberta"
