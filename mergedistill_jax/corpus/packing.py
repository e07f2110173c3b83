"""Documents to masked sequences in one teacher's ids.

The texts (paragraphs) of a shard are laid end to end and cut into sequences of full length at word boundaries:

    [CLS] text 1 text 2 [SEP] text 3 of the next document ... [SEP]
          '--- one document ---'

A [SEP] stands between documents, as in RoBERTa's FULL-SENTENCES (Liu et al. 2019, section 4.2). A sequence ends early
only where the next word does not fit.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from mergedistill_jax.corpus.masking import MASK_SHARE, RANDOM_SHARE, MaskingConfig, random_tokens, text_id, word_draws
from mergedistill_jax.corpus.words import word_of_characters
from mergedistill_jax.schema import Record
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pieces:
    """The pieces of many texts laid end to end.

    Attributes:
        ids: token ids.
        text: index of the text each piece belongs to; -1 for a [SEP] between documents.
        word: index of its word within the text.
        text_ids: the id of every text.
        num_words: words of every text.
    """

    ids: Int[np.ndarray, " n"]
    text: Int[np.ndarray, " n"]
    word: Int[np.ndarray, " n"]
    text_ids: Sequence[bytes]
    num_words: Sequence[int]


def tokenise(documents: Sequence[str], tokenizer: TeacherTokenizer) -> Pieces:
    """Pieces of all texts of the documents, with the word each belongs to."""
    texts = [text for document in documents for text in document.split("\n")]
    encoded = tokenizer.encode_batch(texts)
    ids, text_index, words, num_words = [], [], [], []
    index = 0
    for document in documents:
        if index:
            ids.append([tokenizer.sep_id])
            text_index.append([-1])
            words.append([0])
        for text in document.split("\n"):
            of_character = word_of_characters(text)
            token_ids, starts = encoded[index]
            ids.append(token_ids)
            text_index.append(np.full(len(token_ids), index, np.int32))
            words.append(_word_of_pieces(of_character, starts))
            num_words.append(int(of_character.max(initial=-1)) + 1)
            index += 1
    return Pieces(
        ids=_join(ids),
        text=_join(text_index),
        word=_join(words),
        text_ids=[text_id(text) for text in texts],
        num_words=num_words,
    )


def _join(parts: Sequence[Sequence[int] | np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(part, np.int32) for part in parts]) if parts else np.zeros(0, np.int32)


def _word_of_pieces(of_character: Int[np.ndarray, " c"], starts: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The word of the first character of each piece; a piece that begins with a space belongs to the word after it."""
    if not len(of_character):
        return np.zeros(len(starts), np.int32)
    # next_word[c]: the word at or after character c.
    reversed_words = np.where(of_character < 0, np.iinfo(np.int32).max, of_character)[::-1]
    next_word = np.minimum.accumulate(reversed_words)[::-1]
    last = max(int(of_character.max()), 0)
    return np.minimum(next_word[np.minimum(starts, len(of_character) - 1)], last).astype(np.int32)


def sequence_bounds(pieces: Pieces, capacity: int) -> list[tuple[int, int]]:
    """Half-open ranges of pieces, at most `capacity` long and cut between words (inside one that alone is longer)."""
    new_word = np.ones(len(pieces.ids) + 1, bool)
    new_word[1:-1] = (pieces.text[1:] != pieces.text[:-1]) | (pieces.word[1:] != pieces.word[:-1])
    bounds = []
    start = 0
    while start < len(pieces.ids):
        stop = min(start + capacity, len(pieces.ids))
        cut = stop
        while cut > start and not new_word[cut]:
            cut -= 1
        stop = cut if cut > start else stop
        bounds.append((start, stop))
        start = stop
    return bounds


def masked_records(
    documents: Sequence[str], tokenizer: TeacherTokenizer, masking: MaskingConfig, *, max_length: int, draws: int
) -> Iterator[Record]:
    """Masked sequences of some documents, all draws of one sequence in a row, with no predictions yet (k = 0)."""
    pieces = tokenise(documents, tokenizer)
    for start, stop in sequence_bounds(pieces, max_length - 2):
        for draw in range(draws):
            record = _masked_record(pieces, start, stop, tokenizer, masking, draw)
            if len(record.masked_positions):
                yield record


def _masked_record(
    pieces: Pieces, start: int, stop: int, tokenizer: TeacherTokenizer, masking: MaskingConfig, draw: int
) -> Record:
    ids, text, word = pieces.ids[start:stop], pieces.text[start:stop], pieces.word[start:stop]
    order = np.ones(len(ids))
    action = np.zeros(len(ids))
    for index in np.unique(text[text >= 0]):
        draws_of_text = word_draws(masking, pieces.text_ids[index], draw, max(pieces.num_words[index], 1))
        here = text == index
        order[here] = draws_of_text.order[word[here]]
        action[here] = draws_of_text.action[word[here]]
    chosen = _choose(order, text, word, masking)
    first = next((pieces.text_ids[i] for i in text if i >= 0), pieces.text_ids[0])
    name = text_id(first.hex() + f"+{_offset_in_text(pieces, start)}")
    inputs = ids.copy()
    hidden = chosen & (action < MASK_SHARE)
    swapped = chosen & (action >= MASK_SHARE) & (action < MASK_SHARE + RANDOM_SHARE)
    inputs[hidden] = tokenizer.mask_id
    inputs[swapped] = random_tokens(masking, name, draw, int(swapped.sum()), tokenizer.ordinary_ids)
    positions = np.flatnonzero(chosen)
    count = len(positions)
    return Record(
        text_id=name,
        draw=draw,
        input_ids=np.concatenate([[tokenizer.cls_id], inputs, [tokenizer.sep_id]]).astype(np.int32),
        masked_positions=(positions + 1).astype(np.int32),
        gold_ids=ids[positions],
        top_ids=np.zeros((count, 0), np.int32),
        top_log_probs=np.zeros((count, 0), np.float32),
        masked_words=int((chosen & _word_starts(text, word)).sum()),
    )


def _word_starts(text: np.ndarray, word: np.ndarray) -> np.ndarray:
    """Which pieces of a sequence are the first of their word in it."""
    starts = np.ones(len(text), bool)
    starts[1:] = (text[1:] != text[:-1]) | (word[1:] != word[:-1])
    return starts


def _choose(order: np.ndarray, text: np.ndarray, word: np.ndarray, masking: MaskingConfig) -> np.ndarray:
    """Which pieces are chosen: words whose number is below the rate, the lowest first, up to the allowed share."""
    chosen = order < masking.rate
    allowed = masking.max_predictions(len(order) + 2)
    if chosen.sum() <= allowed:
        return chosen
    word_start = _word_starts(text, word)
    word_index = np.cumsum(word_start) - 1
    used = 0
    kept = np.zeros(len(order), bool)
    for index in np.argsort(order[word_start], kind="stable"):
        here = (word_index == index) & chosen
        if used + here.sum() > allowed:
            break
        kept |= here
        used += int(here.sum())
    return kept


def _offset_in_text(pieces: Pieces, start: int) -> int:
    """The word of its text at which a sequence starts."""
    return int(pieces.word[start])
