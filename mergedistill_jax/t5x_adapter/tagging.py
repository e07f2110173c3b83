"""A tagger that `mergedistill finetune` saved, as a T5X model, for t5x.eval on the tasks of tasks/tagging.py."""
# pyright: reportMissingImports=false

from collections.abc import Mapping, Sequence
from typing import Any

import clu.metrics
import flax.core
import jax
import jax.numpy as jnp
import seqio
import t5x.models
import tensorflow as tf
from etils import epath
from jaxtyping import Array, Float, Int

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.data.feature_converter import padded
from mergedistill_jax.models.heads import TokenClassifier
from mergedistill_jax.models.huggingface import load_token_classifier
from mergedistill_jax.models.huggingface_weights import weights_hash
from mergedistill_jax.t5x_adapter.axes import initial_variables, without_axis_rules
from mergedistill_jax.t5x_adapter.means import mean_of
from mergedistill_jax.training.checkpoints import Checkpoints, checkpoint_folder
from mergedistill_jax.training.step import TrainState
from mergedistill_jax.training.tagging import token_classification_loss

Batch = Mapping[str, Any]
_Spec = seqio.FeatureConverter.FeatureSpec


class TaggingFeatureConverter(seqio.FeatureConverter):
    """Pads the features of a tagging task: token_ids, label_ids and weights [l], and lengths [], the real sub-words."""

    TASK_FEATURES = {  # noqa: RUF012 - SeqIO's own declaration
        "inputs": _Spec(dtype=tf.int32),
        "targets": _Spec(dtype=tf.int32),
        "weights": _Spec(dtype=tf.float32),
    }
    MODEL_FEATURES = {  # noqa: RUF012 - SeqIO's own declaration
        "token_ids": _Spec(dtype=tf.int32),
        "label_ids": _Spec(dtype=tf.int32),
        "weights": _Spec(dtype=tf.float32),
        "lengths": _Spec(dtype=tf.int32, rank=0),
    }
    PACKING_FEATURE_DTYPES = {}  # noqa: RUF012 - SeqIO's own declaration

    def __init__(self, *, pack: bool = False, **ignored: Any) -> None:
        """Refuses packing with a ValueError: a sentence is a sequence."""
        del ignored
        if pack:
            raise ValueError("DatasetConfig.pack: found True, expected False: a sentence is a sequence of its own")
        super().__init__(pack=False)

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        length = max(task_feature_lengths.values())
        return ds.map(
            lambda example: {
                "token_ids": padded(example["inputs"], length),
                "label_ids": padded(example["targets"], length),
                "weights": padded(example["weights"], length),
                "lengths": tf.shape(example["inputs"])[0],
            }
        )

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        """Lengths after conversion: the longest of a task's features, for each."""
        length = max(task_feature_lengths.values())
        return {"token_ids": length, "label_ids": length, "weights": length, "lengths": 0}


class Tagger(t5x.models.BaseModel):
    """A token classifier whose predictions are label ids of the task, whatever order of labels it was trained with."""

    FEATURE_CONVERTER_CLS = TaggingFeatureConverter

    def __init__(
        self, encoder: EncoderConfig, partitioner: Any, *, own_labels: Sequence[str], task_labels: Sequence[str]
    ) -> None:
        """Takes the sizes, T5X's partitioner, and the names of the labels in the model's and in the task's order.

        Raises:
            ValueError: the model has a label that the task lacks.
        """
        super().__init__(optimizer_def=None)
        unknown = sorted(set(own_labels) - set(task_labels))
        if unknown:
            raise ValueError(f"tagger: label: found {unknown[0]!r}, expected one of the task's: {list(task_labels)}")
        self._partitioner = partitioner
        self._module = TokenClassifier(encoder, num_labels=len(own_labels))
        self._task_ids = jnp.array([list(task_labels).index(label) for label in own_labels], jnp.int32)

    def loss_fn(
        self, params: Any, batch: Batch, dropout_rng: Array | None
    ) -> tuple[Float[Array, ""], dict[str, clu.metrics.Metric]]:
        """Cross-entropy in nats per labelled word of the batch, and the accuracy; dropout where a key is given."""
        logits = self._logits(params, batch, dropout_rng)
        # Labels are the task's: the column of label i is where the model has it.
        own_ids = jnp.argmax(batch["label_ids"][..., None] == self._task_ids, axis=-1)
        loss = token_classification_loss(logits, own_ids, batch["weights"])
        hits = jnp.sum((jnp.argmax(logits, axis=-1) == own_ids) * batch["weights"])
        count = jnp.sum(batch["weights"])
        return loss, {
            "loss": mean_of(loss * count, count),
            "accuracy": mean_of(hits, count),
        }

    def predict_batch_with_aux(
        self, params: Any, batch: Batch, rng: Array | None = None
    ) -> tuple[Int[Array, "b l"], dict[str, Array]]:
        """The most probable label of the task at every position [b, l], and its log-probability in nats."""
        del rng
        log_probs = jax.nn.log_softmax(self._logits(params, batch, None))
        return self._task_ids[jnp.argmax(log_probs, axis=-1)], {"log_prob": jnp.max(log_probs, axis=-1)}

    def score_batch(self, params: Any, batch: Batch, return_intermediates: bool = False) -> Float[Array, " b"]:  # noqa: FBT001, FBT002 - T5X's signature
        """The sum of the labels' log-probabilities of every sentence [b], in nats."""
        if return_intermediates:
            raise ValueError("Tagger.score_batch: return_intermediates: found True, expected False")
        log_probs = jax.nn.log_softmax(self._logits(params, batch, None))
        own_ids = jnp.argmax(batch["label_ids"][..., None] == self._task_ids, axis=-1)
        of_label = jnp.take_along_axis(log_probs, own_ids[..., None], axis=-1)[..., 0]
        return jnp.sum(of_label * batch["weights"], axis=1)

    def get_initial_variables(
        self, rng: Array, input_shapes: Mapping[str, Any], input_types: Any = None
    ) -> flax.core.FrozenDict:
        """Random parameters and their axes, which a checkpoint replaces."""
        del input_types
        tokens = jnp.zeros((1, input_shapes["token_ids"][1]), jnp.int32)
        return initial_variables(
            lambda: self._module.init(rng, tokens, jnp.ones(tokens.shape, bool))["params"], self._partitioner
        )

    def _logits(self, params: Any, batch: Batch, dropout_rng: Array | None) -> Float[Array, "b l c"]:
        attention_mask = jnp.arange(batch["token_ids"].shape[1]) < batch["lengths"][:, None]
        rngs = {} if dropout_rng is None else {"dropout": dropout_rng}
        with without_axis_rules():
            found: Any = self._module.apply(
                {"params": params},
                batch["token_ids"],
                attention_mask,
                deterministic=dropout_rng is None,
                rngs=rngs,
            )
        return found


def tagger(folder: str, partitioner: Any, labels: Sequence[str]) -> Tagger:
    """The tagger of a Hugging Face folder, OUTPUT/model of `mergedistill finetune` with save_model = True.

    Args:
        folder: of the tagger.
        partitioner: `@partitioning.PjitPartitioner()`.
        labels: of the task, in the order of its label ids.
    """
    encoder, _, own_labels = load_token_classifier(folder)
    return Tagger(encoder, partitioner, own_labels=own_labels, task_labels=labels)


def as_checkpoint(folder: str, output: str) -> str:
    """The tagger's parameters as a checkpoint that T5X restores; returns its path, output/HASH/checkpoint_0."""
    target = epath.Path(output) / weights_hash(folder)
    checkpoints = Checkpoints(target)
    if checkpoints.latest_step is None:
        _, params, _ = load_token_classifier(folder)
        state = TrainState(step=jnp.zeros((), jnp.int32), params=jax.tree.map(jnp.asarray, params), opt_state=())
        checkpoints.save(0, state, force=True)
    checkpoints.close()
    return str(checkpoint_folder(target) / "checkpoint_0")
