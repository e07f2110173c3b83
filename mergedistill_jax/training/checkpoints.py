"""Checkpoints with Orbax, and the description of the run they belong to.

    RUN/run.json                              what the run is
    RUN/checkpoints/checkpoint_<step>/state      step, parameters, optimizer state: the folder and tree that T5X reads
    RUN/checkpoints/checkpoint_<step>/position   JSON: what else a resumed run goes on from

A checkpoint is written aside and renamed, so that it is there whole, with its position, or not at all.
"""

import dataclasses
import functools
import glob
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.options import MultiprocessingOptions

from mergedistill_jax.files import write_atomically
from mergedistill_jax.json_objects import read_object
from mergedistill_jax.training.distributed import lead_first, told_by_lead
from mergedistill_jax.training.state_tree import from_tree, is_old, params_of, to_old_tree, to_tree
from mergedistill_jax.training.step import TrainState
from mergedistill_jax.training.whole import POSITION, STATE, cause_of, flaw_of

RUN_FILE = "run.json"
CHECKPOINT_FOLDER = "checkpoints"

Read = TypeVar("Read")

_unreadable: dict[str, str] = {}
"""Checkpoints that looked whole and could not be read, and why: for the next that this process opens."""


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
        return read_object(path, Run)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


class Checkpoints:
    """The checkpoints of one run; the newest two are kept.

    One that is not whole is passed over, with a line that names it, and the newest whole one is the newest. The first
    save gives it another name, damaged_checkpoint_<step>, because its step may be reached again.

    In a job of several processes every process calls the same methods, and each reads and writes its own parts of one
    shared folder. Reading makes no folder, and leaves alone what a run that is still writing has begun.
    """

    def __init__(self, folder: epath.PathLike, *, save_every: int = 1, alone: bool = False) -> None:
        """Opens a run's checkpoints for reading, and for writing with the first save.

        Args:
            folder: of the run.
            save_every: steps from one save that is not forced to the next.
            alone: this process reads, whatever the others of a job do; it cannot write.

        Raises:
            CheckpointError: there are checkpoints, and none of them is whole.
        """
        self._save_every = save_every
        self._alone = alone
        self._processes = _only_this_process() if alone else MultiprocessingOptions()
        self._folder = _literal(checkpoint_folder(folder).resolve())
        self._needs_metadata = self._folder.name == CHECKPOINT_FOLDER
        self._passed_over: dict[int, str] = {}
        self._manager: ocp.CheckpointManager | None = None
        self._newest_step = self._find()

    def _find(self) -> int | None:
        """The step of the newest whole checkpoint, alike on all processes; names those that are passed over."""
        told = self._look() if self._alone else told_by_lead(self._look)
        if told and not told.isdigit():
            raise CheckpointError(told)
        return int(told) if told else None

    def _look(self) -> str:
        """The step, nothing where there is no checkpoint, or what is wrong with all there are."""
        if self._folder.exists() and not self._folder.is_dir():
            return f"{self._folder}: found a file, expected a folder of checkpoints"
        for step in _steps_in(self._folder):
            if step in self._passed_over:
                continue
            flaw = self._flaw_of(step)
            if flaw is None:
                return str(step)
            self._pass_over(step, flaw)
        if self._passed_over:
            flaws = ", ".join(f"checkpoint_{step} {flaw}" for step, flaw in self._passed_over.items())
            return (
                f"{self._folder}: found no whole checkpoint: {flaws}; expected one, or an empty folder to begin again"
            )
        return ""

    def _flaw_of(self, step: int) -> str | None:
        path = self._path(step)
        return _unreadable.get(str(path)) or flaw_of(path, needs_metadata=self._needs_metadata)

    def _pass_over(self, step: int, flaw: str) -> None:
        self._passed_over[step] = flaw
        _say_once(f"mergedistill: passed over {self._path(step)}: it {flaw}")

    def _path(self, step: int) -> epath.Path:
        return self._folder / f"checkpoint_{step}"

    def _writer(self) -> ocp.CheckpointManager:
        if self._manager is not None:
            return self._manager
        told_by_lead(self._set_aside)
        options = ocp.CheckpointManagerOptions(
            step_prefix="checkpoint",
            max_to_keep=2,
            cleanup_tmp_directories=True,
            multiprocessing_options=self._processes,
        )
        handlers = {
            STATE: ocp.StandardCheckpointHandler(multiprocessing_options=self._processes),
            POSITION: ocp.JsonCheckpointHandler(multiprocessing_options=self._processes),
        }
        self._manager = ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)
        return self._manager

    def _set_aside(self) -> str:
        """Orbax would take what is not whole for the newest, refuse to save its step again, or fail to list it."""
        for step in _steps_in(self._folder):
            if step not in self._passed_over and (flaw := self._flaw_of(step)):
                self._pass_over(step, flaw)
        for step in self._passed_over:
            path = self._path(step)
            aside = path.parent / f"damaged_{path.name}"
            # A link that leads nowhere does not exist, and yet has the name.
            aside.rmtree() if aside.is_dir() else aside.unlink(missing_ok=True)
            path.rename(aside)
            _unreadable.pop(str(path), None)
            print(f"mergedistill: renamed {path} to {aside.name}", file=sys.stderr, flush=True)
        self._passed_over = {}
        return ""

    @property
    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint, or None."""
        return self._newest_step

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
        self._newest_step = step

    def restore(self, abstract_state: TrainState) -> TrainState:
        """The newest checkpoint, on the devices and with the shardings of the abstract state's leaves.

        The leaves may be arrays, or ShapeDtypeStructs with a sharding; whatever mesh or number of processes saved it.

        Raises:
            CheckpointError: there is none that can be read.
        """

        def read(checkpoint: epath.Path) -> TrainState:
            reader = self._reader()
            old = is_old(_tree_of(checkpoint))
            target = to_old_tree(abstract_state) if old else to_tree(abstract_state)
            return from_tree(reader.restore(checkpoint / STATE, args=ocp.args.StandardRestore(target)), abstract_state)

        return self._read(read)

    def restore_position(self) -> dict[str, Any]:
        """What the newest checkpoint's `position` holds; nothing where an older version or T5X saved it.

        Raises:
            CheckpointError: there is no checkpoint that can be read.
        """

        def read(checkpoint: epath.Path) -> dict[str, Any]:
            if not (checkpoint / POSITION).exists():
                return {}
            return dict(json.loads((checkpoint / POSITION / "metadata").read_bytes()))

        return self._read(read)

    def restore_params(self) -> Any:
        """The newest checkpoint's parameters alone, as arrays of the host, whatever devices saved them.

        Raises:
            CheckpointError: there is no checkpoint that can be read.
        """

        def read(checkpoint: epath.Path) -> Any:
            reader = self._reader()
            # Without a target Orbax wants the devices that saved it: a student of a pod is exported on a laptop.
            here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            target = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
                _tree_of(checkpoint),
            )
            return jax.device_get(params_of(reader.restore(checkpoint / STATE, args=ocp.args.StandardRestore(target))))

        return self._read(read)

    def _reader(self) -> ocp.Checkpointer:
        """Reads a state's folder itself: a manager would read its damaged neighbors too."""
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=self._processes)
        return ocp.Checkpointer(handler, multiprocessing_options=self._processes)

    def _read(self, read: Callable[[epath.Path], Read]) -> Read:
        """Reads from the newest checkpoint that lets itself be read; `latest_step` tells which it was.

        In a job the processes read together, and cannot go on with an older one when one of them fails.
        """
        while self._newest_step is not None:
            self.wait()
            path = self._path(self._newest_step)
            try:
                return read(path)
            except (MemoryError, jax.errors.JaxRuntimeError):  # too large for this machine or its devices
                raise
            # Orbax and TensorStore raise errors of all classes, Exception itself among them.
            except Exception as error:
                flaw = f"cannot be read ({cause_of(error)})"
                if not self._alone and jax.process_count() > 1:
                    raise CheckpointError(f"{path}: {flaw}") from error
                if path.exists():  # else the run that is still training has just deleted it
                    _unreadable[str(path)] = flaw
                self._newest_step = self._find()
        raise CheckpointError(f"{self._folder}: found no checkpoint, expected at least one")

    def wait(self) -> None:
        """Waits for saves under way."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for saves under way, and lets go of the folder."""
        self.wait()
        if self._manager is not None:
            self._manager.close()


def _tree_of(checkpoint: epath.Path) -> Any:
    """Shapes and dtypes of the state that a checkpoint holds."""
    found: Any = ocp.StandardCheckpointHandler().metadata(checkpoint / STATE)
    return found.tree


def _steps_in(folder: epath.Path) -> list[int]:
    """Steps of all that is named like a checkpoint, newest first."""
    if not folder.is_dir():
        return []
    found = (re.fullmatch(r"checkpoint_(0|[1-9][0-9]*)", path.name) for path in folder.iterdir())
    return sorted((int(match[1]) for match in found if match), reverse=True)


@functools.cache
def _say_once(text: str) -> None:
    """One line, although a stage opens the same checkpoints several times."""
    print(text, file=sys.stderr, flush=True)


def _only_this_process() -> MultiprocessingOptions:
    """Orbax waits for nobody."""
    here = jax.process_index()
    return MultiprocessingOptions(primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process_{here}")


class _LiteralPath(type(epath.Path("."))):
    """A local path whose own name is no pattern; so are the paths that are derived from it.

    Orbax looks for the parts of a checkpoint with `path.glob("ocdbt.process_*")`. etils hands both to `glob` as one
    pattern, which finds nothing in `runs/[a]`, and Orbax then finishes a checkpoint without an index.
    """

    def glob(self, pattern: str) -> Iterator[epath.Path]:
        return super(_LiteralPath, type(self)(glob.escape(str(self)))).glob(pattern)


def _literal(folder: epath.Path) -> epath.Path:
    return folder if "://" in str(folder) else _LiteralPath(folder)


def checkpoint_folder(folder: epath.PathLike) -> epath.Path:
    """Where a run's checkpoints lie: in `checkpoints`, or in the run's own folder where T5X began it as MODEL_DIR."""
    folder = epath.Path(folder)
    return folder if _steps_in(folder) else folder / CHECKPOINT_FOLDER
