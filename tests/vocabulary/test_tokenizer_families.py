"""Every family of teachers is tokenised as AutoTokenizer does, from files as published and as transformers saves."""

import random

import numpy as np
import pytest
from published_folders import (
    LEARNED_FROM,
    SENTENCES,
    albert_model,
    assert_as_transformers,
    assert_text_as_transformers,
    byte_level_files,
    fairseq_model,
    modernbert_json,
    names,
    saved_by_transformers,
    sentencepiece_model,
    unigram_json,
    write,
)
from tokenizers import normalizers

from mergedistill_jax.vocabulary.folder import write_vocabulary
from mergedistill_jax.vocabulary.id_map import whole_map
from mergedistill_jax.vocabulary.tokenizer import VocabularyError, load_tokenizer, wordpiece_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyzACDEÉéàñü北京大學語ह"
WORDS = ("Caf", "caf", "##fe", "la", "La", "the", ".", "!", "[unused0]")
BERT = list(
    dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), *WORDS])
)
BETO = ["[MASK]", "[PAD]", "[EOS]", "[UNK]", "[CLS]", "[SEP]", *BERT[5:]]
VOCAB, MERGES, BYTE_LEVEL = byte_level_files()
MASK = {"content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False}


def vocab(tokens):
    return "".join(f"{token}\n" for token in tokens)


def bert_json(**switches):
    vocabulary = {token: index for index, token in enumerate(BERT)}
    options = {"lowercase": False, "strip_accents": None, "split_chinese": True} | switches
    return wordpiece_tokenizer(vocabulary, **options).to_str()


def model(model_type, **fields):
    return {"model_type": model_type, **fields}


FAMILIES = {
    "bert": {"vocab__txt": vocab(BERT), "config__json": model("bert")},
    "bert_cased": {
        "vocab__txt": vocab(BERT),
        "config__json": model("bert"),
        "tokenizer_config__json": {"do_lower_case": False},
    },
    "bert_keeps_accents": {
        "vocab__txt": vocab(BERT),
        "config__json": model("bert"),
        "tokenizer_config__json": {"do_lower_case": True, "strip_accents": False, "tokenizer_class": "BertTokenizer"},
    },
    "bert_strips_accents": {
        "vocab__txt": vocab(BERT),
        "config__json": model("bert"),
        "tokenizer_config__json": {"do_lower_case": False, "strip_accents": True},
    },
    "bert_null_accents": {
        "vocab__txt": vocab(BERT),
        "config__json": model("bert"),
        "tokenizer_config__json": {"do_lower_case": True, "strip_accents": None},
    },
    "bert_leaves_chinese": {
        "vocab__txt": vocab(BERT),
        "config__json": model("bert"),
        "tokenizer_config__json": {"do_lower_case": False, "tokenize_chinese_chars": False},
    },
    "bert_json": {
        "tokenizer__json": bert_json(),
        "vocab__txt": vocab(BERT),
        "config__json": model("bert"),
        "tokenizer_config__json": {"do_lower_case": False, "model_max_length": 512},
    },
    "bert_json_uncased": {
        "tokenizer__json": bert_json(lowercase=True, strip_accents=True),
        "config__json": model("bert"),
        "special_tokens_map__json": names("unk", "sep", "pad", "cls", "mask"),
    },
    "beto": {
        "vocab__txt": vocab(BETO),
        "config__json": model("bert"),
        "tokenizer_config__json": {"do_lower_case": False},
        "special_tokens_map__json": names("unk", "sep", "pad", "cls", "mask"),
        "added_tokens__json": {},
    },
    "bert_with_added_tokens": {
        "vocab__txt": vocab(BERT),
        "config__json": model("bert"),
        "added_tokens__json": {"quoted": len(BERT), "<|endoftext|>": len(BERT) + 1},
        "tokenizer_config__json": {
            "additional_special_tokens": ["<|endoftext|>"],
            "mask_token": {**MASK, "content": "[MASK]", "__type": "AddedToken"},
        },
    },
    "bert_with_decoder": {
        "vocab__txt": vocab(BERT),
        "config__json": model("bert"),
        "tokenizer_config__json": {
            "tokenizer_class": "BertTokenizerFast",
            "added_tokens_decoder": {str(len(BERT)): {**MASK, "special": True}},
            "mask_token": "<mask>",
            "extra_special_tokens": {"end_token": "[unused0]"},
        },
    },
    "bert_other_names": {
        "vocab__txt": vocab(["<pad>", "<unk>", "<s>", "</s>", "<mask>", *BERT[5:]]),
        "config__json": model("bert", tokenizer_class="BertTokenizer"),
        "special_tokens_map__json": names(unk="<unk>", sep="</s>", pad="<pad>", cls="<s>", mask="<mask>"),
    },
    "distilbert": {"vocab__txt": vocab(BERT), "config__json": model("distilbert")},
    "distilbert_class": {
        "vocab__txt": vocab(BERT),
        "config__json": model("distilbert"),
        "tokenizer_config__json": {"tokenizer_class": "DistilBertTokenizerFast", "do_lower_case": False},
    },
    "electra": {
        "vocab__txt": vocab(BERT),
        "config__json": model("electra"),
        "tokenizer_config__json": {"tokenizer_class": "ElectraTokenizer", "do_lower_case": False},
    },
    "roberta": {"vocab__json": VOCAB, "merges__txt": MERGES, "config__json": model("roberta")},
    "roberta_prefix": {
        "vocab__json": VOCAB,
        "merges__txt": MERGES.replace("\n", "\r\n"),
        "config__json": model("roberta"),
        "tokenizer_config__json": {"add_prefix_space": True, "tokenizer_class": "RobertaTokenizer"},
    },
    "roberta_json": {
        "tokenizer__json": BYTE_LEVEL,
        "vocab__json": VOCAB,
        "merges__txt": MERGES,
        "config__json": model("roberta"),
        "tokenizer_config__json": {"mask_token": {**MASK, "__type": "AddedToken"}},
    },
    "modernbert": {
        "tokenizer__json": modernbert_json(),
        "config__json": model("modernbert"),
        "tokenizer_config__json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **names("cls", "sep", "pad", "unk"),
            "mask_token": {**MASK, "content": "[MASK]", "__type": "AddedToken"},
        },
    },
    "xlm_roberta": {
        "sentencepiece__bpe__model": fairseq_model(),
        "config__json": model("xlm-roberta"),
    },
    "xlm_roberta_map": {
        "sentencepiece__bpe__model": fairseq_model(normalization_rule_name="identity"),
        "config__json": model("xlm-roberta"),
        "tokenizer_config__json": {"tokenizer_class": "XLMRobertaTokenizer", "add_prefix_space": False},
        "special_tokens_map__json": {"mask_token": MASK},
    },
    "xlm_roberta_in_bert": {  # as MiniLM: the body of BERT with XLM-R's vocabulary
        "tokenizer__model": fairseq_model(),
        "config__json": model("bert"),
        "tokenizer_config__json": {"tokenizer_class": "XLMRobertaTokenizer"},
    },
    "camembert": {"sentencepiece__bpe__model": fairseq_model(), "config__json": model("camembert")},
    "camembert_class": {
        "sentencepiece__bpe__model": fairseq_model(),
        "config__json": model("camembert"),
        "tokenizer_config__json": {
            "tokenizer_class": "CamembertTokenizer",
            "additional_special_tokens": ["<s>NOTUSED", "</s>NOTUSED"],
        },
    },
    "albert": {"spiece__model": albert_model(), "config__json": model("albert")},
    "albert_cased": {
        "spiece__model": albert_model(),
        "config__json": model("albert"),
        "tokenizer_config__json": {"do_lower_case": False, "keep_accents": True},
    },
    "unigram_bytes": {
        "tokenizer__json": unigram_json(byte_fallback=True),
        "config__json": model("xlm-roberta"),
        "tokenizer_config__json": {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "<mask>"},
    },
    "unigram_nfkc": {
        "tokenizer__json": unigram_json(byte_fallback=True, normalizer=normalizers.NFKC()),
        "config__json": {},
    },
    "plain_unigram": {
        "tokenizer__model": sentencepiece_model(
            pad_id=0, unk_id=1, bos_id=2, eos_id=3, user_defined_symbols=("<mask>",), byte_fallback=True, size=400
        ),
        "config__json": model("modernbert"),
    },
    "plain_bpe": {
        "tokenizer__model": sentencepiece_model(
            "bpe",
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            user_defined_symbols=("<mask>", "[X]"),
            byte_fallback=True,
            size=500,
        ),
        "tokenizer_config__json": {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "<mask>"},
        "config__json": model("bert"),
    },
}


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path):
    return write(tmp_path / request.param, **FAMILIES[request.param])


def test_as_published(family):
    mine = assert_as_transformers(family, [*LEARNED_FROM[: len(LEARNED_FROM) // 3], *SENTENCES])
    pieces = {mine.tokens[i] for ids, _ in mine.encode_batch(LEARNED_FROM) for i in ids}
    assert len(pieces) > 20  # else the parity would be one of unknown tokens


def test_as_saved_by_transformers(family):
    saved = saved_by_transformers(family)
    assert (saved / "tokenizer.json").exists()
    mine, first = assert_as_transformers(saved), load_tokenizer(family)
    assert mine.tokens == first.tokens
    assert mine.encode_with_special_tokens(SENTENCES) == first.encode_with_special_tokens(SENTENCES)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_frame_of_the_packing_is_the_published_one(tmp_path, name):
    """Packing sets cls and sep around the ids; a plain SentencePiece model has no frame of its own."""
    teacher = load_tokenizer(write(tmp_path / name, **FAMILIES[name]))
    text = SENTENCES[2]
    ((ids, _),) = teacher.encode_batch([text])
    (framed,) = teacher.encode_with_special_tokens([text])
    assert framed == (ids if name.startswith("plain") else [teacher.cls_id, *ids, teacher.sep_id])


def test_a_vocabulary_folder_keeps_roles_of_unusual_names(tmp_path):
    """Among [MASK] and <mask>, the folder's own settings choose."""
    teacher = load_tokenizer(write(tmp_path / "bert", **FAMILIES["bert_with_decoder"]))
    assert teacher.tokens[teacher.mask_id] == "<mask>"
    assert "[MASK]" in teacher.tokens
    own = whole_map(np.arange(len(teacher.tokens), dtype=np.int32))
    kept = write_vocabulary(tmp_path / "vocabulary", teacher, {"one": (teacher, own)}, {}).teacher_tokenizer("one")
    assert kept.special_ids == teacher.special_ids
    assert kept.tokenizer_hash == teacher.tokenizer_hash


SETTINGS = {
    "do_lower_case": [True, False],
    "strip_accents": [True, False, None],
    "tokenize_chinese_chars": [True, False],
    "add_prefix_space": [True, False],
    "keep_accents": [True, False],
    "mask_token": [
        "<mask>",
        "[MASK]",
        {**MASK, "__type": "AddedToken"},
        {**MASK, "normalized": True, "__type": "AddedToken"},
    ],
    "pad_token": ["<pad>", "[PAD]"],
    "bos_token": ["<s>", "[CLS]", "<bos>"],
    "eos_token": ["</s>", "[SEP]", "la"],
    "additional_special_tokens": [["la"], ["the", "<X>"], []],
    "extra_special_tokens": [["la"], {"foo_token": "the"}, []],
    "tokenizer_class": [
        *("BertTokenizer", "PreTrainedTokenizerFast", "RobertaTokenizerFast", "XLMRobertaTokenizer"),
        *("CamembertTokenizer", "AlbertTokenizer", "DistilBertTokenizer", "TokenizersBackend"),
    ],
    "add_bos_token": [True, False],
    "foo_token": ["la"],
    "added_tokens_decoder": [
        {str(index): {**MASK, "content": token, "special": special}}
        for index, token, special in ((0, "[PAD]", True), (len(BERT), "the <mask>", False), (4, "<mask>", True))
    ],
}


@pytest.mark.slow
def test_whatever_the_settings_the_ids_are_those_of_transformers_or_none(tmp_path):
    """Settings thrown together: each folder is refused, or tokenised as AutoTokenizer does."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow

    rng = random.Random(3)
    same = refused = 0
    for trial in range(100):
        files = dict(FAMILIES[rng.choice(list(FAMILIES))])
        chosen = {key: rng.choice(values) for key, values in SETTINGS.items() if rng.random() < 0.08}
        files["tokenizer_config__json"] = {**files.get("tokenizer_config__json", {}), **chosen}
        if rng.random() < 0.15:
            files["special_tokens_map__json"] = {
                rng.choice(["mask_token", "pad_token"]): rng.choice(["<mask>", "<pad>", MASK]),
                "additional_special_tokens": ["the"],
            }
        folder = write(tmp_path / str(trial), **files)
        try:
            mine = load_tokenizer(folder)
        except VocabularyError:
            refused += 1
            continue
        theirs = AutoTokenizer.from_pretrained(str(folder))
        assert_text_as_transformers(mine, theirs, SENTENCES)
        assert mine.encode_with_special_tokens(SENTENCES) == theirs(SENTENCES)["input_ids"], files
        same += 1
    assert same > 40
    assert refused > 15
