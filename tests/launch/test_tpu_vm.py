"""TPU VMs without a cloud: every argument list, quoting by running it, retries, preemption, refusals."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TEXTS
from stand_in import Cloud

from launch import local
from launch.configuration import read_config
from launch.stage_command import commit_hash
from launch.tpu_vm import job_status, main

ROOT = Path(__file__).parents[2]
WHERE = ["--project=proj", "--zone=us-west4-a"]
QUEUED = ["gcloud", "compute", "tpus", "queued-resources"]
NASTY = [
    "train",
    "--gin_file=gin/students/similar.gin",
    "--gin.OUTPUT='gs://bucket/a b/$HOME'",
    "--gin.RECORDS=('gs://b/en', \"it's\")",
    "--gin.NAMES={'ü': '`id`', 'b': '*  two  spaces; exit 3'}",
    "--gin.LINES='''a\nb'''",
]
RECORDS = f"""#!{sys.executable}
import json, os, pathlib, sys
job = pathlib.Path.home() / "mergedistill"
(job / "argv.json").write_text(json.dumps([sys.argv[1:], os.environ["MERGEDISTILL_DISTRIBUTED"], os.getcwd()]))
wanted = job / "wanted"
sys.exit(int(wanted.read_text()) if wanted.exists() else 0)
"""


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("MERGEDISTILL_DISTRIBUTED", raising=False)
    return Cloud(tmp_path / "cloud", monkeypatch)


@pytest.fixture
def config(tmp_path: Path) -> list[str]:
    path = tmp_path / "my.toml"
    path.write_text(
        'name = "mine"\nproject = "proj"\nzone = "us-west4-a"\naccelerator_type = "v5litepod-16"\n'
        'runtime_version = "v2-alpha-tpuv5-lite"\npoll_s = 0\n'
    )
    return ["--config", str(path)]


COMMIT = commit_hash("HEAD")
DESCRIBE = [*QUEUED, "describe", "mine", *WHERE, "--format=value(state.state)"]
MISSING = {"status": 1, "error": "ERROR: (gcloud) NOT_FOUND: Resource was not found"}


def states(*found: str | None) -> list[dict[str, object]]:
    return [{"output": state + "\n"} if state else dict(MISSING) for state in found]


def ended(home: Path) -> str:
    """The exit status that the detached job left."""
    path = home / "mergedistill" / "job" / "status"
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.read_text().strip()


def test_create_asks_once_and_waits(cloud: Cloud, config: list[str]) -> None:
    cloud.answer({"describe": states(None, "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")})
    assert main(["create", *config, "--spot", "--network=net", "--service_account=me@x"]) == 0
    create = [*QUEUED, "create", "mine", *WHERE, "--node-id=mine", "--accelerator-type=v5litepod-16"]
    create += ["--runtime-version=v2-alpha-tpuv5-lite", "--network=net", "--service-account=me@x", "--spot", "--quiet"]
    assert cloud.calls() == [DESCRIBE, create, DESCRIBE, DESCRIBE, DESCRIBE]


def test_a_slice_that_is_there_is_not_asked_for_again(cloud: Cloud, config: list[str]) -> None:
    cloud.answer({"describe": states("ACTIVE")})
    assert main(["create", *config]) == 0
    assert not cloud.calls("create")


def test_what_passes_is_tried_again_and_a_lost_answer_was_heard(cloud: Cloud, config: list[str]) -> None:
    busy = {"status": 1, "error": "ERROR: 503 Service Unavailable"}
    cloud.answer(
        {"describe": states(None, "ACTIVE"), "create": [busy, busy, {"status": 1, "error": "ERROR: ALREADY_EXISTS"}]}
    )
    assert main(["create", *config, "--reserved"]) == 0
    assert len(cloud.calls("create")) == 3
    assert "--reserved" in cloud.calls("create")[0]


@pytest.mark.parametrize(("error", "times"), [("ERROR: Quota 'TPUS' exceeded", 1), ("ERROR: UNAVAILABLE", 3)])
def test_what_does_not_pass_is_one_line(
    cloud: Cloud, config: list[str], capsys: pytest.CaptureFixture[str], error: str, times: int
) -> None:
    cloud.answer({"describe": states(None), "create": [{"status": 1, "error": f"traceback\n{error}"}]})
    assert main(["create", *config, "--attempts=3"]) == 2
    assert len(cloud.calls("create")) == times
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"launch.tpu_vm: gcloud: found exit status 1 ({error})")


def test_install_by_scp_and_through_a_bucket(cloud: Cloud, config: list[str]) -> None:
    assert main(["install", *config]) == 0
    first, copy, install = cloud.calls()
    assert first[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "mine"]
    assert copy[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "scp"]
    assert copy[5].endswith(f"/{COMMIT}.tar.gz")
    assert copy[6:] == ["mine:mergedistill/", *WHERE, "--worker=all", "--quiet"]
    assert "--worker=all" in install
    assert install[-1].endswith(f"-e ./source 'jax[tpu]' && echo {COMMIT} > installed")
    assert main(["install", *config, "--bucket=gs://b"]) == 0
    assert cloud.calls("storage cp")[0][-1] == f"gs://b/launch/{COMMIT}.tar.gz"
    assert f"gcloud storage cp gs://b/launch/{COMMIT}.tar.gz ~/mergedistill/" in cloud.calls("storage cp")[1][-1]


def test_the_archive_unpacks_to_the_commit(tmp_path: Path, cloud: Cloud, config: list[str]) -> None:
    """The worker's own command, with stand-ins for the two programs that would fetch what the project needs."""
    home = cloud.folder / "home0"
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python3").write_text('#!/bin/sh\necho "$@" >> ~/python3.txt\n')
    (tools / "python3").chmod(0o755)
    home.mkdir()
    (home / "environment.json").write_text(json.dumps({"PATH": f"{tools}:{os.environ['PATH']}"}))
    (home / "mergedistill").mkdir()
    archive = home / "mergedistill" / f"{COMMIT}.tar.gz"
    subprocess.run(["git", "archive", "--format=tar.gz", f"--output={archive}", COMMIT], check=True, cwd=ROOT)  # noqa: S603, S607
    assert main(["install", *config]) == 0
    assert (home / "mergedistill" / "source" / "setup.py").exists()
    assert (home / "mergedistill" / "installed").read_text().strip() == COMMIT
    assert (home / "python3.txt").read_text().splitlines()[-1].endswith("-e ./source jax[tpu]")


def test_bindings_arrive_at_every_worker_unchanged(cloud: Cloud, config: list[str]) -> None:
    """The --command is taken apart and put together as gcloud and ssh do, and run by bash."""
    homes = [cloud.worker(index, COMMIT, RECORDS) for index in range(2)]
    assert main(["run", *config, "--", *NASTY]) == 0
    for home in homes:
        assert ended(home) == "0"
        argv, distributed, folder = json.loads((home / "mergedistill" / "argv.json").read_text())
        assert argv == NASTY
        assert distributed == "auto"
        assert folder == str(home / "mergedistill" / "source")
        assert shlex.split((home / "mergedistill" / "job" / "command").read_text()) == ["mergedistill", *NASTY]


def test_command_commit_and_gin_file_lie_beside_the_checkpoints(cloud: Cloud, config: list[str]) -> None:
    cloud.answer({"ssh": [{}]})
    assert main(["run", *config, "--", *NASTY]) == 0
    kept = json.loads(cloud.texts()["gs://bucket/a b/$HOME/launch.json"])
    assert kept["arguments"] == NASTY
    assert kept["commit"] == COMMIT
    assert kept["configuration"]["zone"] == "us-west4-a"
    assert "recipe.StudentRecipe" in kept["gin_files"]["gin/students/similar.gin"]
    for language in "en", "de":
        flags = ["predict", "--gin_file=gin/students/similar.gin", f"--gin.LANGUAGE='{language}'"]
        assert main(["run", *config, "--", *flags, "--gin.ROOT='gs://b/r/'"]) == 0
    assert len([path for path in cloud.texts() if path.startswith("gs://b/r/launches/predict-")]) == 2


def test_a_gin_file_that_is_not_committed_goes_along(cloud: Cloud, config: list[str], tmp_path: Path) -> None:
    home = cloud.worker(0, COMMIT, RECORDS)
    mine = tmp_path / "my own.gin"
    mine.write_text("STEPS = 1\n")
    assert main(["run", *config, "--", "train", f"--gin_file={mine}", "--gin.OUTPUT='gs://b/x'"]) == 0
    copy = cloud.calls(" scp ")[0]
    assert copy[5:7] == [str(mine), "mine:mergedistill/source/launch_files/"]
    assert ended(home) == "0"
    argv = json.loads((home / "mergedistill" / "argv.json").read_text())[0]
    assert argv[1] == "--gin_file=launch_files/my own.gin"
    assert json.loads(cloud.texts()["gs://b/x/launch.json"])["gin_files"] == {"launch_files/my own.gin": "STEPS = 1\n"}


def test_started_twice_it_runs_once_and_another_stage_has_to_wait(
    cloud: Cloud, config: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    end = tmp_path / "end"
    program = f"#!/bin/bash\necho x >> {tmp_path}/starts\nwhile [ ! -e {end} ]; do sleep 0.02; done\nexit 75\n"
    home = cloud.worker(0, COMMIT, program)
    stage = ["--", "vocab", "--gin.OUTPUT='gs://b/v'"]
    assert main(["run", *config, *stage]) == 0
    assert main(["run", *config, *stage]) == 0
    cloud.answer({"describe": states("ACTIVE")})
    assert main(["status", *config]) == 0
    assert "mine: ACTIVE; workers: running" in capfd.readouterr().out
    assert main(["run", *config, "--", "export", "--gin.OUTPUT='gs://b/e'"]) == 2
    assert "another stage runs: mergedistill vocab" in capfd.readouterr().err
    end.touch()
    assert ended(home) == "75"
    assert (tmp_path / "starts").read_text() == "x\n"
    (home / "mergedistill" / "job" / "status").unlink()  # as a reboot leaves it
    deadline = time.monotonic() + 60
    while "workers: lost" not in capfd.readouterr().out and time.monotonic() < deadline:
        assert main(["status", *config]) == 0
    assert time.monotonic() < deadline


def test_another_commit_is_not_run(cloud: Cloud, config: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    home = cloud.worker(0, "0" * 40, RECORDS)
    assert main(["run", *config, "--", "vocab"]) == 2
    assert f"commit {COMMIT} is not installed here" in capfd.readouterr().err.splitlines()[-1]
    assert not (home / "mergedistill" / "job").exists()


SAID_INSTALLED = {"output": f"launch-installed: {COMMIT}\n" * 2}
SAID = {status: {"output": f"launch-status: {status}\nlaunch-status: 0\n"} for status in ("running", "75", "0", "1")}
STAGE = ["--", "train", "--gin_file=gin/students/similar.gin", "--gin.OUTPUT='gs://b/x'"]


def test_resume_runs_again_after_75(cloud: Cloud, config: list[str]) -> None:
    cloud.answer(
        {
            "describe": states("ACTIVE"),
            "launch-installed": [SAID_INSTALLED],
            "launch-status": [SAID["running"], SAID["75"], SAID["running"], SAID["0"]],
        }
    )
    assert main(["resume", *config, *STAGE]) == 0
    assert len(cloud.calls("setsid")) == 2
    assert not cloud.calls("queued-resources create") + cloud.calls("queued-resources delete") + cloud.calls(" scp ")


def test_resume_replaces_a_preempted_slice_and_installs_again(cloud: Cloud, config: list[str]) -> None:
    lost = {"status": 255, "error": "ERROR: ssh: connection closed"}
    cloud.answer(
        {
            # before, created; then lost, found suspended, gone, there again
            "describe": states("ACTIVE", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDING", "SUSPENDED", None, "ACTIVE"),
            "launch-installed": [SAID_INSTALLED, {"output": "launch-installed: nothing\n"}],
            "launch-status": [SAID["running"], lost, lost, SAID["running"], SAID["0"]],
        }
    )
    assert main(["resume", *config, "--attempts=2", "--spot", *STAGE]) == 0
    assert cloud.calls("queued-resources delete") == [[*QUEUED, "delete", "mine", *WHERE, "--force", "--quiet"]]
    assert len(cloud.calls("queued-resources create")) == 1
    assert len(cloud.calls("uv pip install")) == 1
    starts = cloud.calls("setsid")
    assert len(starts) == 2
    assert starts[0] == starts[1]


def test_resume_ends_with_the_stages_own_failure(cloud: Cloud, config: list[str]) -> None:
    cloud.answer({"describe": states("ACTIVE"), "launch-installed": [SAID_INSTALLED], "launch-status": [SAID["1"]]})
    assert main(["resume", *config, *STAGE]) == 1
    assert len(cloud.calls("setsid")) == 1


def test_resume_gives_up_after_so_many_interruptions(cloud: Cloud, config: list[str]) -> None:
    cloud.answer({"describe": states("ACTIVE"), "launch-installed": [SAID_INSTALLED], "launch-status": [SAID["75"]]})
    assert main(["resume", *config, "--max_restarts=2", *STAGE]) == 75
    assert len(cloud.calls("setsid")) == 3


@pytest.mark.parametrize(
    ("statuses", "status"),
    [(["0", "0"], 0), (["0", "75"], 75), (["lost", "0"], 75), (["75", "2"], 2), (["none"], 75), ([], 75)],
)
def test_a_jobs_status_is_its_workers(statuses: list[str], status: int) -> None:
    assert job_status(statuses) == status


@pytest.mark.parametrize("yes", [[], ["--yes=other"]])
def test_nothing_is_deleted_that_was_not_named(
    cloud: Cloud, config: list[str], capsys: pytest.CaptureFixture[str], yes: list[str]
) -> None:
    assert main(["delete", *config, *yes]) == 2
    assert not cloud.calls()
    captured = capsys.readouterr()
    assert "expected mine, the name of what is deleted" in captured.err
    assert "deletes the queued resource mine and its TPU VMs" in captured.out


def test_what_is_named_is_deleted(cloud: Cloud, config: list[str]) -> None:
    assert main(["delete", *config, "--yes=mine"]) == 0
    assert cloud.calls() == [[*QUEUED, "delete", "mine", *WHERE, "--force", "--quiet"]]


def test_log_and_collect(cloud: Cloud, config: list[str], tmp_path: Path) -> None:
    cloud.answer({"ssh": [{"output": "step 1\n"}]})
    assert main(["log", *config, "--worker=3"]) == 0
    assert "--worker=3" in cloud.calls()[0]
    assert cloud.calls()[0][-1] == "--command=tail -n 200 -F ~/mergedistill/job/log"
    assert main(["collect", *config, "gs://b/x y", str(tmp_path / "to")]) == 0
    assert cloud.calls()[1] == ["gcloud", "storage", "cp", "gs://b/x y", str(tmp_path / "to"), "--recursive"]


def test_a_dry_run_prints_the_commands_and_runs_none(
    cloud: Cloud, config: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What it prints is what would run: split as a shell splits it, the same argument lists."""
    assert main(["resume", *config, "--dry_run", *STAGE]) == 0
    assert not cloud.calls()
    output = capsys.readouterr().out
    for part in ("queued-resources create", "git", "tpu-vm scp", "launch.json", "setsid", "launch-status"):
        assert part in output
    cloud.answer({"ssh": [{}]})
    vocab = ["--", "vocab", *NASTY[2:5]]
    assert main(["run", *config, "--dry_run", *vocab]) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert main(["run", *config, *vocab]) == 0
    assert shlex.split(printed.removeprefix("$ ")) == cloud.calls("ssh")[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["run", "--", "trian"], "stage: found 'trian'"),
        (["run"], "stage: found nothing after --"),
        (["run", "--", "train", "--gin_file=no/such.gin"], "--gin_file: found no/such.gin"),
        (["create", "--spot", "--reserved"], "--spot: found together with --reserved"),
        (["create", "--name=No_Good"], "--name: found 'No_Good'"),
        (["install", "--commit=nonsense"], "--commit: found 'nonsense'"),
        (["create", "--attempts=0"], "--attempts: found 0, expected at least 1"),
        (["install", "--", "train"], "install: found a stage after --"),
    ],
)
def test_wrong_use_stops_before_anything_is_called(
    cloud: Cloud, config: list[str], capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    assert main([given[0], *config, *given[1:]]) == 2
    assert message in capsys.readouterr().err
    assert not cloud.calls()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam = 'x'", "found a field 'nam'"),
        ("spot = 'yes'", "spot: found 'yes'"),
        ("spot = 1", "spot: found 1, expected bool"),
        ("attempts = true", "attempts: found True, expected int"),
        ("attempts = '1'", "attempts: found '1', expected int"),
        ("num_slices = false", "num_slices: found False, expected int"),
        ("= 3", "expected TOML"),
        ("", "--name"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    assert main(["create", "--config", str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("number", [0, 1, 2])
def test_any_number_of_a_file_is_a_number(tmp_path: Path, number: int) -> None:
    """0 and 1 equal False and True, and are none of them."""
    names = {"name": "a", "project": "b", "zone": "c", "accelerator_type": "v5litepod-16"}
    numbers = {"num_slices": 1, "attempts": max(number, 1), "max_restarts": number, "poll_s": number}
    json_file, toml_file = tmp_path / "pod.json", tmp_path / "pod.toml"
    json_file.write_text(json.dumps(names | numbers | {"spot": True}))
    lines = [f"{name} = {value!r}" for name, value in (names | numbers).items()]
    toml_file.write_text("\n".join([*lines, "spot = true"]))
    for path in (json_file, toml_file):
        found = read_config({"config": str(path)})
        assert {name: getattr(found, name) for name in numbers} == numbers
        assert found.spot is True


def test_a_program_that_is_not_there_is_named(
    config: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["create", *config]) == 2
    assert "gcloud: found no such program on PATH" in capsys.readouterr().err


STAGE_OF_TWO = """#!/bin/sh
exec {python} -c '
import sys
from mergedistill_jax.training import distributed
def stage():
    import jax, numpy as np
    total = distributed.sum_over_processes(np.array([jax.process_index() + 1]))
    print("sum", int(total[0]), "of", jax.process_count(), sys.argv[1:], flush=True)
    return 0
sys.exit(distributed.run_as_member(stage))
' "$@"
"""


@pytest.mark.slow
def test_the_workers_command_makes_one_job_of_two_processes(cloud: Cloud, config: list[str]) -> None:
    """For real: two homes, the command as ssh hands it over, jax.distributed; auto would ask Google's servers who is
    there, so the environment says it instead."""
    homes = [cloud.worker(index, COMMIT, STAGE_OF_TWO.format(python=sys.executable)) for index in range(2)]
    address = f"localhost:{local._free_port()}"
    for index, home in enumerate(homes):
        setting = {**local.environment(index, 2, address, 1), "PYTHONPATH": str(ROOT)}
        (home / "environment.json").write_text(json.dumps(setting))
    cloud.answer({"describe": states("ACTIVE")})
    assert main(["resume", *config, "--poll_s=0.2", "--", *NASTY]) == 0
    for home in homes:
        assert f"sum 3 of 2 {NASTY}" in (home / "mergedistill" / "job" / "log").read_text()


SETTINGS = """
from __gin__ import dynamic_registration
from mergedistill_jax.configs import predict
from tasks import corpora

LANGUAGE = 'en'
SPLIT = 'train'
CORPUS = @corpora.add_files()
corpora.add_files:
    name = 'launched_text'
    text_format = 'plain'
    splits = None
DRAWS = 1
MAX_LENGTH = 32
MASKING_RATE = 0.15
predict.PredictConfig.documents_per_shard = 1
predict.PredictConfig.batch_size = 8
"""


@pytest.mark.slow
def test_two_workers_predict_what_one_process_does(
    cloud: Cloud, config: list[str], teachers: dict[str, Path], tmp_path: Path
) -> None:
    """A whole stage through the launcher, with a gin file that goes along, next to the same stage without it."""
    text = tmp_path / "en.txt"
    text.write_text("\n\n".join(TEXTS["en"]) + "\n")
    settings = tmp_path / "my.gin"
    settings.write_text(f"{SETTINGS}corpora.add_files.files = ({str(text)!r},)\n")
    program = f'#!/bin/sh\nexec {sys.executable} -m mergedistill_jax "$@"\n'
    homes = [cloud.worker(index, COMMIT, program) for index in range(2)]
    address = f"localhost:{local._free_port()}"
    for index, home in enumerate(homes):
        setting = {**local.environment(index, 2, address, 1), "PYTHONPATH": str(ROOT)}
        (home / "environment.json").write_text(json.dumps(setting))
        shutil.copy(settings, home / "mergedistill" / "source" / "launch_files" / "my.gin")
    cloud.answer({"describe": states("ACTIVE"), " scp ": [{}]})
    stage = [
        "predict",
        f"--gin_file={settings}",
        "--gin_file=gin/runs/predict.gin",
        f"--gin.TEACHER='{teachers['en']}'",
    ]
    assert main(["resume", *config, "--poll_s=0.2", "--", *stage, f"--gin.OUTPUT='{tmp_path}/two'"]) == 0
    alone = [sys.executable, "-m", "mergedistill_jax", *stage, f"--gin.OUTPUT='{tmp_path}/one'"]
    subprocess.run(alone, check=True, cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"})  # noqa: S603
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.tfrecord*")} for name in ("one", "two")
    )
    assert len(one) == len(TEXTS["en"])
    assert one == two
