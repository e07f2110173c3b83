"""Russian: three genders, six cases governed by verbs and prepositions, aspect, the past tense that shows gender."""
# ruff: noqa: RUF001, RUF002 (Cyrillic letters that look like Latin ones are what this file is about)

import dataclasses
import itertools
import random

from mergedistill_jax.corpus.grammars.machinery import NOT_GIVEN, Person, Story, TaggedSentence, tell
from mergedistill_jax.corpus.grammars.russian_forms import LEXICON, VERBS, adjective, determiner, government
from mergedistill_jax.corpus.grammars.russian_forms import Noun as Word
from mergedistill_jax.corpus.grammars.russian_lexicon import (
    ADJECTIVES,
    COMPARATIVES,
    DO_NOT_PLAN,
    FEELINGS,
    FEMININE_JOBS,
    LOCATIVES,
    MONTHS,
    NOUNS,
    NUMBERS,
    ON,
    OWNED,
    TIMES,
    TOPICS,
    VERBS_OF,
)

_BY_CASE = {"n": ("он", "она"), "g": ("его", "её"), "d": ("ему", "ей"), "a": ("его", "её"), "i": ("им", "ей")}
PRONOUN = {(gender, case): pair["mf".index(gender)] for case, pair in _BY_CASE.items() for gender in "mf"}
IT = {"m": "его", "n": "его", "f": "её"}  # the accusative of the pronoun for things
WAS = {"m": "был", "f": "была", "n": "было"}


def _lemmas(kind: str) -> tuple[str, ...]:
    return tuple(lemma for lemma, word in LEXICON.items() if word.kind == kind)


WOMEN, MEN, CITIES = _lemmas("woman"), _lemmas("man"), _lemmas("city")
MORNINGS = ("каждый/DET день/NOUN", "каждое/DET утро/NOUN", "по/ADP понедельникам/NOUN")
EVENTS = tuple(entry.partition("=")[0] for entry in NOUNS["event"].split())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noun:
    """A nominative noun phrase as annotated text, with what the predicate agrees with."""

    text: str
    gender: str
    plural: bool = False


def finish(text: str) -> str:
    """The fuller forms of prepositions before clusters and vowels: со сцены, об уроке."""
    tokens = text.split()
    for position, (word, following) in enumerate(itertools.pairwise(tokens)):
        start = following.lower()
        if word == "с/ADP" and start[0] in "сзш" and start[1] not in "аеёиоуыэюя":
            tokens[position] = "со/ADP"
        if word == "о/ADP" and start[0] in "аиоуэ":
            tokens[position] = "об/ADP"
    return " ".join(tokens)


def document(rng: random.Random) -> tuple[TaggedSentence, ...]:
    """One document."""
    story = Story(
        rng,
        topics=TOPICS,
        women=WOMEN,
        men=MEN,
        cities=CITIES,
        job_of=lambda job, gender: FEMININE_JOBS[job] if gender == "f" else job,
    )
    return tell(story, opening=(introduce_hero, introduce_friend), rules=RULES, finish=finish)


# --- phrases --------------------------------------------------------------------------------------------------------


def name(story: Story, person: Person, case: str = "n") -> str:
    """The name of a protagonist, who, in the nominative, is then the one a pronoun refers to."""
    if case == "n":
        story.last = person
    return f"{LEXICON[person.name].forms[case, False]}/PROPN"


def protagonist(story: Story, person: Person) -> str:
    """Name, or pronoun when the person was the last one spoken of."""
    if story.last is person and story.chance(0.75):
        return f"{PRONOUN[person.gender, 'n']}/PRON"
    return name(story, person)


def subject(story: Story) -> Noun:
    """A protagonist most of the time, else people of the topic."""
    if story.chance(0.8):
        person = story.someone()
        return Noun(text=protagonist(story, person), gender=person.gender)
    story.last = None
    return people(story, is_plural=story.chance(0.5))


def people(story: Story, *, is_plural: bool, case: str = "n") -> Noun:
    """People of the topic by their profession."""
    job = story.pick(story.topic.people)
    word = LEXICON[FEMININE_JOBS[job] if story.chance(0.45) else job]
    return Noun(text=f"{word.forms[case, is_plural]}/NOUN", gender=word.gender, plural=is_plural)


def agreeing(story: Story, word: Word, case: str, *, is_plural: bool) -> str:
    """An adjective that goes with the noun's kind, in its gender, case and number."""
    lemma = story.pick(ADJECTIVES[word.kind].split())
    return f"{adjective(lemma, word.gender, case, is_plural=is_plural, animate=word.animate)}/ADJ"


def noun(story: Story, lemma: str, case: str, *, single: bool = False) -> str:
    """The noun in a case, perhaps in the plural, with a demonstrative or possessive if known, with an adjective."""
    word = LEXICON[lemma]
    known = not story.first_mention(lemma)
    if word.kind == "game":
        return f"{word.forms[case, False]}/NOUN"
    is_plural = word.countable and not single and story.chance(0.25)
    text = f"{word.forms[case, is_plural]}/NOUN"
    if story.chance(0.45):
        text = f"{agreeing(story, word, case, is_plural=is_plural)} {text}"
    if known and story.chance(0.35):
        pointer = "свой" if word.kind in OWNED and story.chance(0.5) else "этот"
        form = determiner(pointer, word.gender, case, is_plural=is_plural, animate=word.animate)
        text = f"{form}/DET {text}"
    return text


def place(story: Story, verb: str = "") -> str:
    """Where the document takes place, most of the time: на кухне, в саду; where to, if the verb brings something."""
    if verb == "приносить":
        return motion(story)
    lemma = story.place if story.chance(0.65) else story.other_place
    return f"{'на' if lemma in ON else 'в'}/ADP {LOCATIVES.get(lemma) or LEXICON[lemma].forms['l', False]}/NOUN"


def motion(story: Story, *, out: bool = False) -> str:
    """Into the place (на кухню, в сад), or with `out` from it (с кухни, из сада)."""
    lemma = story.place
    preposition = ("с" if out else "на") if lemma in ON else ("из" if out else "в")
    return f"{preposition}/ADP {LEXICON[lemma].forms['g' if out else 'a', False]}/NOUN"


def verbs_for(lemma: str, *, planned: bool = False) -> list[str]:
    """The verbs that take the noun as their object; with `planned`, those for what one does on purpose."""
    return [verb for verb in VERBS_OF[LEXICON[lemma].kind].split() if not (planned and verb in DO_NOT_PLAN)]


def deed(story: Story, *, planned: bool = False) -> tuple[str, str]:
    """A verb and what it is done to."""
    lemma = story.thing()
    return story.pick(verbs_for(lemma, planned=planned)), lemma


def complement(story: Story, verb: str, lemma: str) -> str:
    """The object in the case that the verb governs."""
    preposition, case = government(verb, LEXICON[lemma])
    return preposition + noun(story, lemma, case, single=bool(preposition))


def time(story: Story) -> tuple[str, str]:
    """A tense and the adverbial that tells it; with no adverbial, the tense of the document."""
    main = "past" if story.past else "present"
    if story.chance(0.12):
        return main, ""
    tense = main if story.chance(0.6) else story.pick(("future", "habit", "past", "present"))
    return tense, story.pick(TIMES[tense])


def conjugated(verb: str, tense: str, who: Noun, *, activity: bool = False) -> str:
    """The verb in a tense: perfective for single events, imperfective for habits and activities."""
    pair = VERBS[verb]
    if tense == "present":
        return f"{pair.imperfective.third[who.plural]}/VERB"
    if tense == "future":
        if activity or pair.imperfective == pair.perfective:
            return f"{'будут' if who.plural else 'будет'}/AUX {pair.imperfective.infinitive}/VERB"
        return f"{pair.perfective.third[who.plural]}/VERB"
    aspect = pair.imperfective if activity or tense == "habit" else pair.perfective
    return f"{aspect.past(who.gender, is_plural=who.plural)}/VERB"


def timed(story: Story, clause: str, adverbial: str) -> str:
    """The clause as a sentence with its adverbial in front or at the end."""
    if adverbial and story.chance(0.5):
        return f"{adverbial} {clause} ./PUNCT"
    return f"{clause} {adverbial} ./PUNCT"


def quality(story: Story, word: Word, *, is_plural: bool, past: bool) -> str:
    """The predicate of a thing: the nominative alone now, a form of "to be" and the instrumental in the past."""
    lemma = story.pick(ADJECTIVES[word.kind].split())
    degree = story.pick(("очень/ADV ", "", "слишком/ADV ")) if lemma in COMPARATIVES else ""
    if past:
        was = "были" if is_plural else WAS[word.gender]
        return f"{was}/AUX {degree}{adjective(lemma, word.gender, 'i', is_plural=is_plural)}/ADJ"
    return f"{degree}{adjective(lemma, word.gender, 'n', is_plural=is_plural)}/ADJ"


def singular(person: Person) -> Noun:
    """What a predicate agrees with when its subject is left out or already written."""
    return Noun(text="", gender=person.gender)


# --- sentences ------------------------------------------------------------------------------------------------------


def introduce_hero(story: Story) -> str:
    """Анна — повариха из Москвы и часто бывает на кухне."""
    hero, city = story.hero, LEXICON[story.city]
    origin = f"из/ADP {city.forms['g', False]}/PROPN"
    often = f"{origin} и/CCONJ часто/ADV бывает/VERB {place(story)}"
    lives = f"и/CCONJ живёт/VERB в/ADP {city.forms['l', False]}/PROPN"
    return f"{name(story, hero)} —/PUNCT {hero.job}/NOUN {story.pick((often, lives))} ./PUNCT"


def introduce_friend(story: Story) -> str:
    """Её друг Иван — официант, и они часто говорят о книгах."""
    hero, friend = story.hero, story.friend
    relation = story.pick(("друг", "брат", "сосед") if friend.gender == "m" else ("подруга", "сестра", "соседка"))
    owner = "её" if hero.gender == "f" else "его"
    liked = LEXICON[friend.likes]
    about = f"о/ADP {liked.forms['l', liked.countable]}/NOUN"
    tail = f"и/CCONJ они/PRON часто/ADV говорят/VERB {about}"
    if story.chance(0.5):
        tail = f"{PRONOUN[friend.gender, 'n']}/PRON любит/VERB {liked.forms['a', liked.countable]}/NOUN"
    elif story.chance(0.5):
        verb = story.pick(verbs_for(friend.likes, planned=True))
        hobby = f"{VERBS[verb].imperfective.infinitive}/VERB {complement(story, verb, friend.likes)}"
        tail = f"{PRONOUN[friend.gender, 'n']}/PRON любит/VERB {hobby}"
    return f"{owner}/DET {relation}/NOUN {name(story, friend)} —/PUNCT {friend.job}/NOUN ,/PUNCT {tail} ./PUNCT"


def transitive(story: Story) -> str:
    """Вчера Анна купила красное яблоко на рынке."""
    tense, adverbial = time(story)
    who = subject(story)
    verb, lemma = deed(story, planned=tense == "future")
    where = place(story, verb) if story.chance(0.7) else ""
    negation = "не/PART " if story.chance(0.12) else ""
    clause = f"{who.text} {negation}{conjugated(verb, tense, who)} {complement(story, verb, lemma)} {where}"
    return timed(story, clause, adverbial)


def intransitive(story: Story) -> str:
    """Раньше официанты работали в ресторане."""
    tense, adverbial = time(story)
    who = subject(story)
    negation = "не/PART " if story.chance(0.1) else ""
    verb = conjugated(story.pick(story.topic.activities), tense, who, activity=True)
    return timed(story, f"{who.text} {negation}{verb} {place(story)}", adverbial)


def together(story: Story) -> str:
    """Анна гуляла в парке с Иваном. — Они гуляли вместе в парке."""
    tense, adverbial = time(story)
    activity = story.joint_activity()
    if story.chance(0.5):
        person = story.someone()
        who = Noun(text=protagonist(story, person), gender=person.gender)
        companion = f"с/ADP {name(story, story.other(person), 'i')}"
        verb = conjugated(activity, tense, who, activity=True)
        return timed(story, f"{who.text} {verb} {place(story)} {companion}", adverbial)
    pair = f"{name(story, story.hero)} и/CCONJ {name(story, story.friend)}" if story.chance(0.5) else "они/PRON"
    story.last = None
    verb = conjugated(activity, tense, Noun(text="", gender="m", plural=True), activity=True)
    return timed(story, f"{pair} {verb} вместе/ADV {place(story)}", adverbial)


def describe(story: Story) -> str:
    """Суп был очень горячим, поэтому Анна не съела его."""
    lemma = story.thing()
    word = LEXICON[lemma]
    if word.kind == "game":
        return f"{name(story, story.someone(), 'd')} нравится/VERB {lemma}/NOUN ./PUNCT"
    story.first_mention(lemma)
    is_plural = word.countable and story.chance(0.35)
    predicate = quality(story, word, is_plural=is_plural, past=story.past)
    clause = f"{word.forms['n', is_plural]}/NOUN {predicate}"
    verbs = [verb for verb in verbs_for(lemma) if government(verb, word) == ("", "a")]
    if story.chance(0.4):
        return f"{clause} ./PUNCT"
    person = story.someone()
    negation = "не/PART " if "слишком" in predicate else ""
    tense = "past" if story.past else "present"
    action = conjugated(story.pick(verbs), tense, singular(person))
    it = "их" if is_plural else IT[word.gender]
    return f"{clause} ,/PUNCT поэтому/ADV {protagonist(story, person)} {negation}{action} {it}/PRON ./PUNCT"


def feel(story: Story) -> str:
    """Она была занята, потому что писала письмо."""
    person = story.someone()
    was = f"{WAS[person.gender]}/AUX " if story.past else ""
    who = protagonist(story, person)
    feeling = story.pick(tuple(FEELINGS))
    feeling = f"{FEELINGS[feeling] if person.gender == 'f' else feeling}/ADJ"
    if story.chance(0.3):
        return f"{who} {story.pick(('часто/ADV', 'всегда/ADV'))} {was}{feeling} ./PUNCT"
    verb, lemma = deed(story)
    negation = "не/PART " if story.chance(0.3) else ""
    cause = (
        f"{negation}{conjugated(verb, 'past', singular(person))} {complement(story, verb, lemma)} {place(story, verb)}"
    )
    return f"{who} {was}{feeling} ,/PUNCT потому/ADV что/SCONJ {cause} ./PUNCT"


def relative(story: Story) -> str:
    """Яблоки, которые Анна купила на рынке, были вкусными. — Гитара, на которой играл Иван, старая."""
    verb, lemma = deed(story)
    word = LEXICON[lemma]
    if word.kind == "game":
        return together(story)
    story.first_mention(lemma)
    preposition, case = government(verb, word)
    is_plural = word.countable and not preposition and story.chance(0.4)
    person = story.someone()
    which = adjective("который", word.gender, case, is_plural=is_plural, animate=word.animate)
    action = conjugated(verb, "habit" if preposition else "past", singular(person))
    where = f" {place(story, verb)}" if story.chance(0.85) else ""
    clause = f"{preposition}{which}/PRON {name(story, person)} {action}{where}"
    head = f"{word.forms['n', is_plural]}/NOUN"
    predicate = quality(story, word, is_plural=is_plural, past=story.past)
    return f"{head} ,/PUNCT {clause} ,/PUNCT {predicate} ./PUNCT"


def worker(story: Story) -> str:
    """Официантка, которая работает в ресторане, очень добрая."""
    job = story.pick(story.topic.people)
    word = LEXICON[FEMININE_JOBS[job] if story.chance(0.45) else job]
    is_plural = story.chance(0.4)
    head = Noun(text="", gender=word.gender, plural=is_plural)
    which = adjective("который", word.gender, "n", is_plural=is_plural)
    verb = conjugated(story.pick(story.topic.activities), "present", head)
    clause = f"{which}/PRON {verb} {place(story)}"
    predicate = quality(story, word, is_plural=is_plural, past=False)
    return f"{word.forms['n', is_plural]}/NOUN ,/PUNCT {clause} ,/PUNCT {predicate} ./PUNCT"


def contrast(story: Story) -> str:
    """Анна любит яблоки, а Иван любит чай."""
    first, second = story.hero, story.friend
    verb = story.pick(("любит", "любит", "ищет")) if LEXICON[first.likes].kind != "game" else "любит"
    verb = "любит" if LEXICON[second.likes].kind == "game" else verb
    left, right = (LEXICON[person.likes].forms["a", LEXICON[person.likes].countable] for person in (first, second))
    before = f"{name(story, first)} {verb}/VERB {left}/NOUN"
    return f"{before} ,/PUNCT а/CCONJ {name(story, second)} {verb}/VERB {right}/NOUN ./PUNCT"


def question(story: Story) -> str:
    """Где Анна купила яблоко? — Сколько яблок купил Иван?"""
    person = story.someone()
    verb, lemma = deed(story)
    word = LEXICON[lemma]
    preposition, case = government(verb, word)
    action = conjugated(verb, "past" if story.past else "present", singular(person))
    kind = story.pick(("where", "many", "polar", "why"))
    if kind == "many" and word.countable and (preposition, case) == ("", "a"):
        return f"сколько/ADV {word.forms['g', True]}/NOUN {action} {name(story, person)} {place(story, verb)} ?/PUNCT"
    opener = {"where": "где/ADV ", "why": "почему/ADV "}.get(kind, "")
    tail = "" if kind == "where" else f" {place(story, verb)}"
    what = f"{preposition}{word.forms[case, False]}/NOUN"
    return f"{opener}{protagonist(story, person)} {action} {what}{tail} ?/PUNCT"


def quoted(story: Story) -> str:
    """«Я хочу прочитать эту книгу», — сказала Анна."""
    person = story.someone()
    other = story.other(person)
    lemma = story.thing()
    word = LEXICON[lemma]
    verb = story.pick(verbs_for(lemma, planned=True))
    preposition, case = government(verb, word)

    def this(case: str) -> str:
        if word.kind == "game":
            return f"{word.forms[case, False]}/NOUN"
        form = determiner("этот", word.gender, case, is_plural=False, animate=word.animate)
        return f"{form}/DET {word.forms[case, False]}/NOUN"

    want = "хотела" if person.gender == "f" else "хотел"
    speech = story.pick(
        (
            f"я/PRON хочу/VERB {VERBS[verb].perfective.infinitive}/VERB {preposition}{this(case)}",
            f"я/PRON часто/ADV {VERBS[verb].first}/VERB {preposition}{word.forms[case, False]}/NOUN",
            f"мне/PRON нравится/VERB {this('n')}",
            f"где/ADV {name(story, other)} ?/PUNCT",
            f"мы/PRON должны/ADJ {VERBS[verb].perfective.infinitive}/VERB {preposition}{this(case)}",
            f"я/PRON {want}/VERB {VERBS[verb].perfective.infinitive}/VERB {preposition}{this(case)}",
            f"спасибо/NOUN ,/PUNCT {name(story, other)}",
        )
    )
    asked = speech.endswith("?/PUNCT")
    saying = ("спросил" if asked else "сказал") + ("а" if person.gender == "f" else "")
    where = f" {place(story)}" if story.chance(0.6) else ""
    comma = "" if asked else ",/PUNCT "
    return f"«/PUNCT {speech} »/PUNCT {comma}—/PUNCT {saying}/VERB {name(story, person)}{where} ./PUNCT"


def compare(story: Story) -> str:
    """Поезд быстрее, чем автобус. — Поезд быстрее автобуса."""
    lemma = story.thing()
    word = LEXICON[lemma]
    words = [quality for quality in ADJECTIVES.get(word.kind, "").split() if COMPARATIVES.get(quality)]
    peers = [thing for thing in story.topic.things if LEXICON[thing].kind == word.kind and thing != lemma]
    if not peers or not words:
        return together(story)
    comparative = f"{lemma}/NOUN {COMPARATIVES[story.pick(words)]}/ADJ"
    peer = LEXICON[story.pick(peers)]
    if story.chance(0.5):
        return f"{comparative} ,/PUNCT чем/SCONJ {peer.forms['n', False]}/NOUN ./PUNCT"
    return f"{comparative} {peer.forms['g', False]}/NOUN ./PUNCT"


def when(story: Story) -> str:
    """Когда Анна пришла на кухню, Иван варил суп."""
    person = story.someone()
    other = story.other(person)
    came = conjugated("приходить", "past", singular(person))
    arrival = f"когда/SCONJ {protagonist(story, person)} {came} {motion(story)}"
    verb, lemma = deed(story, planned=True)
    going_on = conjugated(verb, "habit", singular(other))
    clause = f"{name(story, other)} {going_on} {complement(story, verb, lemma)}"
    if story.chance(0.75):
        return f"{arrival} ,/PUNCT {clause} ./PUNCT"
    return f"{clause} ,/PUNCT {arrival} ./PUNCT"


def meanwhile(story: Story) -> str:
    """Вчера Анна варила суп на кухне, а Иван читал книгу."""
    tense, adverbial = time(story)
    person = story.someone()
    other = story.other(person)
    (verb, lemma), (then, next_lemma) = deed(story, planned=True), deed(story, planned=True)
    action = f"{conjugated(verb, tense, singular(person))} {complement(story, verb, lemma)} {place(story, verb)}"
    reaction = f"{conjugated(then, tense, singular(other))} {complement(story, then, next_lemma)}"
    who = protagonist(story, person)
    return f"{adverbial} {who} {action} ,/PUNCT а/CCONJ {name(story, other)} {reaction} ./PUNCT"


def before(story: Story) -> str:
    """После прогулки она вымыла тарелку и прочитала книгу. — Перед прогулкой Иван ел суп."""
    event = LEXICON[story.pick(EVENTS)]
    opener = f"после/ADP {event.forms['g', False]}/NOUN"
    if story.chance(0.4):
        opener = f"перед/ADP {event.forms['i', False]}/NOUN"
    person = story.someone()
    (verb, lemma), (then, next_lemma) = deed(story), deed(story)
    who = singular(person)
    action = f"{conjugated(verb, 'past', who)} {complement(story, verb, lemma)}"
    clause = f"{opener} {protagonist(story, person)} {action}"
    if lemma == next_lemma:
        return f"{clause} ./PUNCT"
    return f"{clause} и/CCONJ {conjugated(then, 'past', who)} {complement(story, then, next_lemma)} ./PUNCT"


def event(story: Story) -> str:
    """Прогулка в парке была долгой. — Она пришла в парк, чтобы отдохнуть с Иваном."""
    person = story.someone()
    if story.chance(0.4):
        word = LEXICON[story.pick(EVENTS)]
        lemma = story.pick(ADJECTIVES["event"].split())
        return (
            f"{word.lemma}/NOUN {place(story)} {WAS[word.gender]}/AUX {adjective(lemma, word.gender, 'i')}/ADJ ./PUNCT"
        )
    purpose = f"чтобы/SCONJ {VERBS[story.joint_activity()].perfective.infinitive}/VERB"
    came = conjugated("приходить", "past", singular(person))
    companion = f"с/ADP {name(story, story.other(person), 'i')}"
    return f"{protagonist(story, person)} {came} {motion(story)} ,/PUNCT {purpose} {companion} ./PUNCT"


def there_is(story: Story) -> str:
    """На кухне было три яблока. — На кухне есть нож. — На кухне нет ножа."""
    lemma = story.thing()
    word = LEXICON[lemma]
    if word.kind == "game":
        return transitive(story)
    story.first_mention(lemma)
    where = place(story)
    if word.countable and story.chance(0.5):
        masculine, feminine, case, is_plural = story.pick(NUMBERS)
        number = feminine if word.gender == "f" else masculine
        was = "было/VERB " if story.past else ""
        return f"{where} {was}{number}/NUM {word.forms[case, is_plural]}/NOUN ./PUNCT"
    if story.chance(0.35):
        absent = "не/PART было/VERB" if story.past else "нет/VERB"
        return f"{where} {absent} {word.forms['g', word.countable and story.chance(0.3)]}/NOUN ./PUNCT"
    was = WAS[word.gender] if story.past else "есть"
    return f"{where} {was}/VERB {agreeing(story, word, 'n', is_plural=False)} {lemma}/NOUN ./PUNCT"


def owns(story: Story) -> str:
    """У Анны есть нож. — У неё нет ножа. — У Ивана две кошки."""
    person = story.someone()
    word = LEXICON[story.thing()]
    if word.kind == "game":
        return when(story)
    # After a preposition the third-person pronoun begins with н.
    owner = f"у/ADP н{PRONOUN[person.gender, 'g']}/PRON" if story.last is person else ""
    owner = owner or f"у/ADP {name(story, person, 'g')}"
    story.last = person
    if story.chance(0.35):
        return f"{owner} нет/VERB {word.forms['g', False]}/NOUN ./PUNCT"
    if word.countable and story.chance(0.5):
        masculine, feminine, case, is_plural = story.pick(NUMBERS)
        number = feminine if word.gender == "f" else masculine
        return f"{owner} есть/VERB {number}/NUM {word.forms[case, is_plural]}/NOUN ./PUNCT"
    return f"{owner} есть/VERB {agreeing(story, word, 'n', is_plural=False)} {word.lemma}/NOUN ./PUNCT"


def gift(story: Story) -> str:
    """Иван подарил ей шапку, и она поблагодарила его."""
    person = story.someone()
    other = story.other(person)
    lemma = story.thing()
    if LEXICON[lemma].kind in NOT_GIVEN:
        return when(story)
    gave = conjugated(story.pick(("дарить", "приносить", "показывать")), "past", singular(person))
    giver = protagonist(story, person)
    given = f"{giver} {gave} {PRONOUN[other.gender, 'd']}/PRON {noun(story, lemma, 'a')}"
    if story.chance(0.5):
        thanks = f"{conjugated('благодарить', 'past', singular(other))} {PRONOUN[person.gender, 'a']}/PRON"
        return f"{given} ,/PUNCT и/CCONJ {PRONOUN[other.gender, 'n']}/PRON {thanks} ./PUNCT"
    return f"{given} {place(story) if gave.startswith(('подарил', 'показал')) else motion(story)} ./PUNCT"


def modal(story: Story) -> str:
    """Она должна прочитать книгу в библиотеке."""
    who = subject(story)
    verb, lemma = deed(story, planned=True)
    must = "должны" if who.plural else "должна" if who.gender == "f" else "должен"
    forms = ("могут", "хотят", "умеют", "любят") if who.plural else ("может", "хочет", "умеет", "любит")
    can, want, know_how, like = (f"{form}/VERB" for form in forms)
    helper = story.pick((want, f"{must}/ADJ", like, can, f"не/PART {want}", know_how))
    # What one likes, is able to do, or does not want is no single event: the infinitive is imperfective.
    is_habit = helper in {like, know_how, f"не/PART {want}"}
    aspect = VERBS[verb].imperfective if is_habit else VERBS[verb].perfective
    return f"{who.text} {helper} {aspect.infinitive}/VERB {complement(story, verb, lemma)} {place(story, verb)} ./PUNCT"


def clock(story: Story) -> str:
    """Она приходит на кухню в 7 часов каждый день. — Анна родилась в мае 1987 года."""
    person = story.someone()
    if story.chance(0.3):
        born = "родилась" if person.gender == "f" else "родился"
        year = f"{1950 + int(story.rng.random() * 50)}/ADJ года/NOUN"
        return f"{name(story, person)} {born}/VERB в/ADP {story.pick(MONTHS)}/NOUN {year} ./PUNCT"
    when_to = f"в/ADP {story.pick((7, 8, 9, 6, 10, 5, 11))}/NUM часов/NOUN"
    way = f"уходит/VERB {motion(story, out=True)}" if story.chance(0.4) else f"приходит/VERB {motion(story)}"
    return f"{protagonist(story, person)} {way} {when_to} {story.pick(MORNINGS)} ./PUNCT"


def meet(story: Story) -> str:
    """Анна встретила Ивана на кухне и помогла ему."""
    person = story.someone()
    other = story.other(person)
    who = protagonist(story, person)
    met = conjugated(story.pick(("встречать", "видеть")), "past", singular(person))
    if story.chance(0.35):
        someone = people(story, is_plural=False, case="a")
        whom, gender = someone.text, someone.gender
    else:
        whom, gender = name(story, other, "a"), other.gender
    if story.chance(0.4):
        return f"{who} {met} {whom} {place(story)} ./PUNCT"
    verb = story.pick(("помогать", "благодарить", "звать"))
    case = VERBS[verb].case
    then = f"{conjugated(verb, 'past', singular(person))} {PRONOUN[gender, case]}/PRON"
    return f"{who} {met} {whom} {place(story)} и/CCONJ {then} ./PUNCT"


def about(story: Story) -> str:
    """Анна говорила с Иваном о новой книге."""
    person = story.someone()
    who = protagonist(story, person)
    verb = conjugated("говорить", "past", singular(person), activity=True)
    companion = f"с/ADP {name(story, story.other(person), 'i')}"
    return f"{who} {verb} {companion} о/ADP {noun(story, story.thing(), 'l')} {place(story)} ./PUNCT"


RULES = (
    (16, transitive), (6, intransitive), (4, together), (8, describe), (5, feel), (6, relative), (4, worker),
    (4, contrast), (5, question), (7, quoted), (3, compare), (6, when), (10, meanwhile), (4, before), (4, event),
    (6, there_is), (3, owns), (5, gift), (8, modal), (4, clock), (5, meet), (4, about),
)  # fmt: skip
