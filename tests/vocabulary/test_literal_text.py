"""A text never yields a special id, however its tokenizer is made."""

import random

import numpy as np
import pytest
from made_tokenizers import BERT, ROBERTA, wordpiece
from published_folders import (
    LEARNED_FROM,
    SENTENCES,
    albert_model,
    byte_level_files,
    fairseq_model,
    modernbert_json,
    sentencepiece_model,
    unigram_json,
    write,
)
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.corpus.packing import masked_records
from mergedistill_jax.vocabulary.literal_text import literal_tokenizer, stand_in
from mergedistill_jax.vocabulary.tokenizer import SPECIAL_TOKENS, load_tokenizer, wrap_tokenizer

MASK = {"content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": True, "special": True}
LETTERS = [*map(chr, range(33, 127)), *(f"##{chr(code)}" for code in range(33, 127))]


def bert(**settings):
    vocabulary = "".join(f"{token}\n" for token in (*BERT, "[unused0]", "[EOS]", *LETTERS))
    return {
        "vocab__txt": vocabulary,
        "config__json": {"model_type": "bert"},
        "tokenizer_config__json": {"tokenizer_class": "BertTokenizer", **settings},
    }


def as_it_is(content, **settings):
    return {
        "tokenizer__json": content,
        "tokenizer_config__json": {"tokenizer_class": "PreTrainedTokenizerFast", **settings},
    }


def split_at_white_space():
    """WordPiece that takes "[MASK]" between spaces for one word, which its vocabulary has."""
    own = wordpiece(*BERT, *LETTERS).tokenizer
    own.normalizer = normalizers.Lowercase()
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return own.to_str()


def gemma():
    """BPE with byte fallback and merges that make control tokens of the text's own letters."""
    pieces = ["<unk>", "<s>", "</s>", "<pad>", "<mask>", "<unused7>", "▁", *map(chr, range(33, 127))]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    merges = []
    for token in pieces[:6]:
        for end in range(2, len(token) + 1):
            merges.append((token[: end - 1], token[end - 1]))
            if token[:end] not in pieces:
                pieces.append(token[:end])
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))  # noqa: S106 - of text
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", "<pad>", "<mask>"])
    tokenizer.add_tokens(["<unused7>"])
    return tokenizer.to_str()


FOLDERS = {
    "bert": bert(do_lower_case=False),
    "bert_uncased": bert(do_lower_case=True),
    "bert_normalized": bert(
        do_lower_case=True,
        mask_token={**MASK, "content": "[MASK]", "__type": "AddedToken"},
        extra_special_tokens=["[X]"],
    ),
    "white_space": as_it_is(split_at_white_space()),
    "roberta": {
        **dict(zip(("vocab__json", "merges__txt"), byte_level_files(), strict=False)),
        "config__json": {"model_type": "roberta"},
        "tokenizer_config__json": {"mask_token": {**MASK, "__type": "AddedToken"}},
    },
    "modernbert": as_it_is(modernbert_json()),
    "xlm_roberta": {"sentencepiece__bpe__model": fairseq_model(), "config__json": {"model_type": "xlm-roberta"}},
    "camembert": {"sentencepiece__bpe__model": fairseq_model(), "config__json": {"model_type": "camembert"}},
    "albert": {"spiece__model": albert_model(), "config__json": {"model_type": "albert"}},
    "unigram": as_it_is(unigram_json(byte_fallback=False)),
    "unigram_bytes": as_it_is(unigram_json(byte_fallback=True, normalizer=normalizers.NFKC())),
    "gemma": as_it_is(gemma()),
    "plain": {
        "tokenizer__model": sentencepiece_model(
            "bpe",
            unk_id=0,
            pad_id=1,
            bos_id=2,
            eos_id=3,
            user_defined_symbols=("<mask>",),
            byte_fallback=True,
            size=500,
        ),
        "tokenizer_config__json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "mask_token": "<mask>",
        },
        "config__json": {"model_type": "bert"},
    },
}


@pytest.fixture(scope="module", params=FOLDERS)
def teacher(request, tmp_path_factory):
    return load_tokenizer(write(tmp_path_factory.mktemp("teacher") / request.param, **FOLDERS[request.param]))


def spellings(teacher):
    """Every reserved token, alone, in text, within a word, in other case, in compatibility forms, doubled, broken."""
    names = [teacher.tokens[index] for index in sorted(teacher.reserved_ids)]
    names += [*BERT, *ROBERTA, "<|endoftext|>", "[EOS]", "[unused0]", "[unused1]", "<unused7>", "</s><s>"]
    for name in dict.fromkeys(names):
        wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in name)
        yield from (name, f"the {name} boat", f"the{name}boat", f"  {name}  {name}{name}", name.lower(), name.upper())
        yield from (wide, f"a {wide} b", "\u0301".join(name), "\x07".join(name), f"{name[:-1]} {name[-1]}", f"▁{name}")
        yield from (name.replace("k", "ḱ"), f"{name}\n{name}", f"{name}\t.", f"Ġ{name}", f"##{name}")


def test_no_spelling_of_a_special_token_yields_one(teacher):
    texts = list(spellings(teacher))
    for text, (ids, starts) in zip(texts, teacher.encode_batch(texts), strict=True):
        assert teacher.reserved_ids.isdisjoint({*ids} - {teacher.unk_id}), text
        assert len(ids) == len(starts)
        assert (np.diff(starts) >= 0).all()
        assert ((starts >= 0) & (starts <= len(text))).all()


def test_a_spelled_special_token_has_the_pieces_of_its_characters(teacher):
    """No [UNK] where the vocabulary has all of its characters, as all but those learned by SentencePiece have here."""
    if not {"<", "[", "S"} <= set(teacher.tokens):
        pytest.skip("not all the characters are in this vocabulary")
    for name in (teacher.tokens[teacher.mask_id], teacher.tokens[teacher.unk_id], "</s>", "[SEP]"):
        ((ids, _),) = teacher.encode_batch([f"x {name} x"])
        assert teacher.unk_id not in ids, name
        assert len(ids) > 3


def test_nothing_else_changes(teacher):
    """The copy without special tokens cuts all other texts as the published tokenizer does, id by id."""
    copy = literal_tokenizer(teacher.tokenizer, teacher.reserved_ids)
    rng = random.Random(2)
    texts = [*LEARNED_FROM, *(text for text in SENTENCES if "[MASK]" not in text)]
    texts += ["".join(rng.choices("theaboil.'- é語言😀ह्\u200bﬁ", k=rng.randrange(1, 40))) for _ in range(300)]
    published = teacher.tokenizer.encode_batch(texts, add_special_tokens=False)
    copied = copy.encode_batch(texts, add_special_tokens=False)
    for text, one, other, (ids, _) in zip(texts, published, copied, teacher.encode_batch(texts), strict=True):
        assert one.ids == other.ids == ids, text
        assert one.offsets == other.offsets


def test_the_tokenizer_itself_is_not_changed(teacher):
    before = teacher.tokenizer.to_str()
    teacher.encode_batch([f"the {teacher.tokens[teacher.mask_id]}"])
    assert teacher.tokenizer.to_str() == before
    assert teacher.encode_with_special_tokens([teacher.tokens[teacher.mask_id]])[0].count(teacher.mask_id) == 1


def test_masks_stand_where_they_are_asked_for(teacher):
    """As if the published tokenizer had read its own mask token; every other special token is text."""
    own = teacher.tokens[teacher.mask_id]
    for text in ("the [MASK] boat", "[MASK]", "the[MASK] boat [MASK].", "[MASK][MASK] boat"):
        expected = teacher.tokenizer.encode(text.replace("[MASK]", own), add_special_tokens=False).ids
        assert teacher.encode_with_masks(text, "[MASK]") == expected
    sep, pad = teacher.tokens[teacher.sep_id], teacher.tokens[teacher.pad_id]
    found = teacher.encode_with_masks(f"the {sep} [MASK] {pad}", "[MASK]")
    assert found.count(teacher.mask_id) == 1
    assert teacher.reserved_ids.isdisjoint({*found} - {teacher.mask_id, teacher.unk_id})


def test_a_text_that_holds_a_stand_in_is_unknown(teacher):
    texts = [f"<s> [MASK] <mask> {stand_in(index)} <unk> [UNK]" for index in sorted(teacher.reserved_ids)]
    for ids, _ in teacher.encode_batch(texts):
        assert teacher.reserved_ids.isdisjoint({*ids} - {teacher.unk_id})


def test_records_of_a_text_about_special_tokens_hold_none(teacher):
    names = " ".join(teacher.tokens[index] for index in sorted(teacher.reserved_ids)[:8])
    documents = [f"A tag {names} strikes text out {number}.\nThe small dog, <s> [MASK]" for number in range(4)]
    special = teacher.reserved_ids - {teacher.unk_id}
    masking = MaskingConfig(rate=0.3, max_share=0.6)
    for record in masked_records(documents, teacher, masking, max_length=64, draws=2):
        assert special.isdisjoint(record.gold_ids.tolist())
        visible = np.delete(record.input_ids[1:-1], record.masked_positions - 1)
        assert special.isdisjoint({*visible.tolist()} - {teacher.sep_id})


def test_special_tokens_of_other_names_and_flags(teacher):
    """Any token may be declared special, with any flags."""
    copy = Tokenizer.from_str(teacher.tokenizer.to_str())
    for flag in ("lstrip", "rstrip", "normalized", "single_word"):
        copy.add_special_tokens([AddedToken(f"[{flag}]", **{flag: True})])
    named = {f"{role}_token": teacher.tokens[i] for role, i in zip(SPECIAL_TOKENS, teacher.special_ids, strict=True)}
    more = wrap_tokenizer(copy, "more", named)
    added = set(more.extra_special_ids) - set(teacher.extra_special_ids)
    assert len(added) == 4
    for index in added:
        token = more.tokens[index]
        for ids, _ in more.encode_batch([token, f"a {token} b", f"a{token}b", token.lower()]):
            assert added.isdisjoint(ids)
