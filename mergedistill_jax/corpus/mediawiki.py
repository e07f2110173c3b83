"""MediaWiki dumps (pages-articles.xml, compressed or not) to documents, streamed page by page.

A dump is one XML file, many gigabytes long, with a <page> for everything the wiki has:

    <mediawiki> <siteinfo> names of namespaces </siteinfo>
      <page> <title> <ns>0</ns> [<redirect/>] <revision> <model> <text> wiki text </text> </revision> </page> ...

Only articles become documents. No document type declaration is accepted, so no entity is ever expanded or fetched.
"""

import collections
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any
from xml.parsers import expat

from mergedistill_jax.corpus.reading import DAMAGE, CorpusError, open_bytes
from mergedistill_jax.corpus.wikitext import MarkupError, plain_text

CHUNK_BYTES = 2**18
ARTICLES = "0"
HIDDEN_NAMESPACES = frozenset(["6", "14"])
"""Files and categories: their links show no text."""

Counts = collections.Counter[str]
"""Pages by what became of them: documents, other namespaces, redirects, other models, no text, unreadable."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """A page of a dump.

    Attributes:
        namespace: its number, "0" for articles.
        model: what the text is; "" in dumps that do not say.
        markup: its wiki text.
        hidden_namespaces: the wiki's names of the namespaces whose links show no text.
    """

    title: str
    namespace: str
    is_redirect: bool
    model: str
    markup: str
    hidden_namespaces: tuple[str, ...]


def mediawiki_documents(path: str, counts: Counts | None = None) -> Iterator[str]:
    """The articles of a dump as plain text, in its order; the title is no part of the text.

    An article that the parser of wiki text cannot read is left out, and a warning at the end tells how many.

    Args:
        path: a dump; .bz2, .gz and .xz are decompressed.
        counts: what became of the pages is added to it.

    Raises:
        CorpusError: no such file, no MediaWiki dump, or one that is damaged or ends early.
    """
    counts = collections.Counter() if counts is None else counts
    unreadable: list[str] = []
    for page in dump_pages(path):
        try:
            document = plain_text(page.markup, page.hidden_namespaces) if _is_article(page) else ""
        except MarkupError:
            unreadable.append(page.title)
            counts["unreadable"] += 1
            continue
        counts[_fate(page, document)] += 1
        if document:
            yield document
    if unreadable:
        logging.getLogger(__name__).warning(
            "%s: %d articles left out, their wiki text cannot be parsed: %s", path, len(unreadable), unreadable[:5]
        )


def _is_article(page: Page) -> bool:
    return page.namespace == ARTICLES and not page.is_redirect and page.model in {"", "wikitext"}


def _fate(page: Page, document: str) -> str:
    if page.namespace != ARTICLES:
        return "other namespaces"
    if page.is_redirect:
        return "redirects"
    if not _is_article(page):
        return "other models"
    return "documents" if document else "no text"


def dump_pages(path: str) -> Iterator[Page]:
    """Every page of a dump.

    Raises:
        CorpusError: see `mediawiki_documents`.
    """
    with open_bytes(path) as stream:
        parser = _DumpParser(path)
        more = True
        while more:
            try:
                chunk = stream.read(CHUNK_BYTES)
            except DAMAGE as error:
                raise CorpusError(
                    f"{path}: after page {parser.count}: found damaged compressed data ({error}), expected a whole file"
                ) from error
            more = bool(chunk)
            yield from parser.feed(chunk, is_last=not more)


_FIELDS = frozenset(
    [
        ("page", "title"),
        ("page", "ns"),
        ("page", "redirect"),
        ("page", "revision", "model"),
        ("page", "revision", "text"),
        ("siteinfo", "namespaces", "namespace"),
    ]
)
"""Elements below <mediawiki> whose text is kept until their page ends."""
_CUT_OFF = frozenset(
    expat.errors.codes[reason]
    for reason in (
        expat.errors.XML_ERROR_NO_ELEMENTS,
        expat.errors.XML_ERROR_UNCLOSED_TOKEN,
        expat.errors.XML_ERROR_PARTIAL_CHAR,
    )
)


class _DumpParser:
    """Pages out of the bytes of a dump; `count` is how many there were."""

    def __init__(self, path: str) -> None:
        self.count = 0
        self._path = path
        self._open: list[str] = []
        self._fields: dict[str, str] = {}
        self._hidden_namespaces: list[str] = []
        self._hides_links = False
        self._text: list[str] | None = None
        self._pages: list[Page] = []
        self._expat: Any = expat.ParserCreate()
        self._expat.buffer_text = True
        self._expat.StartDoctypeDeclHandler = self._refuse_declaration
        self._expat.StartElementHandler = self._start
        self._expat.CharacterDataHandler = self._characters
        self._expat.EndElementHandler = self._end

    def feed(self, chunk: bytes, *, is_last: bool) -> list[Page]:
        """The pages that end in the next bytes of the dump."""
        try:
            self._expat.Parse(chunk, is_last)
        except expat.ExpatError as error:
            if self._open and error.code in _CUT_OFF:
                found = f"the end of the file inside <{self._open[-1]}>, expected </mediawiki>"
            else:
                found = f"damaged XML ({expat.ErrorString(error.code)}), expected a MediaWiki dump"
            raise self._error(found) from error
        pages, self._pages = self._pages, []
        return pages

    def _error(self, found: str) -> CorpusError:
        line = self._expat.CurrentLineNumber
        return CorpusError(f"{self._path}: line {line}: after page {self.count}: found {found}")

    def _refuse_declaration(self, *_: object) -> None:
        raise self._error(
            "a document type declaration, expected none: no dump has one, and it can hold harmful entities"
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name != "mediawiki":
            raise self._error(f"<{name}>, expected <mediawiki>")
        self._open.append(name)
        self._text = [] if tuple(self._open[1:]) in _FIELDS else None
        self._hides_links = attributes.get("key") in HIDDEN_NAMESPACES

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, name: str) -> None:
        self._open.pop()
        if self._text is not None:
            text, self._text = "".join(self._text), None
            if name != "namespace":
                # Where a page has several revisions, the last stands.
                self._fields[name] = text
            elif self._hides_links:
                self._hidden_namespaces.append(text)
        elif name == "page":
            self._end_page()

    def _end_page(self) -> None:
        fields, self._fields = self._fields, {}
        if "ns" not in fields:
            raise self._error(f"a page {fields.get('title', '')!r} without <ns>, expected export format 0.6 or later")
        self.count += 1
        page = Page(
            title=fields.get("title", ""),
            namespace=fields["ns"].strip(),
            is_redirect="redirect" in fields,
            model=fields.get("model", "").strip(),
            markup=fields.get("text", ""),
            hidden_namespaces=tuple(self._hidden_namespaces),
        )
        self._pages.append(page)
