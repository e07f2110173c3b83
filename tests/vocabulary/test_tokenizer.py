import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import TEXTS
from tokenizers import Tokenizer, models, pre_tokenizers

from mergedistill_jax.vocabulary.tokenizer import (
    VocabularyError,
    is_placeholder,
    load_tokenizer,
    vocabulary_hash,
    wordpiece_tokenizer,
    wrap_tokenizer,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyzACDÉéàñü語言ह"
TOKENS = [*SPECIAL, "[unused0]", *LETTERS, *(f"##{c}" for c in LETTERS), "Caf", "caf", "##fe", "la", "La", ".", "!"]
TOKENS = list(dict.fromkeys(TOKENS))
SENTENCES = [
    "Café à la carte!",
    "CAFÉ, cafe, Cafe\u0301.",  # composed, without accent, decomposed
    "語言la語 言",
    "a\tb\u00a0c\u200bd\x00e\u2028f",
    "x" * 101 + " fed " + "a" * 100,  # WordPiece gives up beyond 100 characters
    "😀 हि 42%",
    "la [MASK] La[SEP]",
    "",
    "   ",
]


def write_folder(folder, tokens=TOKENS, **settings):
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_bytes("".join(f"{token}\n" for token in tokens).encode())
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    if settings:
        config = {"tokenizer_class": "BertTokenizer", **settings}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def assert_as_transformers(folder, texts):
    """The same ids, the same special tokens; special tokens that the text spells are text."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow, and only here

    theirs, mine = AutoTokenizer.from_pretrained(str(folder)), load_tokenizer(folder)
    for text, (ids, starts) in zip(texts, mine.encode_batch(texts), strict=True):
        expected = theirs(text, split_special_tokens=True, return_offsets_mapping=True)
        assert [mine.cls_id, *ids, mine.sep_id] == expected["input_ids"], text
        assert starts.tolist() == [start for start, _ in expected["offset_mapping"]][1:-1]
    assert mine.special_ids == (
        theirs.pad_token_id,
        theirs.unk_token_id,
        theirs.cls_token_id,
        theirs.sep_token_id,
        theirs.mask_token_id,
    )
    return mine


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": False, "tokenize_chinese_chars": False},
    ],
)
def test_a_vocab_txt_gives_the_ids_of_auto_tokenizer(tmp_path, settings):
    mine = assert_as_transformers(write_folder(tmp_path / "bert", **settings), SENTENCES)
    assert mine.tokens == tuple(TOKENS)


def test_the_switches_do_what_they_say(tmp_path):
    """The parity above could hold with switches that nobody reads."""
    found = {
        lower: load_tokenizer(write_folder(tmp_path / str(lower), do_lower_case=lower)).tokenizer.encode("Café").tokens
        for lower in (True, False)
    }
    assert found == {True: ["[CLS]", "caf", "##e", "[SEP]"], False: ["[CLS]", "Caf", "##é", "[SEP]"]}


def test_a_tokenizer_json_gives_the_ids_of_auto_tokenizer(teachers):
    for language, folder in teachers.items():
        assert (folder / "tokenizer.json").exists()
        assert_as_transformers(folder, [*TEXTS[language], *SENTENCES])


def test_padding_and_truncation_of_a_published_tokenizer_are_left_out(tmp_path, teachers):
    tokenizer = Tokenizer.from_file(str(teachers["en"] / "tokenizer.json"))
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found, plain = load_tokenizer(tmp_path), load_tokenizer(teachers["en"])
    texts = TEXTS["en"]
    assert [ids for ids, _ in found.encode_batch(texts)] == [ids for ids, _ in plain.encode_batch(texts)]
    assert found.tokenizer_hash == plain.tokenizer_hash


@pytest.mark.parametrize("switch", ["do_lower_case", "tokenize_chinese_chars", "strip_accents"])
def test_settings_that_contradict_tokenizer_json_are_refused(tmp_path, switch):
    """AutoTokenizer would follow the settings, the `tokenizers` library the file: other ids without a word."""
    vocabulary = {token: index for index, token in enumerate(TOKENS)}
    tokenizer = wordpiece_tokenizer(vocabulary, lowercase=False, strip_accents=False, split_chinese=False)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"do_lower_case": False, "strip_accents": False, "tokenize_chinese_chars": False}
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    assert_as_transformers(tmp_path, SENTENCES)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {switch: True}))
    with pytest.raises(VocabularyError, match=f"field {switch}: found True, expected False as in tokenizer.json"):
        load_tokenizer(tmp_path)
    names = {f"{role}_token": f"[{role.upper()}]" for role in ("pad", "unk", "cls", "sep", "mask")}
    fast = settings | names | {switch: True, "tokenizer_class": "PreTrainedTokenizerFast"}  # takes the file as it is
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fast))
    assert_as_transformers(tmp_path, SENTENCES[:2])


def test_starts_are_characters_of_the_text(tmp_path):
    tokenizer = load_tokenizer(write_folder(tmp_path / "bert"))
    text = "  Café語 😀\u200bla"
    ((ids, starts),) = tokenizer.encode_batch([text])
    pieces = [tokenizer.tokens[i] for i in ids]
    assert list(zip(pieces, starts.tolist(), strict=True)) == [
        ("caf", 2),
        ("##e", 5),
        ("語", 6),
        ("[UNK]", 8),  # the emoji and what follows the deleted character are one word
    ]


BETO_ORDER = ["[MASK]", "[PAD]", "[EOS]", "[UNK]", "[CLS]", "[SEP]", "[unused0]", "la", "##s"]


def test_special_tokens_are_found_by_string_wherever_they_stand(tmp_path):
    mine = assert_as_transformers(write_folder(tmp_path / "beto", BETO_ORDER, do_lower_case=False), ["la las [EOS] no"])
    assert (mine.mask_id, mine.pad_id, mine.unk_id, mine.cls_id, mine.sep_id) == (0, 1, 3, 4, 5)
    assert mine.extra_special_ids == (2,)  # though only vocab.txt names it
    assert [mine.tokens[i] for i in mine.ordinary_ids] == ["la", "##s"]


def test_other_names_of_special_tokens():
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}, "<unk>"))
    assert wrap_tokenizer(tokenizer, "roberta").special_ids == (1, 3, 0, 2, 4)


def test_only_newline_ends_a_token(tmp_path):
    tokens = [*SPECIAL, "\u2028", "##\u2028", "a"]
    folder = write_folder(tmp_path / "chinese", tokens)
    assert load_tokenizer(folder).tokens == tuple(tokens)
    (folder / "vocab.txt").write_bytes("\r\n".join(tokens).encode())  # and a file from Windows is the same
    assert load_tokenizer(folder).tokens == tuple(tokens)
    assert load_tokenizer(folder).vocabulary_hash == vocabulary_hash(tokens)


def test_placeholders():
    assert [is_placeholder(t) for t in ("[unused0]", "[unused99]", "unused", "[UNK]", "[unused")] == [
        True,
        True,
        *[False] * 3,
    ]


def test_vocabularies_of_one_size_are_told_apart_by_content():
    one, other = ["a", "b", "c"], ["a", "c", "b"]
    assert vocabulary_hash(one) == vocabulary_hash(tuple(one))
    assert len({vocabulary_hash(tokens) for tokens in (one, other, ["ab", "", "c"], ["a", "bc"], ["abc"])}) == 5


def test_the_tokenizer_hash_is_of_how_a_text_is_cut(tmp_path):
    cased, uncased, again = (
        load_tokenizer(write_folder(tmp_path / name, do_lower_case=lower))
        for name, lower in (("cased", False), ("uncased", True), ("again", False))
    )
    assert cased.vocabulary_hash == uncased.vocabulary_hash
    assert cased.tokenizer_hash == again.tokenizer_hash != uncased.tokenizer_hash


def replace(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "file", "named"),
    [
        (lambda f: (f / "vocab.txt").unlink(), "", "found neither tokenizer.json nor vocab.txt"),
        (replace("vocab.txt", b"[PAD]\n\xff\n"), "vocab.txt", "found bytes that are not UTF-8"),
        (replace("vocab.txt", b"[UNK]\n[CLS]\n[SEP]\na\na\nb\nb\n"), "vocab.txt", "found 2 doubled tokens"),
        (replace("vocab.txt", b"[PAD]\n[CLS]\n[SEP]\n[MASK]\n"), "vocab.txt", r"found no \[UNK\]"),
        (replace("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n"), "vocab.txt", "found no mask token"),
        (replace("vocab.txt", b""), "vocab.txt", r"found no \[UNK\]"),
        (replace("tokenizer.json", b"{"), "tokenizer.json", "found no tokenizer"),
        (replace("tokenizer_config.json", b"{"), "tokenizer_config.json", "found no JSON"),
        (replace("tokenizer_config.json", b"[]"), "tokenizer_config.json", "found list, expected a JSON object"),
    ],
)
def test_damage_is_refused_by_file_in_one_line(tmp_path, change, file, named):
    folder = write_folder(tmp_path / "bert")
    change(folder)
    with pytest.raises(VocabularyError, match=named) as error:
        load_tokenizer(folder)
    assert str(folder / file) in str(error.value)
    assert "\n" not in str(error.value)


def test_ids_with_gaps_are_refused():
    vocabulary = {token: index * 2 for index, token in enumerate(SPECIAL)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(VocabularyError, match="ids with gaps or doubles, expected 0 to 4"):
        wrap_tokenizer(tokenizer, "gaps")


def test_ordinary_ids_are_all_others():
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, "[unused0]", "a", "##b"])}
    tokenizer = wordpiece_tokenizer(vocabulary, lowercase=False, strip_accents=None, split_chinese=True)
    np.testing.assert_array_equal(wrap_tokenizer(tokenizer, "x").ordinary_ids, [6, 7])


REAL_TEXTS = [
    "Die größte Übung ist Geduld, sagt München.",
    "El niño comió pingüinos en la montaña; ¿por qué?",
    "İstanbul'da ılık çay içtik, değil mi?",  # noqa: RUF001 - Turkish
    "王小明在北京大學讀書。",
    "हिन्दी में लिखो। اللغة العربية",
    "naïve café \u2028 a\u0301 x\u200dy 😀 3.14€",
]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "size", "lower", "special"),
    [
        ("bert-base-chinese", 21_128, True, (0, 100, 101, 102, 103)),
        ("berturk-cased", 32_000, False, (0, 1, 2, 3, 4)),
        ("beto-cased", 31_002, False, (1, 3, 4, 5, 0)),
        ("bert-base-multilingual-cased", 119_547, False, (0, 100, 101, 102, 103)),
    ],
)
def test_published_vocabularies_give_the_ids_of_auto_tokenizer(tmp_path, data_folder, name, size, lower, special):
    folder = write_folder(tmp_path / name, [], do_lower_case=lower)
    (folder / "vocab.txt").write_bytes((data_folder / f"vocab/{name}.vocab.txt").read_bytes())
    mine = assert_as_transformers(folder, REAL_TEXTS)
    assert len(mine.tokens) == size
    assert mine.special_ids == special
    pieces = [mine.tokens[i] for ids, _ in mine.encode_batch(REAL_TEXTS) for i in ids]
    assert len(set(pieces) - set(SPECIAL)) > 15


@pytest.mark.real_data
def test_the_two_files_of_multilingual_bert_agree(tmp_path, data_folder):
    name = "bert-base-multilingual-cased"
    plain = write_folder(tmp_path / "plain", [], do_lower_case=False)
    (plain / "vocab.txt").write_bytes((data_folder / f"vocab/{name}.vocab.txt").read_bytes())
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "config.json").write_text('{"model_type": "bert"}')
    (whole / "tokenizer_config.json").write_text('{"do_lower_case": false, "model_max_length": 512}')  # as published
    (whole / "tokenizer.json").write_bytes((data_folder / f"vocab/{name}.tokenizer.json").read_bytes())
    one, other = load_tokenizer(plain), assert_as_transformers(whole, REAL_TEXTS)
    assert one.vocabulary_hash == other.vocabulary_hash
    assert [i for i, _ in one.encode_batch(REAL_TEXTS)] == [i for i, _ in other.encode_batch(REAL_TEXTS)]


@pytest.mark.real_data
@pytest.mark.slow
def test_the_benchmark_finds_no_differing_id(data_folder):
    """A few lines of every file of real text, with every real vocabulary."""
    script = Path(__file__).parents[2] / "benchmarks" / "tokenising.py"
    command = [sys.executable, str(script), "--data", str(data_folder), "--limit", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own script
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert len(rows) == 7
    assert all(row[-5:-3] == ["0", "0"] for row in rows)
