"""Stage 3: records to a student, or to a teacher where the records hold gold labels alone."""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mergedistill_jax.data.batches import (
    SEQIO_ORDER,
    RecordMixture,
    batches,
    describe_mixture,
    order_of,
)
from mergedistill_jax.data.prefetch import placed_ahead
from mergedistill_jax.evaluation.heldout import Heldout
from mergedistill_jax.locks import owns_output
from mergedistill_jax.models.encoder import EncoderConfig, config_fields
from mergedistill_jax.models.heads import masked_language_model
from mergedistill_jax.models.huggingface import require_bert
from mergedistill_jax.models.layers import LayerLoop
from mergedistill_jax.models.placement import Placement
from mergedistill_jax.schema import RecordError
from mergedistill_jax.teachers.start import StartConfig, start_from_teachers
from mergedistill_jax.training.checkpoints import CheckpointError, Checkpoints, Run, open_run
from mergedistill_jax.training.distributed import from_host, leads, say, to_host, told_by_lead
from mergedistill_jax.training.journal import Journal
from mergedistill_jax.training.losses import DistillationConfig
from mergedistill_jax.training.metrics import LOG_NAME, SPEED_NAME, MetricSums, read_log
from mergedistill_jax.training.microbatches import require_reduce
from mergedistill_jax.training.nonfinite import FiniteWatch, NonFiniteError
from mergedistill_jax.training.optimizer import AdamWConfig
from mergedistill_jax.training.partitioning import (
    ACTIVATION_AXES,
    LocalRows,
    local_rows,
    make_mesh,
    place_batch,
)
from mergedistill_jax.training.program import BatchShape, Program, compile_step, run_program
from mergedistill_jax.training.schedules import GoldWeight
from mergedistill_jax.training.shutdown import Preempted, StopRequest
from mergedistill_jax.training.step import TrainState
from mergedistill_jax.vocabulary.folder import read_vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        output: folder for checkpoints and logs; a run found there is resumed.
        mixture: name of a registered SeqIO mixture or task of records (see tasks/distillation.py).
        model: the encoder's size, called with the vocabulary's size: `@encoder.EncoderConfig` in gin.
        steps: training steps of `batch_size` sequences.
        save_every: a multiple of `log_every`, so that a resumed run logs the means of an undisturbed one. None: a tenth
            of the steps, at most 500, as near as `log_every` lets it be.
        k: predictions used per position; all that are stored by default.
        start: where a student's first parameters come from; None: all are drawn at random.
        gold_weight: lambda over training.
        heldout: mixture to evaluate on every `evaluate_every` steps and at the end, or None. What is saved too is saved
            first; where the sitting ends in between, the next one begins with the evaluation.
        evaluate_every: None: never, although held-out records are named.
        num_microbatches: parts that a step takes its batch in, for memory, and the size of what is evaluated at a time.
            They change no number beyond rounding, and dropout neither.
        reduce_gradients: when the gradients of microbatches cross the chips: once a "step", or with every "microbatch",
            which needs less memory where fsdp_parallelism divides the parameters; see training/microbatches.py.
        model_parallelism: devices that share the width and the vocabulary of one copy of the model.
        fsdp_parallelism: groups of devices over which parameters and optimizer state are divided; what is left of the
            devices is the data axis.
        scan_layers, rematerialise: how the layers are run, see models/layers.py: for compile time and for memory.
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
    reduce_gradients: str = "step"
    model_parallelism: int = 1
    fsdp_parallelism: int = 1
    vocabulary_chunk: int = 2048
    scan_layers: bool = False
    rematerialise: str = "nothing"
    dtype: str = "float32"
    seed: int = 0
    heldout: str | None = None
    evaluate_every: int | None = 1000
    log_every: int = 50
    save_every: int | None = None
    stop_after: int | None = None

    @property
    def save_interval(self) -> int:
        """Steps from one checkpoint to the next."""
        return self.save_every or max(min(500, self.steps // 10) // self.log_every, 1) * self.log_every

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
        LayerLoop(scan=self.scan_layers, rematerialise=self.rematerialise)  # refuses what it does not know
        require_reduce(self.reduce_gradients)
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"TrainConfig.dtype: found {self.dtype!r}, expected 'float32' or 'bfloat16'")


@owns_output(decide=told_by_lead)
def train(config: TrainConfig) -> TrainState:
    """Trains to the last step, from where the folder's newest checkpoint stands, and returns the final state.

    Raises:
        Preempted: SIGTERM or Ctrl-C came; the run has saved, and goes on when it is started again.
        NonFiniteError: a loss or gradient is not finite; the batch is kept beside the checkpoints.
        RecordError, CheckpointError, ValueError: wrong input, before work starts.
    """
    mixture = describe_mixture(config.mixture, config.k)
    heldout = describe_mixture(config.heldout, mixture.k) if config.heldout else None
    _require_labels(config, mixture)
    if heldout:
        _require_same_vocabulary(mixture, heldout)
    encoder = student_encoder(config, mixture)
    mesh = make_mesh(config.model_parallelism, fsdp_parallelism=config.fsdp_parallelism)
    if leads():
        for name in (LOG_NAME, SPEED_NAME):
            read_log(config.output, name)  # damaged, it is refused here, before anything is compiled
    checkpoints = Checkpoints(config.output, save_every=config.save_interval)
    rows = local_rows(config.batch_size, mesh)
    made = batches(
        mixture, config.batch_size, seed=config.seed, start_step=checkpoints.latest_step or 0, rows=rows.numbers
    )
    made = itertools.chain([next(made)], made)  # a damaged shard is refused here, before anything is written
    open_run(config.output, describe_run(config, encoder, mixture))
    loop = LayerLoop(scan=config.scan_layers, rematerialise=config.rematerialise)
    model = masked_language_model(encoder, jnp.dtype(config.dtype), Placement(mesh=mesh, **ACTIVATION_AXES), loop)
    program = run_program(model, config, _shape(mixture), mesh)
    step_fn = compile_step(program, _shape(mixture), config.batch_size)

    planned = checkpoints.latest_step
    state, resumed = _first_state(config, program, checkpoints, mixture)
    start = int(state.step)
    if checkpoints.latest_step != planned:  # that one could not be read
        made = batches(mixture, config.batch_size, seed=config.seed, start_step=start, rows=rows.numbers)
    say(_announcement(config, encoder, mixture, state, start, mesh))

    journal = Journal(
        config.output,
        {"language": mixture.languages, "teacher": mixture.teachers},
        mixture.vocabulary_size,
        steps=config.steps,
        start=start,
        resumed=resumed,
    )
    stream = placed_ahead(made, lambda batch: place_batch(batch, mesh, rows))
    measured = None
    if heldout is not None and config.evaluate_every is not None:
        measured = Heldout(
            mixture=heldout,
            apply_fn=functools.partial(model.apply, method="projection"),
            mesh=mesh,
            every=config.evaluate_every,
            steps=config.steps,
            sequences=-(-config.batch_size // config.num_microbatches),  # no more than fits a step
            vocabulary_chunk=config.vocabulary_chunk,
            folder=config.output,
            journal=journal,
        )
    state, leaves_work = _loop(config, mixture, state, step_fn, measured, checkpoints, journal, rows, stream)
    checkpoints.close()
    journal.close()
    _tell_the_end(config, int(state.step), leaves_work=leaves_work)
    return state


def _loop(
    config: TrainConfig,
    mixture: RecordMixture,
    state: TrainState,
    step_fn: Callable[..., tuple[TrainState, dict[str, Any]]],
    heldout: Heldout | None,
    checkpoints: Checkpoints,
    journal: Journal,
    rows: LocalRows,
    stream: Iterator[tuple[Any, Any]],
) -> tuple[TrainState, bool]:
    """The state after the last step of this sitting, and whether a signal ended it with work left."""
    start = int(state.step)
    stop = min(config.steps, config.stop_after or config.steps)
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    watch = FiniteWatch(config.output, rows.numbers)
    with StopRequest() as request, _finished_on_broken_steps(checkpoints):
        if heldout and heldout.owed(start) and not heldout.log(start, state.params, request.agreed):
            return state, True
        journal.speed.restart()
        for step in range(start + 1, stop + 1):
            batch, placed = journal.speed.next_of(stream)
            state, sums = step_fn(state, placed, key)
            watch.add(step, batch, sums)
            journal.add(rows.to_count(batch), sums)
            asked = request.agreed()
            # The last step of the run, that is: where a sitting ends, only the checkpoint tells.
            logs = step % config.log_every == 0 or step == config.steps
            evaluates = heldout is not None and heldout.due(step)
            saves = asked or step == stop or step % config.save_interval == 0
            if not (logs or evaluates or saves):
                continue
            watch.drain(state.params if saves or evaluates else None)
            if logs:
                journal.log_means(step)
            if saves:
                _save(checkpoints, step, state, mixture, journal)
            if heldout and evaluates and not asked:
                checkpoints.wait()  # an evaluation that breaks, or is killed, costs no saved step
                asked = not heldout.log(step, state.params, request.agreed)
                if asked and not saves:
                    _save(checkpoints, step, state, mixture, journal)
            journal.speed.restart()
            if asked:
                return state, evaluates or step < stop
    return state, False


def _save(checkpoints: Checkpoints, step: int, state: TrainState, mixture: RecordMixture, journal: Journal) -> None:
    checkpoints.save(step, state, position=_position(step, mixture, journal.save(step)), force=True)


@contextlib.contextmanager
def _finished_on_broken_steps(checkpoints: Checkpoints) -> Iterator[None]:
    """Where a step broke, lets a save under way finish: all processes come here then, and wait for each other."""
    try:
        yield
    except NonFiniteError:
        checkpoints.close()
        raise


def _tell_the_end(config: TrainConfig, step: int, *, leaves_work: bool) -> None:
    say(f"train: {step:,} of {config.steps:,} steps done, checkpoints and logs in {config.output}")
    if leaves_work:
        say("train: stopped by a signal, and saved; the same command goes on from here")
        raise Preempted
    say("next: mergedistill export, then mergedistill evaluate")


def _first_state(
    config: TrainConfig, program: Program, checkpoints: Checkpoints, mixture: RecordMixture
) -> tuple[TrainState, Mapping[str, Any] | None]:
    """The state to go on from, and the sums of metrics that were not logged yet where a checkpoint holds them."""
    if checkpoints.latest_step is None:
        state = program.initialise(jax.random.fold_in(jax.random.key(config.seed), 0))
        if config.start is not None:
            state = _started(state, program.shardings, config.start, mixture)
        return state, None
    # Restored into shapes, not into a fresh state: two of them may not fit.
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        program.abstract_state,
        program.shardings,
    )
    while True:
        position = _checked_position(config, checkpoints, mixture)
        step = checkpoints.latest_step
        state = checkpoints.restore(target)
        if checkpoints.latest_step == step:  # else the position was that of another checkpoint
            return state, position.get("metric_sums")


def _checked_position(config: TrainConfig, checkpoints: Checkpoints, mixture: RecordMixture) -> Mapping[str, Any]:
    position = checkpoints.restore_position()
    expected = _position(checkpoints.latest_step or 0, mixture, {})
    for field in ("batches", "mixture_hash", "vocabulary_hash"):
        if position and position.get(field) != expected[field]:
            raise CheckpointError(
                f"{config.output}: checkpoint {checkpoints.latest_step}: field {field}: found {position.get(field)!r},"
                f" expected {expected[field]!r}"
            )
    try:
        MetricSums({}, position["metric_sums"] if position else None)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{config.output}: checkpoint {checkpoints.latest_step}: field metric_sums: found damaged sums ({error!r}),"
            " expected those of a training run"
        ) from error
    return position


def _position(step: int, mixture: RecordMixture, metric_sums: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds beside the state: where in which data it stands, and the means it has yet to log."""
    return {
        "batches": step,
        "mixture_hash": mixture.hash,
        "vocabulary_hash": mixture.vocabulary_hash,
        "metric_sums": metric_sums,
    }


def _shape(mixture: RecordMixture) -> BatchShape:
    return BatchShape(
        length=mixture.max_length,
        predictions=mixture.max_predictions,
        k=mixture.k,
        sources=len(mixture.sources),
    )


def _started(state: TrainState, shardings: Any, start: StartConfig, mixture: RecordMixture) -> TrainState:
    """The fresh state with parameters of the teachers in place of random ones."""
    vocabulary = read_vocabulary(mixture.vocabulary_folder)
    params, told = start_from_teachers(to_host(state.params), start, vocabulary)
    say(f"train: {told}")
    return state.replace(params=from_host(params, shardings.params))


def _require_labels(config: TrainConfig, mixture: RecordMixture) -> None:
    if not mixture.k and not config.gold_weight.gold_only:
        raise RecordError(
            f"mixture {mixture.name}: field k: found 0 predictions, expected some, or gold labels alone"
            " (GoldWeight.shape = 'constant', GoldWeight.stop = 1.0)"
        )
    # Sampled shares sum to 1: no mass is missing, and no power of them is the teacher's distribution on average.
    if mixture.sampled and not config.gold_weight.gold_only and config.distillation != DistillationConfig():
        raise RecordError(
            f"{mixture.sampled[0]}/manifest.json: field targets: found 'sampled' with {config.distillation}, expected"
            f" {DistillationConfig()}"
        )


def _require_same_vocabulary(mixture: RecordMixture, heldout: RecordMixture) -> None:
    for field in ("vocabulary_hash", "max_length"):
        found, expected = getattr(heldout, field), getattr(mixture, field)
        if found != expected and not (field == "max_length" and found < expected):
            raise RecordError(
                f"mixture {heldout.name}: field {field}: found {found!r}, expected {expected!r} as in {mixture.name}"
            )


def student_encoder(config: TrainConfig, mixture: RecordMixture) -> EncoderConfig:
    """The encoder over the mixture's vocabulary; a size that the configuration lacks is wrong input.

    So is a model that no BERT folder can hold: it could be trained, but not exported.
    """
    try:
        encoder = config.model(vocab_size=mixture.vocabulary_size, max_length=mixture.max_length)
    except TypeError as error:
        raise ValueError(f"TrainConfig.model: {error}") from error
    return require_bert(encoder)


def describe_run(config: TrainConfig, encoder: EncoderConfig, mixture: RecordMixture) -> Run:
    """What the run is, as its folder tells it."""
    numbers = ("optimizer", "steps", "batch_size", "gold_weight", "distillation", "num_microbatches", "dtype", "seed")
    settings: dict[str, Any] = {name: getattr(config, name) for name in numbers}
    settings |= {name: dataclasses.asdict(settings[name]) for name in ("optimizer", "distillation")}
    settings["gold_weight"] = config_fields(config.gold_weight)
    if config.start is not None:
        settings["start"] = config.start.described()
    if order_of(mixture) != SEQIO_ORDER:  # the only one there was when descriptions had no such field
        settings["order"] = order_of(mixture)
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
