"""A stage as a workload of a GKE cluster, through xpk; the cluster is there already (`xpk cluster create`).

    python -m launch.xpk create  --config my.toml -- train --gin_file=my.gin --gin.OUTPUT="'gs://b/runs/my'"
    python -m launch.xpk list    --config my.toml
    python -m launch.xpk wait    --config my.toml        # until it has ended: 0, or 125 where it failed
    python -m launch.xpk log     --config my.toml        # follows all workers' logs, through kubectl
    python -m launch.xpk collect --config my.toml gs://b/runs/my/export exports/my
    python -m launch.xpk delete  --config my.toml --yes NAME

The cluster restarts the workload after a preemption and after exit status 75, max_restarts times, with the same
command: stages continue where they were. With `base_image` xpk adds the committed repository to that image, and a pod
installs it first; with `image` the project is installed in it. Commands are printed; `--dry_run` does nothing else.
"""

import argparse
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.actions import Actions
from launch.commands import Runner
from launch.configuration import LaunchConfig, read_config
from launch.stage_command import CARRIED, StageCommand, archive_command, commit_hash, stage_command, uncommitted

RESTART_ON = "75"
_CONTAINER = "jax-tpu"


class Xpk:
    """The workload that a configuration describes, and what can be done with it."""

    def __init__(self, config: LaunchConfig, runner: Runner) -> None:
        """Args: where and under what name; what runs the commands.

        Raises:
            ValueError: no cluster is named.
        """
        config.require("cluster")
        self.config = config
        self.runner = runner
        self._where = [f"--cluster={config.cluster}", f"--project={config.project}", f"--zone={config.zone}"]

    def create(self, stage: StageCommand) -> None:
        """Submits a stage.

        Raises:
            ValueError: not one of image and base_image is given, or a flag cannot reach a pod unchanged.
        """
        config = self.config
        if bool(config.image) == bool(config.base_image):
            raise ValueError("--image: found both or none of --image and --base_image, expected one of them")
        if config.image and stage.carried:
            raise ValueError(f"--gin_file: found {stage.carried[0]}, expected a committed file where --image is given")
        command = pod_command(stage, install=not config.image)
        if config.image:
            self._submit(stage, [f"--docker-image={config.image}"], command)
            return
        if uncommitted():
            print(f"# the working tree differs from commit {stage.commit[:12]}: the pods get the commit", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            place = "." if self.runner.dry_run else folder
            source = f"{place}/source"
            self.runner.run(archive_command(stage.commit, f"{place}/source.tar.gz"))
            self.runner.run(["mkdir", "-p", f"{source}/{CARRIED}"])
            self.runner.run(["tar", "-xzf", f"{place}/source.tar.gz", "-C", source])
            for path in stage.carried:
                if self.runner.dry_run:
                    print(f"# copies {path} to {source}/{CARRIED}", flush=True)
                else:
                    shutil.copy(path, f"{source}/{CARRIED}/{Path(path).name}")
            self._submit(stage, [f"--base-docker-image={config.base_image}", f"--script-dir={source}"], command)

    def _submit(self, stage: StageCommand, image: Sequence[str], command: str) -> None:
        config = self.config
        if stage.record:
            text = stage.launch_json(config)
            self.runner.run(["gcloud", "storage", "cp", "-", stage.record], text=text)
        kind = ["--spot"] * config.spot
        flags = [
            f"--workload={config.name}",
            *self._where,
            f"--tpu-type={config.accelerator_type}",
            f"--num-slices={config.num_slices}",
            f"--max-restarts={config.max_restarts}",
            f"--restart-on-exit-codes={RESTART_ON}",
            *kind,
            *image,
            f"--command={command}",
        ]
        self.runner.run(["xpk", "workload", "create", *flags])

    def list(self) -> None:
        """Prints the workload's state."""
        self.runner.run(["xpk", "workload", "list", *self._where, f"--filter-by-job={self.config.name}"])

    def wait(self) -> int:
        """Returns when the workload has ended: 0, or 125 where it failed (xpk's own statuses)."""
        return self.runner.follow(
            ["xpk", "workload", "list", *self._where, f"--wait-for-job-completion={self.config.name}"]
        )

    def log(self) -> int:
        """Follows the logs of all pods, each line led by its pod's name."""
        config = self.config
        region = config.zone.rpartition("-")[0]
        where = [f"--project={config.project}", f"--location={region}"]
        self.runner.run(["gcloud", "container", "clusters", "get-credentials", str(config.cluster), *where])
        label = f"--selector=jobset.sigs.k8s.io/jobset-name={config.name}"
        flags = [label, f"--container={_CONTAINER}", "--follow", "--prefix", "--tail=200", "--max-log-requests=1000"]
        return self.runner.follow(["kubectl", "logs", *flags])

    def collect(self, source: str, folder: str) -> None:
        """Copies a folder of the bucket, or one file, to this machine."""
        if not self.runner.dry_run:
            Path(folder).mkdir(parents=True, exist_ok=True)
        self.runner.run(["gcloud", "storage", "cp", source, folder, "--recursive"])

    def delete(self, yes: str | None) -> None:
        """Deletes the workload, and nothing of the cluster or the bucket.

        Raises:
            ValueError: `yes` is not the name of what is deleted.
        """
        name = self.config.name
        print(
            f"# deletes the workload {name} ({' '.join(self._where)}); cluster and bucket stay as they are", flush=True
        )
        if yes != name and not self.runner.dry_run:
            raise ValueError(f"--yes: found {yes or 'nothing'}, expected {name}, the name of what is deleted")
        self.runner.run(["xpk", "workload", "delete", f"--workload={name}", *self._where, "--force"])


def pod_command(stage: StageCommand, *, install: bool) -> str:
    """What a pod runs, in the image's working directory; xpk writes it into the text of a Kubernetes object.

    It ends in `exec`, so that SIGTERM, which xpk passes to the shell around it, reaches the stage.

    Raises:
        ValueError: a flag holds a line break, which would end the command there, or `$(` or `$$`, which Kubernetes
            replaces before a shell sees them.
    """
    for argument in stage.arguments:
        for found in ("\n", "$(", "$$"):
            if found in argument:
                raise ValueError(f"flag: found {argument!r} with {found!r}, expected none of it in a pod's command")
    run = f"exec env MERGEDISTILL_DISTRIBUTED=auto PYTHONUNBUFFERED=1 {shlex.join(['mergedistill', *stage.arguments])}"
    return f"python3 -m pip install --quiet -e . 'jax[tpu]' && {run}" if install else run


def main(arguments: Sequence[str] | None = None) -> int:
    """Does one action; returns the exit status."""
    return Actions(
        program="launch.xpk",
        description="A stage as a workload of a GKE cluster.",
        staged=("create",),
        plain=("list", "wait", "log"),
        act=_act,
    ).run(arguments)


def _act(flags: argparse.Namespace, stage: Sequence[str]) -> int:
    config = read_config(vars(flags))
    workload = Xpk(config, Runner(dry_run=flags.dry_run, attempts=config.attempts, pause_s=config.poll_s))
    done: dict[str, Callable[[], int | None]] = {
        "create": lambda: workload.create(stage_command(stage, commit_hash(config.commit))),
        "list": workload.list,
        "wait": workload.wait,
        "log": workload.log,
        "collect": lambda: workload.collect(flags.source, flags.folder),
        "delete": lambda: workload.delete(flags.yes),
    }
    return done[flags.action]() or 0


if __name__ == "__main__":
    sys.exit(main())
