"""Stage names to functions; the only module that imports gin.

Flags are T5X's: --gin_file, --gin_search_paths, --gin.NAME=value. And --dry_run, which tells and does nothing.
"""

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from tokenize import TokenError
from typing import Any

from etils import epath

import gin
from mergedistill_jax import __version__
from mergedistill_jax.dry_run import DryRun, dry_run
from mergedistill_jax.gin_types import check_bindings, macro_without_calls, type_errors, without_calls
from mergedistill_jax.interrupts import interruptible
from mergedistill_jax.stage_log import StageTime, read_stage_time, write_stage_time

STAGES = {
    "vocab": ("vocab", "VocabConfig", "unite vocabularies, or learn one"),
    "predict": ("predict", "PredictConfig", "run one teacher over a corpus, once"),
    "verify": ("verify", "VerifyConfig", "check a folder of predictions"),
    "compare": ("compare", "CompareConfig", "score candidate teachers on held-out text, and recommend"),
    "train": ("train", "TrainConfig", "train a student, or a teacher on gold labels"),
    "evaluate": ("evaluate", "EvaluateConfig", "score students and teachers on the same masked words"),
    "finetune": ("finetune", "FinetuneConfig", "fine-tune and score a model on tagging"),
    "export": ("export", "ExportConfig", "write a Hugging Face folder"),
    "plan": ("plan", "PlanConfig", "estimate memory, time and bytes without hardware"),
    "pipeline": ("pipeline", "PipelineConfig", "all stages in order, from text to report"),
}

USUAL_FILES = {stage: f"gin/runs/{stage}.gin" for stage in STAGES} | {
    "vocab": "gin/runs/union.gin",
    "train": "gin/runs/student.gin",
    "pipeline": "gin/runs/demo.gin",
}
"""A gin file to begin with, for each stage."""

TOGETHER = ("train", "predict", "pipeline")
"""Stages that all processes of a job work on; the others run on its leading process alone."""

_IMPORT = re.compile(r"(import|from) ")


class UsageError(ValueError):
    """Wrong use of the command line; the message is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one stage, as one process of several where MERGEDISTILL_DISTRIBUTED says so; see training/distributed.py.

    Returns:
        The exit status: 0, or after one line on standard error 2 for wrong input and 130 for Ctrl-C.

    Raises:
        SystemExit: with status 75 a training run that SIGTERM or Ctrl-C told to leave, after it has saved.
    """
    _quiet_tensorflow()
    run = functools.partial(interruptible, functools.partial(_main, arguments))
    if not os.environ.get("MERGEDISTILL_DISTRIBUTED"):
        return run()
    distributed = importlib.import_module("mergedistill_jax.training.distributed")
    return distributed.run_as_member(run)


def _main(arguments: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--version" in arguments:
        print(f"mergedistill_jax {__version__}")
        return 0
    if not arguments or arguments[0] == "help" or {"-h", "--help"} & set(arguments):
        print(usage())
        return 0 if arguments else 2
    run = functools.partial(_status_of, functools.partial(_run, arguments))
    return run() if arguments[0] in TOGETHER else _lead_alone(run)


def _run(arguments: Sequence[str]) -> None:
    only_look = "--dry_run" in arguments
    stage, gin_files, search_paths, bindings = parse([argument for argument in arguments if argument != "--dry_run"])
    if only_look:
        report = describe_stage(stage, gin_files, bindings, search_paths)
        print("\n".join(report.lines))
        if report.missing:
            more = f" and {len(report.missing) - 5:,} more" if len(report.missing) > 5 else ""
            missing = ", no ".join(report.missing[:5])
            raise UsageError(f"{stage}: found no {missing}{more}, expected what the lines above say")
    else:
        run_stage(stage, gin_files, bindings, search_paths)


def _status_of(function: Callable[[], object]) -> int:
    """Calls a function; 0, or 2 after one line on standard error about wrong input."""
    try:
        function()
    except (ValueError, OSError, ArithmeticError, *_errors_of_paths()) as error:
        if os.environ.get("MERGEDISTILL_TRACEBACK"):
            raise
        print(f"mergedistill: {_one_line(error)}", file=sys.stderr)
        return 2
    return 0


def _errors_of_paths() -> tuple[type[Exception], ...]:
    """What TensorFlow raises, beside Python's own, of a gs:// path; nothing where nobody has imported it."""
    errors = getattr(sys.modules.get("tensorflow"), "errors", None)
    return () if errors is None else (errors.OpError,)


def _lead_alone(function: Callable[[], int]) -> int:
    """Calls a function once for all processes; its exit status on each of them."""
    if not os.environ.get("MERGEDISTILL_DISTRIBUTED"):
        return function()
    return importlib.import_module("mergedistill_jax.training.distributed").lead_alone(function)


def _quiet_tensorflow() -> None:
    """Keeps TensorFlow's start-up notices off standard error; must run before it is imported.

    It reads and writes files here, and computes nothing: oneDNN's notice, which no log level holds back, goes with it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def usage() -> str:
    """The text of --help."""
    stages = "\n".join(f"  {name:<10}{text}" for name, (_, _, text) in STAGES.items())
    return (
        "usage: mergedistill STAGE --gin_file=FILE [--gin_file=FILE ...]"
        " [--gin_search_paths=DIR,DIR] [--gin.NAME=VALUE ...] [--dry_run] [--version]"
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
        raise UsageError(f"stage: found {stage!r}, expected one of {', '.join(STAGES)}{_closest(stage, list(STAGES))}")
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
    stage: str,
    gin_files: Sequence[str],
    bindings: Sequence[str],
    search_paths: Sequence[str] = (),
    *,
    reuse: bool = False,
) -> Any:
    """Configures a stage from gin alone, runs it, and keeps configuration, command and time beside its output.

    Args:
        stage: one of STAGES.
        gin_files: parsed in order.
        bindings: `NAME = value`, parsed after the files.
        search_paths: where gin files are looked for, after the working directory and before the repository's root.
        reuse: skip a stage that was finished with the same configuration; returns None then.
    """
    command = command_line(stage, gin_files, bindings)
    print(f"$ {command}", flush=True)
    config = configure(stage, gin_files, bindings, search_paths)
    module, _, _ = STAGES[stage]
    verb: Callable[..., Any] = getattr(importlib.import_module(f"mergedistill_jax.{module}"), module)
    output = getattr(config, "output", None)
    configuration = hashlib.blake2b(_used_configuration().encode(), digest_size=16).hexdigest()
    before = read_stage_time(output, stage) if isinstance(output, str) else None
    same = before is not None and before.configuration == configuration
    if reuse and same:
        print(f"{stage}: done before, {output}")
        return None
    operative = gin.config_str()
    began = time.monotonic()
    if stage == "pipeline":
        result = verb(config, functools.partial(_run_step, gin_files, bindings, search_paths))
    else:
        result = verb(config)
    # A stage that left work to other processes is not done, or a pipeline would never come back to it.
    if isinstance(output, str) and _leads() and getattr(result, "complete", True):
        seconds = time.monotonic() - began + (before.seconds if before and same and stage == "train" else 0.0)
        folder = epath.Path(output)
        (folder / f"{stage}.gin").write_text(f"# {command}\n\n{operative}")
        done = StageTime(stage=stage, command=command, configuration=configuration, seconds=seconds, order=time.time())
        write_stage_time(folder, done)
    return result


def _leads() -> bool:
    """Whether this process is alone, or the one of several that writes what is written once."""
    if not os.environ.get("MERGEDISTILL_DISTRIBUTED"):
        return True
    return importlib.import_module("mergedistill_jax.training.distributed").leads()


def _used_configuration() -> str:
    """What gin gave to the config object just made, defaults included, and to references that are called later.

    Settings of other stages are left out, and so is what a file imports: changing them does not make this stage another
    one.
    """
    used = "\n".join(line for line in gin.operative_config_str().splitlines() if not _IMPORT.match(line))
    later = tuple(f"{name}." for name in re.findall(r"= @([\w./]+)$", used, re.MULTILINE))
    parameters = [line for line in gin.config_str().splitlines() if later and line.startswith(later)]
    return "\n".join([used, *parameters])


def _run_step(
    gin_files: Sequence[str],
    bindings: Sequence[str],
    search_paths: Sequence[str],
    stage: str,
    gin_file: str,
    step_bindings: Sequence[str],
    *,
    reuse: bool,
) -> Any:
    """Runs a step of a pipeline with the pipeline's own files and bindings, and the step's after them."""
    run = functools.partial(
        run_stage, stage, [*gin_files, gin_file], [*bindings, *step_bindings], search_paths, reuse=reuse
    )
    if stage in TOGETHER or not os.environ.get("MERGEDISTILL_DISTRIBUTED"):
        return run()
    if status := _lead_alone(functools.partial(_status_of, run)):
        raise SystemExit(status)
    return None


def describe_stage(
    stage: str, gin_files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str] = ()
) -> DryRun:
    """What a stage would do with what is on this machine, without doing it: its lines, and then its configuration."""
    with _usage_errors(gin_files):
        config = _parse_files(stage, gin_files, bindings, search_paths)
    report = dry_run(stage, config, corpus=macro_without_calls("CORPUS"))
    text = "\n".join(f"# {line}" for line in [*report.lines, f"command: {command_line(stage, gin_files, bindings)}"])
    return dataclasses.replace(report, lines=[text, "", gin.config_str()])


def configure(stage: str, gin_files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str] = ()) -> Any:
    """The config object of a stage, made by gin.

    Raises:
        UsageError: a file is missing, a name is misspelt, a required value is not given, or one is of another type.
    """
    with _usage_errors(gin_files):
        _parse_files(stage, gin_files, bindings, search_paths)
        with gin.unlock_config():
            config = gin.get_configurable(_selector(_config_class(stage)))()
        _refuse_mistyped(type_errors(config))
    return config


def _config_class(stage: str) -> type:
    module, config_name, _ = STAGES[stage]
    return getattr(importlib.import_module(f"mergedistill_jax.configs.{module}"), config_name)


def _selector(config_class: type) -> str:
    return f"{config_class.__module__}.{config_class.__qualname__}"


def _where(gin_files: Sequence[str]) -> str:
    return ", ".join(gin_files) or "no gin file"


_GIN_ERRORS = (ValueError, OSError, TypeError, SyntaxError, RuntimeError, ImportError, AttributeError, KeyError)


@contextlib.contextmanager
def _usage_errors(gin_files: Sequence[str]) -> Iterator[None]:
    """Turns what gin raises, and what the references in its files raise, into one line that names the files."""
    try:
        yield
    except UsageError as error:
        raise UsageError(_named(gin_files, str(error))) from error
    except (*_GIN_ERRORS, *_errors_of_paths()) as error:
        raise UsageError(_named(gin_files, _explained(error))) from error


def _named(gin_files: Sequence[str], message: str) -> str:
    """The message behind the names of the files, unless it begins with a flag, or one of them."""
    named = not gin_files or message.startswith(("--gin", *(f"{name}:" for name in (*gin_files, _where(gin_files)))))
    return message if named else f"{_where(gin_files)}: {message}"


def _parse_files(stage: str, gin_files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str]) -> Any:
    """Gives gin the files, then the bindings, checks both for a stage, and finalizes.

    Returns:
        The stage's settings with a Call in the place of everything that takes longer, see gin_types.py.
    """
    gin.clear_config(clear_constants=True)
    for path in (*search_paths, str(epath.Path(__file__).parent.parent)):
        gin.add_config_file_search_path(path)
    with gin.unlock_config():
        logging.disable(logging.ERROR)  # gin logs every folder where it looks for a file in vain
        try:
            gin.parse_config_files_and_bindings(list(gin_files), [], finalize_config=False)
        finally:
            logging.disable(logging.NOTSET)
        in_files = gin.config_str()
        config_class = _config_class(stage)
        _refuse_old_imports(in_files)
        for binding in bindings if gin_files else ():
            _parse_binding(binding)
        _require_settings(stage, _selector(config_class), gin_files)
        _require_known_macros(bindings, in_files)
        findings = check_bindings(config_class, _selector(config_class))
        _refuse_missing([*findings.missing, *_unbound_macros()])
        _refuse_mistyped(findings.mistyped)
        gin.finalize()
    return without_calls(config_class, _selector(config_class))  # refuses what is out of range


def _require_settings(stage: str, selector: str, gin_files: Sequence[str]) -> None:
    """Refuses gin files that do not say a word about the stage.

    Raises:
        UsageError: names a file that does.
    """
    try:
        bound = gin.get_bindings(selector, resolve_references=False)
    except (KeyError, ValueError):  # no file imports it
        bound = {}
    if not bound:
        found = f"found no settings of {stage}" if gin_files else "found no --gin_file"
        raise UsageError(f"{found}, expected --gin_file={USUAL_FILES[stage]} or one like it")


def _refuse_old_imports(config: str) -> None:
    """Refuses an import of settings from where their code is: what is bound there would reach nothing.

    Raises:
        UsageError: names the import that is right.
    """
    for folder, name in re.findall(r"^from (mergedistill_jax[\w.]*) import (\w+)", config, re.MULTILINE):
        right = "mergedistill_jax.configs"
        if folder != right and importlib.util.find_spec(f"{right}.{name}"):
            raise UsageError(f"found `from {folder} import {name}`, expected `from {right} import {name}`")


def _unbound_macros() -> list[str]:
    """Those that any binding reads and none sets, this stage's or not."""
    everything = gin.config_str()
    bound = re.findall(r"^([\w/]+) =", everything, re.MULTILINE)
    read = re.findall(r"%([\w/]+)", re.sub(r"'[^'\n]*'|\"[^\"\n]*\"|^#.*$", "", everything, flags=re.MULTILINE))
    return [f"%{name}" for name in read if name not in bound]


def _refuse_missing(missing: Sequence[str]) -> None:
    """Raises UsageError that names everything that has no value yet."""
    macros = list(dict.fromkeys(name for name in missing if name.startswith("%")))
    fields = list(dict.fromkeys(name for name in missing if not name.startswith("%")))
    if macros:
        flags = " ".join(f"--gin.{name.removeprefix('%')}=VALUE" for name in macros)
        listed = ", ".join([*macros, *fields])
        raise UsageError(f"{listed}: found no value, expected {flags} or a gin file that sets it")
    if fields:
        raise UsageError(f"{', '.join(fields)}: found no value, expected one in a gin file")


def _refuse_mistyped(mistyped: Sequence[str]) -> None:
    """Raises UsageError that names every value of another type than its field's."""
    if mistyped:
        raise UsageError("; ".join(dict.fromkeys(mistyped)))


def _parse_binding(binding: str) -> None:
    """Gives gin one `NAME = value` of the command line.

    Raises:
        UsageError: no such name, or no gin value; names the flag.
    """
    name, _, value = (part.strip() for part in binding.partition("="))
    try:
        gin.parse_config(binding)
    except (SyntaxError, TokenError) as error:
        expected = "a value as in Python, strings in quotes"
        raise UsageError(f"--gin.{name}: found {value}, expected {expected}") from error
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        raise UsageError(f"--gin.{name}: {_explained(error)}") from error


def _require_known_macros(bindings: Sequence[str], in_files: str) -> None:
    """Refuses a macro of the command line that no gin file sets and nothing reads, which gin itself lets pass.

    Args:
        bindings: of the command line.
        in_files: gin's configuration before them.
    """
    everything = gin.config_str()
    known = sorted({*re.findall(r"^([A-Z_0-9]+) =", in_files, re.MULTILINE), *re.findall(r"%(\w+)", everything)})
    for binding in bindings:
        name = binding.partition("=")[0].strip()
        if not set(name) & set("./") and name not in known:
            expected = f"one of {', '.join(known)}{_closest(name, known)}"
            raise UsageError(f"--gin.{name}: found a name that nothing reads, expected {expected}")


def _explained(error: BaseException) -> str:
    """Gin's message on one line, with what it leaves out: what would have been right."""
    message = _one_line(error)
    if match := re.match(r"Unable to open file: (\S+?)\. Searched config paths: (.*?)\.?$", message):
        return f"{match[1]}: not found in {match[2]}, expected a gin file; --gin_search_paths=DIR names further folders"
    if match := re.match(r"Configurable '(.+)' doesn't have a parameter named '(.+?)'\.?(.*)", message):
        parameters = _parameters(match[1])
        found = f"{match[2]}: found no such parameter of {match[1]}, expected one of {', '.join(parameters)}"
        return f"{found}{_closest(match[2], parameters)}.{match[3]}"
    if match := re.match(r"No configurable matching (?:reference )?'(.+?)'\.?(.*)", message):
        return f"{match[1]}: found no such name, expected one that the gin files import.{match[2]}"
    return message


def _closest(name: str, names: Sequence[str]) -> str:
    """The name that was perhaps meant, as the end of a message; nothing where none is like it."""
    found = difflib.get_close_matches(name, names, n=1)
    return f" ({found[0]}?)" if found else ""


def _parameters(name: str) -> list[str]:
    configurable: Any = gin.get_configurable(name)
    wrapped: Any = getattr(configurable, "__wrapped__", configurable)
    if dataclasses.is_dataclass(wrapped):
        return [field.name for field in dataclasses.fields(wrapped)]
    return list(inspect.signature(wrapped).parameters)


def command_line(stage: str, gin_files: Sequence[str], bindings: Sequence[str]) -> str:
    """The command a person would type for a stage."""
    flags = [f"--gin_file={file}" for file in gin_files]
    flags += [f"--gin.{name.strip()}={value.strip()}" for name, _, value in (b.partition("=") for b in bindings)]
    return " ".join(["mergedistill", stage, *map(_quoted, flags)])


def _quoted(flag: str) -> str:
    """Quoted for a shell: gin's strings hold single quotes, which double quotes keep readable."""
    quoted = shlex.quote(flag)
    return f'"{flag}"' if quoted != flag and not set(flag) & set('"$`\\!') else quoted


def _one_line(error: BaseException) -> str:
    """The message on one line, without the configuration, place and call that gin appends to some."""
    message = re.split(r" in config string:|\n *In call to configurable|\n *In bindings string", str(error))[0]
    return " ".join(message.split())
