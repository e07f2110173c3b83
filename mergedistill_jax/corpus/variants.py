"""MediaWiki's LanguageConverter: `-{...}-` in wikis whose language is written in several scripts.

    -{zh-hans:鼠标; zh-hant:滑鼠}-  -> 鼠标         -{H|zh-cn:软件; zh-tw:軟體}-  -> nothing
    -{A|zh-hans:鼠标; zh-hant:滑鼠}- -> 鼠标        -{R|text}-, -{zh-hans|text}-, -{text}-  -> text

Shown is what MediaWiki (includes/language/LanguageConverter.php and ConverterRule.php) shows to a reader who has chosen
no variant: text outside of rules stays as it was written, and of a rule the language's own variant or its first
fallback. Two things differ: a rule without any of these shows its first text, where MediaWiki shows an error; and rules
that apply to the rest of the page (A, H) change nothing there.
"""

import dataclasses
import functools
import re

# The variant that a reader without a choice gets, and its fallbacks, in order; after "/" the other variants.
_VARIANTS = """
    ban / ban-bali ban-x-dharma ban-x-palmleaf ban-x-pku
    crh crh-latn / crh-cyrl
    gan gan-hans gan-hant /
    iu ike-cans / ike-latn
    kk kk-cyrl / kk-latn kk-arab kk-kz kk-tr kk-cn
    ku ku-latn / ku-arab
    mni / mni-beng
    sh-latn / sh-cyrl
    shi shi-latn shi-tfng /
    sr sr-ec / sr-el
    tg / tg-latn
    tly / tly-cyrl
    uz uz-latn / uz-cyrl
    wuu wuu-hans wuu-hant /
    yue-hant yue-hans /
    zgh / zgh-latn
    zh zh-hans zh-hant zh-cn zh-tw zh-hk zh-sg zh-mo zh-my /
"""
_BCP47 = {
    "sr-cyrl": "sr-ec",
    "sr-latn": "sr-el",
    "zh-hans-cn": "zh-cn",
    "zh-hans-my": "zh-my",
    "zh-hans-sg": "zh-sg",
    "zh-hant-hk": "zh-hk",
    "zh-hant-mo": "zh-mo",
    "zh-hant-tw": "zh-tw",
}
_NAMES = {
    "zh": "原文",
    "zh-hans": "简体",
    "zh-hant": "繁體",
    "zh-cn": "大陆",
    "zh-tw": "臺灣",
    "zh-hk": "香港",
    "zh-mo": "澳門",
    "zh-sg": "新加坡",
    "zh-my": "大马",
}
_FLAGS = frozenset("ATRDHNS-")
_MAX_DEPTH = 10
_MARK = re.compile(r"-\{|\}-")


@dataclasses.dataclass(frozen=True)
class _Converter:
    shown: tuple[str, ...]
    variants: frozenset[str]


def _converters() -> dict[str, _Converter]:
    table = {}
    for line in _VARIANTS.strip().splitlines():
        shown, others = (part.split() for part in line.split("/"))
        table[shown[0].split("-")[0]] = _Converter(tuple(shown), frozenset(shown + others))
    return table


CONVERTERS = _converters()
"""By the code of the wiki's language."""
_LANGUAGE_OF = {variant: code for code, converter in CONVERTERS.items() for variant in converter.variants}


def without_variants(text: str, language: str = "") -> str:
    """The text with what a reader sees in the place of each rule.

    Args:
        text: text of a page, its links and templates resolved.
        language: code of the wiki's language. Where it has no converter, or is unknown, only what is a rule beyond
            doubt is one: it has a flag, or names variants of a language that has a converter, or holds no letter or
            digit of ASCII. Chemistry has braces behind hyphens: 4-(2-{4-[(11R)-3-bromo]piperidin-1-yl}-2-oxo)amide.
    """
    if "-{" not in text:
        return text
    converter = CONVERTERS.get(language.lower())
    open_rules: list[list[str]] = [[]]
    start = 0
    for mark in _MARK.finditer(text):
        open_rules[-1].append(text[start : mark.start()])
        start = mark.end()
        if mark[0] == "-{" and len(open_rules) <= _MAX_DEPTH:
            open_rules.append([])
        elif mark[0] == "}-" and len(open_rules) > 1:
            inner = "".join(open_rules.pop())
            open_rules[-1].append(_display(inner, converter))
        else:
            open_rules[-1].append(mark[0])
    open_rules[-1].append(text[start:])
    return "-{".join("".join(parts) for parts in open_rules)


def _display(rule: str, converter: _Converter | None) -> str:
    """What a reader sees of -{rule}-."""
    before, bar, after = rule.partition("|")
    rules = after if bar else rule
    known = _LANGUAGE_OF if converter is None else converter.variants
    flags = {flag for part in before.split(";") if (flag := part.strip()) in known or flag in _FLAGS} if bar else set()
    two_way, one_way = _tables(rules, converter)
    if converter is None:
        named = next((code for code in (*two_way, *one_way, *flags) if code in _LANGUAGE_OF), None)
        if named is None and not flags and re.search("[0-9A-Za-z]", rule):
            return "-{" + rule + "}-"
        converter = CONVERTERS[_LANGUAGE_OF[named]] if named else CONVERTERS["zh"]
    if (flags & {"-", "H"} and not flags & {"R", "N"}) or flags == {"T"}:
        return ""
    if "N" in flags and "R" not in flags:
        return _NAMES.get(rules.strip(), "")
    if "D" in flags and not flags & {"R", *converter.variants}:
        return "".join(f"{_NAMES[code]}：{text}；" for code, text in two_way.items() if code in _NAMES)  # noqa: RUF001
    if flags & {"R", *converter.variants}:
        return rules
    main = converter.shown[0]
    found = [two_way[code] for code in converter.shown if code in two_way]
    return [*found, *([one_way[main]] if main in one_way else []), *two_way.values(), *one_way.values(), rules][0]


def _tables(rules: str, converter: _Converter | None) -> tuple[dict[str, str], dict[str, str]]:
    """The texts of `zh-hans:A; zh-hant:B` by variant, and those of `X=>zh-hans:Y`; none where one part is no rule."""
    known = _LANGUAGE_OF if converter is None else converter.variants
    two_way: dict[str, str] = {}
    one_way: dict[str, str] = {}
    for part in _separator(None if converter is None else converter.shown[0]).split(rules):
        name, colon, text = part.partition(":")
        if not colon:
            continue
        source, arrow, code = name.rpartition("=>")
        code = _BCP47.get(code.strip().lower(), code.strip().lower())
        if code not in known:
            return {}, {}
        if arrow and source.strip():
            one_way.setdefault(code, text.strip())
        elif not arrow and text.strip():
            two_way[code] = text.strip()
    return two_way, one_way


@functools.cache
def _separator(main: str | None) -> re.Pattern[str]:
    """The semicolons between rules: another may stand in the text of one."""
    variants = _LANGUAGE_OF if main is None else CONVERTERS[_LANGUAGE_OF[main]].variants
    codes = "|".join(re.escape(code) for code in (*variants, *_BCP47))
    return re.compile(rf";\s*(?=(?:{codes})\s*:|[^;]*?=>\s*(?:{codes})\s*:|\s*$)", re.IGNORECASE)
