"""Tokenizers of every family, made of a few tokens, for the tests of the vocabularies."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from mergedistill_jax.vocabulary.tokenizer import TeacherTokenizer, wordpiece_tokenizer, wrap_tokenizer

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def wordpiece(
    *tokens: str, lowercase: bool = False, strip_accents: bool | None = None, split_chinese: bool = True
) -> TeacherTokenizer:
    """BERT's tokenizer over exactly these tokens."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    own = wordpiece_tokenizer(vocabulary, lowercase=lowercase, strip_accents=strip_accents, split_chinese=split_chinese)
    return wrap_tokenizer(own, "wordpiece")


def bert(*tokens: str) -> TeacherTokenizer:
    """The same behind the five special tokens, whose ids are then those of every union."""
    return wordpiece(*BERT, *tokens)


def unigram(*pieces: str, normalizer: normalizers.Normalizer | None = None) -> TeacherTokenizer:
    """A Unigram model as of SentencePiece, behind RoBERTa's special tokens; longer pieces are likelier."""
    scored = [(piece, -1.0 if piece in ROBERTA else -20.0 + len(piece)) for piece in (*ROBERTA, *pieces)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3, byte_fallback=any(one.startswith("<0x") for one in pieces)))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(list(ROBERTA))
    return wrap_tokenizer(tokenizer, "unigram")


def sentencepiece_bpe(*pieces: str) -> TeacherTokenizer:
    """The BPE of SentencePiece, with byte fallback; no merges."""
    vocabulary = {piece: index for index, piece in enumerate((*ROBERTA, *pieces))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))  # noqa: S106 - of text
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(list(ROBERTA))
    return wrap_tokenizer(tokenizer, "sentencepiece")


def byte_level(*pieces: str, merges: Sequence[tuple[str, str]] = (), prefix_space: bool = False) -> TeacherTokenizer:
    """RoBERTa's tokenizer."""
    vocabulary = {piece: index for index, piece in enumerate((*ROBERTA, *pieces))}
    tokenizer = Tokenizer(models.BPE(vocabulary, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(ROBERTA))
    return wrap_tokenizer(tokenizer, "byte level")


def write_folder(folder: Path, teacher: TeacherTokenizer) -> str:
    """A folder that load_tokenizer reads; returns its path."""
    folder.mkdir(parents=True)
    teacher.tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder)
