"""Tagged words to model input: sub-word ids with the tag on each word's first sub-word, and predictions back to words.

    words     Die        Sonnenblume              blüht
    pieces    [CLS] Die  Sonne ##nblu ##me        blüht [SEP] [PAD]
    labels      0   DET  NOUN    0     0          VERB    0     0
    weights     0    1    1      0     0           1      0     0

Axes: b sentence, l sub-word position.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from mergedistill_jax.data.presplit import word_pieces
from mergedistill_jax.vocabulary.id_map import IdMap, whole_map
from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer

CUT_WORD_TAG = {"pos": "X", "ner": "O"}
"""The prediction for a word that did not fit into max_length: each tag set's own name for "nothing found here".

So a cut entity or noun is a miss. A name outside the tag set would do the same to the accuracy, but a single cut word
would then add a class of score 0 to the macro average.
"""


SMALLEST_WIDTH = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaggingCounts:
    """What encoding did to the text: the figures that explain a bad score.

    Attributes:
        cut_words: words beyond max_length. They stay in the evaluation, see `CUT_WORD_TAG`.
        unlabelled_words: words whose tag is not among the labels: no loss, but wrong in the evaluation.
        pieces: sub-words written, without [CLS], [SEP] and padding; `unknown_pieces` of them are [UNK].
        distinct_ids: how many different model ids the sentences use, [CLS] and [SEP] among them, padding not.
    unseen_pieces, unseen_ids: sub-words whose model id never stood in the model's training batches, and how many
        different ids those are; None where the model's folder does not tell.
    """

    sentences: int
    words: int
    cut_words: int
    unlabelled_words: int
    pieces: int
    unknown_pieces: int
    distinct_ids: int
    unseen_pieces: int | None = None
    unseen_ids: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaggingArrays:
    """Encoded sentences. `weights` is 1 where a label counts in the loss; `word_starts` marks every kept word.

    The two differ only at words whose tag is not among the labels.
    """

    token_ids: Int[np.ndarray, "b l"]
    attention_mask: Bool[np.ndarray, "b l"]
    label_ids: Int[np.ndarray, "b l"]
    weights: Float[np.ndarray, "b l"]
    word_starts: Bool[np.ndarray, "b l"]


def encode_tagged(
    words: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]],
    tokenizer: TeacherTokenizer,
    labels: Sequence[str],
    *,
    max_length: int,
    id_map: IdMap | None = None,
    token_counts: Int[np.ndarray, " v"] | None = None,
) -> tuple[TaggingArrays, TaggingCounts]:
    """Sub-word ids and labels, all rows max_length long: int32 ids, bool masks, float32 weights.

    A sentence longer than max_length loses whole words at its end. A word without sub-words becomes one [UNK].
    Words are cut as the text that they make with a space between, see `presplit.py`.

    Args:
        words: of each sentence.
        tags: of each sentence, one per word.
        tokenizer: its own truncation and padding are not used.
        labels: tag of each label id.
        max_length: sub-words, [CLS] and [SEP] included.
        id_map: from the tokenizer's ids to the model's, for a model whose ids are not the tokenizer's (a student behind
            a teacher's tokenizer); a sub-word that the model lacks is spelled out.
        token_counts: how often each model id stood in the model's training batches.

    Raises:
        ValueError: naming the sentence, id map entry or length, found and expected.
    """
    if max_length < 3:
        raise ValueError(f"max_length: found {max_length}, expected at least 3 ([CLS], one sub-word, [SEP])")
    label_of = {label: index for index, label in enumerate(labels)}
    shape = (len(words), max_length)
    id_map = _fitting(id_map, tokenizer)
    pad_id, cls_id, sep_id, unk_id = (
        int(id_map.ids[id_map.starts[index]])
        for index in (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.unk_id)
    )
    token_ids = np.full(shape, pad_id, np.int32)
    label_ids = np.zeros(shape, np.int32)
    attention_mask, weights, word_starts = (np.zeros(shape, dtype) for dtype in (bool, np.float32, bool))
    for row, (row_tags, pieces) in enumerate(zip(tags, _word_pieces(words, tokenizer, id_map), strict=True)):
        if len(row_tags) != len(pieces):
            raise ValueError(
                f"sentence {row}: tags: found {len(row_tags)}, expected one for each of {len(pieces)} words"
            )
        token_ids[row, 0], end = cls_id, 1
        for tag, word in zip(row_tags, pieces, strict=True):
            if end + len(word) > max_length - 1:
                break
            token_ids[row, end : end + len(word)] = word
            word_starts[row, end] = True
            if tag in label_of:
                label_ids[row, end], weights[row, end] = label_of[tag], 1.0
            end += len(word)
        token_ids[row, end] = sep_id
        attention_mask[row, : end + 1] = True
    arrays = TaggingArrays(
        token_ids=token_ids,
        attention_mask=attention_mask,
        label_ids=label_ids,
        weights=weights,
        word_starts=word_starts,
    )
    return arrays, _count(words, arrays, unk_id, token_counts)


def padded_batch(arrays: TaggingArrays, rows: Int[np.ndarray, " r"], batch_size: int) -> dict[str, np.ndarray]:
    """The rows as one batch, of one of a few shapes, so that a step is compiled a few times only.

    A short batch is filled up with copies of its first row at weight 0; the width is the smallest of 32, 64, ...,
    max_length that holds the longest row, as padding changes no logit of the words.
    """
    longest = int(arrays.attention_mask[rows].sum(axis=1).max())
    width = SMALLEST_WIDTH
    while width < longest:
        width *= 2
    filled = np.concatenate([rows, np.full(batch_size - len(rows), rows[0])])
    batch = {
        name: getattr(arrays, name)[filled, :width] for name in ("token_ids", "attention_mask", "label_ids", "weights")
    }
    batch["weights"][len(rows) :] = 0.0
    return batch


def predicted_tags(
    label_ids: Int[np.ndarray, "b l"],
    word_starts: Bool[np.ndarray, "b l"],
    labels: Sequence[str],
    num_words: Sequence[int],
    cut_word_tag: str,
) -> list[list[str]]:
    """The tag of every word, from the label predicted at its first sub-word; `cut_word_tag` where it was cut.

    So each list is as long as its sentence (`num_words`), and truncation costs score instead of hiding words.
    """
    tags = []
    for row_ids, row_starts, count in zip(label_ids, word_starts, num_words, strict=True):
        kept = [labels[label] for label in row_ids[row_starts]]
        tags.append(kept + [cut_word_tag] * (count - len(kept)))
    return tags


def _word_pieces(words: Sequence[Sequence[str]], tokenizer: TeacherTokenizer, id_map: IdMap) -> list[list[list[int]]]:
    """Model ids of each word of each sentence; no word is empty."""
    return [
        [id_map.expand(np.array(word, np.int32))[0].tolist() for word in sentence]
        for sentence in word_pieces(words, tokenizer)
    ]


def _fitting(id_map: IdMap | None, tokenizer: TeacherTokenizer) -> IdMap:
    """The map, once seen to be of this tokenizer; without one, the identity."""
    num_tokens = len(tokenizer.tokens)
    if id_map is None:
        return whole_map(np.arange(num_tokens, dtype=np.int32))
    if id_map.labels.shape != (num_tokens,):
        raise ValueError(f"id_map: shape: found {id_map.labels.shape}, expected ({num_tokens},) as in {tokenizer.path}")
    return id_map


def _count(
    words: Sequence[Sequence[str]],
    arrays: TaggingArrays,
    unknown_id: int,
    token_counts: Int[np.ndarray, " v"] | None,
) -> TaggingCounts:
    num_words = sum(map(len, words))
    kept = int(np.count_nonzero(arrays.word_starts))
    used = arrays.token_ids[arrays.attention_mask]
    unseen = None if token_counts is None else used[token_counts[used] == 0]
    return TaggingCounts(
        sentences=len(words),
        words=num_words,
        cut_words=num_words - kept,
        unlabelled_words=kept - int(np.count_nonzero(arrays.weights)),
        pieces=len(used) - 2 * len(words),
        unknown_pieces=int(np.count_nonzero(used == unknown_id)),
        distinct_ids=len(np.unique(used)),
        unseen_pieces=None if unseen is None else len(unseen),
        unseen_ids=None if unseen is None else len(np.unique(unseen)),
    )
