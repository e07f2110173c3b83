"""Text files to documents: plain text, JSON lines, WikiExtractor output, MediaWiki dumps and parquet files.

A document is its paragraphs, one per line. Documents belong to splits by a hash of their content, so that a document
stays in its split whatever is added to the corpus, and exact duplicates never stand on both sides.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence

from mergedistill_jax.configs.splits import Split
from mergedistill_jax.corpus.mediawiki import mediawiki_documents
from mergedistill_jax.corpus.parquet import parquet_documents
from mergedistill_jax.corpus.reading import CorpusError, open_text, paragraphs

__all__ = ["FORMATS", "CorpusError", "Split", "documents"]


def plain_documents(path: str) -> Iterator[str]:
    """Plain text: a line is a paragraph, blank lines separate documents."""
    with open_text(path) as lines:
        yield from _blocks(lines)


def _blocks(lines: Iterator[str]) -> Iterator[str]:
    block: list[str] = []
    for line in lines:
        if stripped := line.strip():
            block.append(stripped)
        elif block:
            yield "\n".join(block)
            block = []
    if block:
        yield "\n".join(block)


def json_documents(path: str) -> Iterator[str]:
    """JSON lines with a field "text"; a line of the text is a paragraph."""
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                document = paragraphs(json.loads(line)["text"].splitlines())
                document.encode()  # JSON can write half a character, which nothing after this could
            except UnicodeEncodeError as error:
                raise CorpusError(
                    f"{path}: line {number}: field text: found the lone surrogate {error.object[error.start]!r},"
                    " expected a string of whole characters"
                ) from error
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CorpusError(
                    f"{path}: line {number}: field text: found {line[:40]!r}, expected a JSON object with a string"
                ) from error
            if document:
                yield document


_DOC_START = re.compile(r"<doc( [^>]*)?>")


def wikiextractor_documents(path: str) -> Iterator[str]:
    """WikiExtractor's output, `<doc ...>` title, text `</doc>`; the title line is a paragraph of the document.

    `</doc>` stands on a line of its own or at the end of the text's last line; a document may also end where the next
    begins.
    """
    with open_text(path) as lines:
        body: list[str] | None = None
        number = 0
        for number, line in enumerate(lines, start=1):
            starts, text, ends = bool(_DOC_START.match(line)), line.removesuffix("</doc>"), line.endswith("</doc>")
            if (starts or ends) and body is not None:
                if document := paragraphs(body if starts else [*body, text]):
                    yield document
                body = None
            if starts:
                body = []
            elif ends:
                body = None
            elif body is not None:
                body.append(line)
            elif line.strip():
                raise CorpusError(f"{path}: line {number}: found text outside <doc>, expected WikiExtractor output")
        if body is not None:
            raise CorpusError(f"{path}: line {number}: found the end of the file inside <doc>, expected </doc>")


FORMATS: dict[str, Callable[[str], Iterator[str]]] = {
    "plain": plain_documents,
    "jsonl": json_documents,
    "mediawiki": mediawiki_documents,
    "parquet": parquet_documents,
    "wikiextractor": wikiextractor_documents,
}


def documents(files: Sequence[str], text_format: str, split: Split) -> Iterator[str]:
    """The documents of a split over files in the given order.

    Raises:
        CorpusError: unknown format, missing file, damaged or malformed content.
    """
    if text_format not in FORMATS:
        raise CorpusError(f"corpus format: found {text_format!r}, expected one of {sorted(FORMATS)}")
    for path in files:
        for document in FORMATS[text_format](path):
            if split.holds(document):
                yield document
