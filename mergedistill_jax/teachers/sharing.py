"""How several processes share the shards of one folder: by number, so that nobody has to ask anybody.

process 0 of 3    shards 0 3 6 ...
process 1 of 3    shards 1 4 7 ...
process 2 of 3    shards 2 5 8 ...
"""

import collections
import dataclasses
import re
import time

import jax
from etils import epath

from mergedistill_jax.manifest import Manifest, entry_name, read_manifest

POLL_S = 1.0
LONGEST_POLL_S = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker:
    """One of several processes that write a folder.

    Attributes:
        index, count: which one of how many.
    """

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, shard: int) -> bool:
        """Whether the shard is this process's to write."""
        return shard % self.count == self.index


def parse_worker(text: str) -> Worker:
    """The worker of `index/count`, as in "0/3".

    Raises:
        ValueError: something else, or an index that is not below the count.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(f"worker: found {text!r}, expected INDEX/COUNT with an index from 0 and below the count")
    return Worker(index=int(match[1]), count=int(match[2]))


def worker_of_job() -> Worker:
    """This process in a job of jax.distributed, or the only one. Starts no backend where there is no such job."""
    if not jax.distributed.is_initialized():
        return Worker()
    return Worker(index=jax.process_index(), count=jax.process_count())


def tell_missing(manifest: Manifest, count: int) -> str:
    """Which shards are not listed yet, and which of `count` workers they should come from."""
    by_worker = collections.defaultdict(list)
    for shard in manifest.missing:
        by_worker[shard % count].append(shard)
    parts = [
        f"{len(shards)} of worker {Worker(index=index, count=count)} (first {entry_name(shards[0])})"
        for index, shards in sorted(by_worker.items())
    ]
    return f"{len(manifest.missing)} of {manifest.identity.num_shards} shards are missing: {', '.join(parts)}"


def wait_until_complete(folder: epath.PathLike) -> Manifest:
    """Returns when the other processes of a job have listed their shards.

    A process that fails ends the job on all of them, and so this waiting; see training/distributed.py.
    """
    pause_s = POLL_S
    while not (manifest := read_manifest(folder)).complete:
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, LONGEST_POLL_S)
    return manifest
