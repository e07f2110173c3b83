"""Parses gin/t5x with each of the paper's students, as t5x.main would, and prints what T5X would be given.

It runs as __main__, because T5X's gin files name the running program so.
"""

import importlib
import json
import sys
from pathlib import Path

import t5x
import t5x.gin_utils

import gin

ROOT = Path(__file__).parents[2]
ENTRIES = {"pretrain": ("train", "train"), "eval": ("eval", "evaluate"), "precompile": ("precompile", "precompile")}


def register() -> None:
    """Makes the functions of T5X's programs those of this one, before gin locks its names."""
    for module, function in ENTRIES.values():
        entry = getattr(importlib.import_module(f"t5x.{module}"), function)
        setattr(sys.modules["__main__"], function, entry)
        gin.register(entry, "__main__")


def parsed(name: str, student: str) -> dict[str, object]:
    """Macros of a parsed file that the student's file decides, and everything as text."""
    gin.clear_config()
    t5x.gin_utils.parse_gin_flags(
        [str(ROOT), str(Path(t5x.__file__).parents[1])],
        [f"gin/t5x/{name}.gin", f"gin/students/{student}.gin"],
        ["MODEL_DIR = 'somewhere'", "CHECKPOINT_PATH = 'somewhere'", "EVAL_OUTPUT_DIR = 'somewhere'"],
    )
    return {"BATCH_SIZE": gin.query_parameter("%BATCH_SIZE"), "text": gin.config_str(max_line_length=10_000)}


if __name__ == "__main__":
    register()
    students = sys.argv[1:]
    print(json.dumps({f"{name} {student}": parsed(name, student) for name in ENTRIES for student in students}))
