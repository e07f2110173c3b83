"""A student that does not start from nothing: embeddings of its teachers, token by token, and perhaps one's layers.

    student's token    teachers that have it    embedding
    haus               de                       de's
    in                 de, en, es               the mean, or the first one's
    ##ß (completed)    nobody                   stays random

Teachers trained apart have embeddings in coordinates of their own. `align` turns every other teacher into the first
one's: the rotation that brings the tokens they share closest (orthogonal Procrustes, Schönemann 1966).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util
from jaxtyping import Bool, Float

from mergedistill_jax.configs.start import StartConfig
from mergedistill_jax.teachers.loading import load_masked_model, model_hash
from mergedistill_jax.vocabulary.folder import Vocabulary

_TOKEN = ("encoder", "embeddings", "token")
_BIAS = ("decoder_bias",)


def described(config: StartConfig) -> dict[str, Any]:
    """The settings with the teachers' contents in the place of their folders, so that a run can be recognised."""
    hashes = {name: model_hash(path) for name, path in config.teachers.items()}
    return dataclasses.asdict(config) | {"teachers": hashes}


def start_from_teachers(params: Any, config: StartConfig, vocabulary: Vocabulary) -> tuple[Any, str]:
    """The student's parameters with what is taken from the teachers, and a line that tells what that was.

    Args:
        params: of a fresh MaskedLanguageModel on the host; float32, a tree of dicts.
        config: what is taken.
        vocabulary: the student's.

    Raises:
        ValueError: a teacher is not in the vocabulary, or of another width, or its layers do not fit.
    """
    flat: dict[tuple[str, ...], Any] = dict(traverse_util.flatten_dict(params))
    table, bias = np.array(flat[_TOKEN]), np.array(flat[_BIAS])
    tables, biases, known = [], [], []
    layers: dict[tuple[str, ...], np.ndarray] = {}
    for name, folder in config.teachers.items():
        _, teacher, _ = load_masked_model(folder)
        tree = {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(teacher).items()}
        if _TOKEN not in tree or _BIAS not in tree or tree[_TOKEN].shape[1] != table.shape[1]:
            found = tree[_TOKEN].shape if _TOKEN in tree else "no table"
            raise ValueError(f"{folder}: embeddings: found {found}, expected width {table.shape[1]} of the student")
        labels = vocabulary.id_map(name).labels
        kept = np.flatnonzero(labels >= 0)
        has = np.zeros(len(table), bool)
        has[labels[kept]] = True
        tables.append(_scattered(table, labels[kept], tree[_TOKEN][kept]))
        biases.append(_scattered(bias, labels[kept], tree[_BIAS][kept]))
        known.append(has)
        if name == config.layers_from:
            layers = _fitting_layers(flat, tree, folder)
    if config.align:
        tables = [
            tables[0],
            *(_aligned(other, tables[0], has & known[0]) for other, has in zip(tables[1:], known[1:], strict=True)),
        ]
    flat |= layers
    flat[_TOKEN] = _combined(table, tables, known, first=config.embeddings == "first")
    flat[_BIAS] = _combined(bias, biases, known, first=config.embeddings == "first")
    count = int(np.logical_or.reduce(known).sum())
    told = f"{count:,} of {len(table):,} embeddings start as those of {', '.join(config.teachers)} ({config.embeddings}"
    told += ", aligned)" if config.align else ")"
    if config.layers_from:
        told += f", the other parameters as {config.layers_from}'s"
    return traverse_util.unflatten_dict(flat), told


def _scattered(like: np.ndarray, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values at their rows of an array of zeros; of two at one row the first."""
    found = np.zeros_like(like)
    found[rows[::-1]] = values[::-1]
    return found


def _combined(start: np.ndarray, tables: list[np.ndarray], known: list[np.ndarray], *, first: bool) -> np.ndarray:
    """Row by row the mean, or the first, of the tables that know the row; the start's where none does."""
    combined = np.array(start)
    count = np.zeros(len(start), np.int64)
    total = np.zeros(start.shape, np.float64)
    for table, has in zip(tables, known, strict=True):
        taken = has & (count == 0) if first else has
        total[taken] += table[taken]
        count += taken
    some = count > 0
    divisor = count[some].reshape(-1, *[1] * (start.ndim - 1))
    combined[some] = (total[some] / divisor).astype(start.dtype)
    return combined


def _aligned(
    table: Float[np.ndarray, "v d"], anchor: Float[np.ndarray, "v d"], shared: Bool[np.ndarray, " v"]
) -> Float[np.ndarray, "v d"]:
    """The table rotated so that the shared rows are closest to the anchor's; rows of zeros stay zero."""
    u, _, vt = np.linalg.svd(table[shared].T.astype(np.float64) @ anchor[shared])
    return (table @ (u @ vt)).astype(table.dtype)


def _fitting_layers(
    student: Mapping[tuple[str, ...], np.ndarray], teacher: Mapping[tuple[str, ...], np.ndarray], folder: str
) -> dict[tuple[str, ...], np.ndarray]:
    """The teacher's parameters for every path of the student but the vocabulary's."""
    depth, depth_of_teacher = _depth(student), _depth(teacher)
    found = {}
    for path, leaf in student.items():
        if path in (_TOKEN, _BIAS):
            continue
        source = path
        if path[1:] and path[1].startswith("layers_"):
            index = int(path[1].removeprefix("layers_")) * depth_of_teacher // depth
            source = (path[0], f"layers_{index}", *path[2:])
        value = teacher.get(source)
        if path[-1] == "position" and value is not None and len(value) > len(leaf):
            value = value[: len(leaf)]
        if value is None or value.shape != leaf.shape:
            shape = None if value is None else value.shape
            raise ValueError(f"{folder}: {'/'.join(source)}: found shape {shape}, expected {leaf.shape} of the student")
        found[path] = value
    return found


def _depth(flat: Mapping[tuple[str, ...], np.ndarray]) -> int:
    return len({path[1] for path in flat if path[1:] and path[1].startswith("layers_")})
