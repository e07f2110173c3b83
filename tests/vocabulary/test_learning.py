import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TEXTS

import mergedistill_jax
from mergedistill_jax.vocabulary import learning
from mergedistill_jax.vocabulary.learning import learn_wordpiece
from mergedistill_jax.vocabulary.tokenizer import wrap_tokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BOTH = TEXTS["en"] + TEXTS["es"]


def tokens_of(tokenizer):
    return wrap_tokenizer(tokenizer, "learned").tokens


def test_special_tokens_first_then_the_strings_in_order():
    tokens = tokens_of(learn_wordpiece(BOTH * 2, 200))
    assert list(tokens[:5]) == SPECIAL
    assert list(tokens[5:]) == sorted(tokens[5:])
    assert len(tokens) == 200


def test_its_own_text_has_no_unknown_piece_and_comes_back():
    tokenizer = learn_wordpiece(BOTH, 200)
    for text in BOTH:
        pieces = tokenizer.encode(text, add_special_tokens=False).tokens
        assert "[UNK]" not in pieces
        assert "".join(p.removeprefix("##") for p in pieces) == "".join(text.split())


def test_frequent_words_become_tokens_and_rare_ones_do_not():
    tokens = tokens_of(learn_wordpiece(["the boat the boat the boat zebra"], 40))
    assert {"the", "boat"} <= set(tokens)
    assert "zebra" not in tokens
    assert {"z", "##e", "##b", "##r", "##a"} <= set(tokens)


def test_case_and_accents():
    texts = ["Café CAFÉ café"] * 3
    assert {"é", "##é"} & set(tokens_of(learn_wordpiece(texts, 60)))
    lowered = tokens_of(learn_wordpiece(texts, 60, lowercase=True))
    assert "cafe" in lowered
    assert not any("é" in token or "C" in token for token in lowered[5:])
    assert learn_wordpiece(texts, 60, lowercase=True).encode("CAFÉ").tokens == ["[CLS]", "cafe", "[SEP]"]


def test_the_rarest_characters_stay_outside_the_alphabet_by_a_rule(monkeypatch):
    """Ties go by code point: here 'a' four times, 'b' twice, and of the others one too few may stay."""
    monkeypatch.setattr(learning, "MAX_ALPHABET", 4)
    texts = ["a", "a", "a", "a", "b", "b", "y", "z", "x"]
    assert [t for t in tokens_of(learn_wordpiece(texts, 100)) if len(t) == 1] == ["a", "b", "x", "y"]
    assert learn_wordpiece(texts, 100).encode("z", add_special_tokens=False).tokens == ["[UNK]"]


def test_an_iterator_is_as_good_as_a_list():
    assert tokens_of(learn_wordpiece(iter(BOTH), 180)) == tokens_of(learn_wordpiece(BOTH, 180))


def test_the_order_of_the_texts_is_nothing():
    assert tokens_of(learn_wordpiece(BOTH[::-1], 180)) == tokens_of(learn_wordpiece(BOTH, 180))


@pytest.mark.slow
def test_other_processes_learn_the_same():
    """The trainer's hash maps are seeded anew in each process, and ties abound: most pairs here occur twice."""
    program = (
        "import hashlib, json, sys\n"
        "from mergedistill_jax.vocabulary.learning import learn_wordpiece\n"
        "vocabulary = learn_wordpiece(json.loads(sys.argv[1]), 170).get_vocab()\n"
        "print(hashlib.sha256(repr(sorted(vocabulary.items())).encode()).hexdigest())\n"
    )
    found = {hashlib.sha256(repr(sorted(learn_wordpiece(BOTH, 170).get_vocab().items())).encode()).hexdigest()}
    for _ in range(2):
        command = [sys.executable, "-c", program, json.dumps(BOTH)]
        root = Path(mergedistill_jax.__file__).parents[1]
        run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)  # noqa: S603 - our own
        found.add(run.stdout.strip())
    assert len(found) == 1
