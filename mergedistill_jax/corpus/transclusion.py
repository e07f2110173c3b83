"""What a wiki page shows of its own <includeonly>, <noinclude> and <onlyinclude>.

The three tell what of a page stands where it is transcluded. On the page itself, as MediaWiki's preprocessor has it
(includes/parser/Preprocessor_Hash.php), <includeonly> and its content are left out, up to the end of the page where it
is not closed; the tags of the two others are left out and their content is shown. Within comments, <nowiki>, <pre> and
code they are text.
"""

import re

_TAG = re.compile(
    r"<!--|<(?P<raw>nowiki|pre|syntaxhighlight|source)(?=[\s/>])[^>]*>|<includeonly(?:\s[^>]*)?>"
    r"|</?(?:noinclude|onlyinclude)(?:\s[^>]*)?>|</?(?:noinclude|onlyinclude)\s*/>",
    re.IGNORECASE,
)
_NEEDED = re.compile(r"<(?:includeonly|/?noinclude|/?onlyinclude)", re.IGNORECASE)
_CLOSING = re.compile(r"</includeonly\s*>", re.IGNORECASE)


def own_page(markup: str) -> str:
    """The wiki text that the page itself shows."""
    if not _NEEDED.search(markup):
        return markup
    parts: list[str] = []
    unclosed: set[str] = set()
    start = place = 0
    while found := _TAG.search(markup, place):
        place = found.end()
        if found[0] == "<!--" or found["raw"]:
            place = _end_of_raw(markup, found, unclosed)
            continue
        parts.append(markup[start : found.start()])
        if found[0].casefold().startswith("<includeonly") and not found[0].endswith("/>"):
            closing = _CLOSING.search(markup, place)
            place = closing.end() if closing else len(markup)
        start = place
    return "".join([*parts, markup[start:]])


def _end_of_raw(markup: str, opening: re.Match[str], unclosed: set[str]) -> int:
    """Where a comment, or an element whose content is no wiki text, ends; the end of its tag where it is not closed."""
    name = "!--" if opening[0] == "<!--" else opening["raw"].casefold()
    if name == "!--":
        end = markup.find("-->", opening.end())
        return len(markup) if end < 0 else end + 3
    if opening[0].endswith("/>") or name in unclosed:
        return opening.end()
    closing = re.compile(rf"</{name}\s*>", re.IGNORECASE).search(markup, opening.end())
    if closing is None:
        unclosed.add(name)  # looked for once, so that a page of unclosed tags takes no quadratic time
    return closing.end() if closing else opening.end()
