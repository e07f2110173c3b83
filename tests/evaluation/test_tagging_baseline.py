import pytest

from mergedistill_jax.evaluation.tagging_baseline import most_frequent_tags


def test_each_form_has_its_most_frequent_tag_and_a_new_one_that_of_all_words():
    words = [["die", "Bank", "Bank"], ["Bank", "die"], ["sie"]]
    tags = [["DET", "PROPN", "NOUN"], ["NOUN", "PRON"], ["PRON"]]
    # Bank: NOUN twice of three; die: DET and PRON once each, DET is first by name; NOUN and PRON are twice of six each.
    found = most_frequent_tags(words, tags, [["Bank", "die", "neu"], [], ["sie"]])
    assert found == [["NOUN", "DET", "NOUN"], [], ["PRON"]]


def test_a_training_text_without_words_is_refused():
    with pytest.raises(ValueError, match="train_words: found no words, expected at least one"):
        most_frequent_tags([[]], [[]], [["a"]])
