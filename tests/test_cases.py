"""Small inputs that once failed, from the folder that MERGEDISTILL_CASES names; the right values stand here.

Each stands for a kind; the kinds have tests of their own, with other members. Case 8, a checkpoint that is not whole,
is made by tests/training/test_whole.py.
"""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_folders import byte_level_files, fairseq_model, modernbert_json, write
from scipy.special import log_softmax

from launch.configuration import read_config
from mergedistill_jax.configs.splits import Split
from mergedistill_jax.configs.vocab import UnionConfig, VocabConfig
from mergedistill_jax.corpus.labelled import read_tagged
from mergedistill_jax.corpus.sources import CorpusError, documents
from mergedistill_jax.corpus.wikitext import plain_text
from mergedistill_jax.data.presplit import word_pieces
from mergedistill_jax.manifest import read_manifest
from mergedistill_jax.models import heads, huggingface
from mergedistill_jax.schema import RecordError
from mergedistill_jax.vocab import vocab
from mergedistill_jax.vocabulary.folder import read_vocabulary
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer

ROBERTA = {"model_type": "roberta"}


@pytest.fixture(scope="module")
def cases() -> Path:
    """The folder; every test is skipped where it is not there."""
    folder = os.environ.get("MERGEDISTILL_CASES")
    if not folder:
        pytest.skip("MERGEDISTILL_CASES is unset: set it to the folder of small inputs")
    return Path(folder)


def texts(path: Path, text_format: str) -> list[str]:
    """All documents of one file."""
    return list(documents([str(path)], text_format, Split()))


def roberta(cases: Path, folder: Path) -> Path:
    """The byte-level folder of case 1 under its published names."""
    folder.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(cases / f"01-union-byte-level.{name}", folder / name)
    (folder / "config.json").write_text(json.dumps(ROBERTA))
    return folder


def test_1_all_bytes_have_a_place_in_the_union(cases, tmp_path):
    teacher = roberta(cases, tmp_path / "teacher")
    vocab(VocabConfig(output=str(tmp_path / "union"), method=UnionConfig(teachers={"en": str(teacher)})))
    union = read_vocabulary(tmp_path / "union")
    tokens = union.tokenizer().tokens
    assert {"##<0x00>", "##<0x7F>", "##<0xC2>"} <= set(tokens)
    assert len(set(tokens)) == len(tokens) == union.size


@pytest.mark.parametrize("kind", ["case", "byte_level", "modernbert"])
def test_2_words_keep_the_space_before_them(cases, tmp_path, kind):
    if kind == "case":
        folder = roberta(cases, tmp_path / kind)
    elif kind == "byte_level":
        vocabulary, merges, _ = byte_level_files()
        folder = write(tmp_path / kind, vocab__json=vocabulary, merges__txt=merges, config__json=ROBERTA)
    else:
        folder = write(
            tmp_path / kind,
            tokenizer__json=modernbert_json(),
            config__json={"model_type": "modernbert"},
            tokenizer_config__json={"tokenizer_class": "PreTrainedTokenizerFast"},
        )
    tokenizer = load_tokenizer(folder)
    sentences = [list(one.words) for one in read_tagged(str(cases / "02-presplit-words-byte-level.tsv"), "tsv")]
    running = tokenizer.encode_batch([" ".join(words) for words in sentences])
    for pieces, (ids, _) in zip(word_pieces(sentences, tokenizer), running, strict=True):
        assert [index for word in pieces for index in word] == ids
    first_pieces = [word[0] for pieces in word_pieces(sentences, tokenizer) for word in pieces]
    spaces = sum(tokenizer.tokens[index].startswith("Ġ") for index in first_pieces)
    assert spaces == sum(len(words) - 1 for words in sentences)


def test_3_a_language_before_every_word_is_removed(cases):
    sentences = read_tagged(str(cases / "03-panx-language-prefix.tsv"), "tsv", "ner")
    words = {word for one in sentences for word in one.words}
    assert "Ada" in words
    assert not any(":" in word for word in words)


def test_4_columns_are_those_that_the_file_names(cases):
    (first, *_) = read_tagged(str(cases / "04-conllu-plus.conllup"), "conllu", "pos")
    assert first.words == ("hill", "Ada", "runs", "green", "hill", "runs")
    assert first.tags == ("NOUN", "NOUN", "VERB", "NOUN", "NOUN", "VERB")


def test_5_escaped_text_is_unescaped_once(cases):
    (document,) = texts(cases / "05-wikiextractor-escaped.txt", "wikiextractor")
    assert "Research & development at AT&T: if a < b and b < c then a < c." in document
    assert 'Men\'s "race"' in document


@pytest.mark.parametrize("kind", ["case", "modernbert", "xlm_roberta"])
def test_6_a_text_that_spells_special_tokens_yields_none(cases, tmp_path, kind):
    if kind == "case":
        folder = roberta(cases, tmp_path / kind)
    elif kind == "modernbert":
        folder = write(
            tmp_path / kind,
            tokenizer__json=modernbert_json(),
            config__json={"model_type": "modernbert"},
            tokenizer_config__json={"tokenizer_class": "PreTrainedTokenizerFast"},
        )
    else:
        folder = write(
            tmp_path / kind, sentencepiece__bpe__model=fairseq_model(), config__json={"model_type": "xlm-roberta"}
        )
    tokenizer = load_tokenizer(folder)
    never = tokenizer.reserved_ids - {tokenizer.unk_id}
    for ids, _ in tokenizer.encode_batch(texts(cases / "06-special-tokens-in-text.jsonl", "jsonl")):
        assert never.isdisjoint(ids)


@pytest.mark.parametrize("pad", [1, 0, 3, 70])
def test_7_positions_are_counted_as_transformers_counts_them(tmp_path, pad):
    import torch  # noqa: PLC0415 - takes seconds, for this test alone
    from transformers import RobertaConfig, RobertaForMaskedLM  # noqa: PLC0415

    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    settings = RobertaConfig(
        vocab_size=261, max_position_embeddings=140, pad_token_id=pad, initializer_range=0.5, type_vocab_size=1, **sizes
    )
    model = RobertaForMaskedLM(settings).eval()
    model.save_pretrained(tmp_path)
    ids = np.array([[0, 70, 80, 3, 90, 75, 2]])
    with torch.no_grad():
        theirs = model(torch.tensor(ids), attention_mask=torch.ones(ids.shape)).logits[0].numpy()
    config, params = huggingface.load_masked_lm(tmp_path)
    mask, positions = jnp.ones(ids.shape, bool), jnp.arange(ids.shape[1])[None]
    mine = jax.jit(heads.masked_language_model(config).apply)({"params": params}, jnp.asarray(ids), mask, positions)
    np.testing.assert_allclose(log_softmax(np.asarray(mine)[0], -1), log_softmax(theirs, -1), atol=1e-4)


def test_9_a_byte_order_mark_is_no_text(cases):
    assert texts(cases / "09-bom.jsonl", "jsonl") == ["first doc", "second"]


def test_10_string_views_are_strings(cases):
    assert texts(cases / "10-string-view.parquet", "parquet")


def test_11_zstandard_is_read(cases):
    assert texts(cases / "11-zstd.jsonl.zst", "jsonl") == ["a b"]


def test_12_wikitext_shows_what_mediawiki_shows(cases):
    lines = (cases / "12-wikitext-variants.txt").read_text().splitlines()
    shown = [plain_text(line, language="zh" if number < 3 else "en") for number, line in enumerate(lines)]
    assert shown == [
        "这是鼠标测试的句子。",
        "他位于软件部门工作。",
        "使用软件开发程序。",
        "The name is 4-(2-{4-[(11R)-3,10-dibromo]piperidin-1-yl}-2-oxoethyl)amide and is long.",
        "The text is here.",
    ]


def test_a_manifest_of_a_trillion_shards_is_refused(cases, tmp_path):
    shutil.copytree(cases / "attack" / "manifest_1e12_shards", tmp_path / "records")
    with pytest.raises(RecordError, match=r"manifest.json|shards"):
        read_manifest(tmp_path / "records").require_complete()


def test_numbers_of_one_and_zero_are_numbers(cases):
    config = read_config({"config": str(cases / "attack" / "pod_attempts_1.json")})
    assert (config.attempts, config.num_slices, config.max_restarts) == (1, 1, 0)


def test_deep_xml_is_refused(cases):
    with pytest.raises(CorpusError, match="xml_400000_deep"):
        texts(cases / "attack" / "xml_400000_deep.xml.bz2", "mediawiki")


def test_markup_that_takes_the_parser_long_is_passed_over(cases):
    assert texts(cases / "attack" / "wikitext_b.xml.bz2", "mediawiki") == []
