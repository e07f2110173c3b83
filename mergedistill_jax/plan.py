"""What a run would take on a TPU slice, or on CPU, without any of it: memory, time and bytes, before they are paid for.

The training step and the predict step are compiled for devices that are not there, and what the compiler says of them
is turned into GB, hours and utilisation. All times are estimates: nothing is run.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from etils import epath

from mergedistill_jax.configs.plan import PlanConfig
from mergedistill_jax.planning import report
from mergedistill_jax.planning.compiling import Compiled, DoesNotFitError, compile_for
from mergedistill_jax.planning.flops import useful_flops
from mergedistill_jax.planning.outcome import Candidate, Outcome, Prediction, Scaling, best_of
from mergedistill_jax.planning.records import bytes_per_token, record_bytes
from mergedistill_jax.planning.search import candidates, described
from mergedistill_jax.planning.students import lower_step, run_settings, varied
from mergedistill_jax.planning.teachers import known_config, lower_predict
from mergedistill_jax.planning.topology import Topology, open_topology
from mergedistill_jax.training.program import BatchShape
from mergedistill_jax.vocabulary.folder import VocabularyError, read_vocabulary


def plan(config: PlanConfig) -> Outcome:
    """Compiles, reads, and writes plan.txt and plan.json; tells how it goes."""
    topology = open_topology(config.topology)
    vocabulary_size, origin = _vocabulary(config)
    print(f"plan: {config.topology}, {len(topology.devices)} devices; vocabulary {vocabulary_size:,} ({origin})")
    variants = config.variants or candidates(config.train, len(topology.devices), config.candidates)
    tried = [_candidate(config, changes, vocabulary_size, topology) for changes in variants]
    best = best_of(tried)
    outcome = Outcome(
        topology=config.topology,
        chip=topology.chip,
        devices=len(topology.devices),
        vocabulary_size=vocabulary_size,
        vocabulary_origin=origin,
        length=config.max_length,
        steps=config.train.steps,
        run=run_settings(config.train, vocabulary_size),
        candidates=tried,
        best=best,
        scaling=_scaling(config, best, vocabulary_size) if config.scale_to else None,
        prediction=_prediction(config, topology),
        records=_records(config),
    )
    text = report.text(outcome)
    folder = epath.Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.txt").write_text(text)
    (folder / "plan.json").write_text(json.dumps(report.fields(outcome), indent=1) + "\n")
    print(text)
    print(f"plan: {folder}/plan.txt, {folder}/plan.json")
    return outcome


def _vocabulary(config: PlanConfig) -> tuple[int, str]:
    """The student's number of tokens, and where it is from."""
    if config.vocabulary is not None:
        try:
            return read_vocabulary(config.vocabulary).size, config.vocabulary
        except (VocabularyError, OSError):
            if config.vocabulary_size is None:
                raise
    if config.vocabulary_size is None:
        raise ValueError("PlanConfig.vocabulary_size: found None, expected a number where no vocabulary is named")
    return config.vocabulary_size, "as configured: there is no vocabulary yet"


def _shape(config: PlanConfig) -> BatchShape:
    sources = sum(len(teacher.languages) for teacher in config.student.teachers) if config.student else config.sources
    # Only the metrics' sums are that long. As a power of two, so that students of one size are one program.
    sources = 1 << (sources - 1).bit_length()
    predictions = config.masking.max_predictions(config.max_length)
    return BatchShape(length=config.max_length, predictions=predictions, k=config.k, sources=sources)


def _candidate(config: PlanConfig, changes: Mapping[str, Any], vocabulary_size: int, topology: Topology) -> Candidate:
    settings = varied(config.train, changes)
    name = described(changes)
    print(f"plan: compiling {name} for {topology.name}", flush=True)
    step = lower_step(settings, _shape(config), vocabulary_size, topology)
    compiled: Compiled | None = None
    problem, needed = "", None
    try:
        compiled = compile_for(step.lowered, topology, folder=config.compiled, options=step.options)
    except DoesNotFitError as error:
        problem, needed = str(error), error.needed
    masked = step.sequences_per_chip * config.max_length * config.masking.rate
    return Candidate(
        name=name,
        changes=dict(changes),
        batch_size=settings.batch_size,
        microbatch_per_chip=step.sequences_per_chip * settings.model_parallelism / settings.num_microbatches,
        parameters=step.parameters,
        useful_flops=useful_flops(
            step.sizes, sequences=step.sequences_per_chip, length=config.max_length, masked=masked
        ),
        chip=topology.chip,
        devices=len(topology.devices),
        length=config.max_length,
        compiled=compiled,
        problem=problem,
        needed=needed,
    )


def _scaling(config: PlanConfig, best: Candidate | None, vocabulary_size: int) -> Scaling | None:
    """The best candidate on a larger slice, with as many sequences per chip."""
    if best is None or config.scale_to is None:
        return None
    larger = open_topology(config.scale_to)
    changes = {**best.changes, "batch_size": best.batch_size * len(larger.devices) // best.devices}
    grown = _candidate(config, changes, vocabulary_size, larger)
    return Scaling(topology=config.scale_to, small=best, large=grown)


def _prediction(config: PlanConfig, topology: Topology) -> Prediction | None:
    """The predict step of the teacher with the largest vocabulary: on this machine, or as configured."""
    found = [known_config(teacher.source) for teacher in config.student.teachers] if config.student else []
    known = max((one for one in found if one is not None), key=lambda one: one.vocab_size, default=None)
    if known is None and config.teacher_vocabulary_size is not None:
        make = config.teacher or config.train.model
        known = make(vocab_size=config.teacher_vocabulary_size, max_length=config.max_length)
    if known is None:
        return None
    print(f"plan: compiling the predict step of a teacher with {known.vocab_size:,} tokens", flush=True)
    step = lower_predict(
        known,
        topology,
        batch_size=config.predict_batch_size,
        length=config.max_length,
        masking=config.masking,
        k=config.k,
        dtype=config.predict_dtype,
    )
    compiled: Compiled | None = None
    problem = ""
    try:
        one = dataclasses.replace(topology, devices=topology.devices[:1])
        compiled = compile_for(step.lowered, one, folder=config.compiled)
    except DoesNotFitError as error:
        problem = str(error)
    masked = config.predict_batch_size * config.max_length * config.masking.rate
    return Prediction(
        vocabulary_size=known.vocab_size,
        batch_size=config.predict_batch_size,
        length=config.max_length,
        parameters=step.parameters,
        useful_flops=useful_flops(
            step.sizes, sequences=config.predict_batch_size, length=config.max_length, masked=masked, backward=False
        ),
        chip=topology.chip,
        compiled=compiled,
        problem=problem,
        tokens=math.fsum(one.tokens * one.draws for one in _records(config)),
    )


def _records(config: PlanConfig) -> list[Any]:
    """Of every teacher and language whose corpus is known."""
    if config.student is None or config.teacher_vocabulary_size is None:
        return []
    languages = {one for teacher in config.student.teachers for one in teacher.languages}
    tokens = dict(config.corpus_tokens)
    if config.tokens_per_language is not None:
        tokens = dict.fromkeys(languages, config.tokens_per_language) | tokens
    per_token = bytes_per_token(
        config.teacher_vocabulary_size, k=config.k, length=config.max_length, rate=config.masking.rate
    )
    return record_bytes(config.student, tokens, per_token, draws=config.draws)
