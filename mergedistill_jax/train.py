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

from mergedistill_jax.configs.encoder import EncoderConfig, config_fields
from mergedistill_jax.configs.layers import LayerLoop
from mergedistill_jax.configs.losses import DistillationConfig
from mergedistill_jax.configs.start import StartConfig
from mergedistill_jax.configs.train import TrainConfig
from mergedistill_jax.counting import counted
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
from mergedistill_jax.models.heads import masked_language_model
from mergedistill_jax.models.huggingface import require_bert
from mergedistill_jax.models.placement import Placement
from mergedistill_jax.schema import RecordError
from mergedistill_jax.teachers.start import described, start_from_teachers
from mergedistill_jax.training.checkpoints import CheckpointError, Checkpoints, Run, open_run
from mergedistill_jax.training.distributed import from_host, leads, say, to_host, told_by_lead
from mergedistill_jax.training.journal import Journal
from mergedistill_jax.training.metrics import LOG_NAME, SPEED_NAME, MetricSums, read_log
from mergedistill_jax.training.nonfinite import FiniteWatch, NonFiniteError
from mergedistill_jax.training.partitioning import (
    ACTIVATION_AXES,
    LocalRows,
    local_rows,
    make_mesh,
    place_batch,
)
from mergedistill_jax.training.program import BatchShape, Program, compile_step, run_program
from mergedistill_jax.training.shutdown import Preempted, StopRequest
from mergedistill_jax.training.step import TrainState
from mergedistill_jax.vocabulary.folder import read_vocabulary


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
    except NonFiniteError as error:
        checkpoints.close()
        step = checkpoints.latest_step
        stands = "no checkpoint was saved before it" if step is None else f"the newest checkpoint is of step {step:,}"
        raise NonFiniteError(f"{error}; {stands}") from error


def _tell_the_end(config: TrainConfig, step: int, *, leaves_work: bool) -> None:
    say(f"train: {step:,} of {config.steps:,} steps done, checkpoints and logs in {config.output}")
    if leaves_work:
        say("train: stopped by a signal, and saved; the same command goes on from here")
        raise Preempted
    if step < config.steps:
        say("next: mergedistill train again, with another stop_after or none: it goes on from here")
    else:
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
        settings["start"] = described(config.start)
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
    devices = counted(mesh.devices.size, f"{mesh.devices.flat[0].platform} device")
    return (
        f"train: {size / 1e6:.1f}M parameters ({shape}) on {mixture.records:,} records of"
        f" {', '.join(sorted(set(mixture.languages)))}; {labels}\n"
        f"train: {config.steps:,} steps of {config.batch_size} x {mixture.max_length} tokens on"
        f" {devices}, from step {start:,} -> {config.output}"
    )
