"""Mutated files give a tokenizer that works, or one clear line: nothing else, whatever is in them."""

import json
import random

import pytest
from published_folders import (
    SENTENCES,
    albert_model,
    byte_level_files,
    fairseq_model,
    modernbert_json,
    sentencepiece_model,
    unigram_json,
    write,
)

from mergedistill_jax.vocabulary.tokenizer import VocabularyError, load_tokenizer, wordpiece_tokenizer

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "a", "##b", "la", "the", "."]
VOCAB = "".join(f"{token}\n" for token in BERT)
BERT_JSON = wordpiece_tokenizer(
    {token: index for index, token in enumerate(BERT)}, lowercase=False, strip_accents=None, split_chinese=True
).to_str()
JSON_VOCAB, MERGES, _ = byte_level_files()


def model(model_type):
    return {"model_type": model_type}


FUZZED = {
    "vocab.txt": ({"vocab__txt": VOCAB, "config__json": model("bert")}, "vocab__txt"),
    "bert tokenizer.json": (
        {
            "tokenizer__json": BERT_JSON,
            "config__json": model("bert"),
            "tokenizer_config__json": {"do_lower_case": False},
        },
        "tokenizer__json",
    ),
    "byte-level tokenizer.json": ({"tokenizer__json": modernbert_json()}, "tokenizer__json"),
    "unigram tokenizer.json": ({"tokenizer__json": unigram_json(byte_fallback=True)}, "tokenizer__json"),
    "tokenizer_config.json": (
        {
            "vocab__txt": VOCAB,
            "tokenizer_config__json": {
                "do_lower_case": False,
                "mask_token": {"__type": "AddedToken", "content": "[MASK]", "lstrip": True},
                "added_tokens_decoder": {"0": {"content": "[PAD]", "special": True}, "11": {"content": "new"}},
                "extra_special_tokens": ["the"],
            },
        },
        "tokenizer_config__json",
    ),
    "vocab.json": ({"vocab__json": JSON_VOCAB, "merges__txt": MERGES, "config__json": model("roberta")}, "vocab__json"),
    "merges.txt": ({"vocab__json": JSON_VOCAB, "merges__txt": MERGES, "config__json": model("roberta")}, "merges__txt"),
    "sentencepiece.bpe.model": (
        {"sentencepiece__bpe__model": fairseq_model(), "config__json": model("xlm-roberta")},
        "sentencepiece__bpe__model",
    ),
    "spiece.model": ({"spiece__model": albert_model(), "config__json": model("albert")}, "spiece__model"),
    "tokenizer.model": (
        {
            "tokenizer__model": sentencepiece_model(
                "bpe",
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                user_defined_symbols=("<mask>",),
                byte_fallback=True,
                size=400,
            ),
            "config__json": model("modernbert"),
        },
        "tokenizer__model",
    ),
}
PASTED = [
    b"\n",
    b"\n\n",
    b"\0",
    b"\xff",
    b" ",
    b'"',
    b"[MASK]",
    b"[UNK]",
    b"x" * 2_000,
    "語".encode(),
    b"}",
    b"999999999",
    b"-1",
    b"null",
    b"\\ud800",
    b"1e999",
]


def mutated(data, rng):
    """Some bytes changed, cut out, doubled or pasted in; or, in JSON, a value replaced."""
    if data[:1] == b"{" and rng.random() < 0.5:
        return mutated_json(json.loads(data), rng)
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(data) + 1) if rng.random() < 0.7 else rng.randrange(min(len(data), 400) + 1)
        until = min(len(data), at + rng.choice([1, 1, 5, 100]))
        match rng.randrange(5):
            case 0:
                data = data[:at]
            case 1:
                data = data[:at] + data[until:]
            case 2:
                data = data[:until] + data[at:]
            case 3:
                data = data[:at] + rng.choice(PASTED) + data[at:]
            case _:
                data = data[:at] + rng.randbytes(until - at) + data[until:]
    return data


def mutated_json(content, rng):
    """One value, reached by a random path, replaced by another or removed."""
    inner = content
    while True:
        if not isinstance(inner, dict | list) or not inner:
            return json.dumps(content).encode()
        key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        if not isinstance(inner[key], dict | list) or not inner[key] or rng.random() < 0.2:
            if rng.random() < 0.2:
                del inner[key]
            else:
                inner[key] = rng.choice([None, True, -1, 0, 3, 10**12, 0.5, "", "x", "[MASK]", [], {}, [1], "\0", "\n"])
            return json.dumps(content).encode()
        inner = inner[key]


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZED)
def test_a_mutated_file_works_or_is_refused_in_one_line(tmp_path, name):
    """Twenty mutations of each file, the same in each run."""
    files, field = FUZZED[name]
    rng = random.Random(name)
    original = files[field] if isinstance(files[field], bytes | str) else json.dumps(files[field])
    original = original if isinstance(original, bytes) else original.encode()
    outcomes = {"works": 0, "refused": 0}
    for trial in range(20):
        folder = write(tmp_path / str(trial), **{**files, field: mutated(original, rng)})
        outcomes[outcome(folder)] += 1
    assert outcomes["refused"] > 2, outcomes


def outcome(folder):
    try:
        teacher = load_tokenizer(folder)
    except VocabularyError as error:
        message = str(error)
    else:
        assert_works(teacher)
        return "works"
    assert "\n" not in message
    assert str(folder) in message
    assert len(message) < 1_000
    return "refused"


def assert_works(teacher):
    for text, (ids, starts) in zip(SENTENCES, teacher.encode_batch(SENTENCES), strict=True):
        assert all(0 <= index < len(teacher.tokens) for index in ids)
        assert ((starts >= 0) & (starts <= len(text))).all()
    assert all(max(ids, default=0) < len(teacher.tokens) for ids in teacher.encode_with_special_tokens(SENTENCES))
    assert len(set(teacher.tokens)) == len(teacher.tokens)
    assert all(0 <= index < len(teacher.tokens) for index in (*teacher.special_ids, *teacher.extra_special_ids))
    assert len(teacher.tokenizer_hash) == 32
