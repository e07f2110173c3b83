"""A table over seeds: models named NAME_seedN in reports of `evaluate`, averaged over languages, mean and range of N.

python benchmarks/seeds.py runs/x/choices runs/x/choices/report_12000
"""

import argparse
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

from mergedistill_jax.evaluation.display import metric_of, metric_order
from mergedistill_jax.vocabulary.report import table

_SEED = re.compile(r"_seed\d+")


def averages(report: Path) -> dict[tuple[str, str], float]:
    """{(model, metric): mean over the languages}, where every language of the report has the metric."""
    languages = json.loads((report / "report.json").read_text())["languages"]
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for models in languages.values():
        for model, metrics in models.items():
            for metric, value in metrics.items():
                found[model, metric].append(value)
    return {key: statistics.fmean(values) for key, values in found.items() if len(values) == len(languages)}


def main() -> None:
    """Prints a row for each model and a column for each metric: the mean over seeds, and lowest to highest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    scores: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for report in parser.parse_args().reports:
        for (model, metric), value in averages(report).items():
            scores[_SEED.sub("", model), metric][model] = value
    metrics = metric_order({metric for _, metric in scores})
    models = list(dict.fromkeys(model for model, _ in scores))
    rows = [
        (model, *(_cell(metric, list(scores.get((model, metric), {}).values())) for metric in metrics))
        for model in models
    ]
    for metric in metrics:
        print(f"{metric}: {metric_of(metric).title}")
    print("\n" + table(("model", *metrics), rows))


def _cell(metric: str, values: list[float]) -> str:
    if not values:
        return "-"
    shown = metric_of(metric)
    mean = shown.format(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ({shown.format(min(values))} to {shown.format(max(values))})"


if __name__ == "__main__":
    main()
