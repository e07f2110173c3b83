"""xpk without a cluster: every argument list, the pod's command run by bash, refusals."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import Cloud

from launch.stage_command import commit_hash
from launch.xpk import main

ROOT = Path(__file__).parents[2]
COMMIT = commit_hash("HEAD")
WHERE = ["--cluster=tpus", "--project=proj", "--zone=us-west4-a"]
STAGE = [
    "train",
    "--gin_file=gin/students/similar.gin",
    "--gin.OUTPUT='gs://b/a b'",
    "--gin.X={'ü': \"it's\", 'c': '`id` $HOME'}",
]


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    monkeypatch.chdir(ROOT)
    return Cloud(tmp_path / "cloud", monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> list[str]:
    path = tmp_path / "my.json"
    values = {"name": "mine", "project": "proj", "zone": "us-west4-a", "accelerator_type": "v5litepod-16"}
    path.write_text(json.dumps({**values, "cluster": "tpus", "poll_s": 0, "max_restarts": 7}))
    return ["--config", str(path)]


def run_pod(command: str, folder: Path) -> list:
    """Runs a pod's command as xpk's text of it does, in a subshell; what mergedistill and pip were called with."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("mergedistill", "python3"):
        program = tools / name
        program.write_text(
            f"#!{sys.executable}\nimport json, os, sys\nwith open({str(folder / 'called')!r}, 'a') as file:\n"
            f"    called = [{name!r}, sys.argv[1:], os.environ.get('MERGEDISTILL_DISTRIBUTED')]\n"
            "    file.write(json.dumps(called) + chr(10))\n"
        )
        program.chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    subprocess.run([bash, "-c", f"({command}) & wait $!"], env={"PATH": f"{tools}:/usr/bin:/bin"}, check=True)  # noqa: S603
    return [json.loads(line) for line in (folder / "called").read_text().splitlines()]


def test_create_with_an_image(cloud: Cloud, config: list[str], tmp_path: Path) -> None:
    assert main(["create", *config, "--image=gcr.io/p/i", "--spot", "--num_slices=2", "--", *STAGE]) == 0
    kept, create = cloud.calls()
    assert kept == ["gcloud", "storage", "cp", "-", "gs://b/a b/launch.json"]
    assert json.loads(cloud.texts()["gs://b/a b/launch.json"])["arguments"] == STAGE
    flags = ["--workload=mine", *WHERE, "--tpu-type=v5litepod-16", "--num-slices=2", "--max-restarts=7"]
    flags += ["--restart-on-exit-codes=75", "--spot", "--docker-image=gcr.io/p/i"]
    assert create[:-1] == ["xpk", "workload", "create", *flags]
    assert run_pod(create[-1].removeprefix("--command="), tmp_path) == [["mergedistill", STAGE, "auto"]]


def test_a_base_image_gets_the_commit_and_installs_it(cloud: Cloud, config: list[str], tmp_path: Path) -> None:
    mine = tmp_path / "my.gin"
    mine.write_text("STEPS = 1\n")
    # What xpk would add to the image is looked at while it is there.
    xpk = cloud.folder / "xpk"
    keep = f'cp -r "${{flag#--script-dir=}}" {tmp_path}/seen'
    look = f'for flag in "$@"; do case "$flag" in --script-dir=*) {keep};; esac; done\n'
    xpk.write_text(xpk.read_text().replace("exec", look + "exec"))
    assert main(["create", *config, "--base_image=python:3.12", "--", *STAGE, f"--gin_file={mine}"]) == 0
    assert (tmp_path / "seen" / "setup.py").exists()
    assert (tmp_path / "seen" / "launch_files" / "my.gin").read_text() == "STEPS = 1\n"
    create = cloud.calls("workload create")[0]
    assert create[-3] == "--base-docker-image=python:3.12"
    pip, stage = run_pod(create[-1].removeprefix("--command="), tmp_path)
    assert pip[:2] == ["python3", ["-m", "pip", "install", "--quiet", "-e", ".", "jax[tpu]"]]
    assert stage == ["mergedistill", [*STAGE, "--gin_file=launch_files/my.gin"], "auto"]


def test_list_wait_log_collect(cloud: Cloud, config: list[str], tmp_path: Path) -> None:
    cloud.answer({"--wait-for": [{"status": 125}]})
    assert main(["list", *config]) == 0
    assert main(["wait", *config]) == 125
    assert main(["log", *config]) == 0
    assert main(["collect", *config, "gs://b/x", str(tmp_path / "to")]) == 0
    listed, waited, credentials, logs, copied = cloud.calls()
    assert listed == ["xpk", "workload", "list", *WHERE, "--filter-by-job=mine"]
    assert waited == ["xpk", "workload", "list", *WHERE, "--wait-for-job-completion=mine"]
    assert credentials == [
        *["gcloud", "container", "clusters", "get-credentials", "tpus", "--project=proj", "--location=us-west4"]
    ]
    assert logs[:3] == ["kubectl", "logs", "--selector=jobset.sigs.k8s.io/jobset-name=mine"]
    assert copied == ["gcloud", "storage", "cp", "gs://b/x", str(tmp_path / "to"), "--recursive"]


def test_only_the_named_workload_is_deleted(
    cloud: Cloud, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --workload xpk would delete all of the cluster's."""
    assert main(["delete", *config]) == 2
    assert main(["delete", *config, "--yes=tpus"]) == 2
    assert not cloud.calls()
    assert "expected mine, the name of what is deleted" in capsys.readouterr().err
    assert main(["delete", *config, "--yes=mine"]) == 0
    assert cloud.calls() == [["xpk", "workload", "delete", "--workload=mine", *WHERE, "--force"]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["create", "--", *STAGE], "--image: found both or none"),
        (["create", "--image=i", "--base_image=j", "--", *STAGE], "--image: found both or none"),
        (["create", "--image=i", "--", "train", "--gin.A='$(x)'"], "with '$('"),
        (["create", "--image=i", "--", "train", "--gin.A='a\nb'"], "with '\\n'"),
        (["list", "--cluster="], "--cluster: found nothing"),
    ],
)
def test_wrong_use_stops_before_anything_is_called(
    cloud: Cloud, config: list[str], capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    assert main([given[0], *config, *given[1:]]) == 2
    assert message in capsys.readouterr().err
    assert not cloud.calls()


def test_a_dry_run_calls_nothing(cloud: Cloud, config: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["create", *config, "--base_image=python:3.12", "--dry_run", "--", *STAGE]) == 0
    assert not cloud.calls()
    assert "$ xpk workload create --workload=mine" in capsys.readouterr().out
