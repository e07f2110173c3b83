"""Write a report: report.json for programs, report.html for people, and the same numbers as text for the terminal."""

import json

from etils import epath

from mergedistill_jax.evaluation.content import (
    Fill,
    Report,
    Vocabulary,
    metric_names,
    relative_deviations,
    report_json,
    scores_of,
)
from mergedistill_jax.evaluation.display import format_rdt, metric_of, model_order
from mergedistill_jax.evaluation.page import render_page

__all__ = ["Fill", "Report", "Vocabulary", "console_table", "relative_deviations", "write_report"]

_MIN_COLUMN = 8


def write_report(folder: epath.PathLike, report: Report) -> None:
    """Write report.html and report.json into `folder` (made if missing, gs:// allowed), replacing older ones.

    report.json holds `languages.LANG.MODEL.METRIC`, `rdt.METRIC` (student against teachers, percent),
    `rdt_gold.METRIC`, `rdt_of.MODEL.METRIC` of students by other names, and `seconds`; what was not measured is absent.
    report.html is one file that opens without a network.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report_json(report), indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    (folder / "report.html").write_text(render_page(report), encoding="utf-8")
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")


def console_table(report: Report) -> str:
    """The scores as aligned text, a block per metric: languages down, models across, RDT below. No trailing newline."""
    blocks = []
    for name in metric_names(report.languages):
        metric = metric_of(name)
        by_model = {model: scores_of(report.languages, model, name) for model in report.models}
        models = [model for model in model_order(by_model) if by_model[model]]
        rdt = {model: found.get(name) for model, found in report.rdt_of.items()}
        rows = [[metric.title, *models]]
        for language in report.languages:
            scores = [by_model[model].get(language) for model in models]
            if any(score is not None for score in scores):
                rows.append([f"  {language}", *("" if score is None else metric.format(score) for score in scores)])
        if any(percent is not None for percent in rdt.values()):
            shown = [rdt.get(model) for model in models]
            rows.append(["  RDT, %", *("" if percent is None else _ascii_rdt(percent) for percent in shown)])
        blocks.append(rows)
    first = max((len(row[0]) for rows in blocks for row in rows), default=0)
    return "\n\n".join("\n".join(_line(row, rows[0], first) for row in rows) for rows in blocks)


def _line(row: list[str], heading: list[str], first: int) -> str:
    cells = [cell.rjust(max(_MIN_COLUMN, len(title)) + 2) for cell, title in zip(row[1:], heading[1:], strict=True)]
    return (row[0].ljust(first) + "".join(cells)).rstrip()


def _ascii_rdt(percent: float) -> str:
    """With a plain hyphen, which any terminal shows and any script reads."""
    return format_rdt(percent).replace("\N{MINUS SIGN}", "-")


def _plain(value: object) -> object:
    """NumPy and JAX scalars as Python numbers; anything else that a configuration may hold as text."""
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)
