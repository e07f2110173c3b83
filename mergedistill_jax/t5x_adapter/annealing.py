"""T5X's trainer, whose steps tell the loss the weight of the gold labels.

    class AnnealingTrainer = annealing(t5x.trainer.Trainer)

A subclass and not flax mutables: the weight is a function of the step, which the train state has already. As a mutable
it would stand in the checkpoint a second time, T5X's state tree would no longer be the one that both runners share, and
a restored weight could disagree with the restored step.
"""
# pyright: reportMissingImports=false

import functools
from typing import Any

import jax
import jax.numpy as jnp
import t5x.trainer
from jaxtyping import Array

from mergedistill_jax.t5x_adapter.datasets import GOLD_WEIGHT, LOSS_SCALE, Batch
from mergedistill_jax.t5x_adapter.student import Student, folder_of_model_dir
from mergedistill_jax.training.checkpoints import open_run


def with_weight(batch: Batch, weight: Array) -> dict[str, Any]:
    """The batch with lambda and one over its masked positions in every row, so that microbatches keep them."""
    rows = batch["loss_weights"].shape[0]
    scale = 1.0 / jnp.maximum(jnp.sum(batch["loss_weights"]), 1.0)
    return {**batch, GOLD_WEIGHT: jnp.full(rows, weight), LOSS_SCALE: jnp.full(rows, scale)}


def annealing(trainer_cls: type[t5x.trainer.Trainer] = t5x.trainer.Trainer) -> type[t5x.trainer.Trainer]:
    """A subclass of T5X's trainer for a Student.

    Args:
        trainer_cls: `@trainer.Trainer` in gin, so that the bindings of T5X's own trainer, such as its number of
            microbatches, apply to the subclass.
    """

    class AnnealingTrainer(trainer_cls):
        """Writes lambda and the loss' scale into each batch, and describes the run beside its checkpoints."""

        def __init__(self, model: Student, *args: Any, summary_dir: str | None = None, **kwargs: Any) -> None:
            super().__init__(model, *args, summary_dir=summary_dir, **kwargs)
            self._model_dir = summary_dir
            if model.seed is not None:
                # As `mergedistill train` draws dropout, so that the two can be compared.
                self._base_rng = jax.random.fold_in(jax.random.key(model.seed), 1)

        @functools.cached_property
        def _partitioned_train_step(self) -> Any:
            def train_step(train_state: Any, batch: Batch) -> Any:
                return t5x.trainer.train_with_lr(
                    train_state,
                    with_weight(batch, self._model.gold_weight(train_state.step)),
                    learning_rate=self._learning_rate_fn(train_state.step),
                    dropout_rng=self._get_step_rng(train_state.step),
                    model=self._model,
                    num_microbatches=self._num_microbatches,
                    weight_metrics_computer=self._weight_metrics_computer,
                    data_partition_spec=self._partitioner.data_partition_spec,
                )

            spec = self._partitioner.data_partition_spec
            return self._partitioner.partition(
                train_step,
                in_axis_resources=(self._train_state_axes, spec),
                out_axis_resources=(self._train_state_axes, None),
                donate_argnums=(0,),
            )

        def compile_train(self, batch: Batch) -> None:
            """Describes the run, or refuses a folder that holds another one; then compiles the step."""
            if self._model_dir is not None:
                run = self._model.run(len(batch["lengths"]), self._num_microbatches or 1)
                open_run(folder_of_model_dir(self._model_dir), run)
            super().compile_train(batch)

    return AnnealingTrainer
