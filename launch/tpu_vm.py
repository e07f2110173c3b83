"""A stage on a TPU slice of Google Cloud: a queued resource with one TPU VM per worker, reached by gcloud.

    python -m launch.tpu_vm create  --config my.toml          # asks for the slice, waits until it is there
    python -m launch.tpu_vm install --config my.toml          # the committed repository, on every worker
    python -m launch.tpu_vm run     --config my.toml -- train --gin_file=my.gin --gin.OUTPUT="'gs://b/runs/my'"
    python -m launch.tpu_vm log     --config my.toml          # follows the first worker's log; --worker 3
    python -m launch.tpu_vm status  --config my.toml
    python -m launch.tpu_vm resume  --config my.toml -- train ...     # all of this, after every preemption, until done
    python -m launch.tpu_vm collect --config my.toml gs://b/runs/my/export exports/my
    python -m launch.tpu_vm delete  --config my.toml --yes NAME

On a worker, in the home folder of the user:

    mergedistill/source     the repository, of the commit in mergedistill/installed
    mergedistill/venv       Python, and what the project needs
    mergedistill/job        command, log, lock (held while the stage runs), status (its exit status, written at its end)

Every command is printed as a shell would take it; `--dry_run` does nothing else. Exit status 75 of a stage says that it
saved and left because it was asked to: run again. `resume` returns the stage's; an error is one line and status 2.
"""

import argparse
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.actions import Actions
from launch.commands import CommandError, Runner
from launch.configuration import LaunchConfig, read_config
from launch.stage_command import CARRIED, StageCommand, archive_command, commit_hash, stage_command, uncommitted

ASKED_TO_LEAVE = 75
WAITING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")
GONE = ("FAILED", "SUSPENDED")
LEAVING = ("SUSPENDING", "DELETING")

_BUSY = 5
_SAID = re.compile(r"^launch-(?:status|installed): *(\S+)\s*$", re.MULTILINE)

_PROJECT = "mergedistill"
_STATUS = (
    f"cd ~/{_PROJECT}/job 2>/dev/null || {{ echo launch-status: none; exit 0; }};"
    " if [ -e status ]; then echo launch-status: $(cat status);"
    " elif flock -n lock true; then echo launch-status: lost; else echo launch-status: running; fi"
)
_INSTALLED = f"echo launch-installed: $(cat ~/{_PROJECT}/installed 2>/dev/null || echo nothing)"


class TpuVm:
    """The slice that a configuration describes, and what can be done with it."""

    def __init__(self, config: LaunchConfig, runner: Runner) -> None:
        """Args: where and under what name; what runs the commands."""
        self.config = config
        self.runner = runner
        self._where = [f"--project={config.project}", f"--zone={config.zone}"]

    def state(self) -> str | None:
        """The state of the queued resource, such as ACTIVE; None where there is none."""
        try:
            found = self.runner.run(self._queued("describe", "--format=value(state.state)"), show=False).strip()
        except CommandError as error:
            if "NOT_FOUND" in error.message or "not found" in error.message.lower():
                return None
            raise
        return found.rpartition("/")[2].upper() or None

    def create(self) -> None:
        """Asks for the slice, if that was not done yet, and returns when it is there.

        Raises:
            ValueError: the request failed, or the slice was taken away.
        """
        self.config.require("runtime_version")
        if self.state() is None:
            self._ask()
        while not self.runner.dry_run:
            state = self.state()
            if state == "ACTIVE":
                return
            if state not in WAITING:
                raise ValueError(f"{self.config.name}: found state {state}, expected ACTIVE; `resume` replaces it")
            print(f"# {self.config.name}: {state}", flush=True)
            self.runner.wait(self.config.poll_s)

    def _ask(self) -> None:
        config = self.config
        options = {
            "network": config.network,
            "subnetwork": config.subnetwork,
            "service-account": config.service_account,
        }
        flags = [f"--{name}={value}" for name, value in options.items() if value]
        flags += ["--spot"] * config.spot + ["--reserved"] * config.reserved
        command = self._queued(
            "create",
            f"--node-id={config.name}",
            f"--accelerator-type={config.accelerator_type}",
            f"--runtime-version={config.runtime_version}",
            *flags,
            "--quiet",
        )
        try:
            self.runner.run(command)
        except CommandError as error:
            # An attempt whose answer was lost may have been heard.
            if "ALREADY_EXISTS" not in error.message:
                raise

    def install(self, commit: str) -> None:
        """Brings a commit of the repository, and what it needs, to every worker; its venv is kept and updated."""
        if uncommitted():
            print(f"# the working tree differs from commit {commit[:12]}: the workers get the commit", flush=True)
        self._ssh(f"mkdir -p ~/{_PROJECT}")
        with tempfile.TemporaryDirectory() as folder:
            archive = f"{commit}.tar.gz"
            path = f"{folder}/{archive}" if not self.runner.dry_run else archive
            self.runner.run(archive_command(commit, path))
            if self.config.bucket:
                there = f"{self.config.bucket}/launch/{archive}"
                self.runner.run(["gcloud", "storage", "cp", path, there])
                self._ssh(f"gcloud storage cp {shlex.quote(there)} ~/{_PROJECT}/{archive}")
            else:
                self._copy([path], f"{_PROJECT}/")
        self._ssh(install_command(commit))

    def run(self, stage: StageCommand) -> None:
        """Starts a stage on all workers and returns; where the same one runs already, it goes on.

        Raises:
            CommandError: another stage runs, or the commit is not installed.
        """
        if stage.record:
            text = stage.launch_json(self.config)
            self.runner.run(["gcloud", "storage", "cp", "-", stage.record], text=text)
        else:
            print("# OUTPUT is no gs:// folder: what workers write there goes when they are preempted", flush=True)
        if stage.carried:
            self._copy(stage.carried, f"{_PROJECT}/source/{CARRIED}/")
        self._ssh(start_command(stage))

    def statuses(self) -> list[str]:
        """What every worker says of its job: 'none', 'running', an exit status, or 'lost' if it ended without one."""
        return _SAID.findall(self._ssh(_STATUS, show=False))

    def installed(self, commit: str) -> bool:
        """Whether every worker has this commit."""
        return set(_SAID.findall(self._ssh(_INSTALLED, show=False))) == {commit}

    def wait(self) -> list[str]:
        """Returns when no worker runs the job any more, with what each of them says then."""
        while True:
            found = self.statuses()
            if self.runner.dry_run or "running" not in found:
                return found
            self.runner.wait(self.config.poll_s)

    def resume(self, stage: StageCommand) -> int:
        """Creates, installs and runs, again after every preemption, until the stage has ended by itself.

        Returns:
            The stage's exit status; 75 where there were more interruptions than max_restarts.

        Raises:
            ValueError: something failed although the slice is there.
        """
        for _ in range(self.config.max_restarts + 1):
            status = self._once(stage)
            if status != ASKED_TO_LEAVE:
                return status
            print("# interrupted: again", flush=True)
            self.runner.wait(self.config.poll_s)
        return ASKED_TO_LEAVE

    def _once(self, stage: StageCommand) -> int:
        """One life of the slice; 75 if it was cut short."""
        self._replace_what_is_gone()
        self.create()
        try:
            if not self.installed(stage.commit):
                self.install(stage.commit)
            self.run(stage)
            ends = self.wait()
            status = job_status(ends) if not self.runner.dry_run else 0
        except CommandError:
            self.runner.wait(self.config.poll_s)  # a preemption shows in the state a little later than on the line
            if self.state() == "ACTIVE":
                raise
            return ASKED_TO_LEAVE
        if status not in (0, ASKED_TO_LEAVE):
            self.runner.wait(self.config.poll_s)
            return status if self.state() == "ACTIVE" else ASKED_TO_LEAVE
        return status

    def _replace_what_is_gone(self) -> None:
        state = self.state()
        while state in LEAVING:
            print(f"# {self.config.name}: {state}", flush=True)
            self.runner.wait(self.config.poll_s)
            state = self.state()
        if state in GONE:
            print(
                f"# deletes the queued resource {self.config.name}, which is {state}: its machines are gone", flush=True
            )
            self.runner.run(self._queued("delete", "--force", "--quiet"))

    def log(self, worker: int) -> int:
        """Follows the log of a worker until the reader has enough."""
        command = f"tail -n 200 -F ~/{_PROJECT}/job/log"
        return self.runner.follow(self._ssh_command(command, worker=str(worker)))

    def collect(self, source: str, folder: str) -> None:
        """Copies a folder of the bucket, or one file, to this machine."""
        if not self.runner.dry_run:
            Path(folder).mkdir(parents=True, exist_ok=True)
        self.runner.run(["gcloud", "storage", "cp", source, folder, "--recursive"])

    def delete(self, yes: str | None) -> None:
        """Deletes the queued resource and its TPU VMs, and nothing of the bucket.

        Raises:
            ValueError: `yes` is not the name of what is deleted.
        """
        name = self.config.name
        what = f"the queued resource {name} and its TPU VMs, with their disks ({' '.join(self._where)})"
        print(f"# deletes {what}; the bucket stays as it is", flush=True)
        if yes != name and not self.runner.dry_run:
            raise ValueError(f"--yes: found {yes or 'nothing'}, expected {name}, the name of what is deleted")
        self.runner.run(self._queued("delete", "--force", "--quiet"))

    def _queued(self, verb: str, *flags: str) -> list[str]:
        return ["gcloud", "compute", "tpus", "queued-resources", verb, self.config.name, *self._where, *flags]

    def _ssh_command(self, command: str, worker: str = "all") -> list[str]:
        flags = [*self._where, f"--worker={worker}", "--quiet", f"--command={command}"]
        return ["gcloud", "compute", "tpus", "tpu-vm", "ssh", self.config.name, *flags]

    def _ssh(self, command: str, *, show: bool = True) -> str:
        return self.runner.run(self._ssh_command(command), show=show)

    def _copy(self, paths: Sequence[str], folder: str) -> None:
        """Copies local files into a folder below every worker's home."""
        to = f"{self.config.name}:{folder}"
        flags = [*self._where, "--worker=all", "--quiet"]
        self.runner.run(["gcloud", "compute", "tpus", "tpu-vm", "scp", *paths, to, *flags])


def install_command(commit: str) -> str:
    """What a worker runs to install the archive of a commit that lies in mergedistill/.

    uv brings a Python that is new enough, for the images of TPU VMs may have an older one, and pip brings uv.
    """
    pip = "python3 -m pip install --quiet --user"
    return " && ".join(
        [
            f"cd ~/{_PROJECT}",
            "rm -rf installed source",
            f"mkdir -p source/{CARRIED}",
            f"tar -xzf {commit}.tar.gz -C source",
            f"{{ python3 -m uv --version >/dev/null 2>&1 || {pip} uv || {pip} --break-system-packages uv; }}",
            "{ [ -x venv/bin/python ] || python3 -m uv venv --quiet --python 3.12 venv; }",
            "python3 -m uv pip install --quiet --python venv/bin/python -e ./source 'jax[tpu]'",
            f"echo {commit} > installed",
        ]
    )


def start_command(stage: StageCommand) -> str:
    """What a worker runs to start a stage that outlives the connection.

    The stage and the shell around it inherit a locked file: as long as the lock is held, the stage runs, whatever
    became of its process number after a reboot. Started twice, it runs once.
    """
    command = shlex.join(["mergedistill", *stage.arguments])
    inner = (
        f"cd ~/{_PROJECT}/source && MERGEDISTILL_DISTRIBUTED=${{MERGEDISTILL_DISTRIBUTED:-auto}} PYTHONUNBUFFERED=1"
        f" ~/{_PROJECT}/venv/bin/{command};"
        f" echo $? > ~/{_PROJECT}/job/status.new; mv ~/{_PROJECT}/job/status.new ~/{_PROJECT}/job/status"
    )
    return (
        f"cd ~/{_PROJECT}"
        f' && {{ [ "$(cat installed)" = {stage.commit} ]'
        f" || {{ echo ERROR: commit {stage.commit} is not installed here >&2; exit 4; }}; }}"
        " && mkdir -p job && cd job && exec 9>>lock"
        f' && if ! flock -n 9; then [ "$(cat command)" = {shlex.quote(command)} ]'
        f' && echo runs already && exit 0; echo ERROR: another stage runs: "$(cat command)" >&2; exit {_BUSY}; fi'
        f" && rm -f status && printf '%s\\n' {shlex.quote(command)} > command"
        f" && {{ setsid nohup bash -c {shlex.quote(inner)} >>log 2>&1 </dev/null & }}"
    )


def job_status(statuses: Sequence[str]) -> int:
    """The exit status of a job from those of its workers, none of which runs it any more.

    A failing worker's own status counts first: the others leave, or are ended, because of it. A worker that was
    rebooted lost its status, and the job goes on from its checkpoint.
    """
    failed = [status for status in statuses if status not in ("0", "75", "lost", "none")]
    if failed:
        return int(failed[0])
    return 0 if statuses and set(statuses) == {"0"} else ASKED_TO_LEAVE


def main(arguments: Sequence[str] | None = None) -> int:
    """Does one action; returns the exit status."""
    return Actions(
        program="launch.tpu_vm",
        description="A stage on a slice of TPU VMs.",
        staged=("run", "resume"),
        plain=("create", "install", "status", "log"),
        act=_act,
        flags={"log": {"--worker": {"type": int, "default": 0}}},
    ).run(arguments)


def _act(flags: argparse.Namespace, stage: Sequence[str]) -> int:
    config = read_config(vars(flags))
    slice_ = TpuVm(config, Runner(dry_run=flags.dry_run, attempts=config.attempts, pause_s=config.poll_s))

    def staged() -> StageCommand:
        return stage_command(stage, commit_hash(config.commit))

    def status() -> int:
        print(f"{config.name}: {slice_.state()}; workers: {', '.join(slice_.statuses())}")
        return 0

    done: dict[str, Callable[[], int | None]] = {
        "create": slice_.create,
        "install": lambda: slice_.install(commit_hash(config.commit)),
        "run": lambda: slice_.run(staged()),
        "status": status,
        "resume": lambda: slice_.resume(staged()),
        "log": lambda: slice_.log(flags.worker),
        "collect": lambda: slice_.collect(flags.source, flags.folder),
        "delete": lambda: slice_.delete(flags.yes),
    }
    return done[flags.action]() or 0


if __name__ == "__main__":
    sys.exit(main())
