"""The plots of the report as PNG bytes: scores per language, and training curves. matplotlib without global state."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from mergedistill_jax.evaluation.display import Metric, model_colours, model_label, model_order

_INK = "#20242C"
_FAINT = "#DDE1E7"
_BACKGROUND_LINE = "#D5D9E0"
_DPI = 180
_PANEL_COLUMNS = 4
_LANGUAGES_IN_ROW = 8
_WIDEST_BAR = 0.24  # of the distance between two languages
_MAX_LABELLED_BARS = 24
_LINE_STYLES = ("-", "--", "-.", ":")
_SMOOTHED_FROM = 40  # points; shorter curves are shown as they are
_WINDOW_FRACTION = 0.04


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One logged value over training steps."""

    steps: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]


def curve_of(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> Curve | None:
    """The first of `names` that any row has, over `step`; None if no row has one.

    Rows may be out of order and steps repeat (a run that was stopped logs some steps again): the last row of a
    step counts.
    """
    for name in names:
        points = {row["step"]: row[name] for row in rows if row.get(name) is not None and "step" in row}
        if points:
            ordered = np.array(sorted(points.items()), dtype=float)
            return Curve(steps=ordered[:, 0], values=ordered[:, 1])
    return None


def smooth(values: Float[np.ndarray, " n"], window: int) -> Float[np.ndarray, " n"]:
    """Centred moving mean over `window` points, narrower at both ends, so that it never lags behind the curve."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    # Symmetric at the ends too: a one-sided window there would bend a straight line.
    half = np.minimum(window // 2, np.minimum(index, len(values) - 1 - index))
    return (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)


def is_smoothed(curve: Curve) -> bool:
    """Whether the curve is long enough to be shown as a moving mean over its raw points."""
    return len(curve.values) >= _SMOOTHED_FROM


def bars(metric: Metric, scores: Mapping[str, Mapping[str, float]]) -> bytes:
    """Grouped bars of one metric, a group per language and a bar per model; {language: {model: value}}.

    Many languages go into several rows with the same axis. A metric on a log axis gets points, because a bar needs a
    zero to stand on.
    """
    languages = list(scores)
    models = model_order({model for values in scores.values() for model in values})
    colours = model_colours(models)
    rows = math.ceil(len(languages) / _LANGUAGES_IN_ROW)
    in_row = math.ceil(len(languages) / rows)
    figure = Figure(figsize=(7.4, 3.1 if rows == 1 else 0.5 + 2.1 * rows), layout="constrained")
    for row, axes in enumerate(figure.subplots(rows, 1, sharey=True, squeeze=False).flat):
        here = languages[row * in_row : (row + 1) * in_row]
        _style(axes)
        if metric.log_axis:
            _log_axis(axes)
        _draw_bars(axes, metric, {language: scores[language] for language in here}, colours)
        axes.margins(y=0.14)
        axes.set_xticks(range(len(here)), here)
        axes.set_xlim(-0.6, in_row - 0.4)
        axes.tick_params(axis="x", length=0, labelsize=10)
    figure.supylabel(metric.title, fontsize=9.5, color=_INK)
    _legend(figure, [_handle(model, colours[model]) for model in models])
    return _png(figure)


def _draw_bars(
    axes: Axes, metric: Metric, scores: Mapping[str, Mapping[str, float]], colours: Mapping[str, str]
) -> None:
    models = model_order(colours)
    width = min(0.84 / len(models), _WIDEST_BAR)
    labelled = len(scores) * len(models) <= _MAX_LABELLED_BARS
    for group, values in enumerate(scores.values()):
        for model in (model for model in models if model in values):
            x = group + (models.index(model) - (len(models) - 1) / 2) * width
            height = metric.shown(values[model])
            if metric.log_axis:
                axes.plot(x, height, "o", color=colours[model], markersize=7)
            else:
                axes.bar(x, height, width * 0.92, color=colours[model])
            if labelled:
                offset = (0, 5 if metric.log_axis else 2)
                label = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 7.5, "color": _INK}
                axes.annotate(metric.format(values[model]), (x, height), offset, **label)
    if not metric.log_axis:
        axes.set_ylim(bottom=0)


def curves(panels: Mapping[str, Mapping[str, Curve]], *, ylabel: str, percent: bool = False) -> bytes:
    """Curves over training steps in panels of the same axes, {panel title: {model: curve}}; one panel needs no title.

    Long curves are smoothed over faint raw points. Each panel shows the curves of the other panels in light grey,
    so that panels can be compared.
    """
    models = model_order({model for panel in panels.values() for model in panel})
    colours = model_colours(models)
    columns = min(len(panels), _PANEL_COLUMNS)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(7.4, 3.3 if rows == columns == 1 else 0.7 + 1.9 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    scale = 100 if percent else 1
    for axes, (title, panel) in zip(grid, panels.items(), strict=False):
        _style(axes)
        for other, other_panel in panels.items():
            for curve in other_panel.values() if other != title else ():
                axes.plot(curve.steps, scale * _shown(curve), color=_BACKGROUND_LINE, linewidth=0.9, zorder=1)
        for model in (model for model in models if model in panel):
            _draw(axes, panel[model], scale, colours[model], _LINE_STYLES[models.index(model) % len(_LINE_STYLES)])
        axes.set_title(title, fontsize=10, loc="left", color=_INK)
        axes.xaxis.set_major_formatter(FuncFormatter(_short_step))
        axes.locator_params(axis="x", nbins=5 if columns > 1 else 8)
        axes.tick_params(labelbottom=True)
        if percent:
            axes.set_ylim(bottom=0)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("Training step", fontsize=9.5, color=_INK)
    figure.supylabel(f"{ylabel}, %" if percent else ylabel, fontsize=9.5, color=_INK)
    _legend(figure, [_handle(m, colours[m], _LINE_STYLES[i % len(_LINE_STYLES)]) for i, m in enumerate(models)])
    return _png(figure)


def _draw(axes: Axes, curve: Curve, scale: float, colour: str, style: str) -> None:
    values = scale * curve.values
    if is_smoothed(curve):
        axes.plot(curve.steps, values, color=colour, alpha=0.22, linewidth=0.8, zorder=2)
    markers = {"marker": "o", "markersize": 3} if len(values) < 15 else {}
    axes.plot(curve.steps, scale * _shown(curve), style, color=colour, linewidth=1.8, zorder=3, **markers)


def _shown(curve: Curve) -> Float[np.ndarray, " n"]:
    if not is_smoothed(curve):
        return curve.values
    return smooth(curve.values, max(3, round(_WINDOW_FRACTION * len(curve.values))))


def _handle(model: str, colour: str, style: str | None = None) -> Line2D:
    if style is None:
        return Line2D([], [], linestyle="", marker="s", markersize=8, color=colour, label=model_label(model))
    return Line2D([], [], ls=style, linewidth=2, color=colour, label=model_label(model))


def _legend(figure: Figure, handles: list[Line2D]) -> None:
    if len(handles) > 1:
        figure.legend(
            handles=handles, loc="outside upper left", ncols=min(len(handles), 5), frameon=False, fontsize=9,
            handlelength=1.8, handletextpad=0.5, columnspacing=1.6, labelcolor=_INK,
        )  # fmt: skip


def _style(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_BACKGROUND_LINE)
    axes.grid(axis="y", color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=8.5, length=0)
    axes.yaxis.label.set_color(_INK)


def _log_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())


def _short_step(step: float, _: int | None = None) -> str:
    """`500`, `2k`, `1.5k`, `1M`."""
    for size, suffix in ((1_000_000, "M"), (1_000, "k")):
        if abs(step) >= size:
            return f"{step / size:g}{suffix}"
    return f"{step:g}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=_DPI, facecolor="white")
    return buffer.getvalue()
