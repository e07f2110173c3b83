"""A wrong vocabulary ends in one clear line that names the file."""

import json

import pytest
from published_folders import (
    byte_level_files,
    fairseq_model,
    modernbert_json,
    sentencepiece_model,
    unigram_json,
    write,
)
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from mergedistill_jax.vocabulary.charsmap import check_charsmap
from mergedistill_jax.vocabulary.errors import LONGEST_TOKEN, refusing
from mergedistill_jax.vocabulary.tokenizer import (
    SPECIAL_TOKENS,
    VocabularyError,
    load_tokenizer,
    wordpiece_tokenizer,
    wrap_tokenizer,
)

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "a", "##b", "la", "the", "."]
VOCAB = "".join(f"{token}\n" for token in BERT)
JSON_VOCAB, MERGES, BYTE_LEVEL = byte_level_files()


def model(model_type):
    return {"model_type": model_type}


def bert_json(**switches):
    options = {"lowercase": False, "strip_accents": None, "split_chinese": True} | switches
    return wordpiece_tokenizer({token: index for index, token in enumerate(BERT)}, **options).to_str()


def refused(folder, file, message):
    """The one line with which a folder is refused; it names the file."""
    with pytest.raises(VocabularyError, match=message) as error:
        load_tokenizer(folder)
    assert str(folder / file) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def changed(content, *path, value):
    """A JSON text with one value replaced."""
    content = json.loads(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (VOCAB.replace("la\n", "\n"), "token 8: found an empty token"),
        (VOCAB.replace("la", "l\0a"), "token 8: found a NUL character"),
        (VOCAB.replace("la", "x" * 1_000_000), "token 8: found 1000000 characters, expected 1 to 1000"),
        (VOCAB.replace("[UNK]\n", ""), r"found no \[UNK\]"),
        (VOCAB.replace("[MASK]\n", ""), r"found no mask token, expected \[MASK\]"),
        (VOCAB.replace("la", "a"), "found 1 doubled tokens"),
        (VOCAB.replace("la", "the "), "token 8: found white space behind the, expected none"),
        (VOCAB.encode()[:20] + b"\xff\n", "found bytes that are not UTF-8"),
        ("", r"found no \[UNK\]"),
    ],
)
def test_a_wrong_vocab_txt(tmp_path, vocabulary, message):
    refused(write(tmp_path / "bert", vocab__txt=vocabulary, config__json=model("bert")), "vocab.txt", message)


def test_empty_lines_at_the_end_are_no_tokens(tmp_path):
    one, other = (
        load_tokenizer(write(tmp_path / str(len(end)), vocab__txt=VOCAB + end, config__json=model("bert")))
        for end in ("", "\n\r\n\n")
    )
    assert one.tokens == other.tokens == tuple(BERT)
    assert one.tokenizer_hash == other.tokenizer_hash


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", r"found no tokenizer \(no field model.vocab\)"),
        ('["a"]', r"found no tokenizer \(no field model.vocab\)"),
        ('{"model": {"vocab": {}}}', "found no tokenizer"),
        ('{"model": {"vocab": [["a", 0.0]], "type": "Unigram"}}', "field model.unk_id: found none"),
        ("[" * 100_000, "found no tokenizer"),
        (b"\xff\xfe", "found no tokenizer"),
        (bert_json()[:-10], "found no tokenizer"),
        (changed(bert_json(), "model", "vocab", "", value=11), "token 11: found an empty token"),
        (changed(bert_json(), "model", "vocab", "x" * 10**6, value=11), "token 11: found 1000000 characters"),
        (changed(bert_json(), "model", "vocab", "a", value=99), "found ids with gaps"),
        (changed(bert_json(), "model", "vocab", "a", value=8), "found ids with gaps or doubles"),
        (changed(bert_json(), "model", "unk_token", value="<unk>"), "found no <unk>, expected the model's unk_token"),
        (changed(bert_json(), "added_tokens", 0, "id", value=7), "found id 7 for .PAD., expected 0"),
        (changed(BYTE_LEVEL, "model", "dropout", value=0.1), "field model.dropout: found 0.1, expected none"),
        (changed(BYTE_LEVEL, "model", "merges", 0, value=["no", "such"]), "found no tokenizer"),
        (changed(unigram_json(byte_fallback=True), "model", "unk_id", value=None), "field model.unk_id: found none"),
        (changed(modernbert_json(), "post_processor", "single", value=[]), "^$"),
    ],
)
def test_a_wrong_tokenizer_json(tmp_path, content, message):
    folder = write(tmp_path / "folder", tokenizer__json=content)
    if message == "^$":  # no frame is no error: then the packing alone frames
        assert load_tokenizer(folder).encode_with_special_tokens([""]) == [[]]
    else:
        refused(folder, "tokenizer.json", message)


def test_another_frame_is_refused(tmp_path):
    tokenizer = Tokenizer.from_str(bert_json())
    tokenizer.post_processor = processors.BertProcessing(("[MASK]", 4), ("[CLS]", 2))
    folder = write(tmp_path / "bert", tokenizer__json=tokenizer.to_str())
    refused(folder, "tokenizer.json", r"field post_processor: found \['\[CLS\]', '\[MASK\]'\] around a text, expected")


def test_no_mask_token_is_refused_in_every_family(tmp_path):
    plain = sentencepiece_model(pad_id=0, unk_id=1, bos_id=2, eos_id=3)
    refused(
        write(tmp_path / "plain", tokenizer__model=plain, config__json=model("modernbert")), "tokenizer.model", "mask"
    )
    vocabulary = {("<nomask>" if t == "<mask>" else t): i for t, i in json.loads(JSON_VOCAB).items()}
    folder = write(tmp_path / "r", vocab__json=vocabulary, merges__txt=MERGES, config__json=model("roberta"))
    refused(folder, "vocab.json", "found no mask token, expected <mask>")
    refused(
        write(tmp_path / "json", tokenizer__json=changed(bert_json(), "model", "vocab", value={"[UNK]": 0})),
        "tokenizer.json",
        "added_tokens: found id",
    )


@pytest.mark.parametrize(
    ("files", "file", "message"),
    [
        ({"config__json": model("bert")}, "", "found neither tokenizer.json nor vocab.txt"),
        ({"config__json": model("roberta"), "vocab__json": "{}"}, "", "found neither tokenizer.json nor merges.txt"),
        ({"config__json": model("albert")}, "", "found neither tokenizer.json nor spiece.model"),
        ({"config__json": model("camembert")}, "", "found neither tokenizer.json nor sentencepiece.bpe.model"),
        ({"config__json": model("modernbert")}, "", "found neither tokenizer.json nor tokenizer.model"),
        ({"config__json": model("t5")}, "config.json", "field model_type: found 't5', expected one of"),
        (
            {"tokenizer_config__json": {"tokenizer_class": "T5TokenizerFast"}},
            "tokenizer_config.json",
            "field tokenizer_class: found 'T5TokenizerFast', expected one of",
        ),
        (
            {"tokenizer_config__json": {"auto_map": {"AutoTokenizer": ["a.B", None]}}},
            "tokenizer_config.json",
            "field auto_map: found code",
        ),
        (
            {"vocab__txt": VOCAB, "tokenizer_config__json": {"do_lower_case": "no"}},
            "tokenizer_config.json",
            "field do_lower_case: found 'no', expected true or false",
        ),
        (
            {"vocab__txt": VOCAB, "added_tokens__json": {"new": 99}},
            "tokenizer_config.json",
            "added tokens: found id 99 for new, expected 11",
        ),
        (
            {"vocab__txt": VOCAB, "tokenizer_config__json": {"mask_token": "<mask>"}},
            "vocab.txt",
            "found no mask token, expected <mask>",
        ),
        ({"vocab__txt": VOCAB, "special_tokens_map__json": "[]"}, "special_tokens_map.json", "found list"),
        (
            {"vocab__json": "{}", "merges__txt": "a b c\n", "config__json": model("roberta")},
            "merges.txt",
            "merges: found 'a b c', expected two pieces",
        ),
        ({"vocab__json": {"a": "x"}, "merges__txt": "", "config__json": model("roberta")}, "vocab.json", "found no id"),
    ],
)
def test_a_wrong_folder(tmp_path, files, file, message):
    refused(write(tmp_path / "folder", **files), file, message)


CONTRADICTIONS = {
    "no_switch": (
        bert_json(),
        "bert",
        {},
        r"do_lower_case: found True \(the default of BertTokenizer\), expected False",
    ),
    "no_normalizer": (
        changed(bert_json(), "normalizer", value=None),
        "bert",
        {"do_lower_case": False},
        "normalizer: found none",
    ),
    "prefix_space": (BYTE_LEVEL, "roberta", {"add_prefix_space": True}, "add_prefix_space: found True, expected False"),
    "nfc": (
        changed(BYTE_LEVEL, "normalizer", value={"type": "NFC"}),
        "roberta",
        {},
        "normalizer: found NFC, expected none",
    ),
    "bytes": (unigram_json(byte_fallback=True), "xlm-roberta", {}, "byte_fallback: found False .*, expected True"),
    "nfkc": (
        unigram_json(byte_fallback=False, normalizer=normalizers.NFKC()),
        "camembert",
        {},
        r"normalizer: found \[\] .*, expected \['NFKC'\]",
    ),
    "kind": (
        BYTE_LEVEL,
        "xlm-roberta",
        {},
        "field model: found BPE, expected Unigram for the class XLMRobertaTokenizer",
    ),
    "albert": (
        unigram_json(byte_fallback=False),
        "albert",
        {},
        r"normalizer: found \['NFKD', 'StripAccents', 'Lowercase'\]",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_what_transformers_would_leave_aside_is_refused(tmp_path, name):
    """The classes build their own normaliser: the ids of tokenizer.json would be lost without a word."""
    content, model_type, settings, message = CONTRADICTIONS[name]
    folder = write(
        tmp_path / name, tokenizer__json=content, tokenizer_config__json=settings, config__json=model(model_type)
    )
    refused(folder, "", message)
    load_tokenizer(write(folder, tokenizer_config__json={"tokenizer_class": "PreTrainedTokenizerFast"}))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config__json": {"cls_token": 3}}, "field cls_token: found 3, expected a token"),
        ({"tokenizer_config__json": {"mask_token": None}}, "field mask_token: found null, expected a token"),
        ({"special_tokens_map__json": {"pad_token": None}}, "field pad_token: found null, expected a token"),
        ({"tokenizer_config__json": {"sep_token": ["</s>"]}}, "field sep_token: found .*, expected a token"),
    ],
)
@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta"])
def test_a_role_without_a_token_is_refused(tmp_path, model_type, files, message):
    """transformers would build the class's tokenizer without one, or with one that is called None."""
    content = BYTE_LEVEL if model_type == "roberta" else unigram_json(byte_fallback=False)
    folder = write(tmp_path / model_type, tokenizer__json=content, config__json=model(model_type), **files)
    refused(folder, "", message)


def test_unknown_text_has_the_token_of_the_settings(tmp_path):
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "the", "mask_token": "[MASK]"}
    folder = write(tmp_path / "unk", tokenizer__json=bert_json(), tokenizer_config__json=settings)
    refused(folder, "", r"field model: found \[UNK\] for unknown text, expected the, the unk_token of the settings")


def proto_of(data):
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(data)
    return proto


def test_a_wrong_model(tmp_path):
    whole = fairseq_model()
    proto = proto_of(whole)
    cut = proto_of(whole)
    cut.ClearField("normalizer_spec")
    doubled, scored, empty = proto_of(whole), proto_of(whole), proto_of(whole)
    doubled.pieces[10].piece = proto.pieces[11].piece
    scored.pieces[10].score = float("nan")
    empty.pieces[10].piece = ""
    table = proto_of(whole)
    table.normalizer_spec.precompiled_charsmap = proto.normalizer_spec.precompiled_charsmap[:-100]
    trie = proto_of(whole)
    units = bytearray(proto.normalizer_spec.precompiled_charsmap)
    units[4:2_000] = b"\xff" * 1_996
    trie.normalizer_spec.precompiled_charsmap = bytes(units)
    cases = {
        b"": "found the beginning of a SentencePiece model",
        whole[: len(whole) // 2]: "found no tokenizer",
        cut.SerializeToString(): "found the beginning of a SentencePiece model, expected a whole one",
        doubled.SerializeToString(): "already defined|gaps or doubles",
        scored.SerializeToString(): "found score nan|found no tokenizer",
        empty.SerializeToString(): "piece 10: found an empty token",
        table.SerializeToString(): "precompiled_charsmap",
        trie.SerializeToString(): "precompiled_charsmap",
        sentencepiece_model("bpe", unk_id=0, bos_id=1, eos_id=2, pad_id=-1): "model_type: found 2, expected 1",
        sentencepiece_model("char", unk_id=0, bos_id=1, eos_id=2, pad_id=-1): "model_type: found 4, expected 1",
        b"not a model": "found no tokenizer",
    }
    for index, (data, message) in enumerate(cases.items()):
        folder = write(tmp_path / str(index), sentencepiece__bpe__model=data, config__json=model("xlm-roberta"))
        refused(folder, "sentencepiece.bpe.model", message)


def test_a_charsmap_is_checked_to_the_last_value():
    table = proto_of(fairseq_model()).normalizer_spec.precompiled_charsmap
    check_charsmap("x", table)
    size = int.from_bytes(table[:4], "little")
    replacements = table[4 + size :]
    assert normalizers.Precompiled(table).normalize_str("\ufb01") == "fi"
    last = replacements.rstrip(b"\0").rfind(b"\0")  # the last replacement alone is cut away
    for shorter in (table[: 4 + size], table[: 4 + size + last], table[:3], table[: 4 + size // 2], b"\0" * 8):
        with pytest.raises(VocabularyError, match="precompiled_charsmap"):
            check_charsmap("x", shorter)


def test_long_tokens_that_are_allowed_do_no_harm(tmp_path):
    """Pieces of a thousand letters, in each family that searches for them."""
    long = "x" * LONGEST_TOKEN
    vocabulary = VOCAB + f"{long}\n##{long[2:]}\n"
    for teacher in (
        load_tokenizer(write(tmp_path / "bert", vocab__txt=vocabulary, config__json=model("bert"))),
        load_tokenizer(write(tmp_path / "u", tokenizer__json=with_piece(long))),
    ):
        ((ids, starts),) = teacher.encode_batch([long * 20])
        assert len(ids) == len(starts) <= 20 * LONGEST_TOKEN


def with_piece(piece):
    content = json.loads(unigram_json(byte_fallback=True))
    content["model"]["vocab"].append([piece, -1.0])
    return json.dumps(content)


def test_what_the_libraries_raise_becomes_one_line_and_an_interrupt_stays_one():
    class PanicException(BaseException):
        pass

    for error in (RuntimeError("two\nlines"), PanicException("index\nout of bounds")):
        with pytest.raises(VocabularyError, match=r"^file: found no tokenizer \(\w+ \w+.*\), expected one$"):
            raise_in(error)
    with pytest.raises(KeyboardInterrupt):
        raise_in(KeyboardInterrupt())


def raise_in(error):
    with refusing("file", "one"):
        raise error


def test_special_tokens_without_a_role_are_known():
    tokenizer = Tokenizer.from_str(modernbert_json())
    teacher = wrap_tokenizer(tokenizer, "modernbert")
    assert [teacher.tokens[i] for i in teacher.extra_special_ids] == ["<|endoftext|>"]
    assert not set(teacher.ordinary_ids.tolist()) & {*teacher.extra_special_ids, *teacher.special_ids}
    tokenizer.add_tokens([AddedToken("<odd>", special=True), AddedToken("even", special=False)])
    again = wrap_tokenizer(tokenizer, "more")
    assert [again.tokens[i] for i in again.extra_special_ids] == ["<|endoftext|>", "<odd>"]
    assert again.tokens.index("even") in again.ordinary_ids


def test_roles_by_unusual_names_are_kept_beside_tokenizer_json():
    tokens = ["<blank>", "<unk>", "<s>", "</s>", "[MASK]", "[hidden]"]
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    teacher = wrap_tokenizer(tokenizer, "x", {"pad_token": "<blank>", "mask_token": "[hidden]"})
    assert teacher.special_ids == (0, 1, 2, 3, 5)
    assert teacher.settings_to_keep == {
        "tokenizer_class": "TokenizersBackend",
        **{f"{role}_token": tokens[i] for role, i in zip(SPECIAL_TOKENS, teacher.special_ids, strict=True)},
    }
    assert wrap_tokenizer(Tokenizer.from_str(bert_json()), "x").settings_to_keep == {}
