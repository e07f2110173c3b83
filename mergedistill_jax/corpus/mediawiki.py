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

from mergedistill_jax.corpus.reading import KEEP_WHOLE, CorpusError, DamagedError, open_blocks, warn_of_damage
from mergedistill_jax.corpus.wikitext import MarkupError, plain_text

MAX_PAGE_CHARACTERS = 2**21
"""MediaWiki's own limit for a page is 2 MB ($wgMaxArticleSize)."""
MAX_DEPTH = 32
"""Elements within one another; a dump has five levels."""
MAX_TAG_BYTES = 2**24
"""What the parser of XML may hold back, waiting for the end of a tag."""
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
        language: code of the wiki's language, "" in dumps that do not say.
        model: what the text is; "" in dumps that do not say.
        markup: its wiki text; None where it is longer than MAX_PAGE_CHARACTERS.
        hidden_namespaces: the wiki's names of the namespaces whose links show no text.
    """

    title: str
    namespace: str
    is_redirect: bool
    language: str
    model: str
    markup: str | None
    hidden_namespaces: tuple[str, ...]


def mediawiki_documents(path: str, counts: Counts | None = None, *, keep_whole: bool = False) -> Iterator[str]:
    """The articles of a dump as plain text, in its order; the title is no part of the text.

    An article that the parser of wiki text cannot read is left out, and a warning at the end tells how many.

    Args:
        path: a dump; .bz2, .gz, .xz and .zst are decompressed.
        counts: what became of the pages is added to it.
        keep_whole: of a dump that is damaged or ends early, give the articles that end before that, with a warning.

    Raises:
        CorpusError: no such file, no MediaWiki dump, or one that is damaged or ends early.
    """
    counts = collections.Counter() if counts is None else counts
    unreadable: list[str] = []
    for page in dump_pages(path, keep_whole=keep_whole):
        try:
            document = _text(page) if _is_article(page) else ""
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


def _text(page: Page) -> str:
    if page.markup is None:
        raise MarkupError(f"wiki text: found more than {MAX_PAGE_CHARACTERS} characters, expected an article")
    return plain_text(page.markup, page.hidden_namespaces, language=page.language)


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


def dump_pages(path: str, *, keep_whole: bool = False) -> Iterator[Page]:
    """Every page of a dump.

    Raises:
        CorpusError: see `mediawiki_documents`.
    """
    with open_blocks(path) as blocks:
        parser = _DumpParser(path)
        try:
            for block in blocks:
                yield from parser.feed(block)
        except _DamagedXmlError as error:
            yield from parser.stop(str(error), keep_whole=keep_whole)
        except DamagedError as error:
            yield from parser.stop(f"damaged compressed data ({error}), expected a whole file", keep_whole=keep_whole)
        else:
            yield from parser.close(keep_whole=keep_whole)


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


class _DamagedXmlError(Exception):
    """XML that is not well-formed, found within a dump."""


class _DumpParser:
    """Pages out of the bytes of a dump; `count` is how many there were."""

    def __init__(self, path: str) -> None:
        self.count = 0
        self._path = path
        self._open: list[str] = []
        self._fields: dict[str, str | None] = {}
        self._language = ""
        self._fed = 0
        self._size = 0
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

    def feed(self, block: bytes) -> list[Page]:
        """The pages that end in the next bytes of the dump."""
        self._parse(block, is_last=False)
        self._fed += len(block)
        if self._fed - self._expat.CurrentByteIndex > MAX_TAG_BYTES:
            raise self._error(f"a tag of more than {MAX_TAG_BYTES} bytes, expected a MediaWiki dump")
        pages, self._pages = self._pages, []
        return pages

    def close(self, *, keep_whole: bool) -> list[Page]:
        """The pages that are left at the end of the file."""
        if self._open:
            found = f"the end of the file inside <{self._open[-1]}>, expected </mediawiki>"
            return self.stop(found, keep_whole=keep_whole)
        self._parse(b"", is_last=True)
        return self._pages

    def stop(self, found: str, *, keep_whole: bool) -> list[Page]:
        """The pages before damage that was found in the file, or the error that tells it."""
        if not keep_whole:
            raise self._error(f"{found}, {KEEP_WHOLE}")
        warn_of_damage(str(self._error(found)))
        return self._pages

    def _parse(self, block: bytes, *, is_last: bool) -> None:
        try:
            self._expat.Parse(block, is_last)
        except expat.ExpatError as error:
            found = f"damaged XML ({expat.ErrorString(error.code)}), expected a MediaWiki dump"
            if not self._open and not self.count:
                raise self._error(found) from error
            raise _DamagedXmlError(found) from error
        except (LookupError, ValueError) as error:
            if isinstance(error, CorpusError):
                raise
            raise self._error(f"an encoding that cannot be read ({error}), expected UTF-8") from error

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
        if not self._open:
            self._language = attributes.get("xml:lang", "")
        self._open.append(name)
        if len(self._open) > MAX_DEPTH:
            raise self._error(f"<{name}> within {MAX_DEPTH} other elements, expected a MediaWiki dump")
        self._text = [] if tuple(self._open[1:]) in _FIELDS else None
        self._size = 0
        self._hides_links = attributes.get("key") in HIDDEN_NAMESPACES

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._size += len(text)
            if self._size <= MAX_PAGE_CHARACTERS:
                self._text.append(text)

    def _end(self, name: str) -> None:
        self._open.pop()
        if self._text is not None:
            text, self._text = "".join(self._text), None
            if self._size > MAX_PAGE_CHARACTERS:
                self._fields[name] = None
            elif name != "namespace":
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
            title=fields.get("title") or "",
            namespace=(fields["ns"] or "").strip(),
            is_redirect="redirect" in fields,
            language=self._language,
            model=(fields.get("model") or "").strip(),
            markup=fields.get("text", ""),
            hidden_namespaces=tuple(self._hidden_namespaces),
        )
        self._pages.append(page)
