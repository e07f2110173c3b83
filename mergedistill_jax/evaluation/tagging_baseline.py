"""What a table of words scores in tagging: every model should be better than this."""

from collections import Counter, defaultdict
from collections.abc import Sequence


def most_frequent_tags(
    train_words: Sequence[Sequence[str]], train_tags: Sequence[Sequence[str]], words: Sequence[Sequence[str]]
) -> list[list[str]]:
    """For every word the most frequent tag of its form in the training text, and of all words where it is new there.

    Of equally frequent tags it is the first in the order of their names.

    Raises:
        ValueError: a training text without words.
    """
    of_form: defaultdict[str, Counter[str]] = defaultdict(Counter)
    of_all: Counter[str] = Counter()
    for sentence, tags in zip(train_words, train_tags, strict=True):
        of_all.update(tags)
        for word, tag in zip(sentence, tags, strict=True):
            of_form[word][tag] += 1
    if not of_all:
        raise ValueError("train_words: found no words, expected at least one")
    usual = _first(of_all)
    known = {word: _first(counts) for word, counts in of_form.items()}
    return [[known.get(word, usual) for word in sentence] for sentence in words]


def _first(counts: Counter[str]) -> str:
    return min(counts, key=lambda tag: (-counts[tag], tag))
