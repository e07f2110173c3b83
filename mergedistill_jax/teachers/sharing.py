"""How several processes share the shards of one folder: by number, so that nobody has to ask anybody.

process 0 of 3    shards 0 3 6 ...
process 1 of 3    shards 1 4 7 ...
process 2 of 3    shards 2 5 8 ...
"""

import collections
import time

import jax
from etils import epath

from mergedistill_jax.configs.worker import Worker
from mergedistill_jax.counting import counted
from mergedistill_jax.manifest import Manifest, entry_name, read_manifest

POLL_S = 1.0
LONGEST_POLL_S = 30.0


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
    missing, shards = len(manifest.missing), counted(manifest.identity.num_shards, "shard")
    return f"{missing:,} of {shards} {'is' if missing == 1 else 'are'} missing: {', '.join(parts)}"


def wait_until_complete(folder: epath.PathLike) -> Manifest:
    """Returns when the other processes of a job have listed their shards.

    A process that fails ends the job on all of them, and so this waiting; see training/distributed.py.
    """
    pause_s = POLL_S
    while not (manifest := read_manifest(folder)).complete:
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, LONGEST_POLL_S)
    return manifest
