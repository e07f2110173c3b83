"""What a finished stage leaves beside its output: its command, its configuration's hash, and the seconds it took."""

import dataclasses
import json
import sys

from etils import epath

from mergedistill_jax.files import write_atomically
from mergedistill_jax.json_objects import read_object

PREFIX = "stage_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageTime:
    """A finished stage.

    Attributes:
        command: what a person would type for it.
        configuration: hash of its gin configuration.
        seconds: wall time, summed over the sittings of a resumed stage.
        order: when it finished, in seconds since 1970, for listing alone.
    """

    stage: str
    command: str
    configuration: str
    seconds: float
    order: float


def write_stage_time(folder: epath.PathLike, time: StageTime) -> None:
    """Writes `stage_<name>.json` into the stage's output folder; where that fails, a line on standard error tells."""
    path = epath.Path(folder) / f"{PREFIX}{time.stage}.json"
    try:
        write_atomically(path, (json.dumps(dataclasses.asdict(time), indent=1) + "\n").encode())
    except OSError as error:
        print(f"mergedistill: {path}: could not be written ({error}), left out", file=sys.stderr)


def read_stage_time(folder: epath.PathLike, stage: str) -> StageTime | None:
    """The record of a stage in its output folder, or None where it never finished or the record is damaged."""
    path = epath.Path(folder) / f"{PREFIX}{stage}.json"
    return _read(path) if path.exists() else None


def read_stage_times(folder: epath.PathLike) -> list[StageTime]:
    """Every finished stage below a folder, in the order they finished; damaged records are left out."""
    found = []
    for parent, _, names in epath.Path(folder).walk():
        records = [name for name in names if name.startswith(PREFIX) and name.endswith(".json")]
        found += [time for name in records if (time := _read(parent / name))]
    return sorted(found, key=lambda time: time.order)


def _read(path: epath.Path) -> StageTime | None:
    """A record, or None after a line on standard error: no stage depends on it."""
    try:
        return read_object(path, StageTime)
    except (ValueError, OSError) as error:
        print(f"mergedistill: {error}; left out", file=sys.stderr)
        return None
