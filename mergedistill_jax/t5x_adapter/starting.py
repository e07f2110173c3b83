"""A student's first parameters from its teachers, in T5X: what TrainConfig.start says."""
# pyright: reportMissingImports=false

from typing import TYPE_CHECKING, Any, cast

import flax.core
import jax
import t5x.utils
from jaxtyping import Array

from mergedistill_jax.teachers.start import start_from_teachers
from mergedistill_jax.training.distributed import from_host, say, to_host
from mergedistill_jax.vocabulary.folder import read_vocabulary

if TYPE_CHECKING:
    from mergedistill_jax.t5x_adapter.student import Student


class StudentInitializer(t5x.utils.TrainStateInitializer):
    """T5X's initializer; where a run starts from teachers, their parameters stand in place of random ones.

    A run that has a checkpoint is restored from it, and never comes here.
    """

    def __init__(self, *args: Any, init_fn: Any, **kwargs: Any) -> None:
        """Takes what T5X gives; `init_fn` is a method of the Student."""
        super().__init__(*args, init_fn=init_fn, **kwargs)
        self._student = cast("Student", init_fn.__self__)

    def from_scratch(self, init_rng: Array) -> Any:
        """The fresh train state."""
        state = super().from_scratch(init_rng)
        config, mixture = self._student.config, self._student.mixture
        if config is None or mixture is None or config.start is None:
            return state
        vocabulary = read_vocabulary(mixture.vocabulary_folder)
        fresh = flax.core.unfreeze(state.params)
        params, told = start_from_teachers(to_host(fresh), config.start, vocabulary)
        say(f"t5x: {told}")
        shardings = jax.tree.map(lambda leaf: leaf.sharding, fresh)
        return state.replace_params(flax.core.freeze(from_host(params, shardings)))
