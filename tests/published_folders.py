"""Tokenizer folders of every family as they are published, learned on a few sentences, for the tests of tokenising."""

import functools
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece
from conftest import TEXTS
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer, load_tokenizer

LEARNED_FROM = [
    *TEXTS["en"],
    *TEXTS["es"],
    "Le café crème coûte 3,50 €. Élève, où est l'œuvre ?",
    "Die größte Übung ist Geduld, sagt München.",
    "王小明在北京大學讀書。 我們 喜歡 台灣",
    "हिन्दी में लिखो। اللغة العربية",
] * 3
SENTENCES = [
    "Café à la carte!",
    "CAFÉ, cafe, Cafe\u0301.",  # composed, without accent, decomposed
    "The old sailor repaired the small boat near the harbour.",
    "El viejo marinero reparó  la barca   pequeña. ",  # runs of spaces, and one at the end
    " leading space, tab\tand\u00a0others\u3000here",
    "北京大學la北 京",
    "``quoted'' ``x'' 10,000 and 3,",
    "ﬁne ﬂow ㍿ ＡＢＣ１２ ½ ﷺ İstanbul ǅ",  # noqa: RUF001 - characters that NFKC replaces
    "a\u200bd\u00ade\u2028f\x07g",
    "x" * 101 + " fed " + "a" * 100,  # WordPiece gives up beyond 100 characters
    "😀😀 हि 42% 👍🏽 語言",
    "la [MASK] la[SEP] <mask> la<mask>la </s> <s>x <unk>NOTUSED <pad> [PAD] <|endoftext|> [EOS] the [unused0].",
    "▁the ▁ Ġthe <0xE4> ##the",
    "",
    "   ",
]


def write(folder: Path, **files: object) -> Path:
    """Files of a folder; `__` in a name is a dot, and what is neither bytes nor text is written as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes | str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def assert_as_transformers(folder: Path, texts: list[str] = SENTENCES) -> TeacherTokenizer:
    """The ids of AutoTokenizer, with special tokens and without, the same roles and as many tokens.

    A text that spells a special token is text here, and has other ids, see `assert_text_as_transformers`.

    And again from tokenizer.json alone, which is how vocabulary folders keep their teachers.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow, and only here

    theirs, mine = AutoTokenizer.from_pretrained(str(folder)), load_tokenizer(folder)
    bare = [ids for ids, _ in mine.encode_batch(texts)]
    whole = mine.encode_with_special_tokens(texts)
    assert_text_as_transformers(mine, theirs, texts)
    for text, framed in zip(texts, whole, strict=True):
        assert framed == theirs(text)["input_ids"], text
    assert set(mine.tokens) == set(theirs.get_vocab())
    for role in ("pad", "unk", "cls", "sep", "mask"):
        if getattr(theirs, f"{role}_token") is not None:
            assert getattr(mine, f"{role}_id") == getattr(theirs, f"{role}_token_id")
    keep = {"tokenizer__json": mine.tokenizer.to_str(), "tokenizer_config__json": mine.settings_to_keep}
    kept = load_tokenizer(write(folder.parent / f"{folder.name}_kept", **keep))
    assert [ids for ids, _ in kept.encode_batch(texts)] == bare
    assert kept.encode_with_special_tokens(texts) == whole
    assert kept.special_ids == mine.special_ids
    assert kept.extra_special_ids == mine.extra_special_ids
    assert kept.tokenizer_hash == mine.tokenizer_hash
    return mine


def assert_text_as_transformers(mine: TeacherTokenizer, theirs: Any, texts: list[str]) -> None:
    """Ids without the frame: those of AutoTokenizer, or no special id where the text spells a special token."""
    for text, (ids, _) in zip(texts, mine.encode_batch(texts), strict=True):
        if any(mine.tokens[index] in text for index in mine.reserved_ids):
            assert mine.reserved_ids.isdisjoint({*ids} - {mine.unk_id}), text
        else:
            assert ids == theirs(text, add_special_tokens=False)["input_ids"], text


def saved_by_transformers(folder: Path) -> Path:
    """The same tokenizer as transformers 5 saves it; the model's config.json comes along."""
    from transformers import AutoTokenizer  # noqa: PLC0415

    saved = folder.parent / f"{folder.name}_saved"
    AutoTokenizer.from_pretrained(str(folder)).save_pretrained(str(saved))
    if (folder / "config.json").exists():
        (saved / "config.json").write_bytes((folder / "config.json").read_bytes())
    return saved


def pieces_and_words(teacher: TeacherTokenizer, text: str) -> list[tuple[str, int]]:
    """Each piece of a text with the index of its word."""
    from mergedistill_jax.corpus.packing import tokenise  # noqa: PLC0415

    pieces = tokenise([text], teacher)
    return [(teacher.tokens[i], word) for i, word in zip(pieces.ids.tolist(), pieces.word.tolist(), strict=True)]


@functools.cache
def sentencepiece_model(kind: str = "unigram", size: int = 150, **options: object) -> bytes:
    """A model trained on the sentences; hashable options of SentencePieceTrainer, tuples for lists."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LEARNED_FROM),
        model_writer=written,
        model_type=kind,
        vocab_size=size,
        minloglevel=2,
        num_threads=1,
        hard_vocab_limit=False,
        **{key: list(value) if isinstance(value, tuple) else value for key, value in options.items()},
    )
    return written.getvalue()


def fairseq_model(**options: object) -> bytes:
    """As XLM-R's and CamemBERT's: <unk> <s> </s> and then the pieces."""
    return sentencepiece_model(unk_id=0, bos_id=1, eos_id=2, pad_id=-1, **options)


def albert_model() -> bytes:
    return sentencepiece_model(
        pad_id=0,
        unk_id=1,
        bos_id=-1,
        eos_id=-1,
        control_symbols=("[CLS]", "[SEP]", "[MASK]"),
        user_defined_symbols=("(",),
    )


@functools.cache
def byte_level_files(special: tuple[str, ...] = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")) -> tuple[str, str, str]:
    """vocab.json, merges.txt and tokenizer.json of a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LEARNED_FROM, trainer)
    cls, sep = (special[0], special[2])
    tokenizer.post_processor = processors.RobertaProcessing(
        (sep, tokenizer.token_to_id(sep)), (cls, tokenizer.token_to_id(cls)), trim_offsets=True, add_prefix_space=False
    )
    content = json.loads(tokenizer.to_str())
    merges = "#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in content["model"]["merges"])
    return json.dumps(content["model"]["vocab"]), merges, tokenizer.to_str()


@functools.cache
def modernbert_json() -> str:
    """Byte-level BPE with BERT's names, NFC, and special and unused tokens behind the vocabulary."""
    special = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    tokenizer = Tokenizer.from_str(byte_level_files(special)[2])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.add_tokens(["   ", "[unused0]"])
    return tokenizer.to_str()


def unigram_json(*, byte_fallback: bool, normalizer: normalizers.Normalizer | None = None) -> str:
    """A Unigram model as `tokenizers` writes it, behind RoBERTa's special tokens."""
    from sentencepiece import sentencepiece_model_pb2  # noqa: PLC0415

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(fairseq_model(byte_fallback=True, size=400))
    scored = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    scored += [(piece.piece, piece.score) for piece in proto.pieces[3:]]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3, byte_fallback=byte_fallback))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer.to_str()


def names(*roles: str, **tokens: str) -> Mapping[str, str]:
    """{"mask_token": "[MASK]", ...} for BERT's names, or those given."""
    return {f"{role}_token": f"[{role.upper()}]" for role in roles} | {f"{r}_token": t for r, t in tokens.items()}
