# ruff: noqa: RUF001 - dashes and full-width brackets are what is tested
import mwparserfromhell
import pytest
from mwparserfromhell.parser import ParserError

from mergedistill_jax.corpus import wikitext
from mergedistill_jax.corpus.wikitext import MarkupError, plain_text
from mergedistill_jax.corpus.wikitext_cost import parsing_cost

ARTICLE = """{{Infobox city
| name = Berlin
| population = 3,700,000 <!-- 2020 -->
| image = [[File:Skyline.jpg|thumb|The ''skyline'']]
}}
[[File:Wall.jpg|thumb|upright=1.2|The [[Berlin Wall|wall]], seen from [[Kreuzberg]]]]
'''Berlin''' ({{IPAc-en|b|ɜːr|ˈ|l|ɪ|n}}; {{IPA|de|bɛʁˈliːn}}) is the [[capital city|capital]] of
[[Germany]].<ref name="a">
{{cite book|title=Berlin}}</ref> It covers {{convert|891|km2|sqmi}}<ref name="a"/>
and has ''many'' lakes&nbsp;&ndash; among them the {{lang|de|Müggelsee}}.

== History <!-- long --> ==
{{main|History of Berlin}}
First documented in the 13th century.<br />It was the capital of:
* [[Prussia]]
* the [[Weimar Republic]]

{| class="wikitable"
! Year !! People
|-
| 1920 || 3,879,409
|}
== References ==
{{reflist}}
<references />
[[Category:Berlin| ]]
[[de:Berlin]]
__NOTOC__
"""


def test_an_article_becomes_its_text_passages():
    assert plain_text(ARTICLE).split("\n") == [
        "Berlin is the capital of Germany. It covers 891 km2 and has many lakes – among them the Müggelsee.",
    ]


def test_the_announcement_of_a_list_goes_with_it_and_stays_before_text():
    assert plain_text("Text.\n\nIt was:\n* a\n* b\n\nMore.") == "Text.\nMore."
    assert plain_text("He wrote:\n<blockquote>A quotation.</blockquote>") == "He wrote:\nA quotation."
    assert plain_text("He wrote: {{quote|A quotation.}}\n\nMore.") == "More."
    assert plain_text("He wrote:\n<div>\n<p> A quotation.</p></div>") == "He wrote:\nA quotation."
    assert plain_text("Text.\n\nIt was:") == "Text."


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("[[a|the ''b'']] [[c]]s [[:File:d|e]] [[:Category:F]]", "the b cs e Category:F"),
        ("x [[Datei:a.PNG|mini|[[b]] c]] y", "x y"),
        ("x [[Bild:keine Endung|mini|b]] y", "x y"),
        ("x [[Kategorie:b]][[category:c|d]] y", "x y"),
        ("x [[fr:Berlin]] y [[zh-min-nan:Berlin]]", "x y"),
        ("[[Star Wars: A New Hope]], [[M*A*S*H]], [[2001: x|y]]", "Star Wars: A New Hope, M*A*S*H, y"),
        ("a[http://b.c d e]f [http://b.c] http://b.c g", "ad ef g"),
        ("a<ref>b</ref>c<ref name=d />e", "ace"),
        ("a<!-- b\n\nc -->d", "ad"),
        ("x <math>a_b</math>, <gallery>\nA.jpg|b\n</gallery> y", "x,\ny"),
        ("H<sub>2</sub>O, <span style='color:red'>m<sup>2</sup></span>", "H2O, m2"),
        ("<nowiki>''a''</nowiki> &amp; b &lt;c&gt;", "a & b <c>"),
        ("a__NOTOC__b __init__ __KEIN_INHALT__", "ab __init__"),
        ("{{{1|a}}} b", "b"),
    ],
)
def test_inline_markup(markup, text):
    assert plain_text(markup, ["Bild"]) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("Foo ({{a}}) b", "Foo b"),
        ("Foo ({{a}}, {{b}}; born 1920) b", "Foo (born 1920) b"),
        ("Foo (born 1920, {{a}}) b", "Foo (born 1920) b"),
        ("Foo, {{a}}, b, {{a}}.", "Foo, b."),
        ("Foo {{a}}. b {{a}} c", "Foo. b c"),
        ("{{a}}, Foo", "Foo"),
        ("柏林（{{a}}，{{b}}）是", "柏林是"),
        ("call f() , then", "call f() , then"),
    ],
)
def test_brackets_and_commas_that_only_served_a_template_go_with_it(markup, text):
    assert plain_text(markup) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("{{convert|5|km}}, {{cvt|10|to|20|km|mi}}, {{convert|3|by|4|m|ft|abbr=on}}", "5 km, 10 to 20 km, 3 by 4 m"),
        ("a{{snd}}b {{lang|la|''c''}} {{nowrap|d [[e]]}} {{lang|fr|2=f}}", "a – b c d e f"),
        ('{{chem|H|2|O}} {{formatnum:12345}} {{"|ja}} ${{formatnum:{{inflation|US|1}}}}.', 'H2O 12345 "ja" $.'),
        ("a {{lang}} {{convert}} b", "a b"),
    ],
)
def test_templates_that_are_part_of_a_sentence_show_it(markup, text):
    assert plain_text(markup) == text


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("''a'' '''b''' '''''c'''''", "a b c"),
        (
            "dell<nowiki>'</nowiki>''Iliade'' e dell'<nowiki/>''Odissea'' e l{{'}}''Eneide''",
            "dell'Iliade e dell'Odissea e l'Eneide",
        ),
        ("dell'''Iliade''", "dell'Iliade"),
        ("l'''Eneide''", "l'Eneide"),
        ("un '''a''' d'''Ib'' e", "un a d'Ib e"),
        ("''''a'''' b ''''''c'''''", "'a' b 'c"),
        ("l'arte, it's", "l'arte, it's"),
    ],
)
def test_quotes_follow_mediawiki(markup, text):
    """Where the numbers of bold and of italic marks are both odd, one of three is an apostrophe and italics."""
    assert plain_text(markup) == text


@pytest.mark.parametrize(
    "line", ["* a", "# a", "; a", ": a", " code", "== A ==", "'''A'''", "{|\n|a\n|}", "<ul><li>a</li></ul>"]
)
def test_what_is_no_passage_of_text_is_left_out_and_ends_the_paragraph(line):
    assert plain_text(f"One.\n{line}\nTwo.") == "One.\nTwo."


def test_lines_that_follow_each_other_are_one_paragraph_as_the_wiki_shows_them():
    assert plain_text("one\ntwo\n\n\nthree\n{{a}}\nfour") == "one two\nthree four"
    assert plain_text("where\n:<math>x</math>\nis a number.") == "where is a number."


CHEMISTRY = "4-(2-{4-[(11R)-3,10-dibromo]piperidin-1-yl}-2-oxoethyl)amide"


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("-{甲}-、-{zh-cn:乙; zh-tw:丙}-、-{T|zh-cn:丁}-、-{zh-hans|戊}-、-{A|zh:己}-。", "甲、乙、、戊、己。"),
        ("-{zh-tw:丁;zh-hk:戊;zh-cn:丙}-", "丙"),  # by MediaWiki's order, not by the page's
        ("-{zh-hant:繁;zh-hans:简}-、-{zh:原;zh-hans:简}-", "简、原"),
        ("-{zh-hans:-{鼠标}-;zh-hant:-{滑鼠}-}-测", "鼠标测"),
        ("-{zh-hans:甲-{zh-hans:乙;zh-hant:丙}-;zh-hant:丁}-测", "甲乙测"),
        ("-{zh-Hans:软件;zh-Hant:軟體}-、-{zh-Hant-TW:甲}-", "软件、甲"),
        ("-{zh-hans;zh-cn|软件}-、-{zh-tw|軟體}-", "软件、軟體"),
        ("甲-{H|zh-cn:软件;zh-tw:軟體}-乙-{-|zh-cn:软件;zh-tw:軟體}-丙", "甲乙丙"),
        ("甲-{\nH|\nzh-cn:软件;\nzh-tw:軟體;\n}-乙", "甲乙"),
        ("甲-{R|zh-cn:软件}-、-{N|zh-hans}-、-{D|zh-hans:a;zh-hant:b}-", "甲zh-cn:软件、简体、简体：a；繁體：b；"),
        ("-{x=>zh-hans:乙;x=>zh-hant:丙}-甲", "乙甲"),
        ("-{zh-hans:[[A|甲]];zh-hant:[[B|乙]]}-", "甲"),
        ("-{zh-hans:<span style='a:b;c'>甲</span>;zh-hant:乙}-", "甲"),
        ("-{zh-hans:a:b;c;zh-hant:乙}-甲", "a:b;c甲"),  # a semicolon parts rules only before a variant
        ("-{sr-ec:Ћ;sr-el:Ć}-, -{sr-latn:Ć}-, -{kk-latn:Q;kk-cyrl:Қ}-, -{gan-hant:甲}-", "Ћ, Ć, Қ, 甲"),
        (f"The {CHEMISTRY} of it", f"The {CHEMISTRY} of it"),
        ("sets -{a, b}- and -{c|d}- and -{e", "sets -{a, b}- and -{c|d}- and -{e"),
        ("<nowiki>-{zh-hans:甲;zh-hant:乙}-</nowiki>", "-{zh-hans:甲;zh-hant:乙}-"),
        ("-&#123;zh-hans:甲;zh-hant:乙}-", "-{zh-hans:甲;zh-hant:乙}-"),
    ],
)
def test_rules_of_script_variants_show_what_mediawiki_shows(markup, text):
    assert plain_text(markup) == text


def test_in_a_wiki_with_a_converter_every_rule_is_one():
    assert plain_text("-{Microsoft}- и -{foo|bar}-", language="sr") == "Microsoft и bar"
    assert plain_text("-{Microsoft}- и -{foo|bar}-", language="bs") == "-{Microsoft}- и -{foo|bar}-"
    assert plain_text("-{甲、}-乙", language="zh") == "甲、乙"
    assert plain_text("-{甲、乙", language="zh") == "-{甲、乙"
    assert plain_text("甲-{zh-hans:ike}-", language="iu") == "甲zh-hans:ike"  # no variant of this language


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("The text <includeonly>hidden text</includeonly>is here.", "The text is here."),
        ("a <IncludeOnly>b</INCLUDEONLY > c", "a c"),
        ("a <includeonly>b\n\n{|\nc", "a"),  # runs to the end of the page
        ("a <includeonly/>b", "a b"),
        ("a <includeonly>x <includeonly>y</includeonly> z</includeonly> b", "a z b"),  # the first end tag ends it
        ("a <noinclude>b</noinclude> <onlyinclude>c</onlyinclude> d", "a b c d"),
        ("a <noinclude>b <includeonly>c</includeonly></noinclude> d", "a b d"),
        ("a <noinclude>b", "a b"),
        ("<onlyinclude>a [[b|c]]</onlyinclude> d", "a c d"),
        ("a <!-- <includeonly> --> b", "a b"),
        ("a <nowiki><includeonly></nowiki> b", "a b"),
        ("a<onlyinclude> {{x</onlyinclude>|<noinclude>y</noinclude>}} b", "a b"),
    ],
)
def test_a_page_shows_itself_as_it_is_not_transcluded(markup, text):
    assert plain_text(markup) == text


@pytest.mark.parametrize(
    "mark",
    [
        "<b>",
        "<nowiki>",
        "<ref ",
        "<!--",
        "[[a|",
        "{{a|",
        "{{{a|",
        "http://[",
        "[http://a ",
        "<div>",
        "</b><i>",
        "]]{{a|b",
    ],
)
def test_a_page_of_marks_that_are_not_closed_is_refused_before_it_is_parsed(mark):
    """The parser would take minutes: it reads the rest of the page for each."""
    with pytest.raises(MarkupError, match="found too many marks that are not closed"):
        plain_text(mark * (60_000 // len(mark)))


def test_marks_that_are_closed_cost_nothing():
    assert parsing_cost("{{a|[[b|c]] <ref name=d>e</ref><br><li>f <ref g />}} <!-- h --> [http://i j] k" * 100) == 0
    assert parsing_cost("[0, 1) and [2, 3) and f(x] and a]] b}}" * 100) == 0


@pytest.mark.parametrize(
    "markup", ["[[a", "a]] b", "{{a", "b}}", "{|\n| a", "<b>a", "<ref>a", "a</ref> b", "<div>a", "'''a"]
)
def test_broken_markup_leaves_no_marks(markup):
    text = plain_text(f"Fine. {markup}\n\nAlso fine.")
    assert not set("[]{}|<>") & set(text)
    assert "''" not in text


def test_control_characters_and_half_characters_become_spaces():
    """&#xD800; would fail only later, where the text is encoded; &#1; and &#2; are marks of our own."""
    text = plain_text("a&#xD800;b&#1;c&#2;d&#0;e &zwnj;")
    assert text.encode().decode() == text
    assert text.startswith("a b c d")


def test_text_without_words_is_nothing():
    assert plain_text("") == plain_text("{{a}}\n\n1234 – 56\n\n== b ==") == ""


def test_a_failing_parser_is_one_line(monkeypatch):
    """The parser's own error says that it is a fault of the parser: no text is known that causes it."""

    def fail(*_, **__):
        raise ParserError("C tokenizer exited with non-empty token stack")

    monkeypatch.setattr(mwparserfromhell, "parse", fail)
    with pytest.raises(MarkupError, match="found markup that fails the parser") as error:
        plain_text("a")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("{{" * 20_000, ""),
        ("[[" * 20_000, ""),
        ("-{" * 50_000, ""),
        ("=" * 50_000, ""),
        ("a" + " " * 200_000 + "{{b}}c", "a c"),
        ("a" + "!" * 200_000 + ",{{b}},c", "a" + "!" * 200_000 + ",c"),
    ],
)
def test_repetition_ends(markup, text):
    """An expression that goes over the rest of the text from every place of it would take minutes for each."""
    assert plain_text(markup) == text


def test_names_of_categories_are_compared_without_case():
    assert all(name == name.casefold() for name in wikitext.CATEGORIES.split())
