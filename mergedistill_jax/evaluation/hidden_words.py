"""The same hidden words of a text under every tokenizer, so that teachers with different tokens can be compared.

    text       He mended the boat.
    hidden                   boat
    teacher A  [CLS] He mend ##ed the [MASK] . [SEP]                 one token to predict
    teacher B  [CLS] he mended the [MASK] [MASK] . [SEP]             bo ##at

A word is hidden by its number in [0, 1) alone (corpus/masking.py) and always becomes [MASK]; there is no bound on the
share of a sequence, for nothing is stored. A document makes sequences of its own, so that documents are independent.
A word can be compared where, under every tokenizer, its pieces cover it and nothing else:

    pieces     don't | stop      words don ' t stop: of these only `stop` has both of its ends between pieces
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.corpus.masking import word_draws
from mergedistill_jax.corpus.packing import Pieces, sequence_bounds, tokenise
from mergedistill_jax.corpus.words import word_of_characters
from mergedistill_jax.schema import Record
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NumberedText:
    """A text whose words are numbered from its first to its last.

    Attributes:
        documents: a line is a paragraph.
        first_word: of every line, the number of its first word.
        document: of every word, the number of its document.
        characters: of every word, how many it has.
        alphabet: different characters in all words.
    """

    documents: Sequence[str]
    first_word: Int[np.ndarray, " t"]
    document: Int[np.ndarray, " w"]
    characters: Int[np.ndarray, " w"]
    alphabet: int

    @property
    def lines(self) -> list[str]:
        """The lines of all documents."""
        return [line for document in self.documents for line in document.split("\n")]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HiddenSequences:
    """What one teacher is asked.

    Attributes:
        records: masked sequences in its ids, without predictions.
        words: of every record, the number of the word that each masked position belongs to.
        comparable: of every word of the text, whether it is hidden, in one sequence, and covered exactly by its pieces.
    """

    records: Sequence[Record]
    words: Sequence[Int[np.ndarray, "_"]]
    comparable: Bool[np.ndarray, " w"]


def first_words(document: str, count: int) -> str:
    """The beginning of a document, up to its word number `count`."""
    lines, left = [], count
    for line in document.split("\n"):
        words = word_of_characters(line)
        beyond = np.flatnonzero(words >= left)
        lines.append(line[: beyond[0]].rstrip() if len(beyond) else line)
        left -= int(words.max(initial=-1)) + 1
        if left <= 0:
            break
    return "\n".join(lines)


def number_words(documents: Sequence[str]) -> NumberedText:
    """Numbers the words of all documents, line by line."""
    counts, first, of_document, letters = [np.zeros(0, np.int64)], [], [], set[str]()
    total = 0
    for number, document in enumerate(documents):
        for line in document.split("\n"):
            words = word_of_characters(line)
            counts.append(np.bincount(words[words >= 0]))
            first.append(total)
            total += len(counts[-1])
            of_document.append(np.full(len(counts[-1]), number))
            letters.update(character for character, word in zip(line, words, strict=True) if word >= 0)
    return NumberedText(
        documents=documents,
        first_word=np.array(first, np.int64),
        document=np.concatenate([np.zeros(0, np.int64), *of_document]),
        characters=np.concatenate(counts).astype(np.int64),
        alphabet=len(letters),
    )


def hide_words(
    text: NumberedText, tokenizer: TeacherTokenizer, masking: MaskingConfig, max_length: int
) -> HiddenSequences:
    """The text as masked sequences of at most `max_length` tokens; of `masking`, seed and rate are used."""
    records: list[Record] = []
    words: list[np.ndarray] = []
    line = 0
    for document in text.documents:
        pieces = tokenise([document], tokenizer)
        hidden = _hidden_pieces(pieces, masking)
        for start, stop in sequence_bounds(pieces, max_length - 2):
            here = slice(start, stop)
            if hidden[here].any():
                records.append(_record(pieces, here, hidden[here], tokenizer))
                lines = line + pieces.text[here][hidden[here]]
                words.append(text.first_word[lines] + pieces.word[here][hidden[here]])
        line += len(pieces.text_ids)
    in_sequences = np.zeros(len(text.document), np.int64)
    for of_record in words:
        in_sequences[np.unique(of_record)] += 1
    return HiddenSequences(
        records=records, words=words, comparable=(in_sequences == 1) & _covered_exactly(text, tokenizer)
    )


def _hidden_pieces(pieces: Pieces, masking: MaskingConfig) -> Bool[np.ndarray, " n"]:
    hidden = np.zeros(len(pieces.ids), bool)
    for index, name in enumerate(pieces.text_ids):
        here = pieces.text == index
        order = word_draws(masking, name, 0, max(pieces.num_words[index], 1)).order
        hidden[here] = order[pieces.word[here]] < masking.rate
    return hidden


def _record(pieces: Pieces, here: slice, hidden: Bool[np.ndarray, " n"], tokenizer: TeacherTokenizer) -> Record:
    positions = np.flatnonzero(hidden)
    inputs = np.where(hidden, tokenizer.mask_id, pieces.ids[here])
    return Record(
        text_id=pieces.text_ids[0],
        draw=0,
        input_ids=np.concatenate([[tokenizer.cls_id], inputs, [tokenizer.sep_id]]).astype(np.int32),
        masked_positions=(positions + 1).astype(np.int32),
        gold_ids=pieces.ids[here][positions],
        top_ids=np.zeros((len(positions), 0), np.int32),
        top_log_probs=np.zeros((len(positions), 0), np.float32),
    )


def _covered_exactly(text: NumberedText, tokenizer: TeacherTokenizer) -> Bool[np.ndarray, " w"]:
    """Of every word whether pieces begin where it begins and where the next word of its line does."""
    exact = np.zeros(len(text.document), bool)
    lines = text.lines
    for line, first, (_, starts) in zip(lines, text.first_word, tokenizer.encode_batch(lines), strict=True):
        of_character = word_of_characters(line)
        begins = word_begins(of_character, starts)
        exact[first : first + len(begins)] = begins & np.append(begins[1:], True)
    return exact


def word_begins(of_character: Int[np.ndarray, " c"], starts: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " w"]:
    """Of every word of a line whether a piece begins at its first character, or at white space before it.

    Args:
        of_character: the word of each character, -1 on white space.
        starts: the character at which each piece begins.
    """
    at = np.arange(len(of_character))
    # The next character, from here on, that is no white space; behind the last word there is none.
    following = np.minimum.accumulate(np.where(of_character < 0, len(at), at)[::-1])[::-1]
    found = following[starts[starts < len(at)]]
    firsts = np.flatnonzero((of_character >= 0) & (np.diff(of_character, prepend=-1) != 0))
    return np.isin(firsts, found)
