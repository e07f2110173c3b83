"""The families together: each type has one, and names that none has are refused."""

import json

import pytest

from mergedistill_jax.models.families.registry import FAMILIES
from mergedistill_jax.models.huggingface import load_encoder_config, load_token_classifier

SUPPORTED = (
    "albert",
    "bert",
    "camembert",
    "distilbert",
    "electra",
    "modernbert",
    "roberta",
    "xlm-roberta",
)


def test_every_type_has_a_family_that_knows_it():
    assert sorted(FAMILIES) == list(SUPPORTED)
    assert all(model_type in family.model_types for model_type, family in FAMILIES.items())


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ({"model_type": "t5"}, "found 't5'"),
        ({}, "found None"),
        ({"model_type": ["bert"]}, r"found \['bert'\]"),
        (
            {"model_type": "new", "auto_map": {"AutoConfig": "configuration.New"}},
            r"found 'new' with code of its own \(auto_map\), which is never run",
        ),
    ],
)
def test_another_type_is_refused_with_a_list_of_those_there_are(tmp_path, stored, found):
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=f"model_type: {found}, expected one of {', '.join(SUPPORTED)}$") as caught:
        load_encoder_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_token_classifiers_are_read_back_of_berts_alone(tmp_path):
    stored = {"model_type": "distilbert", "vocab_size": 9, "n_layers": 1, "dim": 4, "n_heads": 2, "hidden_dim": 5}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="model_type: found 'distilbert', expected 'bert' for a token classifier"):
        load_token_classifier(tmp_path)
