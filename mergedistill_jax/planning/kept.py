"""Compiled programs kept on disk: what a compiler took minutes for is read again, with the text it gave.

    <folder>/<key>.hlo.gz      the compiled program's text
    <folder>/<key>.json        its memory and FLOPs; or why it does not fit

The key is a hash of everything that the compiler is given: the lowered program with its shardings, the devices, the
options, and the versions of the compilers. JAX's own compilation cache writes a program for devices that are not
there, but cannot read it back without one of them.
"""

import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath

from mergedistill_jax.files import write_atomically

_LAYOUT = 1
_NAMED = re.compile(r'loc\("([^"]*)"\(#loc')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a compiler says of a program.

    Attributes:
        text: of the compiled program; "" where it does not fit.
        memory: bytes by the names of planning.compiling.Memory.
        cost_flops: of XLA's cost analysis.
        seconds: that the compiler took.
        problem: why the program does not fit, or "".
        needed: bytes that it would take then, where the compiler says so.
    """

    text: str
    memory: Mapping[str, int]
    cost_flops: float
    seconds: float
    problem: str = ""
    needed: int | None = None


def key_of(lowered: Any, topology: str, options: Mapping[str, str] | None) -> str:
    """The name under which a program is kept.

    Args:
        lowered: of a jitted function.
        topology: name of the devices it is compiled for.
        options: given to the compiler.
    """
    versions = {name: _version(name) for name in ("jaxlib", "libtpu")} | {"jax": jax.__version__}
    given = json.dumps([_LAYOUT, topology, dict(sorted((options or {}).items())), versions])
    digest = hashlib.blake2b(given.encode(), digest_size=16)
    digest.update(lowered.as_text().encode())
    # The names of operations, by which they are put into categories; where in a source file they stand, and who called
    # the functions there, may change.
    names = sorted({name for name in _NAMED.findall(lowered.as_text(debug_info=True)) if "/" in name})
    digest.update("\n".join(names).encode())
    return digest.hexdigest()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_kept(folder: epath.PathLike, key: str) -> Artifact | None:
    """What is kept under a key, or None."""
    facts = epath.Path(folder) / f"{key}.json"
    if not facts.exists():
        return None
    text = gzip.decompress((epath.Path(folder) / f"{key}.hlo.gz").read_bytes()).decode()
    return Artifact(text=text, **json.loads(facts.read_text()))


def keep(folder: epath.PathLike, key: str, artifact: Artifact) -> None:
    """Writes the text, then the facts, which say that it is there."""
    path = epath.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    facts = {name: value for name, value in dataclasses.asdict(artifact).items() if name != "text"}
    write_atomically(path / f"{key}.hlo.gz", gzip.compress(artifact.text.encode(), mtime=0))
    write_atomically(path / f"{key}.json", (json.dumps(facts, indent=1) + "\n").encode())
