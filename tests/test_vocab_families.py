"""`vocab` over folders with complete alphabets as published ones have them, and what transformers reads of it."""

import itertools
import json

import numpy as np
import pytest
from published_folders import fairseq_model, modernbert_json, unigram_json, write
from small_merge import MODEL
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertTokenizer, RobertaConfig, RobertaForMaskedLM

from mergedistill_jax.configs.export import ExportConfig
from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.configs.schedules import LearningRate
from mergedistill_jax.configs.train import TrainConfig
from mergedistill_jax.configs.verify import VerifyConfig
from mergedistill_jax.configs.vocab import UnionConfig, VocabConfig
from mergedistill_jax.export import export
from mergedistill_jax.manifest import read_manifest, read_records
from mergedistill_jax.predict import predict
from mergedistill_jax.train import train
from mergedistill_jax.verify import verify
from mergedistill_jax.vocab import vocab
from mergedistill_jax.vocabulary.canonical import piece_bytes
from mergedistill_jax.vocabulary.folder import read_vocabulary
from mergedistill_jax.vocabulary.id_map import DROPPED
from mergedistill_jax.vocabulary.tokenizer import load_tokenizer, vocabulary_hash
from tasks.corpora import add_corpus
from tasks.distillation import add_students_mixture

ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTES = [*map(chr, PRINTABLE), *(chr(256 + index) for index in range(len(OTHERS)))]
"""The 256 bytes as GPT-2 writes them, in the order of its vocabulary."""
MERGES = [("t", "h"), ("Ġ", "th"), ("Ġth", "e"), ("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("Ċ", "Ċ"), ("Ġ", "Ċ"), ("Â", "ł")]
TEXT = "the boat\0 \a\x7f N\x85L\u2028\u2029 the\u00a0\u3000 \ufeff\ufffd <0x0A> ▁ ##the \x1b[0m\tthe   the \r\n\n語é"


def roberta(folder):
    """vocab.json and merges.txt: the control tokens, 256 bytes, and merges of spaces, line ends and controls."""
    tokens = [*ROBERTA[:4], *BYTES, *("".join(pair) for pair in MERGES), "<mask>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in MERGES)
    settings = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 512}
    return write(folder, vocab__json=vocabulary, merges__txt=merges, tokenizer_config__json=settings)


def modernbert(folder):
    """tokenizer.json with tokens behind the vocabulary: runs of spaces, |||IP_ADDRESS|||, [unused0]."""
    tokenizer = Tokenizer.from_str(modernbert_json())
    spaces = [AddedToken(" " * count, normalized=True) for count in range(24, 3, -1)]
    tokenizer.add_tokens([AddedToken("|||IP_ADDRESS|||", normalized=False), *spaces])
    roles = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | {f"{role}_token": name for role, name in roles.items()}
    return write(folder, tokenizer__json=tokenizer.to_str(), tokenizer_config__json=settings)


def bert(folder):
    """vocab.txt with a token for Unicode's line separator, as bert-base-chinese has, and others that few expect."""
    tokens = [
        "[PAD]",
        "[unused1]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "##the",
        "語",
        "\u2028",
        "##\u2028",
        "▁",
    ]
    tokens += ["##▁", "[", "<0x0A>", "##<0x0A>", "a\u200db", "\ufffd"]
    return write(folder, vocab__txt="\n".join(tokens) + "\n", tokenizer_config__json={"do_lower_case": False})


def xlm_roberta(folder):
    """A SentencePiece model."""
    settings = {"tokenizer_class": "XLMRobertaTokenizer"}
    return write(folder, sentencepiece__bpe__model=fairseq_model(), tokenizer_config__json=settings)


def unigram_with_bytes(folder):
    """Unigram that falls back to bytes."""
    tokenizer = Tokenizer.from_str(unigram_json(byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **dict(zip(ROLES, ROBERTA, strict=True))}
    return write(folder, tokenizer__json=tokenizer.to_str(), tokenizer_config__json=settings)


ROLES = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")


def gemma(folder):
    """SentencePiece's BPE as of Gemma: bytes, and white space as tokens that stand for themselves."""
    tokens = [*ROBERTA, *(f"<0x{byte:02X}>" for byte in range(256)), "\n", "\n\n", "\t", "▁", "▁▁", "▁▁▁", "<h1>"]
    tokens += ["the", "▁the", "t", "h", "e", "▁t", "he", "\u2028", "\x7f", "\x85"]
    merges = [("▁", "▁"), ("▁▁", "▁"), ("h", "e"), ("t", "he"), ("▁", "the"), ("\n", "\n")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(list(ROBERTA))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **dict(zip(ROLES, ROBERTA, strict=True))}
    return write(folder, tokenizer__json=tokenizer.to_str(), tokenizer_config__json=settings)


PUBLISHED = {
    "roberta": roberta,
    "modernbert": modernbert,
    "bert": bert,
    "xlm_roberta": xlm_roberta,
    "unigram_with_bytes": unigram_with_bytes,
    "gemma": gemma,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    return {name: str(make(root / name)) for name, make in PUBLISHED.items()}


def united(output, folders, *names):
    return vocab(VocabConfig(output=str(output), method=UnionConfig(teachers={name: folders[name] for name in names})))


@pytest.mark.parametrize(
    "names",
    [*((name,) for name in PUBLISHED), *itertools.combinations(PUBLISHED, 2), tuple(PUBLISHED)],
    ids=" ".join,
)
def test_a_union_is_read_with_the_same_ids_by_transformers(tmp_path, folders, names):
    vocabulary = united(tmp_path / "union", folders, *names)
    tokens = vocabulary.tokenizer().tokens
    expected = {token: index for index, token in enumerate(tokens)}
    assert AutoTokenizer.from_pretrained(str(tmp_path / "union")).get_vocab() == expected
    # And from vocab.txt alone, in which no reader may find another number of lines.
    text = (tmp_path / "union/vocab.txt").read_text(encoding="utf-8")
    assert tuple(text.splitlines()) == tuple(text.split()) == tokens
    alone = write(tmp_path / "alone", vocab__txt=text, tokenizer_config__json={"do_lower_case": False})
    assert BertTokenizer.from_pretrained(str(alone)).get_vocab() == expected
    assert vocabulary_hash(load_tokenizer(alone).tokens) == vocabulary.hash


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_byte_and_every_text_of_a_teacher_comes_back_from_the_union(tmp_path, folders, name):
    """What `tokenizers` decodes the teacher's ids to is what the union's names say."""
    vocabulary = united(tmp_path / "union", folders, name)
    teacher, labels = load_tokenizer(folders[name]), vocabulary.id_map(name).labels
    tokens = vocabulary.tokenizer().tokens
    texts = ["the boat", "the  the", "語"] if name in ("bert", "xlm_roberta") else [*map(chr, range(256)), TEXT]
    special = set(teacher.special_ids)
    for text in texts:
        ids = teacher.encode_batch([text])[0][0]
        if special & set(ids):
            assert name in ("bert", "xlm_roberta")
            continue
        assert (labels[ids] != DROPPED).all()
        found = b"".join(piece_bytes(tokens[index]) for index in labels[ids].tolist())
        # But for the space that a name has before what begins a word anyway.
        expected = teacher.tokenizer.decode(ids, skip_special_tokens=False).encode()
        assert found.replace(b" ", b"") == expected.replace(b" ", b"")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A RoBERTa of random weights over the complete alphabet."""
    folder = roberta(tmp_path_factory.mktemp("teacher") / "roberta")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    tokens = len(load_tokenizer(folder).tokens)
    positions = {"max_position_embeddings": 66, "type_vocab_size": 1}
    config = RobertaConfig(vocab_size=tokens, initializer_range=0.3, **positions, **size)
    RobertaForMaskedLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_text_with_control_characters_goes_through_all_stages(tmp_path, teacher, folders):
    """Gold ids map into the union; the student trains on them, is exported, and loads in transformers."""
    corpus = add_corpus("controls", lambda _: iter([TEXT, TEXT[::-1]] * 3), ["all"])
    records, union = str(tmp_path / "records"), str(tmp_path / "union")
    settings = {"output": records, "corpus": corpus, "split": "all", "language": "xx", "teacher": teacher}
    predict(PredictConfig(**settings, k=4, max_length=64, draws=8, documents_per_shard=3, batch_size=4))
    verify(VerifyConfig(folder=records))
    vocabulary = united(union, {**folders, "roberta": teacher}, "roberta", "bert")
    manifest, id_map = read_manifest(records), vocabulary.id_map("roberta")
    gold = [
        record.gold_ids
        for shard in range(len(manifest.shards))
        for record in read_records(records, shard, manifest.identity.layout)
    ]
    names = {read_vocabulary(union).tokenizer().tokens[index] for index in id_map.labels[np.concatenate(gold)]}
    assert (id_map.labels[np.concatenate(gold)] != DROPPED).all()
    assert names & {"##<0x00>", "<0x00>"}
    assert len([name for name in names if "<0x" in name]) > 8

    mixture = add_students_mixture([records], union, name="controls_mixture")
    optimizer = AdamWConfig(learning_rate=LearningRate(peak=1e-3, warmup_steps=1))
    train(
        TrainConfig(
            output=str(tmp_path / "run"), mixture=mixture, model=MODEL, optimizer=optimizer, steps=2, batch_size=8
        )
    )
    export(ExportConfig(run=str(tmp_path / "run"), output=str(tmp_path / "student"), languages=("xx",)))
    exported = AutoTokenizer.from_pretrained(str(tmp_path / "student"))
    assert exported.get_vocab() == {token: i for i, token in enumerate(vocabulary.tokenizer().tokens)}
    assert exported(TEXT, add_special_tokens=False)["input_ids"] == vocabulary.tokenizer().encode_batch([TEXT])[0][0]
    assert AutoModelForMaskedLM.from_pretrained(str(tmp_path / "student")).config.vocab_size == vocabulary.size
    assert json.loads((tmp_path / "union/vocabulary.json").read_text())["size"] == vocabulary.size
