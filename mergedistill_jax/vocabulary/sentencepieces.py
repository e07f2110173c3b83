"""SentencePiece tokenizers (Kudo and Richardson 2018): XLM-R, CamemBERT and ALBERT, from a .model or tokenizer.json.

A .model is read with the schema of `sentencepiece`, and the same tokenizer is built with `tokenizers`, as transformers
does: ids and ends of pieces are then those of AutoTokenizer also where the two libraries differ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mergedistill_jax.vocabulary.errors import VocabularyError, one_line, refusing
from mergedistill_jax.vocabulary.sentencepiece_files import (
    ANY_MODEL_FILE,
    UNIGRAM,
    Pieces,
    Scored,
    read_model,
    read_pieces,
    steps_of,
)
from mergedistill_jax.vocabulary.settings import TOKENIZER_FILE, Built, Settings, Token
from mergedistill_jax.vocabulary.tokenizer_json import require_same

SPACE = "▁"

_FAIRSEQ_ROLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_ALBERT_ROLES = {
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "<unk>",
    "sep_token": "[SEP]",
    "pad_token": "<pad>",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_NOT_USED = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")


def xlm_roberta(settings: Settings, content: Mapping[str, Any] | None) -> Built:
    """What XLMRobertaTokenizer makes of a folder.

    A .model begins with <unk> <s> </s>; fairseq, in which XLM-R was trained, begins with <s> <pad> </s> <unk> and ends
    with <mask>, so that all other ids are moved by one.

    Raises:
        VocabularyError: no file is there, it cannot be used, or tokenizer.json contradicts the settings.
    """
    source = read_pieces(settings, content, "sentencepiece.bpe.model")
    named = settings.roles(_FAIRSEQ_ROLES)
    first = [str(named[f"{role}_token"]) for role in ("bos", "pad", "eos", "unk")]
    pieces = source.scored
    if content is None:
        pieces = [*((token, 0.0) for token in first), *pieces[3:], (str(named["mask_token"]), 0.0)]
    steps = _precompiled(source)
    _require_agreement(settings, source, steps, 3)
    tokenizer = _unigram(source.path, pieces, unk_id=3)
    tokenizer.normalizer = steps[0] if steps else None
    _finish(source.path, tokenizer, settings, frame=(first[0], first[2]))
    return Built(path=source.path, tokenizer=tokenizer, named=named, extra=_extra(settings, source))


def camembert(settings: Settings, content: Mapping[str, Any] | None) -> Built:
    """What CamembertTokenizer makes of a folder: fairseq's order once more, with placeholders.

    Raises:
        VocabularyError: no file is there, it cannot be used, or tokenizer.json contradicts the settings.
    """
    source = read_pieces(settings, content, "sentencepiece.bpe.model")
    named = settings.roles(_FAIRSEQ_ROLES)
    mask, unk = named["mask_token"], str(named["unk_token"])
    if isinstance(mask, str):
        named["mask_token"] = AddedToken(mask, lstrip=True, special=True)
    pieces = source.scored
    if content is None:
        first = ("<s>NOTUSED", str(named["pad_token"]), "</s>NOTUSED", unk)
        zero = [(token, 0.0) for token in first]
        pieces = [*zero, ("<unk>NOTUSED", -100.0), *pieces[1:], (str(mask), 0.0)]
    unk_id = next((index for index, (piece, _) in enumerate(pieces) if piece == unk), 0)
    steps = _precompiled(source)
    _require_agreement(settings, source, steps, unk_id)
    tokenizer = _unigram(source.path, pieces, unk_id=unk_id)
    tokenizer.normalizer = steps[0] if steps else None
    _finish(source.path, tokenizer, settings, frame=(str(named["bos_token"]), str(named["eos_token"])))
    extra = _extra(settings, source, _NOT_USED)
    return Built(path=source.path, tokenizer=tokenizer, named=named, extra=extra)


def albert(settings: Settings, content: Mapping[str, Any] | None) -> Built:
    """What AlbertTokenizer makes of a folder: quotation marks made one kind, accents and case removed unless kept.

    Raises:
        VocabularyError: no file is there, it cannot be used, or tokenizer.json contradicts the settings.
    """
    source = read_pieces(settings, content, "spiece.model")
    named = settings.roles(_ALBERT_ROLES)
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.option("keep_accents", default=False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.option("do_lower_case", default=True):
        steps.append(normalizers.Lowercase())
    steps += _precompiled(source)
    _require_agreement(settings, source, steps, 1)
    tokenizer = _unigram(source.path, source.scored, unk_id=1)
    tokenizer.normalizer = normalizers.Sequence(steps)
    _finish(source.path, tokenizer, settings, frame=(str(named["cls_token"]), str(named["sep_token"])))
    # This class alone keeps the file's frame.
    if source.whole is not None and source.whole.post_processor is not None:
        tokenizer.post_processor = source.whole.post_processor
    elif source.whole is None and settings.options.keys() & {"add_bos_token", "add_eos_token"}:
        _frame_by_switches(source.path, tokenizer, settings, named)
    return Built(path=source.path, tokenizer=tokenizer, named=named, extra=_extra(settings, source))


def plain_model(settings: Settings) -> Built:
    """What TokenizersBackend makes of a tokenizer.model alone: no space is set before the first word.

    Raises:
        VocabularyError: the file is not there or cannot be used.
    """
    path = settings.folder / ANY_MODEL_FILE
    if not path.exists():
        raise VocabularyError(
            f"{settings.folder}: found neither {TOKENIZER_FILE} nor {ANY_MODEL_FILE}, expected one of them"
        )
    source = read_model(path)
    spec, pieces = source.spec, source.scored
    with refusing(path, "a SentencePiece model"):
        if spec.model_type == UNIGRAM:
            model = models.Unigram(pieces, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)
        else:
            model = _bpe(pieces, settings, unk=spec.unk_piece, byte_fallback=spec.byte_fallback)
        tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([*_precompiled(source), normalizers.Replace(" ", SPACE)])
    fallback = [decoders.ByteFallback(), decoders.Fuse()] if spec.byte_fallback else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), *fallback])
    ids = {"bos_token": spec.bos_id, "eos_token": spec.eos_id, "unk_token": spec.unk_id}
    names = {"bos_token": spec.bos_piece, "eos_token": spec.eos_piece, "unk_token": spec.unk_piece}
    named = settings.roles({role: name for role, name in names.items() if ids[role] >= 0 and name})
    _frame_by_switches(path, tokenizer, settings, named)
    return Built(path=path, tokenizer=tokenizer, named=named, extra=_extra(settings, source))


def _precompiled(source: Pieces) -> list[normalizers.Normalizer]:
    if source.charsmap is None:
        return []
    with refusing(source.path, "a table in field precompiled_charsmap"):
        return [normalizers.Precompiled(source.charsmap)]


def _unigram(path: epath.Path, pieces: Scored, *, unk_id: int) -> Tokenizer:
    with refusing(path, "pieces of a Unigram model"):
        return Tokenizer(models.Unigram(pieces, unk_id=unk_id, byte_fallback=False))


def _bpe(pieces: Scored, settings: Settings, *, unk: str, byte_fallback: bool) -> models.BPE:
    """SentencePiece's BPE: pieces merge in the order of their ids; added tokens may take the place of pieces."""
    vocabulary = {piece: index for index, (piece, _) in enumerate(pieces)}
    merges = _merges(vocabulary)
    names = {index: piece for piece, index in vocabulary.items()}
    for index, token in settings.added.items():
        if names.get(index) not in (None, token.content) and token.content not in vocabulary:
            vocabulary[token.content] = vocabulary.pop(names[index])
    return models.BPE(vocabulary, merges, unk_token=unk, fuse_unk=True, byte_fallback=byte_fallback)


def _merges(vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """All pairs of pieces that make a piece; of one piece, those whose left part has the lower id come first."""
    merges = []
    for piece, index in vocabulary.items():
        parts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(left, right) for left, right in parts if left in vocabulary and right in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges += [(index, len(left), len(right), left, right) for left, right in known]
    merges.sort(key=lambda merge: merge[:3])
    return [(left, right) for *_, left, right in merges]


def _finish(path: epath.Path, tokenizer: Tokenizer, settings: Settings, *, frame: tuple[str, str]) -> None:
    """Words are cut at white space, each led by ▁, and the text is framed."""
    scheme = "always" if settings.option("add_prefix_space", default=True) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    ids = [tokenizer.token_to_id(token) for token in frame]
    if None in ids:
        missing = frame[ids.index(None)]
        raise VocabularyError(f"{path}: field vocab: found no {one_line(missing)}, expected it for the text's frame")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[frame[0], "$A", frame[1]],
        pair=[frame[0], "$A", frame[1], frame[1], "$B", frame[1]],
        special_tokens=list(zip(frame, ids, strict=True)),
    )


def _frame_by_switches(path: epath.Path, tokenizer: Tokenizer, settings: Settings, named: Mapping[str, Token]) -> None:
    """A frame of those tokens that add_bos_token and add_eos_token ask for; mostly none."""
    asked = {end: bool(settings.option(f"add_{end}_token", default=False)) for end in ("bos", "eos")}
    tokens = {end: str(named[f"{end}_token"]) for end in asked if asked[end] and f"{end}_token" in named}
    single = [*([tokens["bos"]] if "bos" in tokens else []), "$A", *([tokens["eos"]] if "eos" in tokens else [])]
    with refusing(path, "a model with the tokens of the frame"):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[(token, tokenizer.token_to_id(token)) for token in tokens.values()]
        )


def _extra(settings: Settings, source: Pieces, default: Sequence[Token] = ()) -> tuple[Token, ...]:
    """Special tokens beside the named ones; the control pieces of a .model come before those under the older name."""
    if source.content is None and settings.extra is None:
        return source.added
    return settings.other_special_tokens(default)


def _require_agreement(
    settings: Settings, source: Pieces, steps: Sequence[normalizers.Normalizer], unk_id: int
) -> None:
    """These classes take pieces and table from tokenizer.json: all else has to be what they build themselves.

    Steps that only tidy white space may differ: the classes cut at white space in any case.
    """
    if source.content is None:
        return
    model = source.content["model"]
    kinds = [str(step.get("type")) for step in steps_of(source.content.get("normalizer"))]
    built = [type(step).__name__ for step in steps]
    require_same(settings, "normalizer", found=_meaningful(built), expected=_meaningful(kinds))
    require_same(settings, "byte_fallback", found=False, expected=bool(model.get("byte_fallback")))
    require_same(settings, "unk_id", found=unk_id, expected=model.get("unk_id"))


def _meaningful(kinds: Sequence[str]) -> list[str]:
    return [kind for kind in kinds if kind not in ("Replace", "Strip")]
