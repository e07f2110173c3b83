"""Who may import whom, checked by import-linter; and that the check would notice."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mergedistill_jax"


def lint(folder: Path) -> tuple[int, str]:
    """Exit status and output of import-linter on the packages of a folder."""
    program = (
        "import sys; from importlinter.cli import lint_imports;"
        " sys.exit(lint_imports(config_filename='.importlinter', no_cache=True))"
    )
    done = subprocess.run(  # noqa: S603 - our own
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_contracts_are_kept() -> None:
    status, output = lint(ROOT)
    assert status == 0, output


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("training/losses.py", "import torch", "torch and transformers are references"),
        ("models/heads.py", "import transformers", "torch and transformers are references"),
        ("train.py", "import t5x.train", "torch and transformers are references"),
        ("cli.py", "from mergedistill_jax.t5x_adapter import axes", "Verbs wire"),
        ("train.py", "from mergedistill_jax.predict import predict", "Verbs wire"),
        ("schema.py", "from mergedistill_jax.vocabulary import union", "Verbs wire"),
        ("training/step.py", "from mergedistill_jax.models.heads import MaskedLanguageModel", "Training gets"),
        ("data/batches.py", "import tasks.distillation", "The library is given names"),
        ("pipeline.py", "import gin", "Only the command line and its check of types import gin"),
        ("__main__.py", "from mergedistill_jax.train import train", "python -m"),
    ],
)
def test_a_forbidden_import_would_be_noticed(tmp_path: Path, module: str, line: str, contract: str) -> None:
    """On a copy of the sources with one import more."""
    for package in ("mergedistill_jax", "tasks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    path = tmp_path / "mergedistill_jax" / module
    path.write_text(path.read_text() + f"\n{line}\n")
    status, output = lint(tmp_path)
    assert status == 1, output
    broken = [text for text in " ".join(output.split()).split(" KEPT") if "BROKEN" in text]
    assert any(contract in text for text in broken), output


def test_main_is_nothing_but_the_command_line() -> None:
    tree = ast.parse((PACKAGE / "__main__.py").read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert modules == {"sys", "mergedistill_jax.cli", "mergedistill_jax.interrupts"}


def test_gin_files_stand_in_no_package() -> None:
    """An __init__.py under gin/ would shadow gin-config."""
    assert list((ROOT / "gin").rglob("*.gin"))
    assert not list((ROOT / "gin").rglob("*.py"))


def test_every_stage_is_a_verb_at_the_root_and_every_verb_is_a_stage() -> None:
    from mergedistill_jax.cli import STAGES  # noqa: PLC0415 - this test alone

    others = {
        "__init__",
        "__main__",
        "cli",
        "schema",
        "manifest",
        "shards",
        "sealed",
        "record_rows",
        "files",
        "stage_log",
        "products",
        "locks",
        "interrupts",
        "json_objects",
        "dry_run",
        "gin_types",
        "counting",
    }
    assert {path.stem for path in PACKAGE.glob("*.py")} - others == {module for module, _, _ in STAGES.values()}
    assert all(name == module for name, (module, _, _) in STAGES.items())
