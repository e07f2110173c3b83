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
    PACKING_FEATURE_DTYPES = None

    def __init__(self, k: int) -> None:
        super().__init__(pack=False)
        self._k = k

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        length, rows, k = task_feature_lengths["token_ids"], task_feature_lengths["masked_positions"], self._k

        def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            missing = rows - tf.shape(example["gold_ids"])[0]
            real_tokens = tf.shape(example["token_ids"])[0]

            def pad(name: str, value: float = 0) -> tf.Tensor:
                return tf.ensure_shape(tf.pad(example[name], [[0, missing]], constant_values=value), [rows])

            def pad_candidates(name: str, value: float = 0) -> tf.Tensor:
                kept = example[name][:, :k]
                return tf.ensure_shape(tf.pad(kept, [[0, missing], [0, 0]], constant_values=value), [rows, k])

            return {
                "token_ids": tf.ensure_shape(tf.pad(example["token_ids"], [[0, length - real_tokens]]), [length]),
                "lengths": real_tokens,
                "masked_positions": pad("masked_positions"),
                "gold_ids": pad("gold_ids"),
                "loss_weights": tf.cast(tf.range(rows) < rows - missing, tf.float32),
                "teacher_ids": pad_candidates("teacher_ids"),
                "teacher_log_probs": pad_candidates("teacher_log_probs", IMPOSSIBLE_LOG_PROB),
                "source": example["source"],
            }

        return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        """Lengths after conversion: the same, and one weight per masked position."""
        return {**task_feature_lengths, "loss_weights": task_feature_lengths["masked_positions"], "lengths": 0}
