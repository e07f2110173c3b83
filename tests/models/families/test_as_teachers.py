"""Each family where it is used: its predictions as a teacher, and a tagger fine-tuned from it."""

import jax
import numpy as np
import pytest
from family_models import batch, their_model, their_outputs
from scipy.special import log_softmax

from mergedistill_jax.finetune import _initial_params
from mergedistill_jax.models.heads import TokenClassifier
from mergedistill_jax.models.huggingface import load_masked_lm
from mergedistill_jax.schema import Record
from mergedistill_jax.teachers.inference import Teacher, predict_records
from mergedistill_jax.teachers.loading import load_masked_model, model_hash
from mergedistill_jax.training.tagging import tagging_optimizer, train_step

K, NUM_TOKENS, LENGTHS = 4, 47, [14, 6, 3]
WIDTHS = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
MODELS = {
    "BertForMaskedLM": {**WIDTHS, "max_position_embeddings": 16},
    "RobertaForMaskedLM": {**WIDTHS, "max_position_embeddings": 18, "type_vocab_size": 1},
    "DistilBertForMaskedLM": {"dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 20, "max_position_embeddings": 16},
    "ElectraForMaskedLM": {**WIDTHS, "max_position_embeddings": 16, "embedding_size": 8},
    "AlbertForMaskedLM": {**WIDTHS, "max_position_embeddings": 16, "embedding_size": 8},
    "ModernBertForMaskedLM": {
        **WIDTHS,
        "local_attention": 6,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1),
    },
}


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory):
    """A model of transformers of 50 output rows, and its folder."""
    theirs = their_model(request.param, vocab_size=50, **MODELS[request.param])
    folder = tmp_path_factory.mktemp("teacher")
    theirs.save_pretrained(folder)
    return theirs, folder


def test_stored_predictions_are_the_log_probs_of_transformers(saved):
    theirs, folder = saved
    config, params = load_masked_lm(folder)
    pad_id = theirs.config.pad_token_id
    ids, mask = batch(NUM_TOKENS, LENGTHS, pad_id)
    records = [
        Record(
            text_id=bytes(8),
            draw=0,
            input_ids=row[:length].astype(np.int32),
            masked_positions=np.array([0, length - 1], np.int32),
            gold_ids=np.array([5, 46], np.int32),
            top_ids=np.zeros((2, 0), np.int32),
            top_log_probs=np.zeros((2, 0), np.float32),
        )
        for row, length in zip(ids, LENGTHS, strict=True)
    ]
    teacher = Teacher(config=config, params=params, num_tokens=NUM_TOKENS, pad_id=pad_id)
    # In batches of two, so that the last one is filled up, and longer than any text.
    found = list(predict_records(teacher, records, k=K, batch_size=2, length=16, max_predictions=3))
    logits, _ = their_outputs(theirs, ids, mask)
    for row, (record, length) in enumerate(zip(found, LENGTHS, strict=True)):
        expected = log_softmax(logits[row, [0, length - 1], :NUM_TOKENS].astype(np.float64), axis=-1)
        np.testing.assert_array_equal(record.top_ids, np.argsort(-expected, axis=-1)[:, :K])
        np.testing.assert_allclose(record.top_log_probs, -np.sort(-expected, axis=-1)[:, :K], atol=1e-4)
        np.testing.assert_allclose(record.gold_log_probs, [expected[0, 5], expected[1, 46]], atol=1e-4)


@pytest.mark.slow
def test_a_tagger_learns_from_its_encoder(saved):
    """Labels that the token decides: the loss falls, and gradients have reached every parameter."""
    theirs, folder = saved
    config, pretrained, _ = load_masked_model(str(folder))
    ids, mask = batch(NUM_TOKENS, LENGTHS, theirs.config.pad_token_id)
    model = TokenClassifier(config, num_labels=3)
    params = _initial_params(model, pretrained, jax.random.key(0))
    state = tagging_optimizer(0.01).init(params)
    data = {"token_ids": ids, "attention_mask": mask, "label_ids": ids % 3, "weights": mask.astype(np.float32)}
    losses = []
    for step in range(40):
        params, state, loss = train_step(
            params, state, data, 1e-2, jax.random.key(step), model=model, weight_decay=0.01
        )
        losses.append(float(loss))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    unchanged = jax.tree.map(np.array_equal, jax.device_get(params["encoder"]), pretrained["encoder"])
    assert not any(jax.tree.leaves(unchanged))


def test_models_of_other_weights_and_settings_have_other_hashes(saved, tmp_path):
    _, folder = saved
    config = (folder / "config.json").read_text()
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(config)
    assert model_hash(str(tmp_path)) == model_hash(str(folder))
    changed = config.replace('"gelu"', '"relu"').replace('"gelu_new"', '"relu"')
    assert changed != config
    (tmp_path / "config.json").write_text(changed)
    assert model_hash(str(tmp_path)) != model_hash(str(folder))
