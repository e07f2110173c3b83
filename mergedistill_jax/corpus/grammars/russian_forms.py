"""Russian inflection: nouns by declension, adjectives by stem, verbs from their table.

Cases are one letter: n nominative, g genitive, d dative, a accusative, i instrumental, l locative.
"""
# ruff: noqa: RUF001 (Cyrillic letters that look like Latin ones are what this file is about)

import dataclasses

from mergedistill_jax.corpus.grammars.russian_lexicon import (
    ANIMATE,
    END_STRESSED,
    NOUNS,
    PLURALS,
)
from mergedistill_jax.corpus.grammars.russian_lexicon import VERBS as VERB_TABLE

_VELAR, _SIBILANT = "кгх", "жчшщ"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noun:
    """A noun: `forms[case, is_plural]`."""

    lemma: str
    kind: str
    gender: str
    animate: bool
    countable: bool
    forms: dict[tuple[str, bool], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aspect:
    """One verb of an aspect pair; `third` are the third persons of the present (perfective: of the future)."""

    infinitive: str
    third: tuple[str, str]
    masculine: str
    feminine: str

    def past(self, gender: str, *, is_plural: bool) -> str:
        """The past tense, which agrees in gender or, in the plural, in number alone."""
        reflexive = self.feminine.endswith("сь")
        stem = self.feminine.removesuffix("сь")[:-1]
        if is_plural:
            return stem + "и" + ("сь" if reflexive else "")
        if gender == "n":
            return stem + "о" + ("сь" if reflexive else "")
        return self.feminine if gender == "f" else self.masculine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verb:
    """An aspect pair, its first person of the present, and the case it governs."""

    imperfective: Aspect
    perfective: Aspect
    first: str
    case: str


def _noun(entry: str, kind: str) -> Noun:
    countable = not entry.endswith("~")
    rest, _, genitive_plural = entry.rstrip("~").partition("=")
    rest, _, stem = rest.partition(">")
    lemma, _, gender = rest.partition(".")
    gender = gender or {"а": "f", "я": "f", "о": "n", "е": "n"}.get(lemma[-1], "m")
    animate = kind in ANIMATE
    singular = _singular(lemma, stem, gender)
    many = _plural(lemma, singular["g"], gender, genitive_plural)
    if gender == "m":
        singular["a"] = singular["g"] if animate else singular["n"]
    many["a"] = many["g"] if animate else many["n"]
    forms = {(case, False): form for case, form in singular.items()}
    forms |= {(case, True): form for case, form in many.items()}
    return Noun(lemma=lemma, kind=kind, gender=gender, animate=animate, countable=countable, forms=forms)


def _singular(lemma: str, stem: str, gender: str) -> dict[str, str]:
    stressed = lemma in END_STRESSED
    if gender == "m" and lemma[-1] not in "ьй":
        stem = stem or lemma
        instrumental = "ем" if stem[-1] in _SIBILANT + "ц" and not stressed else "ом"
        endings = ("", "а", "у", "", instrumental, "е")
        return dict(zip("ngdail", [lemma, *(stem + ending for ending in endings[1:])], strict=True))
    if gender == "m":
        endings = (lemma[-1], "я", "ю", lemma[-1], "ём" if stressed else "ем", "е")
    elif lemma[-1] == "ь":
        endings = ("ь", "и", "и", "ь", "ью", "и")
    elif lemma[-1] == "а":
        genitive = "и" if lemma[-2] in _VELAR + _SIBILANT else "ы"
        instrumental = "ей" if lemma[-2] in _SIBILANT + "ц" and not stressed else "ой"
        endings = ("а", genitive, "е", "у", instrumental, "е")
    elif lemma[-1] == "я":
        oblique = "и" if lemma[-2] == "и" else "е"
        endings = ("я", "и", oblique, "ю", "ей", oblique)
    elif lemma[-1] == "о":
        endings = ("о", "а", "у", "о", "ом", "е")
    else:
        endings = ("е", "я", "ю", "е", "ем", "и" if lemma[-2] == "и" else "е")
    return dict(zip("ngdail", (lemma[:-1] + ending for ending in endings), strict=True))


def _plural(lemma: str, genitive: str, gender: str, genitive_plural: str) -> dict[str, str]:
    stem = genitive[:-1]
    if lemma in PLURALS:
        nominative, genitive_plural = PLURALS[lemma].split()
    elif gender == "n":
        nominative = stem + ("а" if lemma[-1] == "о" else "я")
    else:
        is_soft = lemma[-1] in "ьйя" or stem[-1] in _VELAR + _SIBILANT
        nominative = stem + ("и" if is_soft else "ы")
    base = nominative[:-1]
    soft_ending = nominative[-1] == "я" or (nominative[-1] == "и" and base[-1] not in _VELAR + _SIBILANT)
    a = "я" if soft_ending else "а"
    return {
        "n": nominative,
        "g": genitive_plural or _genitive_plural(lemma, stem, gender),
        "d": base + a + "м",
        "i": base + a + "ми",
        "l": base + a + "х",
    }


def _genitive_plural(lemma: str, stem: str, gender: str) -> str:
    if lemma.endswith(("ия", "ие")):
        return lemma[:-1] + "й"
    if lemma[-1] == "ь" or (gender == "m" and stem[-1] in _SIBILANT) or lemma.endswith("ле"):
        return stem + "ей"
    if lemma[-1] == "й":
        return stem + "ев"
    if gender == "m":
        return stem + "ов"
    return stem + ("ь" if lemma[-1] == "я" else "")


def adjective(lemma: str, gender: str, case: str, *, is_plural: bool = False, animate: bool = False) -> str:
    """An adjective agreeing with a noun in gender, case, number and (in the accusative) animacy."""
    stem = lemma[:-2]
    soft = lemma.endswith("ний") and stem.endswith("син")
    sibilant = stem[-1] in _SIBILANT and not lemma.endswith("ой")
    o = "е" if soft or sibilant else "о"
    y = "ы" if stem[-1] not in _VELAR + _SIBILANT and not soft else "и"
    if case == "a" and (is_plural or gender == "m"):
        case = "g" if animate else "n"
    if is_plural:
        return stem + {"n": y + "е", "g": y + "х", "d": y + "м", "i": y + "ми", "l": y + "х"}[case]
    if gender == "f":
        return stem + {"n": "яя" if soft else "ая", "a": "юю" if soft else "ую"}.get(case, o + "й")
    nominative = lemma[-2:] if gender == "m" else o + "е"
    endings = {"n": nominative, "a": nominative, "g": o + "го", "d": o + "му", "i": y + "м", "l": o + "м"}
    return stem + endings[case]


_DETERMINERS = {  # masculine, feminine, neuter, plural in the order of the cases n g d a i l; - follows animacy
    "этот": (
        "этот этого этому - этим этом",
        "эта этой этой эту этой этой",
        "это этого этому это этим этом",
        "эти этих этим - этими этих",
    ),
    "свой": (
        "свой своего своему - своим своём",
        "своя своей своей свою своей своей",
        "своё своего своему своё своим своём",
        "свои своих своим - своими своих",
    ),
}


def determiner(lemma: str, gender: str, case: str, *, is_plural: bool, animate: bool) -> str:
    """The form of этот or свой that agrees with a noun."""
    forms = dict(zip("ngdail", _DETERMINERS[lemma][3 if is_plural else "mfn".index(gender)].split(), strict=True))
    return forms[case] if forms[case] != "-" else forms["g" if animate else "n"]


def _aspect(infinitive: str, singular: str, many: str, past: str) -> Aspect:
    masculine, _, feminine = past.partition("/")
    if not feminine:
        feminine = masculine[:-2] + "ась" if masculine.endswith("ся") else masculine + "а"
    return Aspect(infinitive=infinitive, third=(singular, many), masculine=masculine, feminine=feminine)


def _verb(line: str) -> Verb:
    left, right, *case = line.split("|")
    infinitive, singular, many, first, past = left.split()
    return Verb(
        imperfective=_aspect(infinitive, singular, many, past),
        perfective=_aspect(*right.split()),
        first=first,
        case=case[0].strip() if case else "a",
    )


LEXICON: dict[str, Noun] = {}
for _kind, _entries in NOUNS.items():
    for _entry in _entries.split():
        _new = _noun(_entry, _kind)
        LEXICON.setdefault(_new.lemma, _new)
VERBS = {line.split()[0]: _verb(line) for line in VERB_TABLE.strip().splitlines()}


def government(verb: str, noun: Noun) -> tuple[str, str]:
    """Preposition (or "") and case of a verb's object: one plays на + locative, but football в + accusative."""
    if verb == "играть" and noun.kind == "instrument":
        return "на/ADP ", "l"
    if verb == "играть" and noun.kind == "game":
        return "в/ADP ", "a"
    return "", VERBS[verb].case
