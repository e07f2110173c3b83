"""Records as T5X's datasets: through SeqIO as T5X reads any task, or exactly the batches of `mergedistill train`."""
# pyright: reportMissingImports=false

import re
from collections.abc import Mapping, Sequence
from typing import Any

import clu.data
import clu.data.dataset_iterator
import numpy as np
import seqio
import t5x.checkpoints
import t5x.utils
import tensorflow as tf
from etils import epath

from mergedistill_jax.configs.train import TrainConfig
from mergedistill_jax.data.batches import RecordMixture, batches, describe_mixture
from mergedistill_jax.data.feature_converter import DistillationFeatureConverter

Batch = Mapping[str, Any]

GOLD_WEIGHT, LOSS_SCALE = "gold_weight", "loss_scale"
"""What the trainer adds to a batch, see student.py."""


class RecordFeatureConverter(DistillationFeatureConverter):
    """The project's feature converter with T5X's arguments: sources are numbers, and what cannot be packed is refused.

    Evaluation tasks have no `source`: theirs is 0.
    """

    TASK_FEATURES = {  # noqa: RUF012 - SeqIO's own declaration
        name: spec for name, spec in DistillationFeatureConverter.TASK_FEATURES.items() if name != "source"
    }
    MODEL_FEATURES = {  # noqa: RUF012 - SeqIO's own declaration
        **DistillationFeatureConverter.MODEL_FEATURES,
        "source": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32, rank=0),
    }

    def __init__(self, *, k: int, sources: Sequence[str] = (), pack: bool = False, **ignored: Any) -> None:
        """Takes the teacher's candidates per position, and the names that `source` may have, in order.

        Raises:
            ValueError: packing is asked for: records are whole sequences.
        """
        del ignored  # use_custom_packing_ops, without meaning where nothing is packed
        if pack:
            raise ValueError("DatasetConfig.pack: found True, expected False: records are packed when they are written")
        super().__init__(k)
        self._sources = tuple(sources)

    def _convert_features(self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]) -> tf.data.Dataset:
        names = tf.constant(self._sources or ("",))
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(names, tf.range(len(names))), 0)
        named = ds.map(lambda example: {"source": tf.constant(""), **example})
        converted = super()._convert_features(named, task_feature_lengths)
        return converted.map(lambda example: {**example, "source": table.lookup(example["source"])})

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
        """Lengths after conversion: the same, and one weight per masked position."""
        return {**super().get_model_feature_lengths(task_feature_lengths), "source": 0}


def train_mixture(config: TrainConfig) -> str:
    """MIXTURE_OR_TASK_NAME of a run's config."""
    return config.mixture


def heldout_mixture(config: TrainConfig) -> str:
    """The held-out mixture of a run's config.

    Raises:
        ValueError: it has none.
    """
    if config.heldout is None:
        raise ValueError("TrainConfig.heldout: found None, expected a mixture, or train_eval_dataset_cfg = None")
    return config.heldout


def described(mixture: str, k: int | None = None, module: str | None = None) -> RecordMixture:
    """The mixture of that name, after T5X's MIXTURE_OR_TASK_MODULE, which may register it, is imported."""
    if module is not None:
        t5x.utils.import_module(module)
    return describe_mixture(mixture, k)


def feature_lengths(mixture: str, module: str | None = None) -> dict[str, int]:
    """TASK_FEATURE_LENGTHS of a mixture of records: what its folders say."""
    found = described(mixture, module=module)
    rows = found.max_predictions
    return {
        "token_ids": found.max_length,
        "masked_positions": rows,
        "gold_ids": rows,
        "teacher_ids": rows,
        "teacher_log_probs": rows,
    }


def first_step(model_dir: epath.PathLike, initial_checkpoint: str | Sequence[str] = ()) -> int:
    """The step that T5X begins at: of the newest checkpoint in MODEL_DIR, else of the one it is told to begin with.

    Raises:
        ValueError: the name of that one tells no step.
    """
    newest = t5x.checkpoints.latest_step(str(model_dir))
    if newest is not None:
        return newest
    if not initial_checkpoint:
        return 0
    match = re.search(r"checkpoint_(\d+)/?$", str(initial_checkpoint))
    if match is None:
        raise ValueError(f"INITIAL_CHECKPOINT_PATH: found {initial_checkpoint!r}, expected a path to checkpoint_<step>")
    return int(match[1])


def same_batches(
    cfg: t5x.utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Any = None,
    *,
    config: TrainConfig,
    model_dir: str,
    initial_checkpoint: str | Sequence[str] = (),
    **ignored: Any,
) -> "RecordBatches":
    """T5X's get_dataset_fn that gives the batches of `mergedistill train`, each a function of its step.

    They begin at the step that T5X restores, so that a restarted job sees no batch twice, and none is left out.

    Args:
        cfg: names the mixture and the batch size; what it says of shuffling and seeds is for SeqIO.
        shard_id: which part of the rows of each batch is wanted.
        num_shards: parts of a batch.
        feature_converter_cls: not used: the rows have their final shape.
        config: of the run; its seed and its k decide the batches.
        model_dir: MODEL_DIR, where T5X looks for a checkpoint first.
        initial_checkpoint: INITIAL_CHECKPOINT_PATH, where it looks then.
        ignored: what else T5X passes to such functions.

    Raises:
        ValueError: packing, cached tasks or other lengths are asked for, or the batch does not divide.
    """
    del feature_converter_cls, ignored
    for field in ("pack", "use_cached"):
        if getattr(cfg, field):
            raise ValueError(f"DatasetConfig.{field}: found True, expected False: records are read as they are")
    if cfg.batch_size % num_shards:
        raise ValueError(
            f"DatasetConfig.batch_size: found {cfg.batch_size}, expected a multiple of {num_shards} shards of the data"
        )
    expected = feature_lengths(str(cfg.mixture_or_task_name), cfg.module)
    if cfg.task_feature_lengths and dict(cfg.task_feature_lengths) != expected:
        raise ValueError(
            f"TASK_FEATURE_LENGTHS: found {dict(cfg.task_feature_lengths)}, expected {expected}, those of the records"
        )
    share = cfg.batch_size // num_shards
    return RecordBatches(
        described(str(cfg.mixture_or_task_name), config.k, cfg.module),
        cfg.batch_size,
        seed=config.seed,
        start_step=first_step(model_dir, initial_checkpoint),
        rows=np.arange(shard_id * share, (shard_id + 1) * share),
    )


def shapes_alone(
    cfg: t5x.utils.DatasetConfig,
    shard_id: int,
    num_shards: int,
    feature_converter_cls: Any = None,
    *,
    config: TrainConfig,
    **ignored: Any,
) -> "Shapes":
    """T5X's get_dataset_fn for t5x.precompile, which looks at shapes: no record is read.

    The batch has what annealing.py adds in training, because t5x.precompile compiles the step without a trainer.
    """
    del shard_id, feature_converter_cls, ignored
    mixture = described(str(cfg.mixture_or_task_name), config.k, cfg.module)
    return Shapes(batch_spec(mixture, cfg.batch_size // num_shards))


class Shapes(clu.data.dataset_iterator.DatasetIterator):
    """The shapes of batches, with lambda and the loss' scale, and no batch."""

    def __init__(self, spec: Mapping[str, clu.data.ArraySpec]) -> None:
        """Takes shapes of the records' features."""
        rows = clu.data.ArraySpec(dtype=np.float32, shape=spec["lengths"].shape)
        self._spec = {**spec, GOLD_WEIGHT: rows, LOSS_SCALE: rows}

    def __next__(self) -> Batch:
        raise StopIteration

    @property
    def element_spec(self) -> Mapping[str, clu.data.ArraySpec]:
        """Shapes and dtypes of a batch."""
        return self._spec


class RecordBatches(clu.data.dataset_iterator.DatasetIterator):
    """Batches of `mergedistill train` from a step on, as clu's iterator.

    It saves nothing with a checkpoint: the step, which is saved, says where it stands.
    """

    def __init__(
        self, mixture: RecordMixture, batch_size: int, *, seed: int, start_step: int, rows: np.ndarray
    ) -> None:
        """Takes what `data.batches.batches` takes."""
        self._given = (mixture, batch_size)
        self._settings = {"seed": seed, "start_step": start_step, "rows": rows}
        self._shapes = batch_spec(mixture, len(rows))
        self.reset()

    def __next__(self) -> Batch:
        return next(self._batches)

    def reset(self) -> None:
        """Begins again with the first batch."""
        self._batches = batches(*self._given, **self._settings)

    @property
    def element_spec(self) -> Mapping[str, Any]:
        """Shapes and dtypes of a batch."""
        return self._shapes

    def save(self, filename: epath.PathLike) -> None:
        """Nothing: see above."""

    def restore(self, filename: epath.PathLike) -> None:
        """Nothing: see above."""


def batch_spec(mixture: RecordMixture, batch_size: int) -> dict[str, clu.data.ArraySpec]:
    """Shapes and dtypes of a batch of a mixture."""
    length, rows = (batch_size, mixture.max_length), (batch_size, mixture.max_predictions)
    shapes = {
        "token_ids": (np.int32, length),
        "lengths": (np.int32, (batch_size,)),
        "masked_positions": (np.int32, rows),
        "gold_ids": (np.int32, rows),
        "loss_weights": (np.float32, rows),
        "teacher_ids": (np.int32, (*rows, mixture.k)),
        "teacher_log_probs": (np.float32, (*rows, mixture.k)),
        "source": (np.int32, (batch_size,)),
    }
    return {name: clu.data.ArraySpec(dtype=dtype, shape=shape) for name, (dtype, shape) in shapes.items()}
