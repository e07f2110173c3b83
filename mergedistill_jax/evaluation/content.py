"""What a report holds, checked where it is made, and its JSON form."""

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mergedistill_jax.evaluation.display import metric_of, metric_order
from mergedistill_jax.evaluation.metrics import relative_deviation

# {language: {model: {metric: value}}}; None stands for "could not be computed" and is left out of every output.
Scores = Mapping[str, Mapping[str, Mapping[str, float | None]]]


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Size of one vocabulary, and how many of its pieces it shares with each other one, by that one's name."""

    size: int
    shared: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Fill:
    """One masked text and the most probable tokens of each model, best first."""

    language: str
    text: str
    gold: str
    teacher: Sequence[str]
    student: Sequence[str]
    student_gold: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that report.json and report.html say.

    Attributes:
        title: one line.
        summary: sentences that say what was merged, a paragraph each.
        languages: {language: {model: {metric: value}}}. The models `baseline`, `teacher`, `student` and `student_gold`
            have fixed places and colours; others may join. Scores are fractions from 0 to 1, not percent. A metric that
            was not measured is left out (or None); display.METRICS lists the known ones.
        seconds: wall time of everything together.
        seconds_per_stage: wall time of each stage, in the order of the stages.
        curves: {run: rows of its metrics.jsonl}, each row with `step` and any of `loss`, `gold_loss`, `teacher_loss`,
            `masked_accuracy`, `loss/LANGUAGE`, `accuracy/LANGUAGE` and others. Runs whose name starts with `teacher_`
            (as in `teacher_en`) are the teachers'; the others are compared with each other.
        vocabularies: {name: Vocabulary}; the one called `union` is shown last.
        fills: masked texts with what the models put into the gap.
        commands: the commands that made this report, a line each.
        configuration: whatever tells two runs apart; a value of several lines (an operative gin configuration) is
            shown folded.

    Raises:
        ValueError: a number is NaN or infinite, or a fraction is outside 0..1; the message names the field.
        TypeError: summary is one string instead of a sequence of them.
    """

    title: str
    summary: Sequence[str]
    languages: Scores
    seconds: float
    seconds_per_stage: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    vocabularies: Mapping[str, Vocabulary] = field(default_factory=dict)
    fills: Sequence[Fill] = ()
    commands: Sequence[str] = ()
    configuration: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.summary, str):
            raise TypeError("report field summary: expected a list of sentences, found one string")
        _check_finite(dataclasses.asdict(self), "report")
        for language, models in self.languages.items():
            for model, values in models.items():
                for name, value in values.items():
                    if value is not None and metric_of(name).percent and not 0 <= value <= 1:
                        place = f"languages.{language}.{model}.{name}"
                        raise ValueError(f"report field {place}: expected a fraction from 0 to 1, found {value}")

    @property
    def rdt(self) -> dict[str, float]:
        """{metric: RDT in percent} of the student against the teachers."""
        return relative_deviations(self.languages, student="student")

    @property
    def rdt_gold(self) -> dict[str, float]:
        """{metric: RDT in percent} of the student trained on gold labels alone, against the same teachers."""
        return relative_deviations(self.languages, student="student_gold")

    @property
    def rdt_of(self) -> dict[str, dict[str, float]]:
        """{model: {metric: RDT in percent}} of every model but teacher and baseline, by whatever name."""
        students = sorted(self.models - {"teacher", "baseline"})
        return {name: relative_deviations(self.languages, student=name) for name in students}

    @property
    def models(self) -> set[str]:
        """Every model with a score."""
        return {name for models in self.languages.values() for name, values in models.items() if measured(values)}


def measured(values: Mapping[str, float | None]) -> dict[str, float]:
    """The values without those that could not be computed."""
    return {name: float(value) for name, value in values.items() if value is not None}


def metric_names(languages: Scores) -> list[str]:
    """Every metric that some model has in some language, in the order of display.METRICS."""
    return metric_order({name for models in languages.values() for v in models.values() for name in measured(v)})


def scores_of(languages: Scores, model: str, metric: str) -> dict[str, float]:
    """{language: value} of one model and metric, where measured."""
    found = {language: models.get(model, {}).get(metric) for language, models in languages.items()}
    return measured(found)


def relative_deviations(languages: Scores, *, student: str, teacher: str = "teacher") -> dict[str, float]:
    """RDT in percent per metric, positive where `student` is better than `teacher`.

    For a metric where lower is better (perplexity) the sign is turned, so that positive still means better; the paper
    has no such metric. A metric that only one of the two has, or whose direction is not known, is left out.
    """
    deviations = {}
    for name in metric_names(languages):
        higher_is_better = metric_of(name).higher_is_better
        value = relative_deviation(scores_of(languages, teacher, name), scores_of(languages, student, name))
        if value is not None and higher_is_better is not None:
            deviations[name] = value if higher_is_better else -value
    return deviations


def report_json(report: Report) -> dict[str, object]:
    """The report as plain JSON values: `languages.LANG.MODEL.METRIC`, `rdt.METRIC`, `rdt_gold.METRIC`, `seconds`."""
    languages = {
        language: {model: measured(values) for model, values in models.items() if measured(values)}
        for language, models in report.languages.items()
    }
    curves = {
        run: [{key: value for key, value in row.items() if value is not None} for row in rows]
        for run, rows in report.curves.items()
    }
    computed: dict[str, object] = {"languages": languages, "rdt": report.rdt, "curves": curves}
    others = {name: found for name, found in report.rdt_of.items() if name not in ("student", "student_gold") and found}
    if others:
        computed["rdt_of"] = others
    if report.rdt_gold:
        computed["rdt_gold"] = report.rdt_gold
    return dataclasses.asdict(report) | computed


def _check_finite(value: object, place: str) -> None:
    """Refuse NaN and infinity, which JSON cannot hold and which no table should show."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check_finite(item, f"{place}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            _check_finite(item, f"{place}[{index}]")
    elif isinstance(value, numbers.Real) and not math.isfinite(value):
        raise ValueError(f"report field {place.removeprefix('report.')}: expected a finite number, found {value}")
