"""How metrics and models look in every table and plot: names, units, digits, direction, one colour per model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How one metric is shown. `higher_is_better` is None where the direction is not known: then no value is best."""

    label: str
    higher_is_better: bool | None
    percent: bool = False
    log_axis: bool = False

    @property
    def unit(self) -> str:
        """The unit behind the label, empty for a plain number."""
        return "%" if self.percent else ""

    @property
    def direction(self) -> str:
        """A sentence, empty where the direction is not known."""
        return {True: "Higher is better.", False: "Lower is better.", None: ""}[self.higher_is_better]

    @property
    def title(self) -> str:
        """Label and unit, as a heading or the title of an axis."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def shown(self, value: float) -> float:
        """The value in the unit it is shown in: fractions become percent."""
        return 100 * value if self.percent else value

    def format(self, value: float) -> str:
        """The value with the digits that mean something: one decimal of a percentage, else three significant."""
        value = self.shown(value)
        if self.percent or 10 <= abs(value) < 100:
            return f"{value:.1f}"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# Percentages are given as fractions from 0 to 1, here and in report.json.
METRICS: dict[str, Metric] = {
    "masked_accuracy": Metric(label="Masked accuracy", higher_is_better=True, percent=True),
    "pseudo_perplexity": Metric(label="Pseudo-perplexity", higher_is_better=False, log_axis=True),
    "teacher_agreement": Metric(label="Agreement with the teacher", higher_is_better=True, percent=True),
    "scored_share": Metric(label="Masked words that the student can say", higher_is_better=None, percent=True),
    "unseen_share": Metric(label="Tokens never seen in training", higher_is_better=None, percent=True),
    "masked_accuracy_union": Metric(
        label="Masked accuracy, student's own tokenizer", higher_is_better=True, percent=True
    ),
    "pseudo_perplexity_union": Metric(
        label="Pseudo-perplexity, student's own tokenizer", higher_is_better=False, log_axis=True
    ),
    "unseen_share_union": Metric(
        label="Tokens never seen in training, student's own tokenizer", higher_is_better=None, percent=True
    ),
    "tagging_f1": Metric(label="Part-of-speech F1", higher_is_better=True, percent=True),
    "tagging_accuracy": Metric(label="Part-of-speech accuracy", higher_is_better=True, percent=True),
    "ner_f1": Metric(label="Named-entity F1", higher_is_better=True, percent=True),
}

MODEL_LABELS = {
    "baseline": "Baseline",
    "teacher": "Teacher",
    "student": "Student",
    "student_gold": "Student, gold only",
}

# From the palette of Okabe and Ito, which readers with colour-vision deficiencies can tell apart.
_MODEL_COLOURS = {"baseline": "#B9BEC6", "teacher": "#4A5160", "student": "#0072B2", "student_gold": "#E69F00"}
_OTHER_COLOURS = ("#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def metric_of(name: str) -> Metric:
    """The known metric of this name, or a plain number under the name itself."""
    return METRICS.get(name, Metric(label=humanise(name), higher_is_better=None))


def model_label(name: str) -> str:
    """The name of a model for people."""
    return MODEL_LABELS.get(name, humanise(name))


def model_colours(names: Iterable[str]) -> dict[str, str]:
    """One colour per model, the same for the same set of names."""
    names = set(names)
    others = sorted(names - set(_MODEL_COLOURS))
    assigned = {name: _OTHER_COLOURS[i % len(_OTHER_COLOURS)] for i, name in enumerate(others)}
    return {name: _MODEL_COLOURS.get(name) or assigned[name] for name in names}


def model_order(names: Iterable[str]) -> list[str]:
    """Baseline, teacher, student, gold-only student, then any others by name."""
    names = set(names)
    known = [name for name in MODEL_LABELS if name in names]
    return known + sorted(names - set(known))


def metric_order(names: Iterable[str]) -> list[str]:
    """The known metrics in the order of METRICS, then any others by name."""
    names = set(names)
    known = [name for name in METRICS if name in names]
    return known + sorted(names - set(known))


def humanise(name: str) -> str:
    """`some_name` -> `Some name`; a name that starts with a capital or a digit keeps its start."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def best_models(metric: Metric, values: Mapping[str, float]) -> set[str]:
    """The models with the best value as shown: those that look equal are equally best. Empty for a lone value."""
    if metric.higher_is_better is None or len(values) < 2:
        return set()
    best = (max if metric.higher_is_better else min)(values.values())
    return {name for name, value in values.items() if metric.format(value) == metric.format(best)}


def format_rdt(percent: float) -> str:
    """A relative deviation with its sign, one decimal: `+0.6`, a true minus, `0.0` without a sign."""
    text = f"{percent:+.1f}".replace("-", "\N{MINUS SIGN}")
    return "0.0" if text[1:] == "0.0" else text


def format_duration(seconds: float) -> str:
    """`8.3 s`, `4 min 05 s`, `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
