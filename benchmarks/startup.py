"""CPU seconds until the command line answers: a typo, missing settings, a value of another type, and a dry run.

    python benchmarks/startup.py

Each command is a process of its own, run in the repository's root; its user and system time are what the table shows.
A median of three.
"""

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
MACROS = {
    "OUTPUT": "runs/x",
    "VOCABULARY": "runs/v",
    "RECORDS": ("runs/r",),
    "HELDOUT": ("runs/h",),
    "TEACHERS": {"en": "runs/t"},
    "TEACHER": "runs/t",
    "SPLIT": "train",
    "DRAWS": 1,
    "MASKING_RATE": 0.15,
    "LANGUAGE": "en",
    "FOLDER": "runs/r",
    "RUN": "runs/s",
    "LANGUAGES": ("en",),
}
STAGES = {
    "vocab": ("union", ["OUTPUT", "TEACHERS"], "TEACHERS='a'"),
    "predict": (
        "predict",
        ["OUTPUT", "SPLIT", "LANGUAGE", "TEACHER", "DRAWS", "MASKING_RATE"],
        "MASKING_RATE='0.15'",
    ),
    "verify": ("verify", ["FOLDER", "TEACHER"], "verify.VerifyConfig.sample='x'"),
    "train": ("student", ["OUTPUT", "VOCABULARY", "RECORDS", "HELDOUT"], "BATCH_SIZE='x'"),
    "export": ("export", ["OUTPUT", "RUN", "LANGUAGES"], "OUTPUT=3"),
}
REPEATS = 3


def cpu_seconds(arguments: list[str]) -> float:
    """User and system time of one command; the median of a few."""
    times = []
    for _ in range(REPEATS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "mergedistill_jax", *arguments]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})  # noqa: S603
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return statistics.median(times)


def main() -> None:
    """Prints a table in Markdown."""
    print("| stage | typo | missing settings | wrong type | `--dry_run` |\n|---|---|---|---|---|")
    for stage, (file, names, wrong) in STAGES.items():
        files = ["--gin_file=gin/runs/demo.gin", f"--gin_file=gin/runs/{file}.gin"]
        given = [f"--gin.{name}={MACROS[name]!r}" for name in names]
        cases = [[*given, "--gin.OUTPUTT=1"], [], [*given, f"--gin.{wrong}"], [*given, "--dry_run"]]
        seconds = [cpu_seconds([stage, *files, *case]) for case in cases]
        print(f"| `{stage}` | " + " | ".join(f"{one:.2f}" for one in seconds) + " |", flush=True)


if __name__ == "__main__":
    main()
