"""What storing log-probabilities in half precision loses, in nats per masked position.

A number x is stored as x + d with |d| <= 2^-11 |x| (and 2^-25 where x is below the normal numbers). So the stored
probabilities of the k candidates add up to their true sum but for at most

    e = 2^-11 sum_i p_i |log p_i| + 2^-25

to first order, and a rest that is smaller than e cannot be told from none. A reader of the rest, "any other token",
takes what is missing to 1, at least e, and scales all k + 1 to sum to 1. Then

    KL(exact || stored) over the k + 1 outcomes <= 6 e

because the k lose at most e, the scaling at most 2 e, the rest at most 2 e, and 6 instead of 5 covers what is of second
order. Over the k alone, scaled to sum to 1 as the default loss reads them, the loss is of second order altogether.
"""

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax


def rounding_error(log_probs: Float[np.ndarray, "m k"]) -> Float[np.ndarray, " m"]:
    """The e above: by how much rounding may change the sum of the candidates' probabilities."""
    exact = log_probs.astype(np.float64)
    return 2.0**-11 * -(np.exp(exact) * exact).sum(axis=1) + 2.0**-25


def _in_half_precision(log_probs: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "m k"]:
    return log_probs.astype(np.float16).astype(np.float64)


def kl_with_rest(log_probs: Float[np.ndarray, "m k"]) -> Float[np.ndarray, " m"]:
    """KL(exact || stored) over the k candidates and the rest, read as above."""
    stored = _in_half_precision(log_probs)
    exact = log_probs.astype(np.float64)
    rest = np.maximum(1.0 - np.exp(exact).sum(axis=1), 0.0)
    read = np.exp(stored)
    read_rest = np.maximum(1.0 - read.sum(axis=1), rounding_error(stored))
    total = np.log(read.sum(axis=1) + read_rest)
    of_rest = np.where(rest > 0, rest * np.log(np.maximum(rest, np.finfo(float).tiny) / read_rest), 0.0)
    return (np.exp(exact) * (exact - stored)).sum(axis=1) + of_rest + total


def kl_of_candidates(log_probs: Float[np.ndarray, "m k"]) -> Float[np.ndarray, " m"]:
    """KL(exact || stored) over the k candidates alone, both scaled to sum to 1."""
    exact = log_softmax(log_probs.astype(np.float64), axis=1)
    stored = log_softmax(_in_half_precision(log_probs), axis=1)
    return (np.exp(exact) * (exact - stored)).sum(axis=1)
