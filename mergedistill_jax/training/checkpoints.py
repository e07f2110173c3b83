"""Checkpoints with Orbax, and the description of the run they belong to.

    RUN/run.json                              what the run is
    RUN/checkpoints/checkpoint_<step>/state      step, parameters, optimizer state: the folder and tree that T5X reads
    RUN/checkpoints/checkpoint_<step>/position   JSON: what else a resumed run goes on from

A checkpoint is written aside and renamed, so that it is there whole, with its position, or not at all.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.options import MultiprocessingOptions

from mergedistill_jax.files import write_atomically
from mergedistill_jax.training.distributed import lead_first
from mergedistill_jax.training.state_tree import from_tree, is_old, params_of, to_old_tree, to_tree
from mergedistill_jax.training.step import TrainState

RUN_FILE = "run.json"
CHECKPOINT_FOLDER = "checkpoints"
STATE, POSITION = "state", "position"


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

    Of several processes the first writes, and the others check what it wrote.

    Raises:
        CheckpointError: the folder is of another run; names the first field that differs.
    """
    lead_first("run described", functools.partial(_open_run, epath.Path(folder), run))


def _open_run(folder: epath.Path, run: Run) -> None:
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
    """The checkpoints of one run; the newest two are kept.

    In a job of several processes every process calls the same methods, and each reads and writes its own parts of one
    shared folder. Reading makes no folder, and leaves alone what a run that is still writing has begun.
    """

    def __init__(self, folder: epath.PathLike, *, save_every: int = 1, alone: bool = False) -> None:
        """Opens a run's checkpoints for reading, and for writing with the first save.

        Args:
            folder: of the run.
            save_every: steps from one save that is not forced to the next.
            alone: this process reads, whatever the others of a job do; it cannot write.
        """
        self._save_every = save_every
        self._processes = _only_this_process() if alone else MultiprocessingOptions()
        self._folder = checkpoint_folder(folder).resolve()
        self._manager = self._open(writes=False) if self._folder.exists() else None
        self._writes = False

    def _open(self, *, writes: bool) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            step_prefix="checkpoint",
            max_to_keep=2 if writes else None,
            create=writes,
            cleanup_tmp_directories=writes,
            multiprocessing_options=self._processes,
        )
        handlers = {
            STATE: ocp.StandardCheckpointHandler(multiprocessing_options=self._processes),
            POSITION: ocp.JsonCheckpointHandler(multiprocessing_options=self._processes),
        }
        return ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)

    def _writer(self) -> ocp.CheckpointManager:
        if self._manager is None or not self._writes:
            self.close()
            self._manager, self._writes = self._open(writes=True), True
        return self._manager

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        return None if self._manager is None else self._manager.latest_step()

    def saves_at(self, step: int) -> bool:
        """Whether a step is saved without being forced."""
        return step % self._save_every == 0

    def save(
        self, step: int, state: TrainState, *, position: Mapping[str, Any] | None = None, force: bool = False
    ) -> None:
        """Saves in the background every `save_every` steps; always where `force`. A step is saved once.

        Args:
            step: finished steps.
            state: after them.
            position: what else the run goes on from, as JSON.
            force: save whatever the step.
        """
        # Orbax, left to its own interval, saves the first step too, from which a resumed run would log other means.
        if self.latest_step == step or not (force or self.saves_at(step)):
            return
        items = {STATE: ocp.args.StandardSave(to_tree(state)), POSITION: ocp.args.JsonSave(dict(position or {}))}
        self._writer().save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, abstract_state: TrainState) -> TrainState:
        """The newest checkpoint, on the devices and with the shardings of the abstract state's leaves.

        The leaves may be arrays, or ShapeDtypeStructs with a sharding; whatever mesh or number of processes saved it.

        Raises:
            CheckpointError: there is none.
        """
        manager, step = self._newest()
        old = is_old(manager.item_metadata(step)[STATE].tree)
        target = to_old_tree(abstract_state) if old else to_tree(abstract_state)
        restored = manager.restore(step, args=ocp.args.Composite(**{STATE: ocp.args.StandardRestore(target)}))
        return from_tree(restored[STATE], abstract_state)

    def restore_position(self) -> dict[str, Any]:
        """What the newest checkpoint's `position` holds; nothing where an older version saved it.

        Raises:
            CheckpointError: there is no checkpoint.
        """
        manager, step = self._newest()
        if not (self._folder / f"checkpoint_{step}" / POSITION).exists():
            return {}
        restored = manager.restore(step, args=ocp.args.Composite(**{POSITION: ocp.args.JsonRestore()}))
        return dict(restored[POSITION])

    def restore_params(self) -> Any:
        """The newest checkpoint's parameters alone, as arrays of the host, whatever devices saved them.

        Raises:
            CheckpointError: there is no checkpoint.
        """
        manager, step = self._newest()
        # Without a target Orbax wants the devices that saved it: a student of a pod is exported on a laptop.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            manager.item_metadata(step)[STATE].tree,
        )
        restored = manager.restore(step, args=ocp.args.Composite(**{STATE: ocp.args.StandardRestore(target)}))
        return jax.device_get(params_of(restored[STATE]))

    def _newest(self) -> tuple[ocp.CheckpointManager, int]:
        step = self.latest_step
        if self._manager is None or step is None:
            raise CheckpointError(f"{self._folder}: found no checkpoint, expected at least one")
        return self._manager, step

    def wait(self) -> None:
        """Waits for saves under way."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves under way, and lets go of the folder."""
        self.wait()
        if self._manager is not None:
            self._manager.close()


def _only_this_process() -> MultiprocessingOptions:
    """Orbax waits for nobody."""
    here = jax.process_index()
    return MultiprocessingOptions(primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process_{here}")


def checkpoint_folder(folder: epath.PathLike) -> epath.Path:
    """Where a run's checkpoints lie: in `checkpoints`, or in the run's own folder where T5X began it as MODEL_DIR."""
    folder = epath.Path(folder)
    own = folder.exists() and any(folder.glob("checkpoint_*"))
    return folder if own else folder / CHECKPOINT_FOLDER
