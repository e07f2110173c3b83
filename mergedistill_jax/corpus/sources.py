"""Text files to documents: plain text, JSON lines, WikiExtractor output, MediaWiki dumps and parquet files.

A document is its paragraphs, one per line. Documents belong to splits by a hash of their content, so that a document
stays in its split whatever is added to the corpus, and exact duplicates never stand on both sides.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mergedistill_jax.configs.splits import Split
from mergedistill_jax.corpus.mediawiki import mediawiki_documents
from mergedistill_jax.corpus.parquet import parquet_documents
from mergedistill_jax.corpus.reading import (
    MAX_DOCUMENT_CHARACTERS,
    CorpusError,
    open_text,
    paragraphs,
    warn_of_damage,
)
from mergedistill_jax.corpus.wikiextractor import (
    is_escaped,
    is_wikiextractor_row,
    row_text,
    wikiextractor_documents,
)

__all__ = ["FORMATS", "CorpusError", "Split", "documents"]


def plain_documents(path: str, *, keep_whole: bool = False) -> Iterator[str]:
    """Plain text: a line is a paragraph, blank lines separate documents.

    Raises:
        CorpusError: see `reading.open_text`; also where the first line shows another format.
    """
    with open_text(path, keep_whole=keep_whole) as lines:
        block: list[str] = []
        size = 0
        is_first = True
        for line in lines:
            if stripped := line.strip():
                if is_first:
                    _check_plain(path, stripped)
                    is_first = False
                block.append(stripped)
                size += len(stripped)
                if size > MAX_DOCUMENT_CHARACTERS:
                    raise CorpusError(
                        f"{path}: up to line {lines.number}: found a document of more than {MAX_DOCUMENT_CHARACTERS}"
                        " characters, expected blank lines between documents"
                    )
            elif block:
                yield "\n".join(block)
                block, size = [], 0
        if block and not lines.is_cut:
            yield "\n".join(block)


_OTHER_FORMATS = {
    r'\[?\s*\{\s*(?:"[^"]*"\s*:.*)?': "JSON (the format jsonl, where an object is a line)",
    r'<doc id="[^"]*".*>': "WikiExtractor output (the format wikiextractor)",
    r"<mediawiki\b.*": "a MediaWiki dump (the format mediawiki)",
    r"<\?xml\b.*": "XML",
    r"(?i:<!doctype html\b|<html\b).*": "HTML",
    r"%PDF-\d.*": "PDF",
}
"""What the first line of a file shows that is no plain text."""


def _check_plain(path: str, first: str) -> None:
    for pattern, found in _OTHER_FORMATS.items():
        if re.fullmatch(pattern, first):
            raise CorpusError(f"{path}: found {first[:40]!r}, as {found} begins, expected plain text")


def json_documents(path: str, *, field: str = "text", keep_whole: bool = False) -> Iterator[str]:
    """JSON Lines with the text in one field; a line of the text is a paragraph.

    WikiExtractor's lines (`--json`) are known by their address, and their escapes are resolved, see wikiextractor.py.
    """
    escaped: bool | None = None
    with open_text(path, keep_whole=keep_whole) as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row, text = _json_text(f"{path}: line {lines.number}", line, field)
            except CorpusError:
                # The last line of a file that was cut short before it was compressed, or never was.
                if keep_whole and next(lines, None) is None:
                    warn_of_damage(f"{path}: line {lines.number}: found the end of the file within a line")
                    return
                raise
            if "&" in text and is_wikiextractor_row(row):
                escaped = is_escaped(path, keep_whole=keep_whole) if escaped is None else escaped
                text = row_text(row, text, escaped=escaped)
            if document := paragraphs(text.splitlines()):
                yield document


def _json_text(place: str, line: str, field: str) -> tuple[dict[str, Any], str]:
    """The object of a line, and the string in one of its fields."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"{place}: field {field}: found {line[:40]!r}, expected a JSON object with a string"
        ) from error
    if not isinstance(row, dict):
        raise CorpusError(f"{place}: field {field}: found {line[:40]!r}, expected a JSON object a line (JSON Lines)")
    if field not in row:
        raise CorpusError(f"{place}: field {field}: found the fields {sorted(row)}, expected one named {field!r}")
    text = row[field]
    if not isinstance(text, str):
        raise CorpusError(f"{place}: field {field}: found {json.dumps(text)[:40]}, expected a string")
    try:
        text.encode()  # JSON can write half a character, which nothing after this could
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"{place}: field {field}: found the lone surrogate {error.object[error.start]!r},"
            " expected a string of whole characters"
        ) from error
    return row, text


def _wikiextractor_documents(path: str, *, keep_whole: bool = False) -> Iterator[str]:
    """Output of WikiExtractor, with and without `--json`; the first line tells which."""
    with open_text(path, keep_whole=keep_whole) as lines:
        first = next((line for line in lines if line.strip()), "")
    is_json = first.lstrip().startswith("{")
    yield from (json_documents if is_json else wikiextractor_documents)(path, keep_whole=keep_whole)


FORMATS: dict[str, Callable[..., Iterator[str]]] = {
    "plain": plain_documents,
    "jsonl": json_documents,
    "mediawiki": mediawiki_documents,
    "parquet": parquet_documents,
    "wikiextractor": _wikiextractor_documents,
}
WITH_FIELDS = ("jsonl", "parquet")
DAMAGED = ("refuse", "keep_whole")


def documents(
    files: Sequence[str], text_format: str, split: Split, *, damaged: str = "refuse", field: str = "text"
) -> Iterator[str]:
    """The documents of a split over files in the given order.

    Args:
        files: paths, local or gs://.
        text_format: a key of FORMATS.
        split: the share of the documents to give.
        damaged: "refuse" a file that is damaged or cut short, or "keep_whole": give the documents that end before the
            damage, with a warning, and go on with the next file. A parquet file cannot be read without its end.
        field: of JSON lines and parquet files, the field or column that holds the text.

    Raises:
        CorpusError: unknown format, missing file, damaged or malformed content.
    """
    check_format(text_format, damaged)
    options: dict[str, Any] = {}
    if text_format in WITH_FIELDS:
        options["field"] = field
    if text_format != "parquet":
        options["keep_whole"] = damaged == "keep_whole"
    for path in files:
        for document in FORMATS[text_format](path, **options):
            if split.holds(document):
                yield document


def check_format(text_format: str, damaged: str) -> None:
    """Refuses an unknown format or treatment of damage.

    Raises:
        CorpusError: naming what is known.
    """
    if text_format not in FORMATS:
        raise CorpusError(f"corpus format: found {text_format!r}, expected one of {sorted(FORMATS)}")
    if damaged not in DAMAGED:
        raise CorpusError(f"damaged: found {damaged!r}, expected one of {DAMAGED}")
    if text_format == "parquet" and damaged != "refuse":
        raise CorpusError(f"damaged: found {damaged!r}, expected 'refuse': a parquet file is read from its end")
