"""Filled gaps: what a model is asked in its own ids, whether or not its vocabulary has the teacher's tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from made_tokenizers import BERT, bert, byte_level, unigram

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.evaluation.fills import Reader, _best, fill_examples, gap_of, readable_tokens, sentences
from mergedistill_jax.models.heads import ModelConfig, masked_language_model
from mergedistill_jax.schema import Record
from mergedistill_jax.vocabulary.id_map import DROPPED, IdMap, ragged_map, whole_map

TOKENS = (*BERT, "[unused0]", "der", "hund", "##e", "bellt", ".", "laut", "im", "garten")
TEACHER = bert(*TOKENS[5:])
CLS, SEP, MASK, UNUSED, DER, HUND, E, BELLT, DOT, LAUT, IM, GARTEN = range(2, 14)
STUDENT = (*BERT, "der", "h", "##u", "##n", "##d", "##e", "bellt", ".", "laut", "im", "garten")


def size_of(vocab_size: int, max_length: int = 64) -> EncoderConfig:
    return EncoderConfig(
        vocab_size=vocab_size,
        num_layers=1,
        hidden_size=16,
        num_heads=2,
        intermediate_size=16,
        max_length=max_length,
        initializer_range=0.5,
    )


def reader_of(config: ModelConfig, id_map: IdMap, tokens: tuple[str, ...]) -> Reader:
    ids = jnp.zeros((1, 2), jnp.int32)
    params = nn.meta.unbox(masked_language_model(config).init(jax.random.key(1), ids, ids == 0, ids))["params"]
    return Reader(config=config, params=params, id_map=id_map, tokens=tokens, num_tokens=len(tokens))


def cut_map() -> IdMap:
    """`hund` was cut, `[unused0]` is a placeholder."""
    place = {token: index for index, token in enumerate(STUDENT)}
    parts = {"hund": ["h", "##u", "##n", "##d"], "[unused0]": ["[UNK]"]}
    rows = [[place[part] for part in parts.get(token, [token])] for token in TEACHER.tokens]
    labels = [DROPPED if token in parts else row[0] for token, row in zip(TEACHER.tokens, rows, strict=True)]
    return ragged_map(np.array(labels, np.int32), rows)


def direct(reader: Reader, ids: list[int], position: int) -> list[str]:
    """The best three of one unpadded sentence in the student's ids."""
    token_ids = jnp.asarray([ids], jnp.int32)
    where = jnp.asarray([[position]], jnp.int32)
    logits = masked_language_model(reader.config).apply({"params": reader.params}, token_ids, token_ids >= 0, where)
    assert isinstance(logits, jax.Array)
    return [reader.tokens[i] for i in np.argsort(-np.asarray(logits[0, 0]))[:3]]


@pytest.mark.slow
def test_a_gap_moves_with_the_words_that_are_spelled_out() -> None:
    reader = reader_of(size_of(len(STUDENT)), cut_map(), STUDENT)
    ids = np.array([CLS, DER, HUND, HUND, E, MASK, DOT, SEP], np.int32)
    text = ["[CLS]", "der", *["h", "##u", "##n", "##d"] * 2, "##e", "[MASK]", ".", "[SEP]"]
    expected = direct(reader, [STUDENT.index(token) for token in text], text.index("[MASK]"))
    assert _best(reader, ids, 5) == expected
    assert len(set(expected)) == 3


@pytest.mark.parametrize("hidden", [1, 12])
def test_a_sentence_that_grew_beyond_the_usual_length_is_read_whole(hidden: int) -> None:
    """Eleven cut words of four pieces and a gap: 47 tokens."""
    reader = reader_of(size_of(len(STUDENT)), cut_map(), STUDENT)
    ids = np.array([CLS, *[HUND] * 12, SEP], np.int32)
    ids[hidden] = MASK
    mapped, first = reader.id_map.expand(ids)
    assert len(mapped) == 47
    assert _best(reader, ids, hidden) == direct(reader, mapped.tolist(), int(first[hidden]))


def test_what_is_too_long_for_the_model_is_cut_off() -> None:
    reader = reader_of(size_of(len(STUDENT), max_length=20), cut_map(), STUDENT)
    ids = np.array([CLS, MASK, *[HUND] * 12, SEP], np.int32)
    assert _best(reader, ids, 1) == direct(reader, reader.id_map.expand(ids)[0][:20].tolist(), 1)


def record(*ids: int) -> Record:
    none = np.zeros(0, np.int32)
    return Record(
        text_id=b"\0" * 8,
        draw=0,
        input_ids=np.array([CLS, *ids, SEP], np.int32),
        masked_positions=none,
        gold_ids=none,
        top_ids=np.zeros((0, 3), np.int32),
        top_log_probs=np.zeros((0, 3), np.float32),
    )


def test_fills_are_told_in_words() -> None:
    """The first sentence of a record may lack its beginning; one hidden word per sentence, and its gold token."""
    sentence = [DER, HUND, E, BELLT, LAUT, IM, GARTEN, DOT]
    identity = whole_map(np.arange(len(TEACHER.tokens), dtype=np.int32))
    readers = {
        "teacher": reader_of(size_of(len(TEACHER.tokens)), identity, readable_tokens(TEACHER)),
        "student": reader_of(size_of(len(STUDENT)), cut_map(), STUDENT),
    }
    records = [record(LAUT, DOT, *sentence), record(LAUT, DOT, *sentence)]
    fills = fill_examples("de", records, TEACHER, readers, 1)
    assert len(fills) == 1
    text = "der hunde bellt laut im garten."
    assert fills[0].text in {text.replace(word, "[MASK]") for word in ("bellt", "laut", "im", "garten")}
    assert fills[0].text.replace("[MASK]", fills[0].gold) == text
    assert len(fills[0].teacher) == len(fills[0].student) == 3
    assert set(fills[0].student) <= set(STUDENT)


def test_a_gap_is_a_word_of_one_piece() -> None:
    names = readable_tokens(TEACHER)
    # The second word is of two pieces, the first stands first, the mark is no word: one is left.
    assert gap_of([DER, HUND, E, BELLT, DOT], names) == 3
    assert gap_of([DER, HUND, E, DOT], names) is None


@pytest.mark.parametrize(
    "tokenizer",
    [
        unigram("▁der", "▁hund", "e", "▁bellt", "▁laut", "▁im", "."),
        byte_level("Ġder", "Ġhund", "e", "Ġbellt", "Ġlaut", "Ġim", "."),
    ],
)
def test_sentences_and_gaps_are_found_in_every_family(tokenizer) -> None:
    """A word's end is seen in the canonical spelling, whatever the family's own."""
    names = readable_tokens(tokenizer)
    assert names[5:] == ("der", "hund", "##e", "bellt", "laut", "im", ".")
    found = list(sentences([record(9, 11, 5, 6, 7, 8, 9, 10, 11)], tokenizer))
    assert found == [[5, 6, 7, 8, 9, 10, 11]]
    assert gap_of(found[0], names) in (3, 4, 5)
