"""A warm process that forks writers, so that a test may kill many of them without waiting for as many cold starts.

    python tests/killable_writer.py     reads orders from standard input, a JSON object a line, and answers each:
    {"start": {"output": ..., ...}}     forks a process that runs `predict` with these settings; its number
    {"wait": PID}                       its exit status, below 0 for the signal that ended it

The text is made up here, and the writers are slowed down where a kill should have time to come: at every document and
around every sync and rename.
How far one has come stands in its file `progress`, as a number that counts all of these moments.
"""

import functools
import json
import mmap
import os
import sys
import time
import traceback

import jax

import mergedistill_jax.predict as verb
from mergedistill_jax.configs.masking import MaskingConfig

DOCUMENTS, DOCUMENTS_PER_SHARD = 24, 2
SHARDS = DOCUMENTS // DOCUMENTS_PER_SHARD
DOCUMENT_S, DISK_S = 0.003, 0.002


def documents(tick, _corpus, _split):
    for number in range(DOCUMENTS):
        tick(DOCUMENT_S)
        sentence = f"The old sailor number {number} repaired the small boat near the harbour with fish and children."
        yield "\n".join([sentence] * 4)


def slowed(tick, function):
    @functools.wraps(function)
    def call(*arguments, **keywords):
        tick(DISK_S)
        found = function(*arguments, **keywords)
        tick(DISK_S)
        return found

    return call


def write(progress, **settings):
    """In the forked process: one run of the verb."""
    with open(progress, "r+b") as file:  # noqa: PTH123 - a local file to share memory through
        shared = mmap.mmap(file.fileno(), 8)

    def tick(seconds):
        shared[:8] = (int.from_bytes(shared[:8], "little") + 1).to_bytes(8, "little")
        time.sleep(seconds)

    # A SeqIO task would do the same, after half a second of TensorFlow's for every writer.
    verb.corpus_documents = functools.partial(documents, tick)
    for name in ("fsync", "replace"):
        setattr(os, name, slowed(tick, getattr(os, name)))
    masking = MaskingConfig(rate=0.2, max_share=0.25)
    fixed = {"corpus": "killable", "split": "train", "language": "en", "k": 4, "max_length": 32, "batch_size": 8}
    verb.predict(verb.PredictConfig(**fixed, masking=masking, documents_per_shard=DOCUMENTS_PER_SHARD, **settings))


def start(log, **settings):
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        with open(log, "ab", buffering=0) as file:  # noqa: PTH123 - local
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        write(**settings)
        status = 0
    except BaseException:  # noqa: BLE001 - it stands in the log, and the status tells
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main():
    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            answer = start(**order["start"])
        else:
            _, status = os.waitpid(order["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        print(answer, flush=True)


if __name__ == "__main__":
    if folder := os.environ.get("KILLABLE_COMPILED"):
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    print("ready", flush=True)
    main()
