"""ModernBERT: parity with transformers, in both forms of its config; its rotary positions and windows; refusals."""

import jax.numpy as jnp
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

from mergedistill_jax.configs.encoder import config_fields
from mergedistill_jax.models.huggingface import load_encoder_config, load_masked_lm, require_bert
from mergedistill_jax.models.modernbert import FULL, LOCAL, ModernBertConfig, rotary_angles, rotated, window

SIZE = {
    "vocab_size": 50,
    "hidden_size": 12,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 40,
    "local_attention": 6,
    "pad_token_id": 3,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "cls_token_id": 0,
    "sep_token_id": 1,
}


def rope(full, local):
    return {
        FULL: {"rope_type": "default", "rope_theta": full},
        LOCAL: {"rope_type": "default", "rope_theta": local},
    }


@pytest.fixture(scope="module")
def theirs():
    return their_model("ModernBertForMaskedLM", **SIZE)


@pytest.fixture
def folder(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"hidden_activation": "relu", "classifier_activation": "silu", "norm_eps": 1e-3},
        {"layer_types": [LOCAL, FULL, LOCAL, LOCAL], "rope_parameters": rope(50.0, 7.0), "local_attention": 9},
        {"layer_types": [FULL] * 4},
    ],
)
def test_outputs_equal_those_of_transformers(tmp_path, fields):
    theirs = their_model("ModernBertForMaskedLM", **{**SIZE, **fields})
    theirs.save_pretrained(tmp_path)
    assert_outputs_equal(theirs, tmp_path, [40, 13, 1])  # 40 is max_position_embeddings, and beyond every window
    assert_right_length(tmp_path, 40)


def test_outputs_equal_those_of_transformers_far_from_the_start(tmp_path):
    theirs = their_model(
        "ModernBertForMaskedLM", **{**SIZE, "max_position_embeddings": 1500, "num_hidden_layers": 2}, num_labels=1
    )
    theirs.save_pretrained(tmp_path)
    assert_outputs_equal(theirs, tmp_path, [1500])


def test_configs_of_version_4_mean_what_transformers_takes_them_for(theirs, folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    older = {
        "layer_types": None,
        "rope_parameters": None,
        "global_attn_every_n_layers": 2,
        "global_rope_theta": 80.0,
        "local_rope_theta": 20.0,
        "position_embedding_type": "sans_pos",  # some published configs say so; no code of ModernBERT reads it
    }
    other = rewritten(folder, tmp_path / "version4", fields=older)
    found = load_encoder_config(other)
    assert found.layer_types == (FULL, LOCAL, FULL, LOCAL)
    assert (found.full_rope_theta, found.local_rope_theta) == (80.0, 20.0)
    assert_outputs_equal(transformers.AutoModelForMaskedLM.from_pretrained(other).eval(), other, [40, 9])
    with pytest.raises(AssertionError):  # the settings reach the outputs
        assert_outputs_equal(theirs, other, [40, 9])


def test_a_local_theta_of_null_is_the_one_of_full_layers(tmp_path):
    text = '{"model_type": "modernbert", "vocab_size": 9, "num_hidden_layers": 3, "hidden_size": 4,'
    text += ' "num_attention_heads": 2, "intermediate_size": 5, "global_rope_theta": 80.0, "local_rope_theta": null}'
    (tmp_path / "config.json").write_text(text)
    found = load_encoder_config(tmp_path)
    assert found.full_rope_theta == found.local_rope_theta == 80.0


def test_a_window_of_4_sees_two_keys_on_either_side():
    expected = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]]
    np.testing.assert_array_equal(window(5, 4), np.array(expected, bool))
    np.testing.assert_array_equal(window(5, 5), np.array(expected, bool))  # half of it, rounded down


def test_rotary_angles_of_a_worked_example():
    # Width 4, theta 100: rates 1 and 1 / 100 ** (2 / 4) = 0.1.
    np.testing.assert_allclose(rotary_angles(3, 4, 100.0), [[0, 0], [1, 0.1], [2, 0.2]], rtol=1e-6)


def test_a_rotated_product_depends_on_the_distance_alone():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 8))
    angles = rotary_angles(30, 8, 50.0)
    rows = [jnp.broadcast_to(jnp.asarray(x, jnp.float32), (1, 30, 1, 8)) for x in (query, key)]
    products = jnp.einsum("blhe,bkhe->lk", *(rotated(x, angles) for x in rows))
    for distance in (-11, 0, 3):
        diagonal = np.diagonal(products, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-4)
    assert np.std(products) > 0.1
    np.testing.assert_allclose(np.diagonal(products), query @ key, atol=1e-4)


def test_the_weight_map_goes_back(folder):
    assert_goes_back(folder)


def test_wrong_weights_are_refused_by_name(folder, tmp_path):
    assert_wrong_weights_are_refused(folder, tmp_path)


def test_shards_load_alike(theirs, folder, tmp_path):
    assert_shards_load_alike(theirs, folder, tmp_path)


def test_a_classifier_is_no_masked_language_model(tmp_path):
    # It has the head's dense layer and normalisation, but no decoder.
    their_model("ModernBertForSequenceClassification", **SIZE).save_pretrained(tmp_path)
    assert_refused(tmp_path, r"has no masked-LM head: found no weights decoder\.\*")


def test_defaults_are_those_of_transformers(tmp_path):
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    assert_defaults("ModernBertConfig", required, tmp_path)


def test_the_config_can_be_made_again_from_its_fields(folder):
    config = load_encoder_config(folder)
    assert ModernBertConfig(**config_fields(config)) == config
    assert hash(config) == hash(load_masked_lm(folder)[0])  # a compiled function is found by it
    with pytest.raises(ValueError, match="model to save: found a ModernBertConfig, expected an EncoderConfig"):
        require_bert(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm_bias": True}, "norm_bias: found True, expected False"),
        ({"decoder_bias": False}, "decoder_bias: found False, expected True"),
        ({"layer_types": [FULL]}, r"layer_types: found \['full_attention'\], expected a list of num_hidden_layers=4"),
        ({"layer_types": [FULL] * 3 + ["other"]}, "layer_types: found 'other', expected 'full_attention' or 'sliding"),
        ({"rope_parameters": 7}, "rope_parameters: found 7, expected an object"),
        (
            {"rope_parameters": {FULL: {"rope_type": "yarn", "rope_theta": 5.0}}},
            "rope_parameters: full_attention: found 'yarn', expected rope_type 'default'",
        ),
        ({"rope_parameters": {LOCAL: {"rope_theta": -1}}}, "sliding_attention: rope_theta: found -1, expected a posit"),
        ({"rope_scaling": {"factor": 2}}, "rope_scaling: found {'factor': 2}, expected None"),
        (
            {"num_attention_heads": 4},
            "ModernBertConfig.hidden_size: found 12, expected a multiple of twice num_heads=4",
        ),
        ({"hidden_activation": "mish"}, "ModernBertConfig.activation: found 'mish', expected one of"),
    ],
)
def test_an_unsupported_config_is_refused_by_name(folder, tmp_path, fields, message):
    assert_refused(rewritten(folder, tmp_path / "other", fields=fields), message)
