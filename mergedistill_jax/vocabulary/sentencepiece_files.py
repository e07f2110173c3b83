"""What a SentencePiece tokenizer is built from: its pieces and its normaliser's table, of a .model or a tokenizer.json.

A .model is read with the schema of `sentencepiece`.
"""

import base64
import binascii
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import sentencepiece
from etils import epath
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer

from mergedistill_jax.vocabulary.charsmap import check_charsmap
from mergedistill_jax.vocabulary.errors import VocabularyError, check_tokens, one_line, refusing
from mergedistill_jax.vocabulary.settings import TOKENIZER_FILE, Settings, Token
from mergedistill_jax.vocabulary.tokenizer_json import as_it_is, require_kind

ANY_MODEL_FILE = "tokenizer.model"
"""Taken before a class's own name of the file."""

UNIGRAM, BPE = 1, 2
"""Kinds of models in the schema."""

_CONTROL, _USER_DEFINED = 3, 4

Scored = list[tuple[str, float]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pieces:
    """Pieces and normaliser of a file.

    Attributes:
        scored: pieces with their scores, in the order of their ids.
        charsmap: the table of the normaliser.
        spec: how the .model was trained (trainer_spec in the schema); None for a tokenizer.json.
        added: control and user-defined pieces of a .model.
        content: the tokenizer.json it was read from; None for a .model.
        whole: the tokenizer that tokenizer.json describes.
    """

    path: epath.Path
    scored: Scored
    charsmap: bytes | None
    spec: Any = None
    added: tuple[Token, ...] = ()
    content: Mapping[str, Any] | None = None
    whole: Tokenizer | None = None


def read_pieces(settings: Settings, content: Mapping[str, Any] | None, name: str) -> Pieces:
    """The pieces of tokenizer.json, else of tokenizer.model or of the file that the class looks for.

    Raises:
        VocabularyError: there is none of them, it cannot be used, or it is no Unigram model.
    """
    if content is not None:
        path = settings.folder / TOKENIZER_FILE
        whole = as_it_is(path, content)
        require_kind(path, whole, "Unigram", settings)
        scored = _scored(path, [(piece, score) for piece, score in content["model"]["vocab"]])
        tables = charsmaps(path, content)
        return Pieces(path=path, scored=scored, charsmap=tables[0] if tables else None, content=content, whole=whole)
    path = next((p for p in (settings.folder / ANY_MODEL_FILE, settings.folder / name) if p.exists()), None)
    if path is None:
        raise VocabularyError(f"{settings.folder}: found neither {TOKENIZER_FILE} nor {name}, expected one of them")
    pieces = read_model(path)
    if pieces.spec.model_type != UNIGRAM:
        raise VocabularyError(
            f"{path}: field model_type: found {pieces.spec.model_type},"
            f" expected {UNIGRAM} (unigram) for the class {settings.tokenizer_class}"
        )
    return pieces


def read_model(path: epath.Path) -> Pieces:
    """The pieces of a .model, which SentencePiece itself must accept too.

    A file cut at the end of a field reads as a shorter model: the parts that come last must be there.

    Raises:
        VocabularyError: it is no whole model, of another kind, or has impossible pieces.
    """
    data = path.read_bytes()
    proto = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue] - made at run time
    with refusing(path, "a SentencePiece model"):
        proto.ParseFromString(data)
        if not (proto.HasField("trainer_spec") and proto.HasField("normalizer_spec")):
            raise VocabularyError(f"{path}: found the beginning of a SentencePiece model, expected a whole one")
        check_tokens(path, [piece.piece for piece in proto.pieces], "piece")
        kind = proto.trainer_spec.model_type
        if kind not in (UNIGRAM, BPE):
            raise VocabularyError(
                f"{path}: field model_type: found {kind}, expected {UNIGRAM} (unigram) or {BPE} (BPE)"
            )
        sentencepiece.SentencePieceProcessor(model_proto=data)
    table = proto.normalizer_spec.precompiled_charsmap or None
    if table is not None:
        check_charsmap(path, table)
    added = [
        AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL)
        for piece in proto.pieces
        if piece.type in (_CONTROL, _USER_DEFINED)
    ]
    return Pieces(
        path=path,
        scored=_scored(path, [(piece.piece, piece.score) for piece in proto.pieces]),
        charsmap=table,
        spec=proto.trainer_spec,
        added=tuple(added),
    )


def _scored(path: epath.Path, pieces: Sequence[tuple[str, Any]]) -> Scored:
    for piece, score in pieces:
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise VocabularyError(f"{path}: piece {one_line(piece)}: found score {score}, expected a finite number")
    return [(piece, float(score)) for piece, score in pieces]


def charsmaps(path: epath.Path, content: Mapping[str, Any]) -> list[bytes]:
    """The tables of SentencePiece's normaliser in a tokenizer.json, checked.

    Raises:
        VocabularyError: one is damaged.
    """
    tables = []
    for step in steps_of(content.get("normalizer")):
        if step.get("type") == "Precompiled" and step.get("precompiled_charsmap"):
            try:
                tables.append(base64.b64decode(step["precompiled_charsmap"], validate=True))
            except (binascii.Error, TypeError, ValueError) as error:
                raise VocabularyError(
                    f"{path}: field precompiled_charsmap: found no base64 ({error}), expected a table"
                ) from error
            check_charsmap(path, tables[-1])
    return tables


def steps_of(normalizer: Any) -> list[Mapping[str, Any]]:
    """The steps of a normaliser, sequences laid flat."""
    if not isinstance(normalizer, dict):
        return []
    if normalizer.get("type") == "Sequence":
        return [step for one in normalizer.get("normalizers") or () for step in steps_of(one)]
    return [normalizer]
