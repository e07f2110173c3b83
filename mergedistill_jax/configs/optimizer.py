"""AdamW as in BERT: clipped gradients, no decay on biases and layer normalisation."""

import dataclasses
from typing import Any

from mergedistill_jax.configs.schedules import LearningRate


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """AdamW (Loshchilov & Hutter 2019) with a clipped global gradient norm."""

    learning_rate: LearningRate
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0

    def optimizer(self, steps: int) -> Any:
        """The optimizer of a run of `steps` steps, an optax.GradientTransformation."""
        import optax

        return optax.chain(
            clip_by_global_norm(self.max_gradient_norm),
            optax.adamw(
                self.learning_rate.schedule(steps),
                b1=self.beta1,
                b2=self.beta2,
                eps=self.epsilon,
                weight_decay=self.weight_decay,
                mask=decayed,
            ),
        )


def clip_by_global_norm(largest: float) -> Any:
    """Optax's of the same name, as one factor: gradients whose global norm is larger than `largest` get that norm.

    optax divides each gradient, and a compiler that does not repeat divisions stores what it divided: a second copy of
    the gradient of the vocabulary's table, written once and read three times.

    Returns:
        An optax.GradientTransformation.
    """
    import jax
    import jax.numpy as jnp
    import optax

    def update(updates: Any, _params: Any) -> Any:
        norm = optax.global_norm(updates)
        factor = jnp.where(norm < largest, 1.0, largest / norm)
        return jax.tree.map(lambda update: update * factor.astype(update.dtype), updates)

    return optax.stateless(update)


def decayed(params: Any) -> Any:
    """True for weight matrices and tables, False for biases and layer normalisation."""
    import jax

    def is_decayed(path: tuple[Any, ...], _leaf: Any) -> bool:
        names = [str(getattr(key, "key", key)) for key in path]
        return not (names[-1] in ("bias", "decoder_bias") or any(name.endswith("norm") for name in names))

    return jax.tree_util.tree_map_with_path(is_decayed, params)
