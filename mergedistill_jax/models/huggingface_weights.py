"""Tensors in two worlds: Flax parameters on one side, safetensors files of Hugging Face on the other.

    Flax      encoder/layers_3/attention/query/kernel         [d, h, e]
    HF        bert.encoder.layer.3.attention.self.query.weight  [h * e, d]

Nothing here knows the names of a family's tensors (families/) or configs in JSON; `huggingface.py` puts the pieces
together.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from etils import epath
from flax import traverse_util

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TORCH_FILE = "pytorch_model.bin"

# safetensors.numpy.load knows no BF16, so the bytes are read with the core package and this table.
_DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

_CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "w = torch.load('{folder}/pytorch_model.bin', map_location='cpu', weights_only=True); "
    "save_file({{k: v.clone().contiguous() for k, v in w.items()}}, '{folder}/model.safetensors', {{'format': 'pt'}})\""
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """One tensor in both worlds.

    Attributes:
        path: its place in the tree of Flax parameters.
        shape: its shape there; of a kernel, input axes first.
        name: its name in a Hugging Face file.
        hf_shape: its shape there; of a kernel, [outputs, inputs].
        skipped_rows: rows at its beginning there that no output depends on and that are not loaded.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    name: str
    hf_shape: tuple[int, ...]
    skipped_rows: int = 0

    def to_flax(self, tensor: np.ndarray) -> np.ndarray:
        """The Flax parameter, float32, of a Hugging Face tensor [*hf_shape]."""
        if self.path[-1] == "kernel":
            tensor = tensor.T
        tensor = tensor[self.skipped_rows :]
        return np.ascontiguousarray(tensor.reshape(self.shape), dtype=np.float32)

    def to_hf(self, array: Any) -> np.ndarray:
        """The Hugging Face tensor, float32 and contiguous, of a Flax parameter [*shape]; rows not loaded are 0."""
        array = np.asarray(array)
        if self.path[-1] == "kernel":
            array = array.reshape(self.hf_shape[::-1]).T
        if self.skipped_rows:
            array = np.concatenate([np.zeros((self.skipped_rows, *self.shape[1:]), array.dtype), array])
        # safetensors writes the memory behind a transposed view without complaint: it must be laid out first.
        return np.ascontiguousarray(array.reshape(self.hf_shape), dtype=np.float32)


def linear(
    path: tuple[str, ...], name: str, inputs: tuple[int, ...], outputs: tuple[int, ...], *, bias: bool = True
) -> list[Weight]:
    """A linear layer between axes of the given sizes."""
    fan_in, fan_out = math.prod(inputs), math.prod(outputs)
    kernel = Weight(path=(*path, "kernel"), shape=inputs + outputs, name=f"{name}.weight", hf_shape=(fan_out, fan_in))
    if not bias:
        return [kernel]
    return [kernel, Weight(path=(*path, "bias"), shape=outputs, name=f"{name}.bias", hf_shape=(fan_out,))]


def norm(path: tuple[str, ...], name: str, width: int, *, bias: bool = True) -> list[Weight]:
    """A layer normalisation."""
    names = {"scale": "weight", "bias": "bias"} if bias else {"scale": "weight"}
    return [
        Weight(path=(*path, "norm", ours), shape=(width,), name=f"{name}.{theirs}", hf_shape=(width,))
        for ours, theirs in names.items()
    ]


def table(path: tuple[str, ...], name: str, rows: int, width: int, *, skipped_rows: int = 0) -> Weight:
    """An embedding table of `rows` rows, before which the file has `skipped_rows` more."""
    return Weight(
        path=path,
        shape=(rows, width),
        name=f"{name}.weight",
        hf_shape=(skipped_rows + rows, width),
        skipped_rows=skipped_rows,
    )


def vector(path: tuple[str, ...], name: str, width: int) -> Weight:
    """A vector with a name of its own, such as a head's bias."""
    return Weight(path=path, shape=(width,), name=name, hf_shape=(width,))


def read_tensors(folder: epath.PathLike) -> dict[str, np.ndarray]:
    """All tensors of model.safetensors, or of the shards that its index lists, under their stored names and dtypes.

    Raises:
        FileNotFoundError: neither file, or a shard, is there; names pytorch_model.bin and its conversion where found.
        ValueError: a file cannot be read, holds a tensor of unknown dtype, or lacks a tensor that the index promises.
    """
    folder = epath.Path(folder)
    if (folder / WEIGHTS_FILE).exists():
        return _read_file(folder / WEIGHTS_FILE)
    if (folder / INDEX_FILE).exists():
        return _read_shards(folder)
    if (folder / TORCH_FILE).exists():
        command = _CONVERT.format(folder=folder)
        raise FileNotFoundError(
            f"{folder}: found only {TORCH_FILE}, expected {WEIGHTS_FILE}; convert it with: {command}"
        )
    raise FileNotFoundError(f"{folder}: found no weights, expected {WEIGHTS_FILE} or {INDEX_FILE}")


def _read_file(path: epath.Path) -> dict[str, np.ndarray]:
    try:
        stored = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: found an unreadable file ({error}), expected safetensors") from error
    tensors = {}
    for name, view in stored:
        if view["dtype"] not in _DTYPES:
            raise ValueError(f"{path}: {name}: found dtype {view['dtype']}, expected one of {sorted(_DTYPES)}")
        tensors[name] = np.frombuffer(view["data"], dtype=_DTYPES[view["dtype"]]).reshape(view["shape"])
    return tensors


def _read_shards(folder: epath.Path) -> dict[str, np.ndarray]:
    index = read_json(folder / INDEX_FILE)
    file_of = index.get("weight_map")
    if not isinstance(file_of, dict) or not file_of:
        raise ValueError(f"{folder / INDEX_FILE}: weight_map: found {file_of!r}, expected tensor names and their files")
    tensors = {}
    for file in sorted(set(file_of.values())):
        if not (folder / file).exists():
            raise FileNotFoundError(
                f"{folder / INDEX_FILE}: weight_map: found no file {file}, expected it beside the index"
            )
        found = _read_file(folder / file)
        if twice := found.keys() & tensors.keys():
            raise ValueError(f"{folder / file}: found {listing(twice)} in another file too, expected each tensor once")
        tensors |= found
    absent = [name for name in file_of if name not in tensors]
    if absent:
        raise ValueError(f"{folder / INDEX_FILE}: weight_map: found no tensor {listing(absent)} in the files it names")
    return tensors


def read_json(path: epath.Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or not an object.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: found no such file, expected a JSON object")
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:  # covers bad JSON and bad UTF-8
        raise ValueError(f"{path}: found an unreadable file ({error}), expected a JSON object") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: found a {type(value).__name__}, expected a JSON object")  # noqa: TRY004 - file content
    return value


def listing(names: Iterable[str], limit: int = 5) -> str:
    """The first names, sorted, and how many more there are: an error stays one line."""
    ordered = sorted(names)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more


def to_flax(
    tensors: Mapping[str, np.ndarray],
    weights: Sequence[Weight],
    folder: epath.PathLike,
    stored: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Tree of float32 parameters from tensors under canonical names; `stored` is config.json, to be named in errors.

    Raises:
        ValueError: a tensor is missing, unexpected, of another shape, or of integers.
    """
    expected = {weight.name for weight in weights}
    missing = expected - tensors.keys()
    if missing:
        raise ValueError(f"{folder}: found no weights {listing(missing)}, expected {len(expected)} tensors with these")
    unexpected = tensors.keys() - expected
    if unexpected:
        raise ValueError(
            f"{folder}: found unexpected weights {listing(unexpected)}, expected none that we would not use"
        )
    flat = {}
    for weight in weights:
        tensor = tensors[weight.name]
        if tensor.shape != weight.hf_shape:
            sizes = {wanted for found, wanted in zip(tensor.shape, weight.hf_shape, strict=False) if found != wanted}
            fields = [f"{name}={size}" for name, size in (stored or {}).items() if type(size) is int and size in sizes]
            raise ValueError(
                f"{folder}: {weight.name}: found shape {tensor.shape}, expected {weight.hf_shape}"
                f"{f' as config.json says ({listing(fields)})' if fields else ''}"
            )
        if tensor.dtype.kind in "iub":
            raise ValueError(f"{folder}: {weight.name}: found dtype {tensor.dtype}, expected floating point")
        flat[weight.path] = weight.to_flax(tensor)
    return traverse_util.unflatten_dict(flat)


def to_hf(params: Mapping[str, Any], weights: Sequence[Weight]) -> dict[str, np.ndarray]:
    """Float32 tensors under Hugging Face names from a tree of parameters (unboxed, arrays of any float dtype).

    Raises:
        ValueError: the tree lacks a parameter, has one too many, or one of another shape.
    """
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(dict(params))
    expected = {weight.path for weight in weights}
    for paths, what in ((expected - flat.keys(), "no"), (flat.keys() - expected, "unexpected")):
        if paths:
            raise ValueError(
                f"params: found {what} {listing('/'.join(path) for path in paths)}, expected {len(expected)}"
            )
    for weight in weights:
        shape = tuple(np.shape(flat[weight.path]))
        if shape != weight.shape:
            raise ValueError(f"params: {'/'.join(weight.path)}: found shape {shape}, expected {weight.shape}")
    return {weight.name: weight.to_hf(flat[weight.path]) for weight in weights}


def weights_hash(folder: epath.PathLike) -> str:
    """blake2b (16 bytes, hex) of all stored tensors: names, dtypes, shapes and bytes, in the order of the names.

    The same for one file and for shards of it. Says nothing about config.json, which also shapes the outputs.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(read_tensors(folder).items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
