"""A folder's own name is no pattern: etils takes it for one, and Orbax, in `runs/[a]`, saves checkpoints without index.

Orbax looks for the parts of a checkpoint with `path.glob("ocdbt.process_*")`. etils joins the two and hands them to
`glob`, which finds nothing where the path holds brackets, and Orbax, finding nothing to merge, finishes the checkpoint
without a word. Importing this module makes `glob` of local epath.Path objects match the pattern alone.
"""

import glob
from collections.abc import Iterator

from etils import epath

_Path = type(epath.Path("x"))
_glob_of_etils = _Path.glob


def _glob(self: epath.Path, pattern: str) -> Iterator[epath.Path]:
    folder = str(self)
    if "://" in folder or glob.escape(folder) == folder:
        return _glob_of_etils(self, pattern)
    return _glob_of_etils(type(self)(glob.escape(folder)), pattern)


_Path.glob = _glob
