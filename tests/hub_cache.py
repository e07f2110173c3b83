"""The hub's cache on disk as its library lays it out, for tests without a hub."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from mergedistill_jax.teachers import hub

OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
"""Two commits."""


def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes it this process' cache; nothing is remembered from another one."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    hub._download.cache_clear()
    return cache


def add_snapshot(cache: Path, repository: str, folder: Path, commit: str, *refs: str, without: str = "-") -> Path:
    """A folder as the snapshot of a commit, with the branches that point to it."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    shutil.copytree(folder, snapshot, ignore=shutil.ignore_patterns(without))
    for ref in refs:
        (root / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (root / "refs" / ref).write_text(commit)
    return snapshot
