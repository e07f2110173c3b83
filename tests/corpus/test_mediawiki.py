import bz2
import collections
import gzip
import lzma

import pytest

from mergedistill_jax.corpus import mediawiki, reading, sources
from mergedistill_jax.corpus.mediawiki import dump_pages, mediawiki_documents
from mergedistill_jax.corpus.sources import CorpusError
from mergedistill_jax.corpus.wikitext import MarkupError
from mergedistill_jax.teachers.writer import corpus_documents
from tasks import corpora

SITE = """<siteinfo><namespaces><namespace key="0" case="first-letter" /><namespace key="6">Tiedosto</namespace>
<namespace key="14">Luokka</namespace><namespace key="4">Wikipedia</namespace></namespaces></siteinfo>"""


def page(title, text, *, ns="0", extra="", model="wikitext"):
    return (
        f"  <page><title>{title}</title><ns>{ns}</ns><id>1</id>{extra}<revision><id>2</id>"
        f"<contributor><username>text</username></contributor><comment>a comment</comment><model>{model}</model>"
        f'<text bytes="9" xml:space="preserve">{text}</text></revision></page>\n'
    )


def dump(*pages, site=SITE):
    root = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="fi">'
    return f"{root}{site}\n{''.join(pages)}</mediawiki>\n"


PAGES = [
    page(
        "Berliini",
        "'''Berliini''' on &lt;!-- x --&gt;&amp;quot;kaupunki&amp;quot; &amp;amp; osavaltio.\n\n[[Luokka:A]]",
    ),
    page("Berlin", "#REDIRECT [[Berliini]]", extra='<redirect title="Berliini" />'),
    page("Keskustelu:Berliini", "Hei.", ns="1"),
    page("Malline:A", "Malli.", ns="10"),
    page("Skripti", "local a = 1", model="Scribunto"),
    page("Tyhjä", ""),
    page("Turku", "[[Tiedosto:ei päätettä|pienoiskuva|Kuva]]Turku on kaupunki.\n* luettelo\n\nAurajoki."),
]
DOCUMENTS = ['Berliini on "kaupunki" & osavaltio.', "Turku on kaupunki.\nAurajoki."]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def two_streams(data):
    """As the multistream dumps are: several bz2 streams in one file."""
    return bz2.compress(data[:700]) + bz2.compress(data[700:])


@pytest.mark.parametrize(
    ("ending", "compress"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".bz2", two_streams), (".xz", lzma.compress)],
)
def test_articles_become_documents_compressed_or_not(tmp_path, ending, compress):
    path = write(tmp_path, f"fiwiki-pages-articles.xml{ending}", compress(dump(*PAGES).encode()))
    counts = collections.Counter()
    assert list(mediawiki_documents(path, counts)) == DOCUMENTS
    assert counts == {"documents": 2, "redirects": 1, "other namespaces": 2, "other models": 1, "no text": 1}


def test_chunks_change_nothing(tmp_path, monkeypatch):
    """Also where a chunk ends within a character of several bytes, an entity or a tag."""
    path = write(tmp_path, "dump.xml", dump(*PAGES))
    whole = list(dump_pages(path))
    for size in (1, 7):
        monkeypatch.setattr(reading, "BLOCK_BYTES", size)
        assert list(dump_pages(path)) == whole


def test_pages_come_while_the_dump_is_read(tmp_path, monkeypatch):
    """The first page is given before the damage behind it is met: nothing waits for the end of the file."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 64)
    pages = dump_pages(write(tmp_path, "dump.xml", dump(*PAGES)[:-40]))
    assert next(pages).title == "Berliini"
    with pytest.raises(CorpusError, match="after page"):
        list(pages)


def test_of_several_revisions_the_last_stands(tmp_path):
    revisions = "".join(f"<revision><text>{text}</text></revision>" for text in ("Vanha.", "Uusi."))
    path = write(tmp_path, "dump.xml", dump(f"<page><title>A</title><ns>0</ns>{revisions}</page>"))
    assert list(mediawiki_documents(path)) == ["Uusi."]


def test_a_page_that_cannot_be_parsed_is_left_out_counted_and_told(tmp_path, monkeypatch, caplog):
    parse = mediawiki.plain_text

    def fail_on_turku(markup, names, **options):
        if "Turku" in markup:
            raise MarkupError("fails")
        return parse(markup, names, **options)

    monkeypatch.setattr(mediawiki, "plain_text", fail_on_turku)
    counts = collections.Counter()
    path = write(tmp_path, "dump.xml", dump(*PAGES))
    assert list(mediawiki_documents(path, counts)) == DOCUMENTS[:1]
    assert counts["unreadable"] == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 1 articles left out, their wiki text cannot be parsed: ['Turku']"
    ]


BOMB = '<!DOCTYPE mediawiki [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
EXTERNAL = '<!DOCTYPE mediawiki [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (BOMB + dump(page("A", "&b;")), "line 1: after page 0: found a document type declaration, expected none"),
        (EXTERNAL + dump(page("A", "&a;")), "line 1: after page 0: found a document type declaration, expected none"),
        (dump(page("A", "&a;")), r"after page 0: found damaged XML \(undefined entity\)"),
        (dump(PAGES[0], "<page><title>B</title></page>"), "after page 1: found a page 'B' without <ns>"),
        (dump(PAGES[0], "</page>"), r"after page 1: found damaged XML \(mismatched tag\), expected a MediaWiki dump"),
        ("<html><page/></html>", "after page 0: found <html>, expected <mediawiki>"),
        ("", r"after page 0: found damaged XML \(no element found\)"),
        ("Just text.", r"after page 0: found damaged XML \(syntax error\)"),
        (dump(PAGES[0])[:-14], "after page 1: found the end of the file inside <mediawiki>, expected </mediawiki>"),
        (dump(*PAGES)[:-45], "after page 6: found the end of the file inside <text>, expected </mediawiki>"),
        (dump(PAGES[0])[:-5], "after page 1: found the end of the file inside <mediawiki>, expected </mediawiki>"),
    ],
)
def test_damage_is_one_line_that_names_file_and_page(tmp_path, content, named):
    path = write(tmp_path, "dump.xml", content)
    with pytest.raises(CorpusError, match=named) as error:
        list(mediawiki_documents(path))
    assert str(error.value).startswith(f"{path}: line ")
    assert "\n" not in str(error.value)


def test_the_language_of_a_wiki_tells_what_is_a_rule_of_variants(tmp_path):
    for language, text in (("sr", "Microsoft и"), ("en", "-{Microsoft}- и")):
        content = dump(page("A", "-{Microsoft}- и")).replace('xml:lang="fi"', f'xml:lang="{language}"')
        assert list(mediawiki_documents(write(tmp_path, "dump.xml", content))) == [text]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("<mediawiki>" + "<a>" * 400_000, "found <a> within 32 other elements, expected a MediaWiki dump"),
        ('<?xml version="1.0" encoding="rot13"?><mediawiki/>', "found an encoding that cannot be read"),
        ('<?xml version="1.0" encoding="utf-7"?><mediawiki/>', "found an encoding that cannot be read"),
        ('<mediawiki><page a="' + "b" * 17_000_000, "found a tag of more than 16777216 bytes"),
    ],
)
def test_xml_that_would_take_much_time_or_memory_is_refused(tmp_path, content, named):
    path = write(tmp_path, "dump.xml.gz", gzip.compress(content.encode(), 1))
    with pytest.raises(CorpusError, match=named) as error:
        list(mediawiki_documents(path))
    assert str(error.value).startswith(f"{path}: line 1: after page 0: ")


def test_a_page_longer_than_mediawiki_allows_is_left_out_and_told(tmp_path, caplog):
    path = write(tmp_path, "dump.xml", dump(page("Long", "word " * 500_000), page("Short", "Lyhyt.")))
    assert list(mediawiki_documents(path)) == ["Lyhyt."]
    assert "1 articles left out" in caplog.text
    assert "['Long']" in caplog.text


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_a_truncated_compressed_dump_is_one_line(tmp_path, ending, compress):
    numbered = [page(str(i), f"Number {i * i}.") for i in range(2000)]
    data = compress(dump(*numbered).encode())
    path = write(tmp_path, f"dump.xml.{ending}", data[: len(data) // 2])
    with pytest.raises(
        CorpusError, match=rf"dump\.xml\.{ending}: line \d+: after page \d+: found damaged compressed data"
    ) as error:
        list(mediawiki_documents(path))
    assert "\n" not in str(error.value)


def test_a_dump_is_registered_by_language(tmp_path):
    for part in (2, 1):
        content = dump(*(page(str(i), f"Sivu {part} {i}.") for i in range(3)))
        write(tmp_path, f"fiwiki-20230601-pages-articles{part}.xml-p1p9.bz2", bz2.compress(content.encode()))
    name = corpora.add_mediawiki("fi", str(tmp_path), "{language}wiki-*-pages-articles*.xml*.bz2")
    assert name == "mediawiki_fi"
    assert list(corpus_documents(name, "all")) == [f"Sivu {part} {i}." for part in (1, 2) for i in range(3)]
    with pytest.raises(CorpusError, match=r"nowiki-\*: found no file"):
        corpora.add_mediawiki("no", str(tmp_path), "{language}wiki-*")
    with pytest.raises(ValueError, match="corpus mediawiki: language: found ''"):
        corpora.add_mediawiki("", str(tmp_path), "{language}wiki-*")


LEFTOVERS = [
    "[[",
    "]]",
    "{{",
    "}}",
    "''",
    "<ref",
    "</",
    "&nbsp;",
    "|thumb",
    "{|",
    "Category:",
    "Kategorie:",
    "thumb|",
    "\x01",
    "\x02",
]


@pytest.mark.real_data
@pytest.mark.parametrize(
    "language", ["ar", "bn", "de", "en", "es", "fi", "hi", "it", "ml", "mr", "ta", "te", "tr", "ur", "zh"]
)
def test_real_dumps_become_text_without_markup(data_folder, language):
    path = str(data_folder / f"text/mediawiki_dumps/dbpedia_minidumps/{language}wiki.xml.bz2")
    counts = collections.Counter()
    texts = list(mediawiki_documents(path, counts))
    assert texts
    assert (
        counts["documents"]
        == len(texts)
        == sum(page.namespace == "0" and not page.is_redirect for page in dump_pages(path))
    )
    assert not [mark for mark in LEFTOVERS for text in texts if mark in text]
    assert texts == list(sources.documents([path], "mediawiki", sources.Split()))


@pytest.mark.slow
@pytest.mark.real_data
def test_a_part_of_a_real_dump_reads_whole_and_truncated(data_folder, tmp_path):
    """The file that Wikimedia gave out, cut to its first two hundred pages."""
    [path] = (data_folder / "text/mediawiki_dumps").glob("enwiki-*.bz2")
    counts = collections.Counter()
    texts = list(mediawiki_documents(str(path), counts))
    assert counts == {"documents": 102, "redirects": 99, "no text": 4, "other namespaces": 1}
    assert texts[0].startswith("Anarchism is a political philosophy that advocates self-governed societies")
    assert not [mark for mark in LEFTOVERS for text in texts if mark in text]
    cut = write(tmp_path, "cut.xml.bz2", path.read_bytes()[:1_000_000])
    stream = mediawiki_documents(cut)
    read = []
    with pytest.raises(CorpusError, match=r"after page \d+: found damaged compressed data"):
        read.extend(stream)
    assert 10 < len(read) < len(texts)
    assert read == texts[: len(read)]
