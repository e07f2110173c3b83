"""One sequence and one draw to its masked record; with `cover`, to as many as it takes to hide all its words."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.corpus.masking import MASK_SHARE, RANDOM_SHARE, covering_draws, random_tokens, text_id, word_draws
from mergedistill_jax.corpus.pieces import SEPARATOR, Pieces, first_of_words
from mergedistill_jax.schema import Record
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer

_NEVER = 2.0
"""Above every rate: the order of a piece that is not chosen."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Numbers:
    """The random numbers of one text in one draw, by word; with `cover`, `order` is 0 where the draw hides the word."""

    order: Float[np.ndarray, " w"]
    action: Float[np.ndarray, " w"]


def numbers_of(pieces: Pieces, masking: MaskingConfig, draws: int) -> Callable[[int, int], Numbers]:
    """The numbers of (text, draw); kept a while, because a long text makes many sequences."""

    @functools.lru_cache(maxsize=256)
    def numbers(text: int, draw: int) -> Numbers:
        count = max(pieces.num_words[text], 1)
        drawn = word_draws(masking, pieces.text_ids[text], draw, count)
        if not masking.cover:
            return Numbers(order=drawn.order, action=drawn.action)
        mine = covering_draws(masking, pieces.text_ids[text], draws, count) == draw
        return Numbers(order=np.where(mine, 0.0, _NEVER), action=drawn.action)

    return numbers


def mask_sequence(
    pieces: Pieces,
    sequence: Int[np.ndarray, " n"],
    numbers: Callable[[int, int], Numbers],
    tokenizer: TeacherTokenizer,
    masking: MaskingConfig,
    draw: int,
    max_length: int,
) -> Iterator[Record]:
    """The records of one draw of a sequence, told by the indices of its pieces; none where nothing is hidden."""
    ids, text, word = pieces.ids[sequence], pieces.text[sequence], pieces.word[sequence]
    order, action = _per_piece(text, word, numbers, draw)
    texts = text[text != SEPARATOR]
    first = pieces.text_ids[texts[0] if len(texts) else 0]
    name = text_id(first.hex() + f"+{int(word[0])}")
    starts = first_of_words(text, word)
    chosen = order < masking.rate
    if not masking.cover:
        chosen = _lowest(order, chosen, starts, masking.max_predictions(len(ids) + 2))
    shown = _shown(ids, chosen, action, tokenizer, masking, name, draw)
    for hidden, predicted in _parts(chosen, starts, masking, max_length) if masking.cover else [(chosen, chosen)]:
        positions = np.flatnonzero(predicted)
        count = len(positions)
        if not count:
            continue
        inputs = np.where(hidden, shown, ids)
        yield Record(
            text_id=name,
            draw=draw,
            input_ids=np.concatenate([[tokenizer.cls_id], inputs, [tokenizer.sep_id]]).astype(np.int32),
            masked_positions=(positions + 1).astype(np.int32),
            gold_ids=ids[positions],
            top_ids=np.zeros((count, 0), np.int32),
            top_log_probs=np.zeros((count, 0), np.float32),
            masked_words=len(np.unique(np.cumsum(starts)[predicted])),
        )


def _per_piece(
    text: np.ndarray, word: np.ndarray, numbers: Callable[[int, int], Numbers], draw: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    order, action = np.full(len(text), _NEVER), np.zeros(len(text))
    edges = [0, *(np.flatnonzero(text[1:] != text[:-1]) + 1).tolist(), len(text)]
    for start, stop in itertools.pairwise(edges):
        if text[start] != SEPARATOR:
            found = numbers(int(text[start]), draw)
            order[start:stop] = found.order[word[start:stop]]
            action[start:stop] = found.action[word[start:stop]]
    return order, action


def _shown(
    ids: np.ndarray,
    chosen: Bool[np.ndarray, " n"],
    action: np.ndarray,
    tokenizer: TeacherTokenizer,
    masking: MaskingConfig,
    name: bytes,
    draw: int,
) -> Int[np.ndarray, " n"]:
    """What the teacher sees in place of each piece if it is hidden."""
    if masking.replacement == "mask":
        return np.full_like(ids, tokenizer.mask_id)
    shown = ids.copy()
    shown[chosen & (action < MASK_SHARE)] = tokenizer.mask_id
    swapped = chosen & (action >= MASK_SHARE) & (action < MASK_SHARE + RANDOM_SHARE)
    shown[swapped] = random_tokens(masking, name, draw, int(swapped.sum()), tokenizer.ordinary_ids)
    return shown


def _parts(
    chosen: Bool[np.ndarray, " n"], starts: Bool[np.ndarray, " n"], masking: MaskingConfig, max_length: int
) -> Iterator[tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]]:
    """Which pieces are hidden and which predicted, for each record; they differ in words that are too long alone."""
    # A short sequence may go beyond its own share for a whole word, but no sequence beyond that of a full one.
    allowed, largest = masking.max_predictions(len(chosen) + 2), masking.max_predictions(max_length)
    words = np.cumsum(starts) - 1
    for group in _shared_out(np.unique(words[chosen]), np.bincount(words), max(allowed, 1)):
        hidden = np.isin(words, group)
        positions = np.flatnonzero(hidden)
        for start in range(0, len(positions), largest):
            predicted = np.zeros(len(chosen), bool)
            predicted[positions[start : start + largest]] = True
            yield hidden, predicted


def _lowest(
    order: Float[np.ndarray, " n"], chosen: Bool[np.ndarray, " n"], starts: Bool[np.ndarray, " n"], allowed: int
) -> Bool[np.ndarray, " n"]:
    """The chosen words of the lowest numbers that fit into the allowed pieces."""
    if chosen.sum() <= allowed:
        return chosen
    words = np.cumsum(starts) - 1
    used = 0
    kept = np.zeros(len(order), bool)
    for index in np.argsort(order[starts], kind="stable"):
        here = (words == index) & chosen
        if used + here.sum() > allowed:
            break
        kept |= here
        used += int(here.sum())
    return kept


def _shared_out(
    words: Int[np.ndarray, " c"], sizes: Int[np.ndarray, " w"], allowed: int
) -> list[Int[np.ndarray, " n"]]:
    """The words in groups of about equal size, in order, of at most `allowed` pieces or one word."""
    before = np.cumsum(sizes[words]) - sizes[words]
    total = int(sizes[words].sum())
    for count in itertools.count(-(-total // allowed)):
        group_of = before * count // max(total, 1)
        groups = [words[group_of == group] for group in np.unique(group_of)]
        if all(len(group) == 1 or sizes[group].sum() <= allowed for group in groups):
            return groups
    raise AssertionError  # with as many groups as pieces, every word has its own
