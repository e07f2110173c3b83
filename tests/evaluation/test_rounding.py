"""The stated bound on what half precision loses, on distributions of every kind and on a teacher's own."""

import numpy as np
import pytest
from conftest import TEXTS
from scipy.special import log_softmax

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.corpus.packing import masked_records
from mergedistill_jax.evaluation.rounding import kl_of_candidates, kl_with_rest, rounding_error
from mergedistill_jax.teachers.inference import predict_records
from mergedistill_jax.teachers.loading import load_teacher
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer


def candidates(scale, count=4000, size=400, k=8):
    logits = np.random.default_rng(int(scale * 10)).normal(size=(count, size)) * scale
    return -np.sort(-log_softmax(logits, axis=1), axis=1)[:, :k]


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 5.0, 12.0, 40.0])
def test_the_bound_holds_from_flat_to_certain(scale):
    log_probs = candidates(scale)
    error = rounding_error(log_probs)
    moved = np.abs(np.exp(log_probs.astype(np.float16).astype(np.float64)) - np.exp(log_probs)).sum(axis=1)
    assert (moved <= 1.005 * error).all()  # the first step, and what is of second order
    kl = kl_with_rest(log_probs)
    assert (kl >= -1e-12).all()
    assert (kl <= 6 * error).all()
    assert (6 * error <= 0.0061).all()  # whatever the teacher: docs/data_format.md
    largest = 2.0**-11 * np.abs(log_probs).max(axis=1)  # no shift is larger, so half its square bounds the divergence
    assert (kl_of_candidates(log_probs) <= 1.05 * largest**2 / 2 + 1e-12).all()


def test_the_bound_holds_where_the_rest_is_next_to_nothing():
    """Two likely tokens and a rest that rounding swallows: read as none at all, it would cost infinitely much."""
    for rest in (1e-3, 1e-5, 1e-7, 1e-9, 0.0):
        shares = np.linspace(0.01, 0.99, 400)
        log_probs = np.log(np.stack([shares, 1 - shares], axis=1) * (1 - rest))
        assert np.isfinite(kl_with_rest(log_probs)).all()
        assert (kl_with_rest(log_probs) <= 6 * rounding_error(log_probs)).all()


def test_a_worked_number():
    """-0.1 is stored as -0.0999755859375: the candidate gains 2.4e-5 of itself, and the rest loses as much."""
    log_probs = np.array([[-0.1]])
    gain = 0.1 - 0.0999755859375
    p, q = np.exp(-0.1), np.exp(-0.1 + gain)
    expected = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    np.testing.assert_allclose(kl_with_rest(log_probs), [expected], rtol=1e-6)
    np.testing.assert_allclose(expected, p * gain**2 / 2 / (1 - p), rtol=0.01)  # of second order
    assert kl_of_candidates(log_probs).tolist() == [0.0]


def test_a_teachers_predictions_lose_less_than_a_thousandth_of_a_nat(teachers):
    tokenizer, teacher = load_tokenizer(teachers["en"]), load_teacher(str(teachers["en"]), max_length=32, k=8)
    masked = list(masked_records(TEXTS["en"], tokenizer, MaskingConfig(), max_length=32, draws=3))
    records = predict_records(teacher, masked, k=8, batch_size=8, length=32, max_predictions=6)
    log_probs = np.concatenate([record.top_log_probs for record in records])
    assert len(log_probs) > 40
    kl = kl_with_rest(log_probs)
    assert (kl <= 6 * rounding_error(log_probs)).all()
    assert kl.mean() < 1e-3
