"""Records of uneven length to the fixed shapes a compiled step wants."""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from mergedistill_jax.data.records import IMPOSSIBLE_LOG_PROB

_Spec = seqio.FeatureConverter.FeatureSpec


class DistillationFeatureConverter(seqio.FeatureConverter):
    """Pads record features and says what is padding; [PAD] is id 0 in every student vocabulary.

    token_ids         [l]     padded with [PAD]
    lengths           []      real tokens
    masked_positions  [m]     padded with 0, the weight tells
    gold_ids          [m]
    loss_weights      [m]     1.0 at a masked position, 0.0 at padding
    teacher_ids       [m, k]
    teacher_log_probs [m, k]  padded with a finite, massless log-probability
    source            []      name of the task
    """

    TASK_FEATURES = {  # noqa: RUF012 - SeqIO's own declaration
        "token_ids": _Spec(dtype=tf.int32),
        "masked_positions": _Spec(dtype=tf.int32),
        "gold_ids": _Spec(dtype=tf.int32),
        "teacher_ids": _Spec(dtype=tf.int32, rank=2),
        "teacher_log_probs": _Spec(dtype=tf.float32, rank=2),
        "source": _Spec(dtype=tf.string, rank=0),
    }
    MODEL_FEATURES = {  # noqa: RUF012 - SeqIO's own declaration
        **TASK_FEATURES,
        "loss_weights": _Spec(dtype=tf.float32),
        "lengths": _Spec(dtype=tf.int32, rank=0),
    }
    PACKING_FEATURE_DTYPES = {}  # noqa: RUF012 - SeqIO's own declaration

    def __init__(self, k: int) -> None:
        super().__init__(pack=False)
        self._k = k

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        length, rows, k = task_feature_lengths["token_ids"], task_feature_lengths["masked_positions"], self._k

        def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            # SeqIO cuts every feature by itself: positions of tokens that were cut off would stay.
            inside = tf.reduce_all(example["masked_positions"] < tf.shape(example["token_ids"])[0])
            told = (
                f"task_feature_lengths: found token_ids={length}, expected more: a masked position lies beyond the cut"
            )
            with tf.control_dependencies([tf.debugging.Assert(inside, [told])]):
                token_ids = padded(example["token_ids"], length)
            return {
                "token_ids": token_ids,
                "lengths": tf.shape(example["token_ids"])[0],
                "masked_positions": padded(example["masked_positions"], rows),
                "gold_ids": padded(example["gold_ids"], rows),
                "loss_weights": tf.cast(tf.range(rows) < tf.shape(example["gold_ids"])[0], tf.float32),
                "teacher_ids": padded(example["teacher_ids"][:, :k], rows),
                "teacher_log_probs": padded(example["teacher_log_probs"][:, :k], rows, IMPOSSIBLE_LOG_PROB),
                "source": example["source"],
            }

        return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        """Lengths after conversion: the same, and one weight per masked position."""
        return {**task_feature_lengths, "loss_weights": task_feature_lengths["masked_positions"], "lengths": 0}


def padded(values: tf.Tensor, rows: int, filler: float = 0) -> tf.Tensor:
    """The values with rows of filler up to `rows`; a static shape."""
    missing = tf.concat([[rows - tf.shape(values)[0]], tf.shape(values)[1:]], axis=0)
    padded = tf.concat([values, tf.fill(missing, tf.cast(filler, values.dtype))], axis=0)
    return tf.ensure_shape(padded, [rows, *values.shape[1:]])
