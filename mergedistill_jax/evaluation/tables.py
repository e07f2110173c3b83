"""The tables of report.html as plain text and looks, so that the template decides nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergedistill_jax.evaluation.content import Report, scores_of
from mergedistill_jax.evaluation.display import best_models, format_rdt, metric_of, model_label, model_order
from mergedistill_jax.evaluation.metrics import relative_deviation

_RDT_FULL_TINT = 5.0  # percent at which a cell has its full, still gentle, colour


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table: its text, and how it looks."""

    text: str = ""
    best: bool = False
    style: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of numbers: headings, rows of a name and cells, and perhaps a last row apart."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    last_row: tuple[str, Sequence[Cell]] | None = None


def metric_table(report: Report, name: str) -> Table:
    """One metric: a row per language, a column per model that has it, the student's deviation, and the RDT row."""
    metric = metric_of(name)
    by_model = {model: scores_of(report.languages, model, name) for model in report.models}
    models = [model for model in model_order(by_model) if by_model[model]]
    compared = name in report.rdt
    rows = []
    for language in report.languages:
        values = {model: by_model[model][language] for model in models if language in by_model[model]}
        if not values:
            continue
        best = best_models(metric, values)
        cells = [
            Cell(text=metric.format(values[model]), best=model in best) if model in values else Cell()
            for model in models
        ]
        if compared:
            cells.append(_rdt_cell(_deviation(name, by_model["teacher"], by_model["student"], language)))
        rows.append((language, cells))
    rdt_of = {model: found.get(name) for model, found in report.rdt_of.items()}
    last = [_rdt_cell(rdt_of.get(model)) for model in models] + ([Cell()] if compared else [])
    return Table(
        title=metric.title,
        note=metric.direction,
        columns=[model_label(model) for model in models] + (["Student vs teacher, %"] if compared else []),
        rows=rows,
        last_row=("RDT, %", last) if any(percent is not None for percent in rdt_of.values()) else None,
    )


def vocabulary_table(report: Report) -> Table | None:
    """Sizes, and how many pieces each pair of vocabularies shares; None without vocabularies."""
    names = sorted(report.vocabularies, key=lambda name: name == "union")  # stable: only the union moves, to the end
    if not names:
        return None
    others = [other for other in names if any(other in report.vocabularies[name].shared for name in names)]
    rows = []
    for name in names:
        vocabulary = report.vocabularies[name]
        shared = [None if other == name else vocabulary.shared.get(other) for other in others]
        cells = [Cell(text="" if count is None else f"{count:,}") for count in shared]
        rows.append((name, [Cell(text=f"{vocabulary.size:,}"), *cells]))
    columns = ["Pieces", *(f"Shared with {other}" for other in others)]
    return Table(title="", note="", columns=columns, rows=rows)


def rdt_style(percent: float) -> str:
    """A background from white to a soft blue (ahead) or a soft orange (behind), full at 5 percent."""
    strength = min(abs(percent) / _RDT_FULL_TINT, 1)
    colour = "86, 160, 211" if percent > 0 else "230, 150, 60"
    return f"background: rgba({colour}, {0.08 + 0.3 * strength:.2f})" if format_rdt(percent) != "0.0" else ""


def _rdt_cell(percent: float | None) -> Cell:
    return Cell() if percent is None else Cell(text=format_rdt(percent), style=rdt_style(percent))


def _deviation(name: str, teacher: Mapping[str, float], student: Mapping[str, float], language: str) -> float | None:
    """The relative deviation in one language, positive where the student is better."""
    here = [{key: value for key, value in scores.items() if key == language} for scores in (teacher, student)]
    value = relative_deviation(*here)
    return value if value is None or metric_of(name).higher_is_better else -value
