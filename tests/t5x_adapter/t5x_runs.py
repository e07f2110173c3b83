"""T5X's own train and evaluate functions on the small merge, as their gin files would call them."""

import functools
import glob
import json
from pathlib import Path
from typing import Any

import clu.data
import seqio
import t5x.eval
import t5x.partitioning
import t5x.train
import t5x.trainer
import t5x.utils
import tensorflow as tf

from mergedistill_jax.configs.train import TrainConfig
from mergedistill_jax.t5x_adapter import annealing, datasets, starting, student

RULES = (("embed_out", None), ("position", None), ("segment", None), ("norm", None), ("labels", None))


def partitioner() -> Any:
    """Of all devices: on CPUs T5X makes them one model axis."""
    rules = t5x.partitioning.standard_logical_axis_rules(additional_rules=RULES)
    return t5x.partitioning.PjitPartitioner(num_partitions=1, logical_axis_rules=rules)


def train(
    config: TrainConfig,
    model_dir: Path,
    *,
    stop: int | None = None,
    num_microbatches: int | None = None,
    initial_checkpoint: str = "",
) -> dict[str, dict[int, float]]:
    """t5x.train up to a step, the last one by default; {metric: {step: value}} of every step."""
    checkpoints = t5x.utils.CheckpointConfig(
        save=t5x.utils.SaveCheckpointConfig(period=config.save_every),
        restore=t5x.utils.RestoreCheckpointConfig(path=initial_checkpoint or [], mode="specific", dtype="float32"),
    )
    model = student.distilled(config, partitioner(), seed=config.seed)
    t5x.train.train(
        model=model,
        train_dataset_cfg=dataset(config.mixture, config.batch_size),
        train_eval_dataset_cfg=None,
        infer_eval_dataset_cfg=None,
        checkpoint_cfg=checkpoints,
        partitioner=partitioner(),
        trainer_cls=functools.partial(
            annealing.annealing(t5x.trainer.Trainer),
            learning_rate_fn=student.learning_rate(config),
            num_microbatches=num_microbatches,
        ),
        model_dir=str(model_dir),
        total_steps=config.steps if stop is None else stop,
        eval_steps=1,
        eval_period=config.steps,
        stats_period=1,
        random_seed=config.seed,
        summarize_config_fn=lambda *_: None,
        get_dataset_fn=functools.partial(
            datasets.same_batches,
            config=config,
            model_dir=str(model_dir),
            initial_checkpoint=initial_checkpoint,
        ),
        train_state_initializer_cls=starting.StudentInitializer,
    )
    return scalars(model_dir / "train")


def dataset(mixture: str, batch_size: int, **changes: Any) -> Any:
    """T5X's description of a dataset of records."""
    if "task_feature_lengths" not in changes:
        changes["task_feature_lengths"] = datasets.feature_lengths(mixture)
    return t5x.utils.DatasetConfig(
        **{
            "mixture_or_task_name": mixture,
            "split": "train",
            "batch_size": batch_size,
            "shuffle": False,
            "seed": 0,
            **changes,
        }
    )


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What T5X wrote for TensorBoard."""
    found: dict[str, dict[int, float]] = {}
    for path in glob.glob(f"{folder}/events*"):  # noqa: PTH207 - a string is what the reader wants
        for event in tf.compat.v1.train.summary_iterator(path):
            for value in event.summary.value:
                if value.HasField("tensor") and tf.make_ndarray(value.tensor).dtype.kind == "f":
                    found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def evaluate(model: Any, tasks: str, checkpoint: str, output: Path, lengths: Any, **settings: Any) -> dict[str, Any]:
    """t5x.eval; {task: metrics}."""
    (output / "inference_eval").mkdir(parents=True)  # which SeqIO's other loggers make
    t5x.eval.evaluate(
        model=model,
        dataset_cfg=dataset(tasks, 16, task_feature_lengths=lengths, **settings.pop("dataset", {})),
        restore_checkpoint_cfg=t5x.utils.RestoreCheckpointConfig(path=checkpoint, mode="specific"),
        partitioner=partitioner(),
        output_dir=str(output),
        inference_evaluator_cls=functools.partial(seqio.Evaluator, logger_cls=[seqio.JSONLogger], **settings),
        summarize_config_fn=lambda **_: None,
    )
    files = (output / "inference_eval").glob("*-metrics.jsonl")
    return {path.name.removesuffix("-metrics.jsonl"): json.loads(path.read_text().splitlines()[-1]) for path in files}


def spec_of(batch: Any) -> Any:
    """Shapes and dtypes of a batch, as clu says them."""
    return {name: clu.data.ArraySpec(dtype=rows.dtype, shape=rows.shape) for name, rows in batch.items()}
