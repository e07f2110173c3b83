import numpy as np
import pytest

from mergedistill_jax.data.tagging import CUT_WORD_TAG, encode_tagged, padded_batch, predicted_tags
from mergedistill_jax.vocabulary.id_map import DROPPED, ragged_map, whole_map
from mergedistill_jax.vocabulary.tokenizer import wordpiece_tokenizer, wrap_tokenizer

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "die", "sonne", "##nblu", "##me", "blüht", "."]
PAD, UNK, CLS, SEP, _, DIE, SONNE, NBLU, ME, BLUEHT, DOT = range(len(TOKENS))
LABELS = ["DET", "NOUN", "PUNCT", "VERB"]
WORDS = ["die", "sonnenblume", "blüht", "."]
TAGS = ["DET", "NOUN", "VERB", "PUNCT"]


@pytest.fixture(scope="module")
def tokenizer():
    vocabulary = {token: index for index, token in enumerate(TOKENS)}
    return wrap_tokenizer(
        wordpiece_tokenizer(vocabulary, lowercase=False, strip_accents=False, split_chinese=True), "test"
    )


def test_a_word_of_three_pieces_has_its_tag_on_the_first(tokenizer):
    arrays, counts = encode_tagged([WORDS, ["."]], [TAGS, ["PUNCT"]], tokenizer, LABELS, max_length=10)
    assert arrays.token_ids.tolist() == [
        [CLS, DIE, SONNE, NBLU, ME, BLUEHT, DOT, SEP, PAD, PAD],
        [CLS, DOT, SEP] + 7 * [PAD],
    ]
    assert arrays.label_ids.tolist() == [[0, 0, 1, 0, 0, 3, 2, 0, 0, 0], [0, 2] + 8 * [0]]
    assert arrays.weights.tolist() == [[0, 1, 1, 0, 0, 1, 1, 0, 0, 0], [0, 1] + 8 * [0]]
    assert arrays.attention_mask.tolist() == [8 * [True] + 2 * [False], 3 * [True] + 7 * [False]]
    dtypes = [getattr(arrays, name).dtype for name in ("token_ids", "attention_mask", "label_ids", "weights")]
    assert dtypes == [np.int32, bool, np.int32, np.float32]
    assert (counts.sentences, counts.words, counts.cut_words, counts.unlabelled_words) == (2, 5, 0, 0)
    assert (counts.pieces, counts.unknown_pieces, counts.distinct_ids) == (7, 0, 8)


def test_gold_labels_come_back_as_the_gold_tags(tokenizer):
    arrays, _ = encode_tagged([WORDS, ["."]], [TAGS, ["PUNCT"]], tokenizer, LABELS, max_length=10)
    assert predicted_tags(arrays.label_ids, arrays.word_starts, LABELS, [4, 1], "X") == [TAGS, ["PUNCT"]]


@pytest.mark.parametrize(
    ("max_length", "kept", "ids"),
    [
        (8, 4, [CLS, DIE, SONNE, NBLU, ME, BLUEHT, DOT, SEP]),  # all fit, with nothing to spare
        (7, 3, [CLS, DIE, SONNE, NBLU, ME, BLUEHT, SEP]),
        (6, 2, [CLS, DIE, SONNE, NBLU, ME, SEP]),
        (5, 1, [CLS, DIE, SEP, PAD, PAD]),  # two pieces of the second word would fit: a word is kept whole or cut
        (3, 1, [CLS, DIE, SEP]),
    ],
)
def test_truncation_cuts_whole_words_and_keeps_them_in_the_evaluation(tokenizer, max_length, kept, ids):
    arrays, counts = encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=max_length)
    assert arrays.token_ids.tolist() == [ids]
    assert counts.cut_words == 4 - kept
    tags = predicted_tags(arrays.label_ids, arrays.word_starts, LABELS, [4], CUT_WORD_TAG["pos"])
    assert tags == [TAGS[:kept] + ["X"] * (4 - kept)]


def test_a_later_shorter_word_does_not_slip_in_behind_a_cut_one(tokenizer):
    arrays, counts = encode_tagged([["sonnenblume", "."]], [["NOUN", "PUNCT"]], tokenizer, LABELS, max_length=4)
    assert arrays.token_ids.tolist() == [[CLS, SEP, PAD, PAD]]
    assert (counts.cut_words, arrays.weights.sum()) == (2, 0)


def test_a_word_without_pieces_is_one_unknown_piece(tokenizer):
    # U+200D is removed by BERT's normaliser, U+0000 too; "haus" is merely not in the vocabulary.
    arrays, counts = encode_tagged([["\u200d", "die", "haus"]], [["X", "DET", "NOUN"]], tokenizer, LABELS, max_length=6)
    assert arrays.token_ids.tolist() == [[CLS, UNK, DIE, UNK, SEP, PAD]]
    assert arrays.weights.tolist() == [[0, 0, 1, 1, 0, 0]]  # X is not among the labels
    assert arrays.word_starts.tolist() == [[False, True, True, True, False, False]]
    assert (counts.unknown_pieces, counts.unlabelled_words, counts.cut_words) == (2, 1, 0)


def test_the_tokenizers_own_truncation_and_padding_are_not_used(tokenizer):
    own = tokenizer.tokenizer
    plain, _ = encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=10)
    own.enable_truncation(3)
    own.enable_padding(length=20)
    try:
        arrays, _ = encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=10)
        assert (own.truncation is not None, own.padding is not None) == (True, True)
    finally:
        own.no_truncation()
        own.no_padding()
    assert arrays.token_ids.tolist() == plain.token_ids.tolist()


def map_of(ids):
    return whole_map(np.array(ids, np.int32))


def test_an_id_map_changes_ids_and_nothing_else(tokenizer):
    ids = np.arange(len(TOKENS)) + 100
    plain, _ = encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=10)
    mapped, counts = encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=10, id_map=map_of(ids))
    assert mapped.token_ids.tolist() == ids[plain.token_ids].tolist()
    assert mapped.token_ids.dtype == np.int32
    for name in ("attention_mask", "label_ids", "weights", "word_starts"):
        np.testing.assert_array_equal(getattr(mapped, name), getattr(plain, name))
    assert (counts.unknown_pieces, counts.distinct_ids) == (0, 8)


def test_an_identity_changes_nothing(tokenizer):
    plain, counts = encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=10)
    mapped, same = encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=10, id_map=map_of(range(len(TOKENS))))
    np.testing.assert_array_equal(mapped.token_ids, plain.token_ids)
    assert counts == same


def test_a_piece_that_the_model_lacks_is_spelled_out(tokenizer):
    """
    words     die   sonnenblume            blüht  .
    pieces    die   sonne ##nblu ##me      blüht  .
    model's   51    52    53 54  UNK       56     57     ##nblu was cut into two; ##me is a placeholder
    """
    rows = [[40], [41], [42], [43], [44], [51], [52], [53, 54], [41], [56], [57]]
    labels = np.array([row[0] if len(row) == 1 else DROPPED for row in rows], np.int32)
    id_map = ragged_map(labels, rows)
    arrays, counts = encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=10, id_map=id_map)
    assert arrays.token_ids.tolist() == [[42, 51, 52, 53, 54, 41, 56, 57, 43, 40]]
    assert arrays.label_ids.tolist() == [[0, 0, 1, 0, 0, 0, 3, 2, 0, 0]]
    assert arrays.weights.tolist() == [[0, 1, 1, 0, 0, 0, 1, 1, 0, 0]]
    assert arrays.attention_mask.tolist() == [9 * [True] + [False]]
    assert (counts.pieces, counts.unknown_pieces, counts.cut_words) == (7, 1, 0)
    # A word that became longer is still kept whole or cut.
    arrays, counts = encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=6, id_map=id_map)
    assert arrays.token_ids.tolist() == [[42, 51, 43, 40, 40, 40]]
    assert counts.cut_words == 3


def test_an_id_map_of_another_tokenizer_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"id_map: shape: found \(3,\), expected \(11,\) as in test"):
        encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=10, id_map=map_of(range(3)))


def test_ids_that_were_never_trained_are_counted(tokenizer):
    """Of [CLS] die sonne ##nblu ##me blüht . [SEP] [CLS] die die [SEP], with die and ##me unseen."""
    token_counts = np.ones(len(TOKENS), np.int64)
    token_counts[[DIE, ME, PAD]] = 0
    words, tags = [WORDS, ["die", "die"]], [TAGS, ["DET", "DET"]]
    _, counts = encode_tagged(words, tags, tokenizer, LABELS, max_length=10, token_counts=token_counts)
    assert (counts.pieces, counts.distinct_ids) == (8, 8)
    assert (counts.unseen_pieces, counts.unseen_ids) == (4, 2)  # padding does not count
    _, counts = encode_tagged(words, tags, tokenizer, LABELS, max_length=10)
    assert (counts.unseen_pieces, counts.unseen_ids) == (None, None)


def test_ids_are_counted_as_the_model_reads_them(tokenizer):
    """Behind an id map, the counts are of the model's ids."""
    token_counts = np.ones(200, np.int64)
    token_counts[100 + SONNE] = 0
    ids = map_of(np.arange(len(TOKENS)) + 100)
    _, counts = encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=10, id_map=ids, token_counts=token_counts)
    assert (counts.unseen_pieces, counts.unseen_ids) == (1, 1)


def test_wrong_lengths_are_refused(tokenizer):
    with pytest.raises(ValueError, match="max_length: found 2, expected at least 3"):
        encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=2)
    with pytest.raises(ValueError, match="sentence 1: tags: found 3, expected one for each of 4 words"):
        encode_tagged([WORDS, WORDS], [TAGS, TAGS[:3]], tokenizer, LABELS, max_length=9)


def test_padded_batch_has_one_of_a_few_shapes_and_no_weight_on_its_filling(tokenizer):
    words = [["die"] * count for count in (3, 40, 90)]
    tags = [["DET"] * len(row) for row in words]
    arrays, _ = encode_tagged(words, tags, tokenizer, LABELS, max_length=80)
    for rows, width in (([0], 32), ([0, 1], 64), ([1, 2, 0], 80)):
        batch = padded_batch(arrays, np.array(rows), 4)
        assert {values.shape for values in batch.values()} == {(4, width)}
        np.testing.assert_array_equal(batch["token_ids"][: len(rows)], arrays.token_ids[rows, :width])
        assert batch["weights"].sum() == arrays.weights[rows].sum()
        assert batch["attention_mask"].any(axis=1).all()
    assert arrays.weights[0].sum() == 3  # the arrays themselves are untouched


@pytest.fixture
def task(tokenizer, tmp_path):
    seqio = pytest.importorskip("seqio")
    tagging = pytest.importorskip("tasks.tagging", exc_type=ImportError)
    tokenizer.tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "".join(f"{word}\t{tag}\n" for word, tag in zip(WORDS, TAGS, strict=True))
    (tmp_path / "train-de.tsv").write_text(text * 2)
    (tmp_path / "dev-de.tsv").write_text(text)
    # Without training file: eight sentences that differ.
    (tmp_path / "dev-es.tsv").write_text("\n".join(count * "die\tDET\n" for count in range(1, 9)))
    names = tagging.add_pos(str(tmp_path), str(tmp_path), ["de", "es"], max_length=10)
    assert names == tagging.add_pos(str(tmp_path), str(tmp_path), ["de", "es"], max_length=10)
    return seqio.TaskRegistry.get


def examples_of(task, split, length=10):
    lengths = dict.fromkeys(("inputs", "targets", "weights"), length)
    return list(task.get_dataset(lengths, split=split, shuffle=False).as_numpy_iterator())


def test_seqio_task_gives_the_arrays_without_padding(task, tokenizer):
    (example,) = examples_of(task("pos_udpos_de"), "validation")
    arrays, _ = encode_tagged([WORDS], [TAGS], tokenizer, LABELS, max_length=10)
    assert example["inputs"].tolist() == arrays.token_ids[0, :8].tolist()
    assert example["weights"].tolist() == arrays.weights[0, :8].tolist()
    assert example["targets"].tolist() == [0, 5, 7, 0, 0, 15, 12, 0]  # DET, NOUN, VERB, PUNCT of the 17 UPOS
    (train,) = examples_of(task("pos_udpos_de"), "train")
    assert len(train["tags"]) == 8


@pytest.mark.parametrize(("length", "accuracy"), [(10, 1.0), (4, 0.5)])
def test_seqio_metrics_count_words_that_the_evaluation_cut(task, length, accuracy):
    """At length 4 the first pieces of "die" and "sonnenblume" are left: two of four words."""
    task = task("pos_udpos_de")
    examples = examples_of(task, "validation", length)
    predictions = np.array([example["targets"] for example in examples])
    (metric,) = task.metric_objs
    metric = metric.from_model_output(examples, predictions, task.output_features)
    scores, _ = metric.actual_compute(examples, task.output_features)
    assert scores["accuracy"] == accuracy


def test_seqio_task_divides_the_development_set_where_training_is_missing(task):
    words = [[len(e["tags"]) for e in examples_of(task("pos_udpos_es"), split)] for split in ("train", "validation")]
    assert sorted(words[0] + words[1]) == list(range(1, 9))
