"""Gold cross-entropy and distillation from a teacher's top-k, per masked position, in nats.

    L = lambda * CE(gold) + (1 - lambda) * CE(teacher's top-k)     Khanuja et al. 2021; annealing: Clark et al. 2019

The student is always normalised over its whole vocabulary; what differs is what becomes of the mass that the teacher
gave to tokens outside its top-k (`missing_mass`):

    renormalise   the k are scaled to sum to 1 (the paper's reading)
    truncate      the k keep their probabilities, the rest is ignored
    tail          the rest is one more outcome, "any other token"
    to_gold       the rest goes to the gold token

No loss needs the student's logits over the whole vocabulary: its log-normaliser and the logits of the gold token and of
the teacher's candidates are enough (`Scores`), and these are found in chunks, see log_normalizer.py.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mergedistill_jax.configs.losses import DistillationConfig

_LARGEST_SHARE = 1.0 - 1e-6


class Scores(flax.struct.PyTreeNode):
    """What losses and metrics need of the student at masked positions.

    Attributes:
        log_normalizer: [*m] log-sum-exp of its logits over the whole vocabulary, at temperature 1.
        tempered_log_normalizer: [*m] the same of the logits divided by the temperature.
        gold: [*m] its logit of the gold token.
        teacher: [*m k] its logits of the teacher's candidates, divided by the temperature.
        best: [*m] id of its most probable token; of equally probable ones the lowest.
    """

    log_normalizer: Any
    tempered_log_normalizer: Any
    gold: Any
    teacher: Any
    best: Any


def scores_of_logits(
    logits: Float[Array, "*m v"], gold_ids: Int[Array, "*m"], teacher_ids: Int[Array, "*m k"], temperature: float = 1.0
) -> Scores:
    """Scores from logits over the whole vocabulary: the definition that chunks are tested against."""
    return Scores(
        log_normalizer=jax.nn.logsumexp(logits, axis=-1),
        tempered_log_normalizer=jax.nn.logsumexp(logits / temperature, axis=-1),
        gold=jnp.take_along_axis(logits, gold_ids[..., None], axis=-1)[..., 0],
        teacher=jnp.take_along_axis(logits / temperature, teacher_ids, axis=-1),
        best=jnp.argmax(logits, axis=-1),
    )


def gold_cross_entropy(scores: Scores) -> Float[Array, "*m"]:
    """Minus the student's log-probability of the gold token."""
    return scores.log_normalizer - scores.gold


def distillation_loss(
    scores: Scores, teacher_log_probs: Float[Array, "*m k"], config: DistillationConfig
) -> Float[Array, "*m"]:
    """Cross-entropy of the student against the teacher's top-k; never negative.

    Args:
        scores: the student's, at the config's temperature.
        teacher_log_probs: of the candidates, over the teacher's whole vocabulary.
        config: treatment of the missing mass, temperature.
    """
    student = scores.teacher - scores.tempered_log_normalizer[..., None]
    if config.missing_mass == "renormalise":
        shares = jax.nn.softmax(teacher_log_probs / config.temperature, axis=-1)
        return -(config.temperature**2) * jnp.sum(shares * student, axis=-1)
    teacher = jnp.exp(teacher_log_probs)
    within = -jnp.sum(teacher * student, axis=-1)
    missing = jnp.maximum(1.0 - jnp.sum(teacher, axis=-1), 0.0)
    if config.missing_mass == "truncate":
        return within
    if config.missing_mass == "tail":
        # A candidate that the student's vocabulary lacks stands at id 0 without mass: [PAD] is not covered by it.
        covered = jnp.minimum(jnp.sum(jnp.where(teacher > 0, jnp.exp(student), 0.0), axis=-1), _LARGEST_SHARE)
        return within - missing * jnp.log1p(-covered)
    return within + missing * gold_cross_entropy(scores)
