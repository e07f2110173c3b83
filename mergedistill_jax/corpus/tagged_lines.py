"""Lines of labelled files, a token a line, to words and tags; every format checks what it is given.

    tsv           word, tag                          XTREME's UDPOS and PAN-X, WikiANN as published (en:Ada), HiNER
    indexed_tsv   number, word, tag                  WikiANN test sets, WikiNEuRal, MultiNERD
    conll         word, ..., tag                     CoNLL-2002 and 2003, WNUT, MultiCoNER: the last column is the tag
    conllu        ten columns, or those that `# global.columns` names; UPOS is the tag     Universal Dependencies
    conllu:NER    the same with another column as the tag
    ID FORM TAG _ _   any other layout, by the names of its columns: here Universal NER; FiNER is `FORM TAG _`

But for CoNLL-U, columns are parted by tabs or, in a file without, by spaces. Blank lines, -DOCSTART- lines and FiNER's
<HEADLINE> lines end sentences; lines of `#` that are no token are comments. Blank tokens outside entities, such as the
ideographic spaces of PAN-X in Japanese, are left out: no tokenizer makes anything of them.
"""

import dataclasses
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence

UPOS = (
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
)
"""The tags of parts of speech (Universal Dependencies, version 2)."""
FORMATS = {"tsv": "FORM TAG", "indexed_tsv": "ID FORM TAG", "conll": "FORM ... TAG", "conllu": ""}
CONLLU_COLUMNS = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_GLOBAL_COLUMNS = re.compile(r"#\s*global\.columns\s*=\s*(.*)")
_BOUNDARY = re.compile(r"\s*|-DOCSTART-(?:[\s(].*)?|<[A-Z]+>[\t ]*", re.DOTALL)
_LANGUAGE_PREFIX = re.compile(r"((?:simple|[a-z]{2,3})(?:-[a-z]+)*:)(.*)", re.DOTALL)
_ENTITY_TAG = re.compile(r"(?:O|[BILUSEM]-(.+))")
_TO_BIO = {"L": "I", "E": "I", "M": "I", "U": "B", "S": "B"}

Sentence = tuple[tuple[str, ...], tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Which columns a file has; `names` is empty where all that counts are the first and the last one."""

    names: tuple[str, ...]
    tag: str
    only_tabs: bool = False

    def index(self, name: str) -> int:
        if not self.names:
            return {"FORM": 0, self.tag: -1}[name]
        return self.names.index(name)

    @property
    def is_numbered(self) -> bool:
        return "ID" in self.names


def check_format(address: str, file_format: str) -> None:
    """Refuses a format that is not known.

    Raises:
        ValueError: naming the known ones.
    """
    names = file_format.split()
    if file_format.partition(":")[0] in FORMATS or {"FORM", "TAG"} <= set(names):
        return
    raise ValueError(
        f"{address}: file_format: found {file_format!r}, expected one of {sorted(FORMATS)},"
        " or the names of the columns, such as 'ID FORM TAG _'"
    )


def read_sentences(address: str, text: str, file_format: str, task: str | None = None) -> list[Sentence]:
    """Words and tags of all sentences.

    Args:
        address: of the file, for messages.
        text: its contents.
        file_format: one of FORMATS, with a tag's column or not, or the names of all columns.
        task: "pos": tags must be UPOS, CONJ of version 1 becomes CCONJ. "ner": tags must be O or a type behind B- or
            I-; IOB1 is kept, for the scores read it as they read IOB2, and IOBES and BILOU are written with B- and I-.
            None: any tag.

    Raises:
        ValueError: naming file, line, field, found and expected.
    """
    # Not splitlines(): a word may hold U+0085 or U+2028, which are no line ends in these formats.
    lines = [line.removesuffix("\r") for line in text.split("\n" if "\n" in text else "\r")]
    is_conllu = file_format.partition(":")[0] == "conllu"
    layout = _conllu_layout(address, lines, file_format) if is_conllu else _column_layout(file_format)
    sentences: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    for number, columns in [*_rows(address, lines, layout), (len(lines), None)]:
        if columns is not None:
            word, tag = columns
            words.append(word)
            tags.append(_checked_tag(f"{address}:{number}: {layout.tag.lower()}", tag, task))
        elif words:
            sentences.append((tuple(words), tuple(tags)))
            words, tags = [], []
    if not is_conllu:
        sentences = _without_language(address, sentences)
    _check_words(address, {word for words, _ in sentences for word in words})
    return sentences


def _column_layout(file_format: str) -> _Layout:
    names = FORMATS.get(file_format, file_format).split()
    return _Layout(() if "..." in names else tuple(names), "TAG")


def _conllu_layout(address: str, lines: Sequence[str], file_format: str) -> _Layout:
    names = next((tuple(found[1].split()) for line in lines if (found := _GLOBAL_COLUMNS.match(line))), CONLLU_COLUMNS)
    tag = file_format.partition(":")[2] or "UPOS"
    for name in ("FORM", tag):
        if name not in names:
            raise ValueError(f"{address}: columns: found {' '.join(names)}, expected one named {name}")
    return _Layout(names, tag, only_tabs=True)


def _rows(address: str, lines: Sequence[str], layout: _Layout) -> Iterator[tuple[int, tuple[str, str] | None]]:
    """The number of each line with its word and tag, or with None where it ends a sentence."""
    first = next((line for line in lines if not _BOUNDARY.fullmatch(line) and not line.startswith("#")), "")
    has_tabs = layout.only_tabs or "\t" in first
    count = len(layout.names) or len(_split(first, has_tabs=has_tabs))
    for number, line in enumerate(lines, start=1):
        if _BOUNDARY.fullmatch(line):
            yield number, None
            continue
        columns = _split(line, has_tabs=has_tabs)
        if len(columns) == count + 1 and not columns[-1].strip():
            columns.pop()
        if line.startswith("#") and (layout.is_numbered or len(columns) != count or re.match(r"#\s+id\s", line)):
            continue
        place = f"{address}:{number}"
        if len(columns) != count or count < 2:
            raise ValueError(f"{place}: columns: found {len(columns)} in {line[:80]!r}, expected {max(count, 2)}")
        if layout.is_numbered and not _is_word(place, columns[layout.index("ID")]):
            continue
        word, tag = columns[layout.index("FORM")].strip(" "), columns[layout.index(layout.tag)].strip()
        if word.strip() or tag != "O":
            _check_row(place, layout, word, tag)
            yield number, (word, tag)


def _check_row(place: str, layout: _Layout, word: str, tag: str) -> None:
    for field, value in (("form", word), (layout.tag.lower(), tag)):
        if not value.strip():
            raise ValueError(f"{place}: {field}: found {value!r}, expected a non-empty string")
    # "_" is a word like any other, but as a tag it stands for "none".
    if tag == "_":
        raise ValueError(f"{place}: {layout.tag.lower()}: found '_', expected a tag")


def _split(line: str, *, has_tabs: bool) -> list[str]:
    # Of all spaces only U+0020: words hold no-break spaces.
    return line.split("\t") if has_tabs else re.split(" +", line.strip(" "))


def _is_word(place: str, number: str) -> bool:
    """Whether a token's number is a word's, not that of a multiword token (2-3) or an empty node (5.1)."""
    if not re.fullmatch(r"\d+(?:[-.]\d+)?", number):
        raise ValueError(f"{place}: id: found {number!r}, expected a number, a range or a decimal")
    return number.isdigit()


def _checked_tag(place: str, tag: str, task: str | None) -> str:
    if task == "pos":
        tag = "CCONJ" if tag == "CONJ" else tag
        if tag not in UPOS:
            raise ValueError(f"{place}: found {tag!r}, expected one of {' '.join(UPOS)}")
    elif task == "ner":
        if not _ENTITY_TAG.fullmatch(tag):
            raise ValueError(f"{place}: found {tag!r}, expected O, or an entity's type behind B- or I-")
        return _TO_BIO.get(tag[0], tag[0]) + tag[1:]
    return tag


def _without_language(address: str, sentences: list[Sentence]) -> list[Sentence]:
    """WikiANN as published has the wiki's code before every word, `en:Ada`; it is taken off."""
    words = [word for words, _ in sentences for word in words]
    found = [match[1] for word in words if (match := _LANGUAGE_PREFIX.fullmatch(word))]
    if found and len(found) == len(words):
        return [stripped for sentence in sentences if (stripped := _without_prefix(address, sentence))[0]]
    if found and len(found) > len(words) / 2:
        raise ValueError(
            f"{address}: form: found a language such as {found[0]!r} before {len(found)} of {len(words)} words,"
            " expected it before all, as WikiANN has it, or none"
        )
    return sentences


def _without_prefix(address: str, sentence: Sentence) -> Sentence:
    words: list[str] = []
    tags: list[str] = []
    for word, tag in zip(*sentence, strict=True):
        _, prefix, bare = word.partition(":")
        if bare.strip():
            words.append(bare)
            tags.append(tag)
        elif tag != "O":
            raise ValueError(f"{address}: form: found {word!r} tagged {tag}, expected a word behind {prefix!r}")
    return tuple(words), tuple(tags)


def _check_words(address: str, words: set[str]) -> None:
    """Refuses words that have something in common which the words of a text have not."""
    few = 3
    if words == {"_"}:
        raise ValueError(f"{address}: form: found '_' for every word, expected words: the text is left out of the file")
    if len(words) >= few and all(word.isdigit() for word in words):
        raise ValueError(f"{address}: form: found nothing but numbers, expected words: is the column that of an index?")
    prefix = os.path.commonprefix(sorted(words)) if len(words) >= few else ""  # noqa: RUF071 - characters are wanted
    if any(unicodedata.category(character)[0] not in "LMN" for character in prefix):
        raise ValueError(f"{address}: form: found {prefix!r} before every word, expected words as the text has them")
