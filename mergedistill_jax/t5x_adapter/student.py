"""The student as a T5X model.

T5X's loss function gets parameters and a batch, but no step, and annealing needs one. So each batch carries two
numbers more, the same in every row: `gold_weight`, lambda at the step, and `loss_scale`, one over the masked positions
of the whole batch. annealing.py writes them into the batch inside the compiled step, before T5X cuts it. The
loss of a microbatch is then its share of the batch's mean, and T5X's sum over microbatches is exact.
"""
# pyright: reportMissingImports=false

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import clu.metrics
import flax.core
import jax
import jax.numpy as jnp
import t5x.models
import t5x.optimizers
from etils import epath
from jaxtyping import Array, Float, Int

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.train import TrainConfig
from mergedistill_jax.data.batches import RecordMixture, describe_mixture
from mergedistill_jax.models.heads import masked_language_model
from mergedistill_jax.t5x_adapter.axes import (
    initial_variables,
    placement_of,
    vocabulary_shards,
    without_axis_rules,
)
from mergedistill_jax.t5x_adapter.datasets import GOLD_WEIGHT, LOSS_SCALE, RecordFeatureConverter, described
from mergedistill_jax.t5x_adapter.means import mean_of
from mergedistill_jax.train import describe_run, student_encoder
from mergedistill_jax.training.checkpoints import CHECKPOINT_FOLDER, RUN_FILE, CheckpointError, Run, read_run
from mergedistill_jax.training.metrics import NAMES
from mergedistill_jax.training.step import StepConfig, position_sums, project, score
from mergedistill_jax.vocabulary.folder import read_vocabulary

Batch = Mapping[str, Any]
Sums = Mapping[str, Float[Array, " s"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """Which language and teacher each source of a batch belongs to, for metrics; `sources` are names of SeqIO tasks."""

    sources: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()

    @classmethod
    def of(cls, *mixtures: RecordMixture) -> "Groups":
        """The sources of several mixtures, one after the other; a name that a mixture before had is not repeated."""
        rows: dict[str, tuple[str, str]] = {}
        for mixture in mixtures:
            for name, language, teacher in zip(mixture.sources, mixture.languages, mixture.teachers, strict=True):
                rows.setdefault(name, (language, teacher))
        return cls(
            sources=tuple(rows),
            languages=tuple(language for language, _ in rows.values()),
            teachers=tuple(teacher for _, teacher in rows.values()),
        )


class Student(t5x.models.BaseModel):
    """A masked language model: what T5X's train, eval, infer and precompile need of it.

    `distilled` and `trained` below make one.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        partitioner: Any,
        *,
        dtype: str = "float32",
        optimizer_def: Any = None,
        config: TrainConfig | None = None,
        mixture: RecordMixture | None = None,
        groups: Groups = Groups(),
        seed: int | None = None,
        candidates: int = 0,
    ) -> None:
        """Takes the encoder, T5X's partitioner, and for training the run's config and mixture.

        Args:
            encoder: sizes.
            partitioner: its mesh decides which axes can be divided.
            dtype: of the activations.
            optimizer_def: T5X's; None for a model that is not trained.
            config: of the run; None for a model that is not trained.
            mixture: what it is trained on.
            groups: sources that batches may name, those of the mixture first.
            seed: where given, parameters and dropout are drawn as `mergedistill train` draws them from it.
            candidates: how many tokens are predicted for a masked position, beside the best one.
        """
        super().__init__(optimizer_def=optimizer_def)
        self.encoder = encoder
        self.module = masked_language_model(encoder, jnp.dtype(dtype), placement_of(partitioner))
        self.config = config
        self.mixture = mixture
        self.groups = groups
        self.seed = seed
        self._candidates = candidates
        self.gold_weight = config.gold_weight.schedule(config.steps) if config else None
        self._partitioner = partitioner
        k = mixture.k if mixture else 0
        self._step_config = StepConfig(
            num_sources=max(len(groups.sources), 1),
            has_teacher=k > 0,
            with_dropout=encoder.dropout_rate > 0,
            vocabulary_shards=vocabulary_shards(encoder.vocab_size, partitioner.mesh),
            **({"distillation": config.distillation, "chunk_size": config.vocabulary_chunk} if config else {}),
        )
        self.FEATURE_CONVERTER_CLS = functools.partial(RecordFeatureConverter, k=k, sources=groups.sources)

    def loss_fn(
        self, params: Any, batch: Batch, dropout_rng: Array | None
    ) -> tuple[Float[Array, ""], dict[str, clu.metrics.Metric]]:
        """The batch's part of the distillation loss in nats per masked position, and metrics.

        Raises:
            ValueError: the batch does not say which step it is trained on.
        """
        if GOLD_WEIGHT not in batch:
            raise ValueError(
                f"batch: found no {GOLD_WEIGHT!r}, expected trainer_cls = @annealing.annealing() in the gin file"
            )
        sums = self._sums(params, batch, dropout_rng if self._step_config.with_dropout else None)
        weight = batch[GOLD_WEIGHT][0]
        loss = weight * jnp.sum(sums["gold_loss"])
        if self._step_config.has_teacher:
            loss += (1.0 - weight) * jnp.sum(sums["teacher_loss"])
        found = self._metrics(sums)
        found["loss"] = mean_of(loss, jnp.sum(sums["count"]))
        found["gold_weight"] = clu.metrics.Average.from_model_output(weight)
        return loss * batch[LOSS_SCALE][0], found

    def eval_fn(self, params: Any, batch: Batch) -> tuple[Float[Array, ""], dict[str, clu.metrics.Metric]]:
        """The gold labels' loss in nats per masked position, and metrics; without dropout or annealing."""
        sums = self._sums(params, batch, None)
        loss = jnp.sum(sums["gold_loss"]) / jnp.maximum(jnp.sum(sums["count"]), 1.0)
        return loss, self._metrics(sums)

    def predict_batch_with_aux(
        self, params: Any, batch: Batch, rng: Array | None = None
    ) -> tuple[Int[Array, "b m"], dict[str, Array]]:
        """The best token at every masked position, and how likely the model thinks the gold one.

        Returns:
            Token ids [b, m], and `gold_nll` [b, m], the gold token's negative log-probability in nats; where
            candidates are wanted, also `candidate_ids` and `candidate_log_probs` [b, m, c], the most probable first.
        """
        del rng
        projection = project(self._apply, params, batch, None)
        scores = score(projection, batch, self._step_config)
        aux = {"gold_nll": scores.log_normalizer - scores.gold}
        if not self._candidates:
            return scores.best, aux
        rows, table, bias = projection
        logits = jnp.einsum("bmd,vd->bmv", rows, table, preferred_element_type=jnp.float32) + bias
        highest, aux["candidate_ids"] = jax.lax.top_k(logits, self._candidates)
        aux["candidate_log_probs"] = highest - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        return aux["candidate_ids"][..., 0], aux

    def score_batch(self, params: Any, batch: Batch, return_intermediates: bool = False) -> Any:  # noqa: FBT001, FBT002 - T5X's signature
        """The sum of the gold tokens' log-probabilities of every sequence [b], in nats."""
        scores = self._scores(params, batch, None)
        log_probs = jnp.where(batch["loss_weights"] > 0, scores.gold - scores.log_normalizer, 0.0)
        return (log_probs.sum(axis=1), {"log_probs": log_probs}) if return_intermediates else log_probs.sum(axis=1)

    def get_initial_variables(
        self, rng: Array, input_shapes: Mapping[str, Any], input_types: Any = None
    ) -> flax.core.FrozenDict:
        """Random parameters, and the logical axes of each under `params_axes`, as T5X's partitioners want them."""
        del input_types
        key = rng if self.seed is None else jax.random.fold_in(jax.random.key(self.seed), 0)
        length, rows = input_shapes["token_ids"][1], input_shapes["masked_positions"][1]
        tokens, positions = jnp.zeros((1, length), jnp.int32), jnp.zeros((1, rows), jnp.int32)
        return initial_variables(
            lambda: self.module.init(key, tokens, jnp.ones((1, length), bool), positions)["params"], self._partitioner
        )

    def run(self, batch_size: int, num_microbatches: int) -> Run:
        """What T5X's run is in the words of `mergedistill train`, so that its folder can be read and resumed there."""
        if self.config is None or self.mixture is None:
            raise ValueError("Student.run: found a model that is not trained, expected one made by `distilled`")
        config = dataclasses.replace(self.config, batch_size=batch_size, num_microbatches=num_microbatches)
        return describe_run(config, self.encoder, self.mixture)

    def _scores(self, params: Any, batch: Batch, dropout_rng: Array | None) -> Any:
        projection = project(self._apply, params, batch, dropout_rng)
        return score(projection, batch, self._step_config)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        with without_axis_rules():
            return self.module.apply(*args, method="projection", **kwargs)

    def _sums(self, params: Any, batch: Batch, dropout_rng: Array | None) -> Sums:
        return position_sums(self._scores(params, batch, dropout_rng), batch, self._step_config)

    def _metrics(self, sums: Sums) -> dict[str, clu.metrics.Metric]:
        """Means over masked positions, overall and by language and teacher, under the names of our own logs."""
        count = sums["count"]
        named = {NAMES[name]: value for name, value in sums.items() if name in NAMES}
        found = {name: mean_of(jnp.sum(v), jnp.sum(count)) for name, v in named.items()}
        for kind, groups in (("language", self.groups.languages), ("teacher", self.groups.teachers)):
            for group in sorted(set(groups) - {""}):
                here = jnp.array([one == group for one in groups])
                for name, value in named.items():
                    found[f"{name}/{kind}/{group}"] = mean_of(jnp.sum(value * here), jnp.sum(count * here))
        return found


def distilled(
    config: TrainConfig,
    partitioner: Any,
    steps: int | None = None,
    seed: int | None = None,
    mixture: str | None = None,
    module: str | None = None,
) -> Student:
    """The student of a training run, for t5x.train and t5x.precompile.

    Args:
        config: as for `mergedistill train`: what a file of gin/students binds is used as it is.
        partitioner: `@partitioning.PjitPartitioner()`, the same that T5X uses.
        steps: of the whole run; decides its schedules, as TrainConfig.steps does.
        seed: of parameters and dropout; None: T5X's own keys.
        mixture: MIXTURE_OR_TASK_NAME, which may be another than the config's.
        module: MIXTURE_OR_TASK_MODULE.

    Raises:
        RecordError: as `mergedistill train` does where records are wrong.
    """
    given = {"steps": steps, "seed": seed, "mixture": mixture}
    config = dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})
    records = described(config.mixture, config.k, module)
    heldout = (describe_mixture(config.heldout, records.k),) if config.heldout else ()
    return Student(
        student_encoder(config, records),
        partitioner,
        dtype=config.dtype,
        optimizer_def=t5x.optimizers.OptaxWrapper(config.optimizer.optimizer(config.steps)),
        config=config,
        mixture=records,
        groups=Groups.of(records, *heldout),
        seed=seed,
    )


def trained(
    checkpoint: str | Sequence[str],
    partitioner: Any,
    *,
    mixture: str | None = None,
    vocabulary: str | None = None,
    candidates: int = 0,
) -> Student:
    """The student of a checkpoint, for t5x.eval and t5x.infer; whichever runner wrote it.

    Args:
        checkpoint: its folder, RUN/checkpoints/checkpoint_N or MODEL_DIR/checkpoint_N, or the one that holds
            several; of several paths the first is looked at.
        partitioner: `@partitioning.PjitPartitioner()`.
        mixture: name of the tasks to evaluate on.
        vocabulary: folder of the vocabulary to read text with.
        candidates: tokens that t5x.infer writes for every mask.

    Raises:
        CheckpointError: no run is described beside the checkpoint, or it is of another vocabulary.
    """
    path = checkpoint if isinstance(checkpoint, str) else checkpoint[0]
    run = read_run(run_folder(path))
    if mixture is not None:
        found = describe_mixture(mixture)
        require_vocabulary(run, path, found.vocabulary_hash, found.vocabulary_folder)
    if vocabulary is not None:
        require_vocabulary(run, path, read_vocabulary(vocabulary).hash, vocabulary)
    return Student(EncoderConfig(**run.model), partitioner, candidates=candidates)


def text_length(checkpoint: str | Sequence[str]) -> int:
    """TEXT_LENGTH of t5x.infer: the most tokens that the student of a checkpoint, as of `trained`, can read."""
    run = read_run(run_folder(checkpoint if isinstance(checkpoint, str) else checkpoint[0]))
    return EncoderConfig(**run.model).max_length


def require_vocabulary(run: Run, checkpoint: str, expected: str, folder: str) -> None:
    """Raises CheckpointError where a checkpoint's run has another vocabulary than the one of this hash and folder."""
    if run.vocabulary_hash != expected:
        raise CheckpointError(
            f"{checkpoint}: field vocabulary_hash: found {run.vocabulary_hash}, expected {expected} of {folder}"
        )


def run_folder(checkpoint: epath.PathLike) -> epath.Path:
    """The folder of run.json: of a checkpoint, of T5X's MODEL_DIR, or of a run of `mergedistill train`.

    Raises:
        CheckpointError: there is none.
    """
    path = epath.Path(checkpoint)
    for folder in (path, *list(path.parents)[:2]):
        if (folder / RUN_FILE).exists():
            return folder
    raise CheckpointError(f"{checkpoint}: found no {RUN_FILE} in it or the two folders above, expected one")


def folder_of_model_dir(model_dir: epath.PathLike) -> epath.Path:
    """Where the run of MODEL_DIR is described: there, or above it where it is the `checkpoints` folder of a run."""
    path = epath.Path(model_dir)
    return path.parent if path.name == CHECKPOINT_FOLDER else path


def learning_rate(config: TrainConfig, steps: int | None = None) -> Any:
    """The learning rate at a step, for T5X's log; the optimizer has its own copy of it."""
    return config.optimizer.learning_rate.schedule(config.steps if steps is None else steps)


def num_microbatches(config: TrainConfig) -> int:
    """The student's own number, for trainer.Trainer.num_microbatches where nothing else is bound."""
    return config.num_microbatches
