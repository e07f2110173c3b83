"""What a finished stage leaves beside its output: its command, its configuration's hash, and the seconds it took."""

import dataclasses
import json

from etils import epath

from mergedistill_jax.files import write_atomically

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
    """Writes `stage_<name>.json` into the stage's output folder."""
    path = epath.Path(folder) / f"{PREFIX}{time.stage}.json"
    write_atomically(path, (json.dumps(dataclasses.asdict(time), indent=1) + "\n").encode())


def read_stage_time(folder: epath.PathLike, stage: str) -> StageTime | None:
    """The record of a stage in its output folder, or None where it never finished."""
    path = epath.Path(folder) / f"{PREFIX}{stage}.json"
    return StageTime(**json.loads(path.read_text())) if path.exists() else None


def read_stage_times(folder: epath.PathLike) -> list[StageTime]:
    """Every finished stage below a folder, in the order they finished."""
    found = []
    for parent, _, names in epath.Path(folder).walk():
        records = [name for name in names if name.startswith(PREFIX) and name.endswith(".json")]
        found += [StageTime(**json.loads((parent / name).read_text())) for name in records]
    return sorted(found, key=lambda time: time.order)
