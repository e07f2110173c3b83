"""Lines of wiki text whose links and templates are resolved already: paragraphs, quotes, gaps and broken markup."""

# ruff: noqa: RUF001 - full-width punctuation of Chinese and Japanese
import re
from collections.abc import Iterator

GONE = "\x01"
"""Stands where something inline was left out, until brackets and commas around it are cleaned; XML cannot hold it."""
ITEM = "\x02"
"""Marks an item of a list."""
EDGE = "\x03"
"""Parts apostrophes that are text from marks, dell{{'}}''Iliade'', and blocks from a space after them; is removed."""

_TAGS = (
    "abbr b bdi big blockquote br center cite code dd del div dl dt em font gallery h[1-6] hr i includeonly ins kbd li "
    "math nobr noinclude nowiki ol onlyinclude p pre q ref references s small span strike strong sub sup table td th "
    "tr tt u ul var"
)
_KNOWN_TAG = re.compile(rf"</?(?:{_TAGS.replace(' ', '|')})\b[^<>]*>", re.IGNORECASE)
_HEADING = re.compile(r"\s*==.*==\s*|=[^=].*=\s*")
_BOLD_LINE = re.compile(r"('{3}|'{5})[^']*\1:?\s*")
_TABLE_LINE = re.compile(r"\s*(?:\{\||\|\}|[|!])")
_SWITCH = re.compile(r"__[^\W\d]+__")
_BROKEN = re.compile(EDGE + r"|\{\{|\}\}|\[\[|\]\]|\{\||\|\}")


def passages(text: str) -> Iterator[str]:
    """The paragraphs that are passages of text; one that announces what was left out ("as follows:") goes with it."""
    announced = ""
    for block in _blocks(text.split("\n")):
        paragraph = _clean(block)
        if paragraph and announced:
            yield announced
        announced = ""
        if not paragraph.endswith((":", "：")):
            yield from [paragraph] if paragraph else []
        elif not block.rstrip().endswith(GONE):
            announced = paragraph


def _blocks(lines: list[str]) -> Iterator[str]:
    """Lines that follow each other are one paragraph, as MediaWiki shows them; "" where a list, table or code stood."""
    block: list[str] = []
    for line in lines:
        if not line.replace(EDGE, "").strip():
            stop = ()
        elif _is_left_out(line):
            stop = ("",)
        else:
            # A formula on a line of its own is an item of a list, and stands within the paragraph around it.
            block.append(_without_quotes(line.replace(ITEM, GONE)))
            continue
        if block:
            yield " ".join(block)
        block = []
        yield from stop
    if block:
        yield " ".join(block)


def _is_left_out(line: str) -> bool:
    if ITEM in line:
        return any(character.isalnum() for character in line)
    # MediaWiki shows a line that starts with a space as code.
    patterns = (_HEADING, _BOLD_LINE)
    return line[0] == " " or any(pattern.fullmatch(line) for pattern in patterns) or bool(_TABLE_LINE.match(line))


def _clean(block: str) -> str:
    """A paragraph without what is left of markup; "" where no word remains."""
    block = _SWITCH.sub(lambda found: found[0] if found[0].islower() else "", " ".join(block.split()))
    block = _BROKEN.sub("", _without_gaps(_KNOWN_TAG.sub("", block)))
    block = " ".join(block.split())
    return block if any(character.isalpha() for character in block) else ""


_QUOTES = re.compile("'{2,}")


def _without_quotes(line: str) -> str:
    """Removes the marks of italics ('') and bold (''') and keeps the apostrophes beside them: dell'''Iliade''.

    MediaWiki's rule: of four apostrophes the first is text, of more than five all but the last five. Where the numbers
    of italic and of bold marks in a line are both odd, one ''' is an apostrophe and '': the first after a word of one
    letter, or else after a longer word, or else after a space.
    """
    runs = [(found.start(), len(found[0])) for found in _QUOTES.finditer(line)]
    marks = [3 if length == 4 else min(length, 5) for _, length in runs]
    kept = [length - mark for (_, length), mark in zip(runs, marks, strict=True)]
    bold = [index for index, mark in enumerate(marks) if mark == 3]
    if bold and sum(mark != 2 for mark in marks) % 2 and sum(mark != 3 for mark in marks) % 2:
        kept[min(bold, key=lambda index: _rank_of_apostrophe(line[: runs[index][0]]))] += 1
    replacements = iter(kept)
    return _QUOTES.sub(lambda _: "'" * next(replacements), line)


def _rank_of_apostrophe(before: str) -> int:
    if before[-1:] in {"", " "}:
        return 2
    return 0 if before[-2:-1] in {"", " "} else 1


# Repetitions are bounded, so that a line of nothing but commas takes no quadratic time.
_OPEN, _CLOSE, _SEPARATORS = r"(\[（「", r")\]）」", r" ,;:،؛，；、"
_EMPTY_BRACKETS = re.compile(rf"[{_OPEN}][{_SEPARATORS}]{{0,9}}{GONE}[{_SEPARATORS}{GONE}]{{0,99}}[{_CLOSE}]")
_AFTER_OPENING = re.compile(rf"([{_OPEN}]|^)[{_SEPARATORS}]{{0,9}}{GONE}[{_SEPARATORS}{GONE}]{{0,99}}")
_BEFORE_CLOSING = re.compile(rf"[{_SEPARATORS}]{{0,9}}{GONE}[{_SEPARATORS}{GONE}]{{0,99}}([{_CLOSE}])")
_BETWEEN_COMMAS = re.compile(rf"([,،，])(?: ?{GONE}[ {GONE}]{{0,99}}[,،，])+")
_BEFORE_END = re.compile(rf"[ ,;،，；]{{0,9}}{GONE}[ {GONE}]{{0,99}}([.!?。])")
_BEFORE_MARK = re.compile(rf" ?{GONE}[ {GONE}]{{0,99}}([,.;:!?،؛，。；])")


def _without_gaps(text: str) -> str:
    """Removes GONE, with the brackets, commas and spaces that only served what stood there."""
    if GONE not in text:
        return text
    text = _EMPTY_BRACKETS.sub(GONE, text)
    text = _BEFORE_CLOSING.sub(r"\1", _AFTER_OPENING.sub(r"\1", text))
    text = _BEFORE_END.sub(r"\1", _BETWEEN_COMMAS.sub(r"\1", text))
    text = _BEFORE_MARK.sub(r"\1", text)
    return text.replace(GONE, "")
