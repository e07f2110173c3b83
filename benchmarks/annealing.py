"""Schedules of lambda and treatments of the missing mass at equal steps; how long gold labels alone need for the same.

    python benchmarks/annealing.py runs/annealing --plot runs/annealing/curves.png

Reads the folder that gin/experiments/annealing.gin fills: the report of `evaluate` and the logs of students named
VARIANT_seedN; prints Markdown. Students of the steps of `--reference` (linear) are compared with it seed by seed, for
equal seeds start alike and see the same batches. Longer ones, on gold labels alone, tell the steps to reach its mean:

    decayed    between students that were each trained to their last step, every learning rate decayed to its end
    on its way the held-out curve of the longest of them, whose learning rate is still high there: an upper bound

Perplexities are averaged as their logarithms, over languages and over seeds alike.
"""

import argparse
import dataclasses
import itertools
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mergedistill_jax.configs.schedules import GoldWeight
from mergedistill_jax.evaluation.display import metric_of, model_label
from mergedistill_jax.schema import RecordError
from mergedistill_jax.training.checkpoints import read_run
from mergedistill_jax.training.metrics import read_log

LOGGED = {
    "masked_accuracy": "heldout/masked_accuracy",
    "pseudo_perplexity": "heldout/gold_loss",
    "teacher_agreement": "heldout/teacher_agreement",
}
"""Metrics of the report, and where training logs them."""
REACHED = ("masked_accuracy", "pseudo_perplexity")
MEAN = "mean"
_NAME = re.compile(r"(?P<variant>.+)_seed(?P<seed>\d+)")
_TOLERANCE = 2e-3
"""By how much the last line of a log may differ from the report: other batches, so other sums, and ties."""

Scores = dict[str, float]
"""{language, or MEAN: score}; of scores more is better and means are arithmetic: see `score`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Student:
    """One trained student.

    Attributes:
        learning_rate: its peak.
        gold_only: whether lambda is 1 throughout.
        final: {metric: scores} of the report.
        curves: {metric: [(step, scores)]} of the log, the last of them after the last step.
    """

    variant: str
    seed: int
    steps: int
    learning_rate: float
    gold_only: bool
    final: Mapping[str, Scores]
    curves: Mapping[str, Sequence[tuple[int, Scores]]]


def score(metric: str, value: float) -> float:
    """A perplexity as the negative loss in nats, any other metric as it is."""
    return -math.log(value) if metric_of(metric).log_axis else value


def shown(metric: str, found: float) -> str:
    """A score as its metric is printed."""
    return metric_of(metric).format(math.exp(-found) if metric_of(metric).log_axis else found)


def with_mean(scores: Scores) -> Scores:
    """The scores of the languages, and their mean."""
    return {**scores, MEAN: statistics.fmean(scores.values())}


def read_students(folder: Path, languages: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Student]:
    """The students of a report, those of the first language's order.

    Raises:
        RecordError: a student's log does not end with the report's numbers.
    """
    names = dict.fromkeys(name for models in languages.values() for name in models)
    matches = {name: match for name in names if (match := _NAME.fullmatch(name))}
    return [_student(folder / name, match, report_scores(languages, name)) for name, match in matches.items()]


def report_scores(languages: Mapping[str, Mapping[str, Mapping[str, float]]], model: str) -> dict[str, Scores]:
    """{metric: scores} of a model, for the metrics that every language of the report has."""
    found = {}
    for metric in LOGGED:
        values = {one: models[model][metric] for one, models in languages.items() if metric in models.get(model, {})}
        if len(values) == len(languages):
            found[metric] = with_mean({one: score(metric, value) for one, value in values.items()})
    return found


def _student(folder: Path, name: re.Match[str], final: dict[str, Scores]) -> Student:
    settings = read_run(folder).settings
    student = Student(
        variant=name["variant"],
        seed=int(name["seed"]),
        steps=settings["steps"],
        learning_rate=settings["optimizer"]["learning_rate"]["peak"],
        gold_only=GoldWeight(**settings["gold_weight"]).gold_only,
        final=final,
        curves={metric: _curve(folder, metric, list(scores)) for metric, scores in final.items()},
    )
    for metric, curve in student.curves.items():
        step, last = curve[-1] if curve else (0, {})
        for language, expected in final[metric].items():
            found = last.get(language, math.nan)
            if step != student.steps or not math.isclose(found, expected, abs_tol=_TOLERANCE):
                raise RecordError(
                    f"{folder}/metrics.jsonl: field {LOGGED[metric]}, {language}: found {found:.4f} at step {step},"
                    f" expected {expected:.4f} at step {student.steps} as in report.json"
                )
    return student


def _curve(folder: Path, metric: str, languages: Iterable[str]) -> list[tuple[int, Scores]]:
    sign = -1.0 if metric_of(metric).log_axis else 1.0  # losses are logged in nats
    fields = {one: f"{LOGGED[metric]}/language/{one}" for one in languages if one != MEAN}
    rows = [row for row in read_log(folder) if all(field in row for field in fields.values())]
    return [(row["step"], with_mean({one: sign * row[field] for one, field in fields.items()})) for row in rows]


def steps_to_reach(points: Sequence[tuple[int, float]], target: float) -> tuple[str, float]:
    """When a score first reaches the target, straight lines drawn between the points.

    Returns:
        ("", steps), or ("<=", the first point's) or (">", the last point's) where it lies outside.
    """
    if points[0][1] >= target:
        return "<=", float(points[0][0])
    for (before, low), (after, high) in itertools.pairwise(points):
        if high >= target:
            return "", before + (after - before) * (target - low) / (high - low)
    return ">", float(points[-1][0])


def decayed(students: Sequence[Student], metric: str, language: str) -> list[tuple[int, float]]:
    """(steps, score) of finished students, mean over the seeds of each number of steps."""
    found: dict[int, list[float]] = {}
    for student in students:
        found.setdefault(student.steps, []).append(student.final[metric][language])
    return [(steps, statistics.fmean(values)) for steps, values in sorted(found.items())]


def score_table(
    languages: Mapping[str, Mapping[str, Mapping[str, float]]], students: Sequence[Student], metric: str
) -> str:
    """A row for each variant, those of more steps below; lowest to highest seed in brackets."""
    columns = [*languages, MEAN]
    rows = []
    for model in ("baseline", "teacher"):
        found = report_scores(languages, model).get(metric)
        if found:
            rows.append([model_label(model).lower(), "", "", *(shown(metric, found[one]) for one in columns)])
    for variant, group in _variants(students).items():
        cells = [_spread(metric, [student.final[metric][one] for student in group]) for one in columns]
        rows.append([variant, f"{group[0].steps:,}", str(len(group)), *cells])
    return markdown(["", "steps", "seeds", *columns], rows)


def _variants(students: Sequence[Student]) -> dict[str, list[Student]]:
    groups: dict[str, list[Student]] = {}
    for student in sorted(students, key=lambda one: one.steps):  # a stable order: else that of the report
        groups.setdefault(student.variant, []).append(student)
    return groups


def _spread(metric: str, scores: Sequence[float]) -> str:
    mean = shown(metric, statistics.fmean(scores))
    if len(scores) == 1:
        return mean
    ends = (min(scores), max(scores))
    low, high = reversed(ends) if metric_of(metric).log_axis else ends  # of what is shown
    return f"{mean} ({shown(metric, low)} to {shown(metric, high)})"


def difference_table(students: Sequence[Student], reference: str) -> str:
    """Each variant of the reference's steps less the reference, seed by seed, mean over languages.

    `ahead` where every seed of it is better than every seed of the reference, `behind` where every one is worse.
    """
    groups = _variants(students)
    base = groups[reference]
    rows = []
    for variant, group in groups.items():
        if variant == reference or group[0].steps != base[0].steps:
            continue
        rows.append([variant, *(_difference(metric, group, base) for metric in LOGGED)])
    units = {metric: " points" if metric_of(metric).percent else " %" for metric in LOGGED}
    return markdown(["", *(f"{metric_of(metric).label},{units[metric]}" for metric in LOGGED)], rows)


def _difference(metric: str, group: Sequence[Student], base: Sequence[Student]) -> str:
    ours = {student.seed: student.final[metric][MEAN] for student in group}
    theirs = {student.seed: student.final[metric][MEAN] for student in base}
    pairs = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if metric_of(metric).log_axis:
        pairs = [math.expm1(-pair) for pair in pairs]
    verdict = "ranges overlap"
    if min(ours.values()) > max(theirs.values()):
        verdict = "ahead"
    elif max(ours.values()) < min(theirs.values()):
        verdict = "behind"
    return f"{', '.join(f'{100 * pair:+.1f}' for pair in pairs)}: {verdict}"


def reach_table(students: Sequence[Student], reference: str) -> str:
    """Steps that gold labels alone need, at the same learning rate, for what the reference has at its end."""
    base = _variants(students)[reference]
    steps, rate = base[0].steps, base[0].learning_rate
    gold = [one for one in students if one.gold_only and one.steps >= steps and one.learning_rate == rate]
    if not gold:
        return f"no student on gold labels alone with {steps:,} or more steps\n"
    longest = max(gold, key=lambda student: student.steps)
    rows = []
    for metric in REACHED:
        for language in base[0].final[metric]:
            target = statistics.fmean(student.final[metric][language] for student in base)
            points = decayed(gold, metric, language)
            curve = [(step, scores[language]) for step, scores in longest.curves[metric]]
            rows.append(
                [
                    metric_of(metric).title,
                    language,
                    shown(metric, target),
                    ", ".join(f"{shown(metric, found)} at {step:,}" for step, found in points),
                    _times(steps_to_reach(points, target), steps),
                    _times(steps_to_reach(curve, target), steps),
                ]
            )
    title = f"{reference}, {steps:,} steps"
    return markdown(["", "", title, "gold alone, decayed", "steps to reach it, decayed", "on its way"], rows)


def _times(found: tuple[str, float], steps: int) -> str:
    sign, reached = found
    return f"{sign}{' ' if sign else ''}{reached:,.0f} ({reached / steps:.1f} times)"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(students: Sequence[Student], teacher: Mapping[str, Scores], reference: str, path: Path) -> None:
    """Held-out accuracy and loss over steps, mean over languages, seed 0: the reference, gold alone, the teachers."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - for this alone
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    drawn = [one for one in students if one.seed == 0 and (one.variant == reference or one.gold_only)]
    for axes, metric in zip(figure.subplots(1, 2), REACHED, strict=True):
        as_shown = (lambda found: -found) if metric_of(metric).log_axis else (lambda found: 100 * found)
        for student in drawn:
            steps, scores = zip(*((step, as_shown(found[MEAN])) for step, found in student.curves[metric]), strict=True)
            axes.plot(steps, scores, marker="o", markersize=3, label=f"{student.variant}, {student.steps:,} steps")
        axes.axhline(as_shown(teacher[metric][MEAN]), linestyle=":", color="grey", label="teachers")
        axes.set_xlabel("step")
        axes.set_ylabel("Loss, nats" if metric_of(metric).log_axis else metric_of(metric).title)
        axes.grid(visible=True, alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    FigureCanvasAgg(figure).print_png(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--reference", default="linear", help="the variant that the others are compared with")
    parser.add_argument("--plot", type=Path, help="where to write a PNG of the held-out curves")
    options = parser.parse_args(arguments)
    report = options.folder / "report.json"
    languages: Mapping[str, Any] = json.loads(report.read_text())["languages"]
    students = read_students(options.folder, languages)
    if options.reference not in {student.variant for student in students}:
        found = sorted({student.variant for student in students})
        raise RecordError(
            f"{report}: field languages: found students {found}, expected {options.reference!r} among them"
        )
    for metric in LOGGED:
        print(f"{metric_of(metric).title}\n\n{score_table(languages, students, metric)}")
    print(f"Less {options.reference}, seed by seed, mean over languages\n")
    print(difference_table(students, options.reference))
    print(f"Steps that gold labels alone need for what {options.reference} reaches\n")
    print(reach_table(students, options.reference))
    if options.plot:
        plot(students, report_scores(languages, "teacher"), options.reference, options.plot)


if __name__ == "__main__":
    main()
