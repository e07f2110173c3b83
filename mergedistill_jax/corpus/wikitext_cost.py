"""How long wiki text takes to parse: mwparserfromhell reads the rest of a page for every mark that is not closed."""

import collections
import re

_MARK = re.compile(
    r"(?P<comment><!--)|(?P<comment_end>-->)|<(?P<end>/?)(?P<tag>[A-Za-z]\w*)(?P<rest>[^<>]*>?)|(?P<link>\[\[+)|(?P<link_end>\]\])"
    r"|(?P<url>\[(?=(?:[a-z]+:)?//)|(?<=://)\[)|(?P<url_end>\])|(?P<braces>\{\{+)|(?P<braces_end>\}\}+)",
)
_NEVER_CLOSED = frozenset(["br", "dd", "dt", "hr", "img", "li", "link", "meta", "td", "th", "tr", "wbr"])
_OPENING = {"comment_end": "comment", "link_end": "link", "url_end": "url", "braces_end": "braces"}


def parsing_cost(markup: str) -> int:
    """An estimate of the characters that the parser reads: the page, for every mark that is not closed."""
    unclosed: collections.Counter[str] = collections.Counter()
    for mark in _MARK.finditer(markup):
        kind = mark.lastgroup or ""
        if mark["tag"]:
            name, is_end = "<" + mark["tag"].casefold(), bool(mark["end"])
            if name[1:] in _NEVER_CLOSED or (not is_end and mark["rest"].endswith("/>")):
                continue
            count = 1
        else:
            name, is_end = _OPENING.get(kind, kind), kind in _OPENING
            count = len(mark[0]) // 2 if kind == "braces_end" else 1  # a run of opening ones is read once
        unclosed[name] = max(unclosed[name] - count, 0) if is_end else unclosed[name] + count
    return unclosed.total() * len(markup)
