import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TEXTS, make_teacher
from scipy.special import log_softmax

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.corpus.packing import masked_records
from mergedistill_jax.teachers.inference import predict_records, top_log_probs
from mergedistill_jax.teachers.loading import load_teacher, model_hash
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer

MASKING = MaskingConfig(rate=0.2, max_share=0.3)


def dense_reference(logits, num_tokens, k):
    """Sort everything, in float64, over the rows with a token alone."""
    log_probs = log_softmax(logits[..., :num_tokens].astype(np.float64), axis=-1)
    ids = np.argsort(-log_probs, axis=-1, kind="stable")[..., :k]
    return ids, np.take_along_axis(log_probs, ids, axis=-1)


@pytest.mark.parametrize(("rows", "num_tokens", "k"), [(50, 50, 8), (50, 41, 8), (50, 41, 41), (9, 8, 1)])
def test_top_log_probs_against_sorting_everything(rows, num_tokens, k):
    logits = np.random.default_rng(rows + k).normal(0, 4, (3, 5, rows)).astype(np.float32)
    logits[..., num_tokens:] += 50  # rows without a token would win everything
    ids, found = top_log_probs(jnp.asarray(logits), num_tokens, k)
    expected_ids, expected = dense_reference(logits, num_tokens, k)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (np.diff(found, axis=-1) <= 0).all()
    assert (np.asarray(ids) < num_tokens).all()


def test_all_tokens_kept_have_the_whole_mass():
    logits = np.random.default_rng(0).normal(0, 3, (4, 20)).astype(np.float32)
    for num_tokens in (20, 13):
        _, log_probs = top_log_probs(jnp.asarray(logits), num_tokens, num_tokens)
        np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1.0, atol=1e-6)


def test_a_number_worked_by_hand():
    """Probabilities 1/2, 1/4, 1/8, 1/8; adding a constant to all logits changes nothing."""
    logits = np.log([[1 / 8, 1 / 2, 1 / 8, 1 / 4]]).astype(np.float32)
    for shift in (0.0, 40.0, -300.0):
        ids, log_probs = top_log_probs(jnp.asarray(logits + np.float32(shift)), 4, 2)
        assert ids.tolist() == [[1, 3]]
        np.testing.assert_allclose(np.exp(log_probs), [[0.5, 0.25]], rtol=1e-4)


def test_the_softmax_over_the_kept_is_that_of_the_logits():
    """DESIGN.md decision 3: storing log-probabilities leaves the paper's renormalised loss exact."""
    logits = np.random.default_rng(1).normal(0, 3, (6, 30)).astype(np.float32)
    ids, log_probs = top_log_probs(jnp.asarray(logits), 30, 8)
    kept = np.take_along_axis(logits, np.asarray(ids), axis=-1)
    np.testing.assert_allclose(log_softmax(log_probs, axis=-1), log_softmax(kept, axis=-1), atol=1e-5)


@pytest.fixture(scope="module")
def wide_teacher(tmp_path_factory):
    """A teacher with 13 output rows more than its tokenizer has tokens."""
    return make_teacher(tmp_path_factory.mktemp("wide") / "wide", TEXTS["en"], seed=3, vocab_size=140)


def records_of(folder, max_length=32):
    tokenizer = load_tokenizer(folder)
    return list(masked_records(TEXTS["en"], tokenizer, MASKING, max_length=max_length, draws=3))


def predict(folder, records, *, k=8, batch_size=4, length=32):
    teacher = load_teacher(str(folder), max_length=length, k=k)
    return list(predict_records(teacher, records, k=k, batch_size=batch_size, length=length, max_predictions=9))


def test_equals_transformers(wide_teacher):
    """Top 8 of torch's BERT under log_softmax over the tokens, for every masked position, one text at a time."""
    import torch  # noqa: PLC0415 - slow, and only here
    from transformers import BertForMaskedLM  # noqa: PLC0415

    model = BertForMaskedLM.from_pretrained(wide_teacher, attn_implementation="eager").eval()
    num_tokens = len(load_tokenizer(wide_teacher).tokens)
    assert model.config.vocab_size == 140 > num_tokens
    records = records_of(wide_teacher)
    assert len({len(r.input_ids) for r in records}) > 3  # lengths differ, so padding is in play
    for record in predict(wide_teacher, records):
        with torch.no_grad():
            logits = model(torch.tensor(record.input_ids[None].astype(np.int64))).logits[0].double()
        log_probs = torch.log_softmax(logits[record.masked_positions, :num_tokens], dim=-1)
        best, ids = torch.topk(log_probs, 8, dim=-1)
        np.testing.assert_allclose(record.top_log_probs, best.numpy(), atol=1e-4)
        # Where two probabilities are nearly equal the order is open.
        chosen = np.take_along_axis(log_probs.numpy(), record.top_ids.astype(np.int64), axis=1)
        np.testing.assert_allclose(chosen, best.numpy(), atol=1e-4)
        assert (record.top_ids == ids.numpy()).mean() > 0.9
        assert record.top_ids.max() < num_tokens


def test_input_and_gold_pass_through_and_order_is_kept(wide_teacher):
    records = records_of(wide_teacher)
    for record, predicted in zip(records, predict(wide_teacher, records), strict=True):
        for field in ("text_id", "draw", "input_ids", "masked_positions", "gold_ids"):
            np.testing.assert_array_equal(getattr(predicted, field), getattr(record, field))
        assert predicted.top_ids.shape == predicted.top_log_probs.shape == (len(record.gold_ids), 8)
        assert np.isfinite(predicted.top_log_probs).all()
        assert (np.exp(predicted.top_log_probs).sum(axis=1) < 1).all()


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batches_and_padding_change_nothing(wide_teacher, batch_size):
    """The same records alone, in other batches and padded further."""
    records = records_of(wide_teacher, max_length=24)
    expected = predict(wide_teacher, records, batch_size=4, length=24)
    found = predict(wide_teacher, records, batch_size=batch_size, length=32)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.top_log_probs, other.top_log_probs, atol=1e-5)


def test_fewer_candidates_are_the_first_ones(wide_teacher):
    records = records_of(wide_teacher)[:4]
    for two, eight in zip(predict(wide_teacher, records, k=2), predict(wide_teacher, records), strict=True):
        np.testing.assert_array_equal(two.top_ids, eight.top_ids[:, :2])
        np.testing.assert_allclose(two.top_log_probs, eight.top_log_probs[:, :2], atol=1e-6)


def test_no_records_is_no_work(wide_teacher):
    assert predict(wide_teacher, []) == []


def test_teachers_that_cannot_do_the_work_are_refused(tmp_path, wide_teacher):
    num_tokens = len(load_tokenizer(wide_teacher).tokens)
    with pytest.raises(ValueError, match=r"max_position_embeddings: found 32, expected at least max_length=33"):
        load_teacher(str(wide_teacher), max_length=33, k=8)
    with pytest.raises(ValueError, match=f"k: found {num_tokens + 1}, expected at most the {num_tokens} tokens"):
        load_teacher(str(wide_teacher), max_length=32, k=num_tokens + 1)
    copy = tmp_path / "more_tokens"
    copy.mkdir()
    for path in wide_teacher.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary |= {f"new{i}": len(vocabulary) + i for i in range(141 - num_tokens)}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ValueError, match="field vocab: found 141 tokens, expected at most the model's 140"):
        load_teacher(str(copy), max_length=32, k=8)


def test_the_hash_is_of_weights_and_architecture(tmp_path, teachers, wide_teacher):
    same = make_teacher(tmp_path / "same", TEXTS["en"], seed=0)
    assert model_hash(str(same)) == model_hash(str(teachers["en"]))
    others = {
        "seed": make_teacher(tmp_path / "seed", TEXTS["en"], seed=1),
        "heads": make_teacher(tmp_path / "heads", TEXTS["en"], seed=0, num_heads=4),  # the same weights, cut otherwise
        "wide": wide_teacher,
        "same": same,
    }
    assert len({model_hash(str(folder)) for folder in others.values()}) == len(others)


def test_the_loaded_teacher_says_what_its_tokenizer_says(wide_teacher):
    teacher, tokenizer = load_teacher(str(wide_teacher), max_length=32, k=8), load_tokenizer(wide_teacher)
    assert (teacher.num_tokens, teacher.pad_id) == (len(tokenizer.tokens), tokenizer.pad_id)
    assert teacher.config.vocab_size == 140
    assert dataclasses.asdict(teacher.config)["max_length"] == 32
