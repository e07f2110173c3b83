"""What must hold of every record of a shard, whatever teacher and text it was made from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mergedistill_jax.evaluation.rounding import rounding_error
from mergedistill_jax.manifest import Identity, ShardEntry
from mergedistill_jax.schema import NO_MASS, Record
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer

LOG_PROB_SLACK = 2e-3
"""A sum of k probabilities may exceed one by this much, beside what half precision adds: much where k is large."""
HALF_PRECISION = 2.0**-10
"""Relative error of a stored log-probability, at most."""

_Found = tuple[Int[np.ndarray, " n"], np.ndarray, str]
"""Numbers of unsound records, ascending, what was found in each, and a message with a place for it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The records of a shard laid end to end: r records, n tokens, m masked positions.

    Attributes:
        lengths, counts, draws: of every record.
        record_of_token, record_of_row: the number of the record of every token and of every masked position.
        shown_ids: what the input holds at the masked positions.
    """

    lengths: Int[np.ndarray, " r"]
    counts: Int[np.ndarray, " r"]
    draws: Int[np.ndarray, " r"]
    record_of_token: Int[np.ndarray, " n"]
    record_of_row: Int[np.ndarray, " m"]
    input_ids: Int[np.ndarray, " n"]
    positions: Int[np.ndarray, " m"]
    gold_ids: Int[np.ndarray, " m"]
    shown_ids: Int[np.ndarray, " m"]
    top_ids: Int[np.ndarray, "m k"]
    top_log_probs: Float[np.ndarray, "m k"]


def laid_out(records: Sequence[Record]) -> Rows:
    """The records of a shard, at least one, laid end to end."""
    lengths = np.array([len(record.input_ids) for record in records])
    counts = np.array([len(record.masked_positions) for record in records])
    numbers = np.arange(len(records))
    return Rows(
        lengths=lengths,
        counts=counts,
        draws=np.array([record.draw for record in records]),
        record_of_token=np.repeat(numbers, lengths),
        record_of_row=np.repeat(numbers, counts),
        input_ids=np.concatenate([record.input_ids for record in records]),
        positions=np.concatenate([record.masked_positions for record in records]),
        gold_ids=np.concatenate([record.gold_ids for record in records]),
        shown_ids=np.concatenate([record.input_ids[record.masked_positions] for record in records]),
        top_ids=np.concatenate([record.top_ids for record in records]),
        top_log_probs=np.concatenate([record.top_log_probs for record in records]),
    )


def record_problems(rows: Rows, identity: Identity, tokenizer: TeacherTokenizer | None = None) -> dict[int, str]:
    """The first thing wrong with each unsound record, "field ...: found ..., expected ...", by its number.

    Args:
        rows: the records of a shard.
        identity: of their folder.
        tokenizer: of their teacher; without it nothing is known of special tokens.
    """
    found: dict[int, str] = {}
    for checks in (
        _size_checks(rows, identity),
        _token_checks(rows, identity, tokenizer),
        _prediction_checks(rows, identity),
        _sampled_checks(rows, identity),
    ):
        for numbers, values, told in checks:
            for number, value in zip(numbers.tolist(), values, strict=True):
                found.setdefault(number, told.format(value))
    return dict(sorted(found.items()))


def _size_checks(rows: Rows, identity: Identity) -> Iterator[_Found]:
    size, longest, most = identity.vocabulary_size, identity.max_length, identity.max_predictions
    bad = np.flatnonzero(rows.lengths > longest)
    yield bad, rows.lengths[bad], f"field input: found {{}} ids, expected at most {longest}"
    candidate_rows = np.repeat(rows.record_of_row, rows.top_ids.shape[1])
    for field, ids, owners in (
        ("input", rows.input_ids, rows.record_of_token),
        ("gold", rows.gold_ids, rows.record_of_row),
        ("top", rows.top_ids.reshape(-1), candidate_rows),
    ):
        beyond = ids >= size
        yield owners[beyond], ids[beyond], f"field {field}: found id {{}}, expected below {size}"
    bad = np.flatnonzero((rows.counts < 1) | (rows.counts > most))
    yield bad, rows.counts[bad], f"field masked positions: found {{}}, expected 1 to {most}"
    bad = np.flatnonzero(rows.draws >= identity.draws)
    yield bad, rows.draws[bad], f"field draw: found {{}}, expected below {identity.draws}"
    at_edge = (rows.positions < 1) | (rows.positions > rows.lengths[rows.record_of_row] - 2)
    told = "field masked positions: found position {}, expected none at the first and the last token"
    yield rows.record_of_row[at_edge], rows.positions[at_edge], told


def _token_checks(rows: Rows, identity: Identity, tokenizer: TeacherTokenizer | None) -> Iterator[_Found]:
    if tokenizer is None or not len(rows.input_ids):
        return
    ends = np.cumsum(rows.lengths)
    for place, index, expected in (
        ("first", ends - rows.lengths, tokenizer.cls_id),
        ("last", ends - 1, tokenizer.sep_id),
    ):
        found = rows.input_ids[index]
        bad = np.flatnonzero(found != expected)
        yield bad, found[bad], f"field input: found id {{}} as the {place}, expected {expected}"
    reserved = tokenizer.reserved_ids - {tokenizer.unk_id}
    bad = np.isin(rows.gold_ids, [*reserved])
    told = "field gold: found the special id {}, expected an id of text: a text that spells a special token is text"
    yield rows.record_of_row[bad], rows.gold_ids[bad], told
    special = {*tokenizer.special_ids, *tokenizer.extra_special_ids} - {tokenizer.mask_id}
    bad = np.isin(rows.shown_ids, [*special]) & (rows.shown_ids != rows.gold_ids)
    told = "field input: found the special id {} at a masked position, expected [MASK], a token of text or the gold id"
    yield rows.record_of_row[bad], rows.shown_ids[bad], told
    # With `cover`, a word that is longer than the bound is hidden whole and predicted in parts.
    unpredicted = {tokenizer.mask_id} if identity.cover else set()
    visible = np.ones(len(rows.input_ids), bool)
    starts = ends - rows.lengths
    visible[np.concatenate([starts, ends - 1, starts[rows.record_of_row] + rows.positions])] = False
    bad = np.isin(rows.input_ids, [*(reserved - {tokenizer.sep_id} - unpredicted)]) & visible
    told = "field input: found the special id {} in the text, expected none but [SEP] between documents"
    yield rows.record_of_token[bad], rows.input_ids[bad], told
    if identity.replacement == "mask":
        bad = rows.shown_ids != tokenizer.mask_id
        told = f"field input: found id {{}} at a masked position, expected {tokenizer.mask_id} at all of them"
        yield rows.record_of_row[bad], rows.shown_ids[bad], told


def _prediction_checks(rows: Rows, identity: Identity) -> Iterator[_Found]:
    if not identity.k or not len(rows.top_ids):
        return
    # A slot that no sampled id fills repeats the first one: it is no candidate.
    filled = rows.top_log_probs != NO_MASS
    ordered = np.sort(np.where(filled, rows.top_ids, -1 - np.arange(identity.k)), axis=1)
    twice = ordered[:, 1:] == ordered[:, :-1]
    bad = twice.any(axis=1)
    first = np.take_along_axis(ordered, np.argmax(twice, axis=1)[:, None], axis=1)[:, 0] if identity.k > 1 else bad
    yield rows.record_of_row[bad], first[bad], "field top: found a candidate twice, id {}, expected distinct ids"
    log_probs = rows.top_log_probs
    bad = ~np.isfinite(log_probs).all(axis=1) | (np.diff(np.nan_to_num(log_probs), axis=1) > 0).any(axis=1)
    told = "field log_probs: found values that are not finite or not descending, expected best first"
    yield rows.record_of_row[bad], rows.positions[bad], told
    mass = np.exp(np.nan_to_num(log_probs).astype(np.float64)).sum(axis=1)
    bad = mass > 1 + LOG_PROB_SLACK + rounding_error(np.nan_to_num(log_probs))
    yield rows.record_of_row[bad], mass[bad], "field log_probs: found a mass of {:.4f}, expected at most 1"


def _sampled_checks(rows: Rows, identity: Identity) -> Iterator[_Found]:
    """Slots hold ids that were drawn so many times of N, the log of that share, and nothing behind the last of them."""
    if identity.targets != "sampled" or not len(rows.top_ids):
        return
    log_probs = np.nan_to_num(rows.top_log_probs).astype(np.float64)
    counts = identity.samples * np.exp(log_probs)
    slack = 1e-3 + counts * np.abs(log_probs) * HALF_PRECISION
    bad = (np.abs(counts - np.rint(counts)) > slack).any(axis=1)
    told = f"field log_probs: found shares that are no multiples of 1/{identity.samples}, as those of drawn ids are"
    yield rows.record_of_row[bad], rows.positions[bad], told
    total = np.rint(counts).sum(axis=1) / identity.samples
    bad = total != 1
    yield rows.record_of_row[bad], total[bad], "field log_probs: found weights that add up to {:.4f}, expected 1"
    left_over = (log_probs == NO_MASS) & (rows.top_ids != rows.top_ids[:, :1])
    bad = left_over.any(axis=1)
    first = np.take_along_axis(rows.top_ids, np.argmax(left_over, axis=1)[:, None], axis=1)[:, 0]
    yield rows.record_of_row[bad], first[bad], "field top: found id {} in a slot without mass, expected the first id"


def missing_mass(rows: Rows) -> Float[np.ndarray, " m"]:
    """Probability outside the candidates of every masked position, from 0 to 1."""
    return np.clip(1.0 - np.exp(rows.top_log_probs.astype(np.float64)).sum(axis=1), 0.0, 1.0)


def count_problem(rows: Rows, entry: ShardEntry) -> str | None:
    """The first count of a shard's entry that its records contradict, or None."""
    counts = {
        "records": len(rows.lengths),
        "masked_positions": len(rows.gold_ids),
        "tokens": len(rows.input_ids),
    }
    for field, count in counts.items():
        if getattr(entry, field) != count:
            return f"field {field}: found {getattr(entry, field)}, expected {count}"
    return None


def gold_problem(rows: Rows, entry: ShardEntry, targets: str = "top") -> str | None:
    """What a shard's entry says of the gold tokens that its records contradict, "field ...: found ..."; or None.

    A gold token among the k best has a known loss, and any other at least that of the last of them; sampled targets
    tell nothing of either. Every record hides at least one word, and every hidden word at least one token.
    """
    if entry.masked_words is not None and not entry.records <= entry.masked_words <= entry.masked_positions:
        between = f"{entry.records} records to {entry.masked_positions} masked positions"
        return f"field masked_words: found {entry.masked_words}, expected from {between}"
    if entry.gold_nll_nats is None:
        return None
    is_gold = rows.top_ids == rows.gold_ids[:, None]
    known = np.where(is_gold, rows.top_log_probs, 0.0).sum(axis=1)
    at_most = np.where(is_gold.any(axis=1), known, rows.top_log_probs.min(axis=1, initial=0.0))
    if targets != "top":
        at_most = np.zeros(0)
    least = -float((at_most.astype(np.float64) * (1 - HALF_PRECISION)).sum())
    if not least - 1e-3 * entry.masked_positions <= entry.gold_nll_nats < np.inf:
        return f"field gold_nll_nats: found {entry.gold_nll_nats}, expected at least {least:.6g} nats"
    return None
