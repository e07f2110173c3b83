"""Stage names to functions; the only module that imports gin. Flags are T5X's: --gin_file, --gin_search_paths, --gin.NAME=value."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before the first import of TensorFlow, which only reads files here

import importlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gin
from etils import epath

STAGES = {
    "vocab": ("vocab", "VocabConfig", "unite vocabularies, or learn one"),
    "predict": ("predict", "PredictConfig", "run one teacher over a corpus, once"),
    "verify": ("verify", "VerifyConfig", "check a folder of predictions"),
    "train": ("train", "TrainConfig", "train a student, or a teacher on gold labels"),
    "evaluate": ("evaluate", "EvaluateConfig", "score students and teachers on the same masked words"),
    "finetune": ("finetune", "FinetuneConfig", "fine-tune and score a model on tagging"),
    "export": ("export", "ExportConfig", "write a Hugging Face folder"),
    "demo": ("demo", "DemoConfig", "the whole pipeline, several stages in one process"),
}
OUTPUT_FIELD = "output"
CONFIG_NAME = "config.gin"


class UsageError(ValueError):
    """Wrong use of the command line; the message is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one stage; returns the exit status: 0, or 2 after one line on standard error about wrong input."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    try:
        stage, gin_files, search_paths, bindings = parse(arguments)
        run_stage(stage, gin_files, bindings, search_paths)
    except (ValueError, OSError, ImportError, AttributeError) as error:
        if os.environ.get("MERGEDISTILL_TRACEBACK"):
            raise
        print(f"mergedistill: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def usage() -> str:
    """The text of --help."""
    stages = "\n".join(f"  {name:<10}{text}" for name, (_, _, text) in STAGES.items())
    return (
        "usage: mergedistill STAGE --gin_file=FILE [--gin_file=FILE ...] [--gin_search_paths=DIR,DIR] [--gin.NAME=VALUE ...]"
        f"\n\nstages:\n{stages}\n\n"
        "Values are gin's: strings in quotes, --gin.OUTPUT=\"'runs/x'\". MERGEDISTILL_TRACEBACK=1 shows tracebacks."
    )


def parse(arguments: Sequence[str]) -> tuple[str, list[str], list[str], list[str]]:
    """Splits a command line into stage, gin files, search paths and bindings.

    Raises:
        UsageError: an unknown stage or flag.
    """
    stage, *flags = arguments
    if stage not in STAGES:
        raise UsageError(f"stage: found {stage!r}, expected one of {', '.join(STAGES)}")
    files: list[str] = []
    paths: list[str] = []
    bindings: list[str] = []
    for flag in flags:
        name, _, value = flag.partition("=")
        if name == "--gin_file" and value:
            files.append(value)
        elif name == "--gin_search_paths" and value:
            paths.extend(value.split(","))
        elif name == "--gin_bindings" and value:
            bindings.append(value)
        elif name.startswith("--gin.") and value:
            bindings.append(f"{name.removeprefix('--gin.')} = {value}")
        else:
            raise UsageError(
                f"flag: found {flag!r}, expected --gin_file=FILE, --gin_search_paths=DIRS or --gin.NAME=VALUE"
            )
    return stage, files, paths, bindings


def run_stage(
    stage: str, gin_files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str] = ()
) -> Any:
    """Configures a stage from gin alone, runs it, and keeps the operative configuration beside its output."""
    config = configure(stage, gin_files, bindings, search_paths)
    module, _, _ = STAGES[stage]
    verb: Callable[..., Any] = getattr(importlib.import_module(f"mergedistill_jax.{module}"), module)
    _keep_configuration(config, stage, gin_files, bindings)
    return verb(config, run_stage) if stage == "demo" else verb(config)


def configure(
    stage: str, gin_files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str] = ()
) -> Any:
    """The config object of a stage, made by gin.

    Raises:
        UsageError: a file is missing, a name is misspelt, or a required value is not given.
    """
    module, config_name, _ = STAGES[stage]
    config_class = getattr(importlib.import_module(f"mergedistill_jax.{module}"), config_name)
    gin.clear_config(clear_constants=True)
    for path in (*search_paths, "", str(epath.Path(__file__).parent.parent)):
        gin.add_config_file_search_path(path)
    try:
        with gin.unlock_config():
            gin.parse_config_files_and_bindings(list(gin_files), list(bindings), finalize_config=True)
            return _registered(config_class)()
    except (ValueError, OSError, TypeError, SyntaxError, RuntimeError) as error:
        where = ", ".join(gin_files) or "no gin file"
        raise UsageError(f"{where}: {_one_line(error)}") from error


def _registered(config_class: type) -> Callable[[], Any]:
    """The gin-configured form of a class: as a gin file registered it, or with its defaults."""
    selector = f"{config_class.__module__}.{config_class.__qualname__}"
    return gin.get_configurable(selector)


def _keep_configuration(config: Any, stage: str, gin_files: Sequence[str], bindings: Sequence[str]) -> None:
    """Writes the operative gin configuration and the command into the stage's output folder."""
    output = getattr(config, OUTPUT_FIELD, None)
    if not isinstance(output, str):
        return
    folder = epath.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    command = command_line(stage, gin_files, bindings)
    (folder / f"{stage}.gin").write_text(f"# {command}\n\n{gin.operative_config_str()}")


def command_line(stage: str, gin_files: Sequence[str], bindings: Sequence[str]) -> str:
    """The command a person would type for a stage."""
    flags = [f"--gin_file={file}" for file in gin_files]
    flags += [f"--gin.{name.strip()}={value.strip()}" for name, _, value in (b.partition("=") for b in bindings)]
    return shlex.join(["mergedistill", stage, *flags])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
