"""A stand-in for gcloud, xpk and kubectl on PATH: it writes down how it was called, and answers as the test says.

Answers are lists by a part of the command, such as {"tpus create": [{"status": 1, "error": "503"}, {}]};
the last one of a list is given again and again. `ssh` without an answer runs --command in the home of every worker.
"""

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

PROGRAM = """
import json, os, subprocess, sys
from pathlib import Path
folder = Path(__file__).parent
name, given = Path(sys.argv[0]).name, sys.argv[1:]
if name.startswith("stand_in"):
    name, given = given[0], given[1:]
text = sys.stdin.read() if "-" in given else None
with open(folder / "calls.jsonl", "a") as calls:
    calls.write(json.dumps([[name, *given], text]) + chr(10))
answers = json.loads((folder / "answers.json").read_text())
line = " ".join([name, *given])
for part, rest in answers.items():
    if part in line:
        answer = rest[0]
        if len(rest) > 1:
            answers[part] = rest[1:]
            (folder / "answers.json").write_text(json.dumps(answers))
        print(answer.get("error", ""), file=sys.stderr)
        print(answer.get("output", ""), end="")
        sys.exit(answer.get("status", 0))
if "ssh" in given:
    command = next(flag.removeprefix("--command=") for flag in given if flag.startswith("--command="))
    command = " ".join(command.split(" "))  # as gcloud takes it apart and ssh puts it together
    statuses = []
    for home in sorted(folder.glob("home*")):
        environment = {**os.environ, "HOME": str(home)}
        extra = home / "environment.json"
        if extra.exists():
            environment |= json.loads(extra.read_text())
        statuses.append(subprocess.run(["bash", "-c", command], env=environment, cwd=home).returncode)
    sys.exit(max(statuses, default=0))
"""


class Cloud:
    """The stand-in's folder: what it was called with, what it answers, and the workers' homes."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "stand_in.py").write_text(PROGRAM)
        for name in ("gcloud", "xpk", "kubectl"):
            program = folder / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {folder}/stand_in.py {name} "$@"\n')
            program.chmod(0o755)
        patch.setenv("PATH", str(folder), prepend=":")
        self.answer({})

    def answer(self, answers: Mapping[str, Sequence[Mapping[str, object]]]) -> None:
        (self.folder / "answers.json").write_text(json.dumps(answers))

    def calls(self, part: str = "") -> list[list[str]]:
        return [call for call, _ in self._read() if part in " ".join(call)]

    def texts(self) -> dict[str, str]:
        """What was written into the bucket from standard input, by address."""
        return {call[-1]: text for call, text in self._read() if text is not None}

    def worker(self, index: int, commit: str, mergedistill: str) -> Path:
        """A worker's home, with a commit installed, and a program of the test's in the place of mergedistill."""
        home = self.folder / f"home{index}"
        (home / "mergedistill" / "venv" / "bin").mkdir(parents=True)
        (home / "mergedistill" / "source" / "launch_files").mkdir(parents=True)
        (home / "mergedistill" / "installed").write_text(commit + "\n")
        program = home / "mergedistill" / "venv" / "bin" / "mergedistill"
        program.write_text(mergedistill)
        program.chmod(0o755)
        return home

    def _read(self) -> list[list]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
