"""What a person wants to know of a union before training on it: the numbers of vocabulary.json as a page of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from mergedistill_jax.counting import counted


def report_text(report: Mapping[str, Any]) -> str:
    """The page.

    Args:
        report: as `mergedistill vocab` writes it into vocabulary.json, fields that were not measured left out.
    """
    sections = [
        (
            f"Union of {counted(len(report['members']), 'vocabulary', 'vocabularies')}: {report['size']:,} tokens,"
            f" hash {report['hash']}"
        ),
        _members(report),
        _overlaps(report["overlaps"]),
        _conflicts(report["normalizer_conflicts"]),
        _parameters(report.get("parameters", {})),
        _drift(report.get("drift", {})),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _members(report: Mapping[str, Any]) -> str:
    rows = [
        (name, f"{member['size']:,}", *(f"{report[field][name]:,}" for field in ("dropped", "merged", "cut")))
        for name, member in report["members"].items()
    ]
    lines = table(("teacher", "tokens", "placeholders", "merged", "cut"), rows)
    return (
        f"{lines}\n"
        f"characters added so that each stands word-initially and inside words: {report['completed']:,}\n"
        f"tokens of the whole union: {report['whole_size']:,}"
    )


def _overlaps(overlaps: Mapping[str, Mapping[str, int]]) -> str:
    names = list(overlaps)
    rows = [(one, *(f"{overlaps[one][other]:,}" for other in names)) for one in names]
    return "Tokens in common\n" + table(("", *names), rows)


def _conflicts(conflicts: Mapping[str, Mapping[str, bool]]) -> str:
    if not conflicts:
        return "Normalisers: all alike"
    rows = [
        (field, ", ".join(name for name, on in values.items() if on) or "nobody") for field, values in conflicts.items()
    ]
    return "Normalisers differ from the student's, or among the teachers: who does it\n" + table(("", "teachers"), rows)


def _parameters(parameters: Mapping[str, int]) -> str:
    rows = [(name, f"{count / 1e6:,.1f} M") for name, count in parameters.items()]
    return "Parameters of a student\n" + table(("size", "parameters"), rows) if rows else ""


_DRIFT_COLUMNS = {
    "drift": "words cut otherwise",
    "trained_pieces_per_word": "pieces/word, teacher's",
    "own_pieces_per_word": "own",
    "trained_unknown": "[UNK], teacher's",
    "own_unknown": "own",
    "new_pieces": "own pieces not met",
    "coverage": "coverage",
}


def _drift(drift: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> str:
    rows = [
        (teacher, language, f"{numbers['words']:,}", *(_number(name, numbers[name]) for name in _DRIFT_COLUMNS))
        for teacher, languages in drift.items()
        for language, numbers in languages.items()
    ]
    if not rows:
        return ""
    header = ("teacher", "language", "words", *_DRIFT_COLUMNS.values())
    return "Segmentation drift: the student's own tokenizer against the teacher's\n" + table(header, rows)


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if name.endswith("per_word") else f"{100 * value:.2f} %"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first one is flush left, the others flush right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, *rows)
    ]
    return "\n".join(line.rstrip() for line in lines)
