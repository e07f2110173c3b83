"""One configuration for TPU VMs and for xpk: a TOML or JSON file, and flags that go before what it says."""

import argparse
import dataclasses
import json
import re
import sys
import tomllib
from collections.abc import Sequence
from typing import Any

from etils import epath

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,37}[a-z0-9])?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Where a job runs, and under what name.

    Attributes:
        name: of the queued resource and its TPU VM, or of the workload; small letters, digits and hyphens.
        project: of Google Cloud.
        zone: of the TPUs, such as 'us-central2-b'.
        accelerator_type: kind and size, such as 'v5litepod-16'.
        runtime_version: what the TPU VMs start from, such as 'v2-alpha-tpuv5-lite'. TPU VMs only.
        spot: take machines that may be preempted at any time.
        reserved: take machines of a reservation of the project. TPU VMs only: a cluster is created with its own.
        network: if not the project's default one. TPU VMs only.
        subnetwork: as network.
        service_account: as whom the machines read and write the bucket; None is the project's default. TPU VMs only.
        bucket: 'gs://...', through which the code goes to the workers; without one it goes by scp, to each of them.
        cluster: the GKE cluster. xpk only.
        image: a docker image in which the project is installed, with its repository as working directory. xpk only.
        base_image: a docker image with Python 3.11 or later, to which xpk adds the repository. xpk only, this or image.
        num_slices: how many slices of accelerator_type. xpk only.
        commit: which state of the repository runs; what is not committed does not.
        max_restarts: after how many interruptions `resume` (TPU VMs) and the cluster (xpk) give up.
        attempts: how often a command is tried that fails for a passing reason.
        poll_s: seconds between two looks at a state, and before the first retry.
    """

    name: str
    project: str
    zone: str
    accelerator_type: str
    runtime_version: str | None = None
    spot: bool = False
    reserved: bool = False
    network: str | None = None
    subnetwork: str | None = None
    service_account: str | None = None
    bucket: str | None = None
    cluster: str | None = None
    image: str | None = None
    base_image: str | None = None
    num_slices: int = 1
    commit: str = "HEAD"
    max_restarts: int = 100
    attempts: int = 5
    poll_s: float = 30.0

    def __post_init__(self) -> None:
        """Refuses what no command could be made of."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"--name: found {self.name!r}, expected up to 39 small letters, digits and hyphens")
        if self.bucket is not None and not re.fullmatch(r"gs://[^/]+(/.*[^/])?", self.bucket):
            raise ValueError(f"--bucket: found {self.bucket!r}, expected gs://BUCKET or gs://BUCKET/FOLDER")
        if self.spot and self.reserved:
            raise ValueError("--spot: found together with --reserved, expected one of them")
        for field, least in (("num_slices", 1), ("max_restarts", 0), ("attempts", 1), ("poll_s", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"--{field}: found {getattr(self, field)}, expected at least {least}")

    def require(self, *fields: str) -> None:
        """Refuses a configuration that lacks what the chosen way of launching needs.

        Raises:
            ValueError: names the first field that is not given.
        """
        for field in fields:
            if not getattr(self, field):
                raise ValueError(f"--{field}: found nothing, expected it as a flag or in the file that --config names")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every field, and --config; what is not given is left out of the parsed arguments."""
    parser.add_argument("--config", default=argparse.SUPPRESS, help="a .toml or .json file with any of the fields")
    for field in dataclasses.fields(LaunchConfig):
        if field.type is bool:
            kind: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
        else:
            kind = {"type": field.type if field.type in (int, float) else str, "metavar": "VALUE"}
        parser.add_argument(f"--{field.name}", default=argparse.SUPPRESS, **kind)


def read_config(flags: dict[str, Any]) -> LaunchConfig:
    """The configuration of a file, where `config` names one, with the flags' values instead of the file's.

    Raises:
        ValueError: an unknown or missing field, or one of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(LaunchConfig)}
    path = flags.get("config")
    values = _read(path) if path else {}
    for name, value in values.items():
        if name not in fields:
            raise ValueError(f"{path}: found a field {name!r}, expected one of {', '.join(fields)}")
        kind: Any = fields[name].type
        # bool is a kind of int to Python, and no number to anybody who writes a file.
        is_kind = isinstance(value, (int, float) if kind is float else kind)
        if not is_kind or (kind is not bool and isinstance(value, bool)):
            raise ValueError(f"{path}: {name}: found {value!r}, expected {getattr(kind, '__name__', kind)}")
    values |= {name: value for name, value in flags.items() if name in fields}
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in values:
            raise ValueError(f"--{name}: found nothing, expected it as a flag or in the file that --config names")
    return LaunchConfig(**values)


def _read(path: str) -> dict[str, Any]:
    text = epath.Path(path).read_text()
    try:
        found = json.loads(text) if path.endswith(".json") else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: found {error}, expected TOML, or JSON in a file called .json") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: found {type(found).__name__}, expected fields and their values")  # noqa: TRY004 - input
    return found


def split_arguments(arguments: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """What stands before `--`, and the stage with its flags after it, which no parser here touches."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--" not in given:
        return given, []
    at = given.index("--")
    return given[:at], given[at + 1 :]
