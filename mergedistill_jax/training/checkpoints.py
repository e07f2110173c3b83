"""Checkpoints with Orbax, in folders `checkpoint_<step>/state`, and the description of the run they belong to."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from mergedistill_jax.files import write_atomically
from mergedistill_jax.training.step import TrainState

RUN_FILE = "run.json"
CHECKPOINT_FOLDER = "checkpoints"


class CheckpointError(ValueError):
    """A run folder that is missing, damaged, or of another run; the message is one line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What a run is: enough to rebuild its model, and to refuse to resume it as another.

    Attributes:
        model: fields of EncoderConfig.
        vocabulary_folder, vocabulary_hash: the student's vocabulary.
        mixture_hash: over the record folders it trains on.
        settings: everything else that decides its numbers.
    """

    model: Mapping[str, Any]
    vocabulary_folder: str
    vocabulary_hash: str
    mixture_hash: str
    settings: Mapping[str, Any]


def open_run(folder: epath.PathLike, run: Run) -> None:
    """Describes a new run in its folder, or checks that the folder is of the same run.

    Raises:
        CheckpointError: the folder is of another run; names the first field that differs.
    """
    folder = epath.Path(folder)
    path = folder / RUN_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(dataclasses.asdict(run), indent=1) + "\n").encode())
        return
    found = _flat(dataclasses.asdict(read_run(folder)))
    expected = _flat(json.loads(json.dumps(dataclasses.asdict(run))))
    for field in sorted({*found, *expected} - {"vocabulary_folder"}):
        if found.get(field) != expected.get(field):
            raise CheckpointError(
                f"{path}: field {field}: found {found.get(field)!r}, expected {expected.get(field)!r};"
                " choose another output folder for another run"
            )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def read_run(folder: epath.PathLike) -> Run:
    """Reads a run's description.

    Raises:
        CheckpointError: not a run's folder, or damaged.
    """
    path = epath.Path(folder) / RUN_FILE
    if not path.exists():
        raise CheckpointError(f"{path}: not found, expected a folder written by `mergedistill train`")
    try:
        return Run(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: found a damaged description ({error}), expected JSON of a run") from error


class Checkpoints:
    """The checkpoints of one run; the newest two are kept."""

    def __init__(self, folder: epath.PathLike, *, save_every: int = 1) -> None:
        self._save_every = save_every
        options = ocp.CheckpointManagerOptions(step_prefix="checkpoint", max_to_keep=2, create=True)
        path = (epath.Path(folder) / CHECKPOINT_FOLDER).resolve()
        handlers = {"state": ocp.StandardCheckpointHandler()}
        self._manager = ocp.CheckpointManager(path, options=options, item_handlers=handlers)

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, *, force: bool = False) -> None:
        """Saves in the background every `save_every` steps; always where `force`. A step is saved once."""
        # Orbax, left to its own interval, saves the first step too, from which a resumed run would log other means.
        if self.latest_step == step or not (force or step % self._save_every == 0):
            return
        self._manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(_as_tree(state))), force=True)

    def restore(self, abstract_state: TrainState) -> TrainState:
        """The newest checkpoint, on the devices and with the shardings of the abstract state's leaves."""
        step = self.latest_step
        if step is None:
            raise CheckpointError(f"{self._manager.directory}: found no checkpoint, expected at least one")
        target = _as_tree(abstract_state)
        restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))
        return abstract_state.replace(**restored["state"])

    def restore_params(self) -> Any:
        """The newest checkpoint's parameters alone, as arrays of the host, whatever devices saved them."""
        step = self.latest_step
        if step is None:
            raise CheckpointError(f"{self._manager.directory}: found no checkpoint, expected at least one")
        # Without a target Orbax wants the devices that saved it: a student of a pod is exported on a laptop.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            self._manager.item_metadata(step)["state"].tree,
        )
        restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))
        return jax.device_get(restored["state"]["params"])

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.wait_until_finished()
        self._manager.close()


def _as_tree(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}
