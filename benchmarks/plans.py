r"""One table of several plans, from the plan.json files that `mergedistill plan` writes.

    for student in similar dissimilar muril mbert both_all both_best; do
      mergedistill plan --gin_file=gin/students/$student.gin --gin.TOPOLOGY="'v5e:4x4'" --gin.SCALE_TO="'v5e:16x16'" \
        --gin.COMPILED="'runs/compiled'"
    done
    python benchmarks/plans.py runs/paper/*/plan/plan.json

A row for each slice of a plan: its best candidate, and the same on the larger slice. Memory is that of one chip; step,
MFU, tokens per second and hours are the compiler's estimates. Nothing is run.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEADER = ("plan", "slice", "vocabulary", "batch", "GiB", "step, s", "MFU", "M tokens/s", "hours", "GB of records")


def rows(name: str, plan: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The cells of a plan's slices."""
    best = next(one for one in plan["candidates"] if one["name"] == plan["best"])
    slices = [(plan["topology"], best)]
    if plan["scaling"]:
        slices.append((plan["scaling"]["topology"], plan["scaling"]["large"]))
    # Hours are for the tokens that the plan's own run reads: a larger batch gets there in fewer steps.
    for topology, one in slices:
        seconds = plan["training_tokens"] / one["tokens_per_second"]
        yield (
            name,
            topology,
            f"{plan['vocabulary_size']:,}",
            f"{one['batch_size']:,}",
            f"{one['compiled']['memory']['total'] / 2**30:.1f}",
            f"{one['step_seconds']:.2f}",
            f"{100 * one['mfu']:.1f} %",
            f"{one['tokens_per_second'] / 1e6:.2f}",
            f"{seconds / 3600:,.0f}",
            f"{sum(record['bytes'] for record in plan['records']) / 1e9:,.0f}" if plan["records"] else "",
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="+", type=Path, help="plan.json files")
    lines = [HEADER, ("---",) * len(HEADER)]
    for path in parser.parse_args().plans:
        plan = json.loads(path.read_text())
        name = path.parent.parent.name if path.parent.name == "plan" else path.parent.name
        lines += rows(name, plan)
    for line in lines:
        print(f"| {' | '.join(line)} |")


if __name__ == "__main__":
    main()
