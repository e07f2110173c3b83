"""Several teachers for one language: which shards of whose records a student reads.

Records of one corpus, split alike, hold the same documents in the shard of the same number and hide the same words, so
the choice is made shard by shard. `documents_per_shard` sets how fine it is, down to one document.

    shard       0     1     2     3
    mbert       2.1   3.0   2.4   2.2    nats per masked word
    muril       1.9   3.2   2.0   2.8

    all         both  both  both  both   every teacher contributes its records (Student_Both_all of the paper)
    sample      one   one   one   one    drawn from blake2b(seed, shard)
    best        muril mbert muril mbert  the lowest loss (Student_Both_best; FuseLLM does so per example)

The loss of teacher t on shard s is a mean over masked words, not tokens, because tokens differ between teachers:

    loss(t, s) = sum over masked positions i of -log p_t(gold_i)  /  masked words in s

where p_t is t's distribution over its whole vocabulary: `gold_nll_nats / masked_words` of the shard's entry. The pieces
of a word are predicted side by side, so their sum is the loss of the word as t sees it. The words are the same up to
three things: the bound on a sequence's masked share (`max_share`) counts tokens, and so spares other words; a word that
is longer than a sequence counts in each that it is cut into; what a tokenizer drops, or joins to the word before it,
does not count. A word that a teacher can only write as [UNK] is cheap for it: where it may not know a script, see what
`compare`, which charges for that, says before trusting `best`.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Sequence

from mergedistill_jax.configs.recipe import RULES
from mergedistill_jax.manifest import MANIFEST_NAME, Manifest, ShardEntry, entry_name, require_equal
from mergedistill_jax.schema import RecordError

COMPARABLE = (
    *("corpus_hash", "documents", "documents_per_shard", "bytes_per_shard"),
    *("seed", "rate", "max_share", "draws", "replacement", "cover", "max_count"),
)
"""What records must have in common so that a shard means the same words to every teacher."""


def choose_shards(manifests: Sequence[Manifest], rule: str, *, seed: int = 0) -> list[tuple[int, ...]]:
    """The shards that are read of each folder, ascending; all of them where a language has one teacher.

    Args:
        manifests: complete folders, in any order: the choice does not depend on it.
        rule: one of RULES.
        seed: of `sample`.

    Raises:
        ValueError: an unknown rule.
        RecordError: a rule that chooses is given folders of one language that are not over the same documents, or twice
            the same teacher; or `best` folders without the teacher's loss.
    """
    if rule not in RULES:
        raise ValueError(f"rule: found {rule!r}, expected one of {', '.join(RULES)}")
    chosen = [tuple(entry.shard for entry in manifest.shards) for manifest in manifests]
    if rule == "all":
        return chosen
    for group in _groups(manifests):
        if len(group) == 1:
            continue
        folders = [manifests[index] for index in group]
        _require_comparable(folders)
        read: list[list[int]] = [[] for _ in group]
        for shard, entries in enumerate(zip(*(_ordered(folder) for folder in folders), strict=True)):
            winner = _drawn(seed, shard, len(group)) if rule == "sample" else _best(entries, folders)
            read[winner].append(shard)
        for index, shards in zip(group, read, strict=True):
            chosen[index] = tuple(shards)
    return chosen


def _drawn(seed: int, shard: int, count: int) -> int:
    """A number below `count` that depends on nothing else."""
    digest = hashlib.blake2b(f"{seed}:{shard}".encode(), digest_size=8, person=b"teacher").digest()
    return int.from_bytes(digest, "little") % count


def _best(entries: Sequence[ShardEntry], folders: Sequence[Manifest]) -> int:
    """Which folder has the lowest loss; of equal ones the first."""
    losses = [gold_loss(entry, folder) for entry, folder in zip(entries, folders, strict=True)]
    return losses.index(min(losses))


def gold_loss(entry: ShardEntry, folder: Manifest) -> float:
    """Nats per masked word of a shard, as above; infinite where nothing is masked.

    Raises:
        RecordError: the entry does not tell it.
    """
    for field in ("gold_nll_nats", "masked_words"):
        found = getattr(entry, field)
        if found is None or not math.isfinite(found):
            told = "nothing" if found is None else found
            raise RecordError(
                f"{folder.folder / entry_name(entry.shard)}: field {field}: found {told}, expected a number to compare"
                " teachers by; run `mergedistill predict` again, into a new folder"
            )
    if not entry.masked_words:
        return math.inf
    return (entry.gold_nll_nats or 0.0) / entry.masked_words


def _groups(manifests: Sequence[Manifest]) -> list[list[int]]:
    """The folders of each language, sorted by teacher."""
    by_language: dict[str, list[int]] = {}
    for index, manifest in enumerate(manifests):
        by_language.setdefault(manifest.identity.language, []).append(index)
    return [sorted(group, key=lambda index: manifests[index].identity.teacher) for group in by_language.values()]


def _ordered(folder: Manifest) -> list[ShardEntry]:
    return sorted(folder.shards, key=lambda entry: entry.shard)


def _require_comparable(folders: Sequence[Manifest]) -> None:
    first = folders[0]
    expected = {field: getattr(first.identity, field) for field in COMPARABLE}
    for before, folder in itertools.pairwise(folders):
        path = folder.folder / MANIFEST_NAME
        require_equal(path, dataclasses.asdict(folder.identity), expected)
        if folder.identity.teacher == before.identity.teacher:
            raise RecordError(
                f"{path}: field teacher: found {folder.identity.teacher!r} as in {before.folder},"
                f" expected another teacher of {folder.identity.language}"
            )
