"""A plan as text for people and as fields for programs."""

import dataclasses
import math
from typing import Any

from mergedistill_jax.planning.compiling import Compiled
from mergedistill_jax.planning.cycles import category_of, direction_of
from mergedistill_jax.planning.outcome import Candidate, Outcome, Prediction

GIB = 2**30

CAVEAT = """\
These are estimates: nothing was run. A step is the compiler's estimated cycles / clock, which hold arithmetic and the
reading and writing of HBM by each operation, + the bytes of operations without an estimate (scatter, gather, slices
written in place) / HBM bandwidth + collectives that run by themselves / bandwidth of the links, as if free of other
traffic. Collectives and copies beside the core count only where they take longer than the core. Waiting, the host, the
input and checkpoints are not in it. On a real chip most programs are slower than this."""


def text(outcome: Outcome) -> str:
    """The plan as a page of text."""
    parts = [_head(outcome), _table(outcome)]
    if outcome.best and outcome.best.compiled:
        parts += [_best(outcome, outcome.best, outcome.best.compiled)]
    if outcome.scaling:
        parts.append(_scaled(outcome))
    if outcome.prediction:
        parts.append(_predicted(outcome.prediction))
    if outcome.records:
        parts.append(_recorded(outcome))
    if outcome.chip:
        parts.append(CAVEAT)
    return "\n\n".join(parts) + "\n"


def _head(outcome: Outcome) -> str:
    size = outcome.candidates[0].parameters
    student = (
        f"Student   {_counted(size.total)} parameters: body {_counted(size.body)}, embeddings"
        f" {_counted(size.embeddings)}, head {_counted(size.head)}\n"
        f"          vocabulary {outcome.vocabulary_size:,} ({outcome.vocabulary_origin})\n"
    )
    student += _run(outcome)
    chip = outcome.chip
    if chip is None:
        return f"{student}Devices   {outcome.topology}: {outcome.devices}; no times, for there is no table of this CPU"
    return (
        f"{student}Slice     {outcome.topology}: {outcome.devices} chips, each {chip.peak_flops / 1e12:,.0f} TFLOP/s in"
        f" bf16 at {chip.clock / 1e9:.2f} GHz, {chip.available_hbm / GIB:.2f} GiB of HBM to use at"
        f" {chip.hbm_bandwidth / 1e9:,.0f} GB/s"
    )


def _run(outcome: Outcome) -> str:
    told = [f"{name}={value}" for name, value in outcome.run.items() if name != "batch_size"]
    lines = [f"{outcome.run['batch_size']:,} x {outcome.length} tokens a step", " ".join(told[:4]), " ".join(told[4:])]
    return "".join(f"{start:<10}{line}\n" for start, line in zip(("Run", "", ""), lines, strict=True))


def _counted(number: float) -> str:
    """With three digits and a prefix: 12.3M."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{prefix}"
    return f"{number:.3g}"


def _bytes(number: float) -> str:
    for size, prefix in ((GIB, "Gi"), (2**20, "Mi"), (2**10, "Ki")):
        if number >= size:
            return f"{number / size:.2f} {prefix}B"
    return f"{number:.0f} B"


def _table(outcome: Outcome) -> str:
    rows = [("candidate", "batch", "at a time", "memory", "step ms", "MFU", "tokens/s", "")]
    for one in outcome.candidates:
        size = one.compiled.memory.total if one.compiled else one.needed
        mark = "best" if one is outcome.best else "" if one.fits else "does not fit"
        rows.append(
            (
                one.name,
                f"{one.batch_size:,}",
                f"{one.microbatch_per_chip:g}",
                _bytes(size) if size else "?",
                _number(one.step_seconds, 1e3, ".1f"),
                _number(one.utilisation, 100, ".1f", "%"),
                _number(one.tokens_per_second, 1, ",.0f"),
                mark,
            )
        )
    return _columns(rows)


def _best(outcome: Outcome, best: Candidate, compiled: Compiled) -> str:
    memory = compiled.memory
    of = f" of {_bytes(outcome.chip.available_hbm)}" if outcome.chip else ""
    outputs = f"{_bytes(memory.outputs)}, {_bytes(memory.aliased)} of it in place of arguments"
    analysis = f"{_counted(compiled.cost_flops)} by XLA's cost analysis, which counts a loop's body once"
    lines = [
        ("memory", f"{_bytes(memory.total)}{of} per chip: arguments {_bytes(memory.arguments)},"),
        ("", f"temporaries {_bytes(memory.temporaries)}, outputs {outputs}, code {_bytes(memory.code)}"),
        (
            "FLOPs",
            f"{_counted(best.useful_flops)} useful per chip: 6 x body x tokens + attention + head at masked rows",
        ),
        ("", f"{_counted(compiled.matmul_flops)} in the compiled matrix products; {analysis}"),
    ]
    if compiled.estimate:
        estimate = compiled.estimate
        core, moves, links, hidden_links, copies = (
            f"{seconds * 1e3:.1f}"
            for seconds in (
                estimate.core,
                estimate.moves,
                estimate.links,
                estimate.hidden_links,
                estimate.hidden_moves,
            )
        )
        lines += [
            ("step", f"{estimate.total * 1e3:.1f} ms = core {core} + moves {moves} + links {links}"),
            ("", f"(beside the core: links {hidden_links}, copies {copies})"),
            ("MFU", f"{_number(best.utilisation, 100, '.1f', '%')} of the step,"),
            ("", f"{_number(best.core_utilisation, 100, '.1f', '%')} of the compiler's cycles alone"),
        ]
    lines.append(("training", f"{outcome.steps:,} steps, {_counted(outcome.training_tokens or 0)} tokens"))
    if outcome.training_hours:
        hours = outcome.training_hours
        lines.append(("", f"{hours:,.1f} hours, {hours * outcome.devices:,.0f} chip-hours"))
    lines.append(("compiler", f"{compiled.seconds_to_compile:,.0f} s"))
    if compiled.unknown_loops:
        lines.append(("loops", f"counted once, for nothing tells their turns: {', '.join(compiled.unknown_loops)}"))
    told = [f"Best: {best.name}", *(f"  {name:<10}{what}" for name, what in lines)]
    tables = [_collective_table(compiled)]
    if compiled.largest:
        tables.append(_largest_table(compiled))
    if compiled.categories:
        tables.append(_category_table(best, compiled))
    return "\n\n".join(["\n".join(told), *tables])


def _collective_table(compiled: Compiled) -> str:
    if not compiled.collectives:
        return "No collectives."
    rows = [("collectives per step and chip", "times", "bytes", "beside the core")]
    for kind, sums in compiled.collectives.items():
        rows.append((kind, f"{sums['count']:,.0f}", _bytes(sums["bytes"]), _bytes(sums["overlapped_bytes"])))
    return _columns(rows)


def _largest_table(compiled: Compiled) -> str:
    """What most bytes are exchanged for."""
    rows = [("the largest of them", "chips", "bytes", "beside the core")]
    for one in compiled.largest[:5]:
        what = f"{one.kind}: {category_of(one.op_name)}, {direction_of(one.op_name)}"
        rows.append((what, str(len(one.group)), _bytes(one.bytes), "yes" if one.overlapped else "no"))
    return _columns(rows)


def _category_table(best: Candidate, compiled: Compiled) -> str:
    """Beside each category's cycles those that its matrix products would take at the chip's peak."""
    assert best.chip is not None  # noqa: S101 - only a TPU's compiler gives cycles
    peak = best.chip.flops_per_cycle

    def row(name: str, cycles: int, flops: float) -> tuple[str, ...]:
        ideal, of_it = (f"{flops / peak / 1e6:,.2f}", f"{100 * flops / peak / cycles:.0f}%") if flops else ("-", "-")
        return name, f"{cycles / 1e6:,.2f}", f"{100 * cycles / compiled.cycles:.1f}%", ideal, of_it

    rows = [("estimated cycles per step", "millions", "share", "products at peak", "of it")]
    kept = {name: sums for name, sums in compiled.categories.items() if sums.cycles >= compiled.cycles / 1000}
    rows += [row(name, sums.cycles, sums.flops) for name, sums in kept.items()]
    rows.append(row("all", compiled.cycles, sum(sums.flops for sums in compiled.categories.values())))
    rows.append(row("all, at the useful FLOPs alone", compiled.cycles, best.useful_flops))
    return _columns(rows)


def _scaled(outcome: Outcome) -> str:
    scaling = outcome.scaling
    assert scaling is not None  # noqa: S101 - the caller's case
    if scaling.ratio is None:
        return f"{scaling.topology}: no estimate ({scaling.large.problem or 'no chip'})"
    return (
        f"Weak scaling: {scaling.small.devices} -> {scaling.large.devices} chips ({scaling.topology}) with as many"
        f" sequences per chip: step {_number(scaling.small.step_seconds, 1e3, '.1f')} ->"
        f" {_number(scaling.large.step_seconds, 1e3, '.1f')} ms, x {scaling.ratio:.3f}"
    )


def _predicted(prediction: Prediction) -> str:
    head = (
        f"Predict: a teacher of {_counted(prediction.parameters.total)} parameters, vocabulary"
        f" {prediction.vocabulary_size:,}, {prediction.batch_size} x {prediction.length} at a time on one chip"
    )
    if prediction.compiled is None:
        return f"{head}: does not fit: {prediction.problem}"
    memory = _bytes(prediction.compiled.memory.total)
    line = f"  {memory}; {_counted(prediction.compiled.matmul_flops)} FLOPs in matrix products"
    if prediction.tokens_per_second:
        line += (
            f"; {prediction.tokens_per_second:,.0f} tokens/s per chip,"
            f" MFU {_number(prediction.utilisation, 100, '.1f', '%')}"
        )
    if prediction.chip_hours:
        line += f"; {prediction.chip_hours:,.1f} chip-hours for {_counted(prediction.tokens)} tokens"
    return f"{head}\n{line}"


def _recorded(outcome: Outcome) -> str:
    rows = [("records", "languages", "G tokens", "bytes/token", "GB")]
    for teacher in dict.fromkeys(one.teacher for one in outcome.records):
        its = [one for one in outcome.records if one.teacher == teacher]
        tokens = math.fsum(one.tokens * one.draws for one in its)
        size = math.fsum(one.bytes for one in its)
        rows.append((teacher, str(len(its)), f"{tokens / 1e9:.2f}", f"{size / tokens:.2f}", f"{size / 1e9:,.1f}"))
    total = math.fsum(one.bytes for one in outcome.records)
    return _columns([*rows, ("all", "", "", "", f"{total / 1e9:,.1f}")])


def _number(value: float | None, factor: float, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value * factor:{form}}{unit}"


def _columns(rows: list[tuple[str, ...]]) -> str:
    """Left-aligned first column, right-aligned others."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def fields(outcome: Outcome) -> dict[str, Any]:
    """The plan as plain values, for JSON; bytes, seconds and FLOPs without prefixes."""
    return {
        "topology": outcome.topology,
        "chip": {**dataclasses.asdict(outcome.chip), "clock": outcome.chip.clock} if outcome.chip else None,
        "devices": outcome.devices,
        "vocabulary_size": outcome.vocabulary_size,
        "vocabulary_origin": outcome.vocabulary_origin,
        "length": outcome.length,
        "steps": outcome.steps,
        "run": outcome.run,
        "candidates": [_candidate_fields(one) for one in outcome.candidates],
        "best": outcome.best.name if outcome.best else None,
        "training_hours": outcome.training_hours,
        "training_tokens": outcome.training_tokens,
        "scaling": _scaling_fields(outcome),
        "prediction": _prediction_fields(outcome.prediction),
        "records": [dataclasses.asdict(one) for one in outcome.records],
        "caveat": CAVEAT if outcome.chip else None,
    }


def _candidate_fields(one: Candidate) -> dict[str, Any]:
    return {
        "name": one.name,
        "changes": one.changes,
        "batch_size": one.batch_size,
        "microbatch_per_chip": one.microbatch_per_chip,
        "parameters": dataclasses.asdict(one.parameters),
        "fits": one.fits,
        "problem": one.problem,
        "needed_bytes": one.needed,
        "useful_flops": one.useful_flops,
        "step_seconds": one.step_seconds,
        "tokens_per_second": one.tokens_per_second,
        "mfu": one.utilisation,
        "mfu_of_cycles": one.core_utilisation,
        "compiled": _compiled_fields(one.compiled),
    }


def _compiled_fields(compiled: Compiled | None) -> dict[str, Any] | None:
    if compiled is None:
        return None
    found = dataclasses.asdict(compiled)
    found["operations"] = [operation._asdict() for operation in compiled.operations]
    found["categories"] = {name: sums._asdict() for name, sums in compiled.categories.items()}
    found["memory"]["total"] = compiled.memory.total
    if compiled.estimate:
        found["estimate"]["total"] = compiled.estimate.total
    for one in found["largest"]:
        one["group"] = len(one["group"])
    return found


def _scaling_fields(outcome: Outcome) -> dict[str, Any] | None:
    scaling = outcome.scaling
    if scaling is None:
        return None
    return {"topology": scaling.topology, "ratio": scaling.ratio, "large": _candidate_fields(scaling.large)}


def _prediction_fields(prediction: Prediction | None) -> dict[str, Any] | None:
    if prediction is None:
        return None
    return {
        "vocabulary_size": prediction.vocabulary_size,
        "batch_size": prediction.batch_size,
        "parameters": dataclasses.asdict(prediction.parameters),
        "useful_flops": prediction.useful_flops,
        "tokens_per_second": prediction.tokens_per_second,
        "mfu": prediction.utilisation,
        "tokens": prediction.tokens,
        "chip_hours": prediction.chip_hours,
        "problem": prediction.problem,
        "compiled": _compiled_fields(prediction.compiled),
    }
