"""WikiExtractor's output, of its versions 2 and 3, as text files (<doc>) and as JSON lines (`--json`).

    <doc id="12" url="https://en.wikipedia.org/wiki?curid=12" title="AT&amp;T">
    AT&amp;T

    Research &amp; development if a &lt; b.
    </doc>

Version 3 escapes the text as HTML, version 2 does not, and neither says so; both keep the title as the dump's XML has
it, escaped. What is escaped holds no "<" or ">" and no "&" but those that begin an escape. A file in which all text is
so is taken for escaped, and its escapes are resolved once; any other file is left as it is: `&amp;` in it is text about
HTML.
"""

import html
import re
from collections.abc import Iterator
from typing import Any

from mergedistill_jax.corpus.reading import (
    KEEP_WHOLE,
    MAX_DOCUMENT_CHARACTERS,
    CorpusError,
    open_text,
    paragraphs,
    warn_of_damage,
)

_ESCAPES = r"&(?:amp|lt|gt|quot|apos|#39|#x27);"
_ESCAPE = re.compile(_ESCAPES)
_NOT_ESCAPED = re.compile(rf"[<>]|&(?!{_ESCAPES[1:]})")
_HEADER = re.compile(r"<doc( [^>]*)?>")
_HEADER_WITHIN = re.compile(r'<doc id="[^"]*"[^>]*>\s*')
_TITLE = re.compile(r' title="([^>]*)"[^">]*>')
_END = "</doc>"


def unescaped(text: str) -> str:
    """The text with the escapes of Python's html.escape resolved, once: `&amp;lt;` becomes `&lt;`."""
    return _ESCAPE.sub(lambda found: html.unescape(found[0]), text)


def is_escaped(path: str, *, keep_whole: bool = False) -> bool:
    """Whether all text of a file of WikiExtractor is escaped; reads it up to the first text that is not.

    Raises:
        CorpusError: see `reading.open_text`.
    """
    with open_text(path, keep_whole=keep_whole) as lines:
        return not any(_NOT_ESCAPED.search(line.removesuffix(_END)) for line in lines if not _HEADER.match(line))


def row_text(row: dict[str, Any], text: str, *, escaped: bool) -> str:
    """The text of a JSON line of WikiExtractor; version 2 begins it with the title."""
    if escaped:
        return unescaped(text)
    if "&" not in text:
        return text
    title, newline, rest = text.partition("\n")
    return unescaped(title) + newline + rest if title == row.get("title") else text


def is_wikiextractor_row(row: dict[str, Any]) -> bool:
    """Whether a JSON object is a line of WikiExtractor's: it alone gives addresses that end in ?curid=ID."""
    return isinstance(row.get("url"), str) and row["url"].endswith(f"?curid={row.get('id')}")


def wikiextractor_documents(path: str, *, keep_whole: bool = False) -> Iterator[str]:
    """The documents of `<doc ...>` title, text `</doc>`; the title line is a paragraph of the document.

    `</doc>` stands on a line of its own or at the end of the text's last line; a document may also end where the next
    begins.

    Raises:
        CorpusError: no such file, text outside documents, a file that ends within one.
    """
    escaped: bool | None = None
    for document in _documents(path, keep_whole=keep_whole):
        if document.needs_escapes and escaped is None:
            escaped = is_escaped(path, keep_whole=keep_whole)
        if text := document.text(escaped=bool(escaped)):
            yield text


def _documents(path: str, *, keep_whole: bool) -> Iterator["_Document"]:
    document: _Document | None = None
    with open_text(path, keep_whole=keep_whole) as lines:
        for line in lines:
            starts = (_HEADER.match if document is None else _HEADER_WITHIN.fullmatch)(line)
            ends = line.endswith(_END)
            if document is not None and (starts or ends):
                if not starts:
                    document.add(line.removesuffix(_END))
                yield document
                document = None
            if starts:
                document = _Document(path, line)
            elif document is not None:
                document.add(line)
            elif line.strip() and not ends:
                raise CorpusError(
                    f"{path}: line {lines.number}: found text outside <doc>, expected WikiExtractor output"
                )
        if document is not None and not lines.is_cut:
            found = f"{path}: line {lines.number}: found the end of the file inside <doc>"
            if not keep_whole:
                raise CorpusError(f"{found}, expected </doc>, {KEEP_WHOLE}")
            warn_of_damage(found)


class _Document:
    """The lines of one document."""

    def __init__(self, path: str, header: str) -> None:
        title = _TITLE.search(header)
        self._title = title[1] if title else None
        self._path, self._header = path, header
        self._lines: list[str] = []
        self._size = 0
        self.needs_escapes = False

    def add(self, line: str) -> None:
        self._size += len(line)
        if self._size > MAX_DOCUMENT_CHARACTERS:
            raise CorpusError(
                f"{self._path}: {self._header[:60]}: found more than {MAX_DOCUMENT_CHARACTERS} characters,"
                " expected </doc> at the end of a document"
            )
        self.needs_escapes = self.needs_escapes or "&" in line
        self._lines.append(line)

    def text(self, *, escaped: bool) -> str:
        lines = self._lines
        if escaped:
            lines = [unescaped(line) for line in lines]
        elif lines and lines[0] == self._title:
            lines = [unescaped(lines[0]), *lines[1:]]
        return paragraphs(lines)
