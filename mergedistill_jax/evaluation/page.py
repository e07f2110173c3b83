"""report.html: one file without links to anything outside it, made from templates/report.html.jinja."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import jinja2
from markupsafe import Markup, escape

from mergedistill_jax.evaluation import plots
from mergedistill_jax.evaluation.content import Report, metric_names, scores_of
from mergedistill_jax.evaluation.display import METRICS, format_duration, format_rdt, humanise, metric_of
from mergedistill_jax.evaluation.tables import metric_table, rdt_style, vocabulary_table

# Fields of a metrics.jsonl row, the best one first. With two students to compare, the loss on gold labels is a fair
# comparison; the total loss is not, because a gold-only student has no teacher term.
_GOLD_LOSS = ("gold_loss",)
_TOTAL_LOSS = ("loss",)
_GOLD_LOSS_WORDS = (
    "Cross-entropy of gold labels, nats",
    "the loss on the hidden tokens, the same quantity for all runs",
)
_TOTAL_LOSS_WORDS = (
    "Training loss, nats",
    "the loss that is minimised: gold and teacher terms in their weights of the step",
)
_ACCURACY = ("masked_accuracy", "accuracy")
_TEACHER_PREFIX = "teacher_"
_MASK = "[MASK]"
_NBSP = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A picture as a data URI, what it shows and how to read it."""

    title: str
    caption: str
    uri: str


def render_page(report: Report) -> str:
    """The whole page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mergedistill_jax.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": format_duration, "fill_text": fill_text, "humanise": humanise}
    return environment.get_template("report.html.jinja").render(
        report=report,
        headlines=headlines(report),
        tables=[metric_table(report, name) for name in metric_names(report.languages)],
        score_plots=list(score_plots(report)),
        student_plots=list(student_plots(report)),
        teacher_plots=list(teacher_plots(report)),
        vocabulary=vocabulary_table(report),
        stages=stage_rows(report),
        settings={key: value for key, value in report.configuration.items() if "\n" not in str(value)},
        long_settings={key: value for key, value in report.configuration.items() if "\n" in str(value)},
    )


def rdt_sentence(percent: float, metric: str, subject: str = "the student") -> str:
    """`the student is 1.2 % behind its teachers in masked accuracy`."""
    label = metric_of(metric).label
    label = label if metric not in METRICS else label[0].lower() + label[1:]
    if format_rdt(percent) == "0.0":
        return f"{subject} is level with its teachers in {label}"
    return f"{subject} is {abs(percent):.1f} % {'ahead of' if percent > 0 else 'behind'} its teachers in {label}"


def headlines(report: Report) -> list[dict[str, str]]:
    """One per metric with an RDT: the number, the sentence, and the same of the gold-only student if there is one."""
    found = []
    for name, percent in report.rdt.items():
        sentence = rdt_sentence(percent, name)
        gold = report.rdt_gold.get(name)
        found.append(
            {
                "number": f"{format_rdt(percent)}{_NBSP}%",
                "style": rdt_style(percent),
                "sentence": sentence[0].upper() + sentence[1:] + ".",
                "gold": "" if gold is None else f"Without teachers (gold labels only): {format_rdt(gold)}{_NBSP}%.",
                "coverage": _coverage(report, name),
            }
        )
    return found


def stage_rows(report: Report) -> list[dict[str, str]]:
    """Each stage with its time and the width of its bar, in percent of the longest."""
    longest = max(report.seconds_per_stage.values(), default=0) or 1
    return [
        {"name": name, "time": format_duration(seconds), "width": f"{100 * seconds / longest:.1f}"}
        for name, seconds in report.seconds_per_stage.items()
    ]


def score_plots(report: Report) -> Iterable[Plot]:
    """One plot per metric: every language and model."""
    for name in metric_names(report.languages):
        metric = metric_of(name)
        by_model = {model: scores_of(report.languages, model, name) for model in report.models}
        scores = {
            language: {model: values[language] for model, values in by_model.items() if language in values}
            for language in report.languages
        }
        scores = {language: values for language, values in scores.items() if values}
        mark = "point" if metric.log_axis else "bar"
        caption = f"Each group is a language, each {mark} a model, on the same evaluation text. {metric.direction}"
        caption += " The vertical axis is logarithmic." if metric.log_axis else " The axis starts at zero."
        yield Plot(title=metric.label, caption=caption, uri=_uri(plots.bars(metric, scores)))


def student_plots(report: Report) -> Iterable[Plot]:
    """Loss and masked accuracy of the students over training, all together and by language."""
    runs = {run: rows for run, rows in report.curves.items() if not run.startswith(_TEACHER_PREFIX)}
    versus = " A line that rises earlier has learnt from fewer steps." if len(runs) > 1 else ""
    every_run_has_gold = all(plots.curve_of(rows, _GOLD_LOSS) for rows in runs.values())
    loss, loss_label, loss_note = (
        (_GOLD_LOSS, *_GOLD_LOSS_WORDS) if every_run_has_gold else (_TOTAL_LOSS, *_TOTAL_LOSS_WORDS)
    )
    yield from _curve_plot(
        {"": _curves(runs, _ACCURACY)},
        "Masked accuracy over training",
        "Masked accuracy",
        f"Share of hidden tokens guessed right during training.{versus}",
        percent=True,
    )
    yield from _curve_plot(
        {"": _curves(runs, loss)}, "Loss over training", loss_label, f"Lower is better; {loss_note}."
    )
    keys = {key.partition("/")[2] for rows in runs.values() for row in rows for key in row if "/" in key}
    languages = [language for language in report.languages if language in keys]
    panel_reading = "One panel per language, all with the same axes; the other languages are in light grey."
    for field, title, ylabel, percent in (
        ("accuracy", "Masked accuracy by language", "Masked accuracy", True),
        ("loss", "Loss by language", "Training loss, nats", False),
    ):
        panels = {language: _curves(runs, (f"{field}/{language}",)) for language in languages}
        yield from _curve_plot(panels, title, ylabel, panel_reading, percent=percent)


def teacher_plots(report: Report) -> Iterable[Plot]:
    """Loss and masked accuracy of each teacher over its own training."""
    runs = {run: rows for run, rows in report.curves.items() if run.startswith(_TEACHER_PREFIX)}
    reading = "One panel per teacher, all with the same axes; the other teachers are in light grey."
    for fields, title, ylabel, percent in (
        (_ACCURACY, "Teachers: masked accuracy", "Masked accuracy", True),
        (_GOLD_LOSS + _TOTAL_LOSS, "Teachers: loss", "Loss, nats", False),
    ):
        found = {run: plots.curve_of(rows, fields) for run, rows in runs.items()}
        panels = {run.removeprefix(_TEACHER_PREFIX): {"teacher": curve} for run, curve in found.items() if curve}
        note = "Each has its own vocabulary, so levels say less than shapes: a flat end means a trained teacher."
        yield from _curve_plot(panels, title, ylabel, f"{reading} {note}", percent=percent)


def fill_text(text: str) -> Markup:
    """The escaped text with its gaps marked."""
    return escape(text).replace(escape(_MASK), Markup('<mark class="gap">') + _MASK + Markup("</mark>"))


def _coverage(report: Report, name: str) -> str:
    both = scores_of(report.languages, "teacher", name).keys() & scores_of(report.languages, "student", name).keys()
    total = len(report.languages)
    return "" if len(both) == total else f"Over {len(both)} of {total} languages."


def _curves(runs: Mapping[str, Sequence[Mapping[str, object]]], fields: Sequence[str]) -> dict[str, plots.Curve]:
    found = {run: plots.curve_of(rows, fields) for run, rows in runs.items()}
    return {run: curve for run, curve in found.items() if curve is not None}


def _curve_plot(
    panels: Mapping[str, Mapping[str, plots.Curve]], title: str, ylabel: str, caption: str, *, percent: bool = False
) -> Iterable[Plot]:
    """The plot, or nothing if no run has such a curve."""
    panels = {name: panel for name, panel in panels.items() if panel}
    if any(plots.is_smoothed(curve) for panel in panels.values() for curve in panel.values()):
        caption += " Faint lines are the logged values, strong ones a moving mean of them."
    if panels:
        yield Plot(title=title, caption=caption, uri=_uri(plots.curves(panels, ylabel=ylabel, percent=percent)))


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
