"""Starts a command twice, up to 3 seconds apart, again and again: who goes on, what the other is told, and the result.

python benchmarks/pairs.py train export pipeline --pairs 10 --folder runs/pairs

One process imports everything and forks a child per command. The second starts in the first half of the time that the
command takes alone, at most 3 seconds after the first, so that the two overlap; where the first has ended before the
second starts all the same, the table says so. Every pair has a folder of its own; when both have ended the command is
run once more, and the result is compared, byte for byte, with that of an undisturbed run: parameters,
metrics.jsonl, records and exports.
"""

import argparse
import ast
import collections
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mergedistill_jax import cli
from mergedistill_jax.configs.pipeline import PipelineConfig
from mergedistill_jax.pipeline import Step, steps_of
from mergedistill_jax.vocabulary.report import table

LANGUAGES = ("en", "es")
SETTINGS = {
    "pipeline.PipelineConfig.languages": LANGUAGES,
    "pipeline.PipelineConfig.tagging": (),
    "pipeline.PipelineConfig.grammar_tagging": None,
    "pipeline.PipelineConfig.transfer_draws": 1,
    "corpora.add_grammar.documents": {"train": (0, 60), "transfer": (0, 40), "heldout": (100, 120)},
    "encoder.EncoderConfig.num_layers": 1,
    "encoder.EncoderConfig.hidden_size": 16,
    "encoder.EncoderConfig.num_heads": 2,
    "encoder.EncoderConfig.intermediate_size": 32,
    "train.TrainConfig.log_every": 4,
    "train.TrainConfig.save_every": 8,
    "VOCABULARY_SIZE": 200,
    "BATCH_SIZE": 8,
    "WARMUP_STEPS": 2,
    "TEACHER_STEPS": 16,
    "STUDENT_STEPS": 24,
}
COMPARED = ("metrics.jsonl", "model.safetensors", "vocab.txt", "tokenizer.json", "README.md", "config.json")
REFUSAL = re.compile(r"mergedistill: \S+: found in use by (process \d+ on \S+ \(.+\)|another process), expected no")


def command(step: Step | None, output: str) -> list[str]:
    """The command line of a step of the pipeline, or of the pipeline itself, that writes into `output`."""
    bindings = [f"{name} = {value!r}" for name, value in SETTINGS.items()]
    files = ["--gin_file=gin/runs/demo.gin"]
    if step is None:
        stage = "pipeline"
        bindings += [f"pipeline.PipelineConfig.output = {output!r}"]
    else:
        stage = step.stage
        files += [f"--gin_file=gin/runs/{step.gin_file}.gin"]
        bindings += [*step.bindings, f"OUTPUT = {output!r}"]
    return [stage, *files, *(f"--gin_bindings={binding}" for binding in bindings)]


def start(arguments: Sequence[str], log: Path) -> int:
    """A forked child that runs a command with its output in a file; its process number."""
    if pid := os.fork():
        return pid
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    status = 1
    try:
        status = cli.main(arguments)
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(status)


def status_of(pid: int) -> int:
    """Waits for a child: its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def result_of(folder: Path) -> dict[str, str]:
    """{file: hash} of what the configuration decides; not of checkpoints, of which the exports tell."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name in COMPARED or path.name.startswith("token_counts") or path.suffix == ".tfrecord":
            found[name] = hashlib.blake2b(path.read_bytes()).hexdigest()
        elif path.name == "report.json":
            found[name] = json.dumps(json.loads(path.read_text())["languages"], sort_keys=True)
    return found


def pairs(
    stage: str, step: Step | None, reference: Path, folder: Path, count: int, longest_s: float
) -> Iterator[tuple[str, ...]]:
    """(first one's outcome, second one's, result) of each pair, the second started at most `longest_s` later."""
    for number in range(count):
        output = folder / f"{stage}_{number}" / "out"
        shutil.rmtree(output.parent, ignore_errors=True)
        output.parent.mkdir(parents=True)
        arguments = command(step, str(output))
        logs = [output.parent / f"{name}.log" for name in ("first", "second", "third")]
        first = start(arguments, logs[0])
        delay_s = random.uniform(0.0, longest_s)
        time.sleep(delay_s)
        ended = os.waitid(os.P_PID, first, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        second = start(arguments, logs[1])
        began = time.monotonic()
        told_s = 0.0
        statuses: dict[int, int] = {}
        for _ in range(2):
            pid, status = os.wait()
            statuses[pid] = os.waitstatus_to_exitcode(status)
            told_s = told_s or time.monotonic() - began
        outcomes = []
        for pid, log in ((first, logs[0]), (second, logs[1])):
            lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("mergedistill: ")]
            refused = len(lines) == 1 and REFUSAL.match(lines[0]) and statuses[pid] == 2
            late = ", started after the first had ended" if pid == second and ended else ""
            outcomes.append(("told" if refused else f"status {statuses[pid]}") + late)
        again = status_of(start(arguments, logs[2]))
        export_of(stage, output, folder / f"{stage}_{number}")
        same = result_of(output.parent) == result_of(reference)
        print(
            f"{stage} {number}: {delay_s:.1f} s apart: {outcomes}, one ended {told_s:.1f} s after the second's start;"
            f" again {again}, same {same}",
            flush=True,
        )
        yield *outcomes, "same" if same and not again else "different"


def export_of(stage: str, run: Path, folder: Path) -> None:
    """What a training left is compared as its export: the parameters without the time of saving."""
    if stage == "train":
        step = Step(stage="export", gin_file="export", bindings=(f"RUN = {str(run)!r}", f"LANGUAGES = {LANGUAGES!r}"))
        if status_of(start(command(step, str(folder / "student")), folder / "export.log")):
            raise RuntimeError((folder / "export.log").read_text())


def alone_s(step: Step | None, output: Path) -> float:
    """Runs a command undisturbed and returns its seconds."""
    log = output.parent / "log"
    began = time.monotonic()
    if status_of(start(command(step, str(output)), log)):
        raise RuntimeError(log.read_text()[-3000:])
    return time.monotonic() - began


def main() -> None:
    """Makes the undisturbed results, then the pairs; prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=("train", "export", "pipeline"))
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--folder", type=Path, required=True, help="of everything that is written")
    given = parser.parse_args()
    for stage in cli.STAGES:
        importlib.import_module(f"mergedistill_jax.{stage}")
    whole = given.folder / "whole" / "out"
    shutil.rmtree(whole.parent, ignore_errors=True)
    whole.parent.mkdir(parents=True)
    pipeline_s = alone_s(None, whole)
    steps = {}
    for step in steps_of(PipelineConfig(output=str(whole), languages=LANGUAGES, title="")):
        bindings = dict(binding.split(" = ", 1) for binding in step.bindings)
        if bindings.get("OUTPUT") and ast.literal_eval(bindings["OUTPUT"]).endswith("/student"):
            steps[step.stage] = step
    rows = []
    for stage in given.stages:
        reference, step, seconds = whole.parent, None, pipeline_s
        if stage != "pipeline":
            reference, step = given.folder / f"{stage}_alone", steps[stage]
            shutil.rmtree(reference, ignore_errors=True)
            reference.mkdir()
            seconds = alone_s(step, reference / "out")
            export_of(stage, reference / "out", reference)
        counts = collections.Counter(pairs(stage, step, reference, given.folder, given.pairs, min(3.0, seconds / 2)))
        rows += [[stage, str(number), *outcome] for outcome, number in sorted(counts.items())]
    print(table(["stage", "pairs", "first", "second", "result after another run"], rows))


if __name__ == "__main__":
    main()
