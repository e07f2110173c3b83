"""The text masked once more: do the records of a shard hold the corpus, and the words of it that they should hide?

Nothing else can tell whether a gold id, an input id or a whole shard was exchanged for another that looks as good.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from etils import epath

from mergedistill_jax.corpus.masking import masking_of
from mergedistill_jax.corpus.packing import masked_records
from mergedistill_jax.manifest import MANIFEST_NAME, Identity, require_equal
from mergedistill_jax.schema import Record
from mergedistill_jax.teachers.corpus_hashes import (
    division_of_folder,
    known_summary,
    summarise,
    unchanged_shards,
)
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer

_FIELDS = {"input": "input_ids", "masked positions": "masked_positions", "gold": "gold_ids"}


def shards_of_corpus(
    folder: epath.Path, identity: Identity, documents: Callable[[], Iterable[str]], wanted: Callable[[int], bool]
) -> Iterator[tuple[int, list[str]]]:
    """The wanted shards and their documents, after the text has proved to be the one that the folder was made of.

    Args:
        folder: of records.
        identity: its own.
        documents: begins the corpus anew whenever it is called: once, or twice for older folders.
        wanted: of a shard's number.

    Raises:
        RecordError: the text is another; names where.
    """
    division = division_of_folder(identity)
    summary = known_summary(folder, identity.corpus, division)
    if summary is None:
        summary = summarise(documents(), division)
        found = {"documents": summary.documents, "corpus_hash": summary.hash, "shards": summary.shards}
        told = {
            "documents": identity.documents,
            "corpus_hash": identity.corpus_hash,
            "shards": identity.num_shards,
        }
        require_equal(folder / MANIFEST_NAME, told, found)
    return unchanged_shards(documents(), summary, identity.corpus, wanted)


def masked_again(documents: Sequence[str], tokenizer: TeacherTokenizer, identity: Identity) -> list[Record]:
    """The records of a shard as `predict` hands them to the teacher."""
    return list(
        masked_records(
            documents,
            tokenizer,
            masking_of(identity),
            max_length=identity.max_length,
            draws=identity.draws,
            packing=identity.packing,
        )
    )


def remasking_problem(stored: Sequence[Record], expected: Sequence[Record]) -> str | None:
    """The first difference of a shard's records from its text, or None; predictions are not compared."""
    for number, (found, right) in enumerate(zip(stored, expected, strict=False)):
        if (found.text_id, found.draw) != (right.text_id, right.draw):
            return (
                f"record {number}: field text id: found {found.text_id.hex()} draw {found.draw},"
                f" expected {right.text_id.hex()} draw {right.draw} as the corpus has it"
            )
        for field, name in _FIELDS.items():
            if problem := _difference(getattr(found, name), getattr(right, name)):
                return f"record {number}: field {field}: {problem} as the corpus has it"
    if len(stored) != len(expected):
        return f"field records: found {len(stored)}, expected {len(expected)} as the corpus has it"
    return None


def _difference(found: np.ndarray, expected: np.ndarray) -> str | None:
    if len(found) != len(expected):
        return f"found {len(found)} values, expected {len(expected)}"
    different = np.flatnonzero(found != expected)
    if not len(different):
        return None
    first = int(different[0])
    return f"found {int(found[first])} at number {first}, expected {int(expected[first])}"
