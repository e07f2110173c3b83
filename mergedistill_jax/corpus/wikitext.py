"""MediaWiki markup to plain text: the text passages of an article, a paragraph a line.

    '''Berlin''' ({{IPA|de|...}}) is the [[capital city|capital]] of [[Germany]].<ref>Statistik</ref>
    -> Berlin is the capital of Germany.

Headings, lists, tables, references, pictures and formulas are left out, as in BERT's own Wikipedia text (Devlin et al.
2019, section 3.1: "only the text passages", without "lists, tables, and headers"). The student then reads what its
teachers read, and the headings that articles share ("References") do not become the most frequent texts of a corpus.

mwparserfromhell parses the markup; this file walks its tree, and wikitext_lines.py cleans what it could not balance.
"""

# ruff: noqa: RUF001 - dashes of the wikis
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

import mwparserfromhell
from mwparserfromhell import nodes
from mwparserfromhell.parser import ParserError
from mwparserfromhell.wikicode import Wikicode

from mergedistill_jax.corpus.transclusion import own_page
from mergedistill_jax.corpus.variants import without_variants
from mergedistill_jax.corpus.wikitext_cost import parsing_cost
from mergedistill_jax.corpus.wikitext_lines import EDGE, GONE, ITEM, passages

_LEFT_OUT_BLOCKS = (
    "categorytree gallery graph imagemap inputbox mapframe pre source style syntaxhighlight table templatedata timeline"
)
_BLOCKS = "blockquote center div dl h1 h2 h3 h4 h5 h6 hr ol p poem td th tr ul"
LEFT_OUT_INLINE = frozenset(
    ["ce", "chem", "hiero", "indicator", "maplink", "math", "score", "section", "templatestyles"]
)
LEFT_OUT_BLOCKS = frozenset(_LEFT_OUT_BLOCKS.split())
NOTES = frozenset(["ref", "references"])
ITEMS = frozenset(["li", "dd", "dt"])
BLOCKS = frozenset(_BLOCKS.split())

CATEGORIES = (
    "category kategorie categoría categoria catégorie categorie luokka kategori kategoria jamii категория категорія "
    "تصنيف رده زمرہ زمرو श्रेणी वर्ग वर्गः বিষয়শ্রেণী শ্ৰেণী ਸ਼੍ਰੇਣੀ શ્રેણી ଶ୍ରେଣୀ பகுப்பு వర్గం ವರ್ಗ വർഗ്ഗം 分类 分類 カテゴリ 분류"
)
"""Names of categories in larger wikis: files cut out of dumps often begin with another wiki's names."""
CHARACTERS = {"nbsp": " ", "snd": " – ", "spaced ndash": " – ", "ndash": "–", "mdash": "—"} | {
    "'": f"{EDGE}'{EDGE}",
    "'s": f"{EDGE}'s",
}
"""Templates that stand for a few characters."""
MEDIA_FILE = re.compile(
    r"[^:]+:.*\.(?:gif|jpe?g|mid|mp[34]|og[agv]|pdf|png|svg|tiff?|wav|webm|webp|xcf)", re.IGNORECASE
)
OTHER_LANGUAGE = re.compile(r"(?:[a-z]{2,3}(?:-[a-z-]+)?|simple):\S")


MAX_COST = 10_000_000
"""Largest `parsing_cost`: seconds of parsing. Articles have up to a tenth of it."""


class MarkupError(ValueError):
    """Wiki text that the parser cannot read; the message is one line."""


def plain_text(markup: str, hidden_namespaces: Iterable[str] = (), *, language: str = "") -> str:
    """The text passages of an article, a paragraph a line; "" where there is none.

    Args:
        markup: wiki text.
        hidden_namespaces: the wiki's own names for files and categories, whose links show no text. The English names,
            CATEGORIES, and links to media files by their endings are always known.
        language: code of the wiki's language, "" where it is not known, see variants.py.

    Raises:
        MarkupError: the parser fails, or would take very long.
    """
    hidden = frozenset(name.casefold() for name in (*hidden_namespaces, "File", "Image", *CATEGORIES.split()))
    markup = own_page(markup)
    if parsing_cost(markup) > MAX_COST:
        raise MarkupError("wiki text: found too many marks that are not closed, expected an article")
    # Quotes are left to wikitext_lines, which knows MediaWiki's rule for those that do not pair up.
    try:
        tree = mwparserfromhell.parse(markup, skip_style_tags=True)
    except (ParserError, RecursionError, SystemError) as error:
        raise MarkupError(f"wiki text: found markup that fails the parser ({error}), expected an article") from error
    return "\n".join(passages(without_variants("".join(_shown(tree, hidden)), language)))


def _shown(tree: Wikicode, hidden: frozenset[str]) -> Iterator[str]:
    """The visible parts of a tree, with GONE, ITEM and EDGE in their places."""
    for node in tree.nodes:
        match node:
            case nodes.Text():
                yield node.value
            case nodes.HTMLEntity():
                yield _character(node)
            case nodes.Wikilink():
                yield from _link(node, hidden)
            case nodes.ExternalLink():
                yield from _shown(node.title, hidden) if node.title is not None else [GONE]
            case nodes.Tag():
                yield from _tag(node, hidden)
            case nodes.Template():
                yield from _template(node, hidden)
            case nodes.Heading():
                yield "\n\n"
            case nodes.Argument():
                yield GONE


def _character(node: nodes.HTMLEntity) -> str:
    """What &nbsp; or &#8211; stands for; a space for control characters and halves of surrogate pairs."""
    text = node.normalize()
    if text in {"-", "{", "}"}:
        return f"{EDGE}{text}{EDGE}"  # no part of a rule of variants
    return " " if any(unicodedata.category(character) in {"Cc", "Cs"} for character in text) else text


def _link(node: nodes.Wikilink, hidden: frozenset[str]) -> Iterator[str]:
    title = str(node.title).strip()
    namespace, colon, _ = title.partition(":")
    if colon and (namespace.strip().casefold() in hidden or MEDIA_FILE.fullmatch(title)):
        yield GONE
    elif node.text is not None:
        yield from _shown(node.text, hidden)
    elif not OTHER_LANGUAGE.match(title):
        yield "".join(_shown(node.title, hidden)).strip().removeprefix(":")


def _tag(node: nodes.Tag, hidden: frozenset[str]) -> Iterator[str]:
    name = str(node.tag).strip().casefold()
    if name in NOTES:
        return
    if name in LEFT_OUT_INLINE:
        yield GONE
    elif name in LEFT_OUT_BLOCKS:
        yield f"\n\n{GONE}\n\n{EDGE}"
    elif name == "nowiki":
        contents = "".join(_contents(node, hidden)).replace("-{", f"-{EDGE}{{").replace("}-", f"}}{EDGE}-")
        yield f"{EDGE}{contents}{EDGE}"
    elif name == "br":
        yield "\n"
    elif name in ITEMS:
        yield from ("" if node.wiki_markup else "\n", ITEM, *_contents(node, hidden))
    elif name in BLOCKS:
        yield from (f"\n\n{EDGE}", *_contents(node, hidden), f"\n\n{EDGE}")
    else:
        yield from _contents(node, hidden)


def _contents(node: nodes.Tag, hidden: frozenset[str]) -> Iterator[str]:
    if node.contents is not None:
        yield from _shown(node.contents, hidden)


def _template(node: nodes.Template, hidden: frozenset[str]) -> Iterator[str]:
    """GONE, but for the few templates without which a sentence of many articles would have a hole."""
    name = str(node.name).strip().replace("_", " ").casefold()
    is_number = [not parameter.showkey or str(parameter.name).strip().isdigit() for parameter in node.params]
    arguments = [
        "".join(_shown(parameter.value, hidden)).strip()
        for parameter, positional in zip(node.params, is_number, strict=True)
        if positional
    ]
    if name in CHARACTERS:
        yield CHARACTERS[name]
    elif name.startswith("formatnum:") and "{" not in name:
        yield name.removeprefix("formatnum:")
    elif name in SHOWN and arguments:
        yield SHOWN[name](arguments)
    else:
        yield GONE


def _measure(arguments: Sequence[str]) -> str:
    """The quantity of {{convert|10|to|20|km|mi}} as the article gives it: "10 to 20 km"."""
    last = 1
    while last + 2 < len(arguments) and arguments[last] in {"-", "–", "to", "and", "or", "by", "x", "×"}:
        last += 2
    return " ".join(arguments[: last + 1])


SHOWN: dict[str, Callable[[Sequence[str]], str]] = {
    "lang": lambda arguments: arguments[-1],
    "transl": lambda arguments: arguments[-1],
    "nowrap": lambda arguments: arguments[0],
    "nobr": lambda arguments: arguments[0],
    '"': lambda arguments: f'"{arguments[0]}"',
    "chem": "".join,
    "linktext": "".join,
    "convert": _measure,
    "cvt": _measure,
}
"""Templates that show their arguments within a sentence, and what they show; most wikis have them by these names."""
