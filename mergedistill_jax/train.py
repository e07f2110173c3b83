"""Stage 3: records to a student, or to a teacher where the records hold gold labels alone."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mergedistill_jax.data.batches import RecordMixture, batches, describe_mixture, evaluation_batches
from mergedistill_jax.models.encoder import EncoderConfig, config_fields
from mergedistill_jax.models.heads import MaskedLanguageModel, masked_language_model
from mergedistill_jax.models.huggingface import require_bert
from mergedistill_jax.schema import RecordError
from mergedistill_jax.teachers.start import StartConfig, start_from_teachers
from mergedistill_jax.training.checkpoints import Checkpoints, Run, open_run
from mergedistill_jax.training.losses import DistillationConfig
from mergedistill_jax.training.metrics import MetricLog, MetricSums
from mergedistill_jax.training.optimizer import AdamWConfig
from mergedistill_jax.training.partitioning import (
    make_mesh,
    place_batch,
    require_divisible,
    vocabulary_shards,
)
from mergedistill_jax.training.program import Program, make_program
from mergedistill_jax.training.progress import Progress
from mergedistill_jax.training.schedules import GoldWeight
from mergedistill_jax.training.step import StepConfig, TrainState, make_eval_step
from mergedistill_jax.training.token_counts import TokenCounts
from mergedistill_jax.vocabulary.folder import read_vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        output: folder for checkpoints and logs; a run found there is resumed.
        mixture: name of a registered SeqIO mixture or task of records (see tasks/distillation.py).
        model: the encoder's size, called with the vocabulary's size: `@encoder.EncoderConfig` in gin.
        steps: training steps of `batch_size` sequences.
        save_every: a multiple of `log_every`, so that a resumed run logs the means of an undisturbed one.
        k: predictions used per position; all that are stored by default.
        start: where a student's first parameters come from; None: all are drawn at random.
        gold_weight: lambda over training.
        heldout: mixture to evaluate on every `evaluate_every` steps and at the end, or None.
        evaluate_every: None: never, although held-out records are named.
        model_parallelism: devices that share the width and the vocabulary of one copy of the model.
        fsdp_parallelism: groups of devices over which parameters and optimizer state are divided; what is left of the
            devices is the data axis.
        vocabulary_chunk: tokens of the vocabulary that the loss takes at a time, on all devices together. Small chunks
            save memory; the result is the same.
        stop_after: leaves after this many steps in total, resumable (for sittings); None runs to the end. A multiple
            of `log_every`, as `save_every`.
    """

    output: str
    mixture: str
    model: Callable[..., EncoderConfig]
    optimizer: AdamWConfig
    steps: int
    batch_size: int
    k: int | None = None
    start: StartConfig | None = None
    gold_weight: GoldWeight = GoldWeight()
    distillation: DistillationConfig = DistillationConfig()
    num_microbatches: int = 1
    model_parallelism: int = 1
    fsdp_parallelism: int = 1
    vocabulary_chunk: int = 2048
    dtype: str = "float32"
    seed: int = 0
    heldout: str | None = None
    evaluate_every: int | None = 1000
    log_every: int = 50
    save_every: int = 500
    stop_after: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "num_microbatches",
            "vocabulary_chunk",
            "log_every",
            "save_every",
            "evaluate_every",
        ):
            if (getattr(self, name) if getattr(self, name) is not None else 1) < 1:
                raise ValueError(f"TrainConfig.{name}: found {getattr(self, name)}, expected at least 1")
        # A sum that a kill loses must be one that the resumed run makes again, or its log would tell other means.
        for name in ("save_every", "stop_after"):
            found = getattr(self, name) or 0
            if found % self.log_every:
                expected = f"a multiple of log_every={self.log_every}"
                raise ValueError(f"TrainConfig.{name}: found {found}, expected {expected}")
        if self.batch_size % self.num_microbatches:
            raise ValueError(
                f"TrainConfig.batch_size: found {self.batch_size}, expected a multiple of"
                f" num_microbatches={self.num_microbatches}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"TrainConfig.dtype: found {self.dtype!r}, expected 'float32' or 'bfloat16'")


def train(config: TrainConfig) -> TrainState:
    """Trains to the last step, from where the folder's newest checkpoint stands, and returns the final state."""
    mixture = describe_mixture(config.mixture, config.k)
    heldout = describe_mixture(config.heldout, mixture.k) if config.heldout else None
    _require_labels(config, mixture)
    if heldout:
        _require_same_vocabulary(mixture, heldout)
    encoder = _encoder(config, mixture)
    mesh = make_mesh(config.model_parallelism, fsdp_parallelism=config.fsdp_parallelism)
    require_divisible(config.batch_size, mesh)
    open_run(config.output, _describe(config, encoder, mixture))
    model = masked_language_model(encoder, jnp.dtype(config.dtype))
    apply_fn = functools.partial(model.apply, method="projection")
    program = _program(config, model, apply_fn, encoder, mixture, mesh)

    checkpoints = Checkpoints(config.output, save_every=config.save_every)
    state = program.initialise(jax.random.fold_in(jax.random.key(config.seed), 0))
    if checkpoints.latest_step is not None:
        state = checkpoints.restore(state)
    elif config.start is not None:
        state = _started(state, program.shardings, config.start, mixture)
    start = int(state.step)
    print(_announcement(config, encoder, mixture, state, start, mesh))

    evaluate = None
    if heldout is not None and config.evaluate_every is not None:
        evaluate = functools.partial(_evaluate, apply_fn, heldout, config, mesh)
    state = _loop(config, mixture, state, start, program.train_step, evaluate, checkpoints, mesh)
    checkpoints.close()
    print(f"train: {int(state.step):,} of {config.steps:,} steps done, checkpoints and logs in {config.output}")
    print("next: mergedistill export, then mergedistill evaluate")
    return state


def _loop(
    config: TrainConfig,
    mixture: RecordMixture,
    state: TrainState,
    start: int,
    step_fn: Callable[..., tuple[TrainState, dict[str, Any]]],
    evaluate: Callable[[Any], dict[str, float]] | None,
    checkpoints: Checkpoints,
    mesh: Mesh,
) -> TrainState:
    stop = min(config.steps, config.stop_after or config.steps)
    log = MetricLog(config.output, resume_at=start)
    counts = TokenCounts(config.output, mixture.vocabulary_size, resume_at=start)
    sums = MetricSums({"language": mixture.languages, "teacher": mixture.teachers})
    progress = Progress(config.steps, "step", "train", start=start)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    numbers: dict[str, float] = {}
    stream = batches(mixture, config.batch_size, seed=config.seed, start_step=start)
    for step, batch in zip(range(start + 1, stop + 1), stream, strict=False):
        state, found = step_fn(state, place_batch(batch, mesh), key)
        sums.add(found)
        counts.add(batch)
        last = step == config.steps  # of the run: where a sitting ends, only the checkpoint tells
        if step % config.log_every == 0 or last:
            numbers = sums.means()
            log.write(step, numbers)
        if evaluate and (step % (config.evaluate_every or config.steps) == 0 or last):
            log.write(step, evaluate(state.params))
        if step == stop or step % config.save_every == 0:
            counts.save(step)
        checkpoints.save(step, state, force=step == stop)
        progress.update(1, **_shown(numbers))
    progress.close(**_shown(numbers))
    log.close()
    return state


def _shown(numbers: dict[str, float]) -> dict[str, float]:
    return {name: numbers[name] for name in ("gold_loss", "teacher_loss", "masked_accuracy") if name in numbers}


def _evaluate(
    apply_fn: Callable[..., Any], heldout: RecordMixture, config: TrainConfig, mesh: Mesh, params: Any
) -> dict[str, float]:
    """Held-out numbers, named `heldout/...`."""
    step_config = StepConfig(
        num_sources=len(heldout.sources),
        has_teacher=heldout.k > 0,
        chunk_size=config.vocabulary_chunk,
        vocabulary_shards=vocabulary_shards(heldout.vocabulary_size, mesh),
    )
    eval_fn = _compiled_eval(apply_fn, step_config)
    sums = MetricSums({"language": heldout.languages})
    for batch in evaluation_batches(heldout, config.batch_size):
        sums.add(eval_fn(params, place_batch(batch, mesh)))
    return {f"heldout/{name}": value for name, value in sums.means().items()}


@functools.cache
def _compiled_eval(apply_fn: Callable[..., Any], step_config: StepConfig) -> Callable[..., dict[str, Any]]:
    return jax.jit(make_eval_step(apply_fn, step_config))


def _program(
    config: TrainConfig,
    model: MaskedLanguageModel,
    apply_fn: Callable[..., Any],
    encoder: EncoderConfig,
    mixture: RecordMixture,
    mesh: Mesh,
) -> Program:
    example = (jnp.zeros((1, mixture.max_length), jnp.int32), jnp.ones((1, mixture.max_length), bool))
    positions = jnp.zeros((1, mixture.max_predictions), jnp.int32)
    step_config = StepConfig(
        num_sources=len(mixture.sources),
        has_teacher=mixture.k > 0,
        distillation=config.distillation,
        num_microbatches=config.num_microbatches,
        with_dropout=encoder.dropout_rate > 0,
        chunk_size=config.vocabulary_chunk,
        vocabulary_shards=vocabulary_shards(encoder.vocab_size, mesh),
    )
    return make_program(
        lambda key: model.init(key, *example, positions)["params"],
        apply_fn,
        config.optimizer.optimizer(config.steps),
        config.gold_weight.schedule(config.steps),
        step_config,
        mesh,
    )


def _started(state: TrainState, shardings: Any, start: StartConfig, mixture: RecordMixture) -> TrainState:
    """The fresh state with parameters of the teachers in place of random ones."""
    vocabulary = read_vocabulary(mixture.vocabulary_folder)
    params, told = start_from_teachers(jax.device_get(state.params), start, vocabulary)
    print(f"train: {told}")
    return state.replace(params=jax.device_put(params, shardings.params))


def _require_labels(config: TrainConfig, mixture: RecordMixture) -> None:
    if not mixture.k and not config.gold_weight.gold_only:
        raise RecordError(
            f"mixture {mixture.name}: field k: found 0 predictions, expected some, or gold labels alone"
            " (GoldWeight.shape = 'constant', GoldWeight.stop = 1.0)"
        )


def _require_same_vocabulary(mixture: RecordMixture, heldout: RecordMixture) -> None:
    for field in ("vocabulary_hash", "max_length"):
        found, expected = getattr(heldout, field), getattr(mixture, field)
        if found != expected and not (field == "max_length" and found < expected):
            raise RecordError(
                f"mixture {heldout.name}: field {field}: found {found!r}, expected {expected!r} as in {mixture.name}"
            )


def _encoder(config: TrainConfig, mixture: RecordMixture) -> EncoderConfig:
    """The encoder over the mixture's vocabulary; a size that the configuration lacks is wrong input.

    So is a model that no BERT folder can hold: it could be trained, but not exported.
    """
    try:
        encoder = config.model(vocab_size=mixture.vocabulary_size, max_length=mixture.max_length)
    except TypeError as error:
        raise ValueError(f"TrainConfig.model: {error}") from error
    return require_bert(encoder)


def _describe(config: TrainConfig, encoder: EncoderConfig, mixture: RecordMixture) -> Run:
    numbers = ("optimizer", "steps", "batch_size", "gold_weight", "distillation", "num_microbatches", "dtype", "seed")
    settings: dict[str, Any] = {name: getattr(config, name) for name in numbers}
    settings |= {name: dataclasses.asdict(settings[name]) for name in ("optimizer", "gold_weight", "distillation")}
    if config.start is not None:
        settings["start"] = config.start.described()
    return Run(
        model=config_fields(encoder),
        vocabulary_folder=mixture.vocabulary_folder,
        vocabulary_hash=mixture.vocabulary_hash,
        mixture_hash=mixture.hash,
        settings=settings | {"k": mixture.k},
    )


def _announcement(
    config: TrainConfig, encoder: EncoderConfig, mixture: RecordMixture, state: TrainState, start: int, mesh: Mesh
) -> str:
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    shape = f"{encoder.num_layers} x {encoder.hidden_size}, vocabulary {encoder.vocab_size:,}"
    labels = "gold labels alone" if config.gold_weight.gold_only else f"gold and top-{mixture.k} of the teachers"
    return (
        f"train: {size / 1e6:.1f}M parameters ({shape}) on {mixture.records:,} records of"
        f" {', '.join(sorted(set(mixture.languages)))}; {labels}\n"
        f"train: {config.steps:,} steps of {config.batch_size} x {mixture.max_length} tokens on"
        f" {mesh.devices.size} {mesh.devices.flat[0].platform} device(s), from step {start:,} -> {config.output}"
    )
