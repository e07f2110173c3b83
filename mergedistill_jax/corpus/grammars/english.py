"""English: number, a/an, tense told by the adverbial, pronouns by the person last named, nouns that are verbs too."""

import dataclasses
import itertools
import random

from mergedistill_jax.corpus.grammars.english_lexicon import (
    ADJECTIVES,
    CITIES,
    COMPARATIVES,
    DAYS,
    EVENT_NOUNS,
    FEELINGS,
    KINDS,
    LONG_ADJECTIVES,
    MEN,
    MONTHS,
    NUMBERS,
    PLURALS,
    STATIVE,
    TIMES,
    TOPICS,
    VERBS,
    VERBS_OF,
    WOMEN,
)
from mergedistill_jax.corpus.grammars.machinery import NOT_GIVEN, Person, Story, TaggedSentence, tell

SUBJECT = {"f": "she/PRON", "m": "he/PRON"}
OBJECT = {"f": "her/PRON", "m": "him/PRON"}
POSSESSIVE = {"f": "her/PRON", "m": "his/PRON"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noun:
    """A noun phrase as annotated text, and the number that its verb agrees with."""

    text: str
    plural: bool = False


def finish(text: str) -> str:
    """Writes `an` for `a` before a vowel sound."""
    tokens = text.split()
    for position, (word, following) in enumerate(itertools.pairwise(tokens)):
        # Words that begin with the sound of "you" take "a": a university, a uniform.
        if word == "a/DET" and following[0] in "aeiou" and not following.startswith("uni"):
            tokens[position] = "an/DET"
    return " ".join(tokens)


def document(rng: random.Random) -> tuple[TaggedSentence, ...]:
    """One document."""
    story = Story(rng, topics=TOPICS, women=WOMEN, men=MEN, cities=CITIES)
    return tell(story, opening=(introduce_hero, introduce_friend), rules=RULES, finish=finish)


# --- phrases --------------------------------------------------------------------------------------------------------


def name(story: Story, person: Person) -> str:
    """The name of a protagonist, who is then the one a pronoun refers to."""
    story.last = person
    return f"{person.name}/PROPN"


def protagonist(story: Story, person: Person) -> str:
    """Name, or pronoun when the person was the last one spoken of."""
    if story.last is person and story.chance(0.75):
        return SUBJECT[person.gender]
    return name(story, person)


def subject(story: Story) -> Noun:
    """A protagonist most of the time, else people of the topic."""
    if story.chance(0.8):
        return Noun(text=protagonist(story, story.someone()))
    story.last = None
    job = story.pick(story.topic.people)
    if story.chance(0.5):
        return Noun(text=f"the/DET {job}/NOUN")
    determiner = f"{story.pick(NUMBERS[:4])}/NUM" if story.chance(0.3) else "the/DET"
    return Noun(text=f"{determiner} {PLURALS[job]}/NOUN", plural=True)


def adjective(story: Story, lemma: str) -> str:
    """An adjective that goes with the noun's kind."""
    return f"{story.pick(ADJECTIVES[KINDS[lemma]].split())}/ADJ"


def has_article(lemma: str) -> bool:
    """False for games: one plays football."""
    return KINDS[lemma] != "game"


def noun(story: Story, lemma: str, *, definite: bool = False) -> Noun:
    """The noun with its article: indefinite at its first mention in the document, definite afterwards."""
    if not has_article(lemma):
        return Noun(text=f"{lemma}/NOUN")
    modifier = adjective(story, lemma) + " " if story.chance(0.3) else ""
    known = not story.first_mention(lemma)
    several = PLURALS[lemma]
    if several and story.chance(0.25):
        determiner = "the/DET " if known or definite else f"{story.pick(NUMBERS)}/NUM " if story.chance(0.6) else ""
        return Noun(text=f"{determiner}{modifier}{several}/NOUN", plural=True)
    determiner = "the/DET " if known or definite else "a/DET " if several else "some/DET "
    return Noun(text=f"{determiner}{modifier}{lemma}/NOUN")


def the(lemma: str) -> str:
    """The noun with the definite article, if it takes one."""
    return f"the/DET {lemma}/NOUN" if has_article(lemma) else f"{lemma}/NOUN"


def many(lemma: str) -> str:
    """The noun as one speaks of it in general: apples, milk."""
    return PLURALS[lemma] or lemma


def place(story: Story) -> str:
    """Where the document takes place, most of the time."""
    preposition, where = (story.place if story.chance(0.65) else story.other_place).split()
    return f"{preposition}/ADP the/DET {where}/NOUN"


def deed(story: Story, *, dynamic: bool = False) -> tuple[str, str]:
    """A verb and what it is done to; with `dynamic`, something one does on purpose and for a while."""
    lemma = story.thing()
    return story.pick(verbs_for(lemma, dynamic=dynamic)), lemma


def verbs_for(lemma: str, *, dynamic: bool = False) -> list[str]:
    """The verbs that take the noun as their object."""
    return [verb for verb in VERBS_OF[KINDS[lemma]].split() if not (dynamic and verb in STATIVE)]


def time(story: Story) -> tuple[str, str]:
    """A tense and the adverbial that tells it; with no adverbial, the tense of the document."""
    main = "past" if story.past else "present"
    if story.chance(0.2):
        return main, ""
    tense = main if story.chance(0.6) else story.pick(("future", "progressive", "past", "present"))
    return tense, story.pick(TIMES[tense])


def conjugated(base: str, tense: str, *, plural: bool, negated: bool = False) -> str:
    """The verb in a tense, agreeing in number with a third-person subject."""
    verb, negation = VERBS[base], " not/PART" if negated else ""
    if tense == "future":
        return f"will/AUX{negation} {base}/VERB"
    if tense == "progressive":
        return f"{be('present', plural=plural)}{negation} {verb.ing}/VERB"
    if negated:
        return f"{auxiliary(tense, plural=plural)} not/PART {base}/VERB"
    if tense == "past":
        return f"{verb.past}/VERB"
    return f"{base if plural else verb.third}/VERB"


def auxiliary(tense: str, *, plural: bool) -> str:
    """The form of "do" that questions and negations use."""
    return "did/AUX" if tense == "past" else "do/AUX" if plural else "does/AUX"


def be(tense: str, *, plural: bool) -> str:
    """The copula."""
    if tense == "future":
        return "will/AUX be/AUX"
    if tense == "past":
        return "were/AUX" if plural else "was/AUX"
    return "are/AUX" if plural else "is/AUX"


def timed(story: Story, clause: str, adverbial: str) -> str:
    """The clause as a sentence with its adverbial in front or at the end."""
    if not adverbial:
        return f"{clause} ./PUNCT"
    if story.chance(0.35):
        return f"{adverbial} ,/PUNCT {clause} ./PUNCT"
    return f"{clause} {adverbial} ./PUNCT"


# --- sentences ------------------------------------------------------------------------------------------------------


def introduce_hero(story: Story) -> str:
    """Anna is a cook in London."""
    hero = story.hero
    city = f"in/ADP {story.city}/PROPN"
    tail = story.pick((f"{city} and/CCONJ is/AUX often/ADV {place(story)}", f"and/CCONJ lives/VERB {city}", city))
    return f"{name(story, hero)} is/AUX a/DET {hero.job}/NOUN {tail} ./PUNCT"


def introduce_friend(story: Story) -> str:
    """Her friend Tom is a waiter."""
    hero, friend = story.hero, story.friend
    relation = story.pick(("friend", "brother" if friend.gender == "m" else "sister", "neighbour"))
    owner = POSSESSIVE[hero.gender] if story.chance(0.7) else f"{hero.name}/PROPN 's/PART"
    tail = f"and/CCONJ likes/VERB {many(friend.likes)}/NOUN"
    if story.chance(0.3):
        tail = f"in/ADP {story.pick(CITIES)}/PROPN"
    elif story.chance(0.5):
        tail = f",/PUNCT and/CCONJ they/PRON often/ADV {story.joint_activity()}/VERB together/ADV"
    return f"{owner} {relation}/NOUN {name(story, friend)} is/AUX a/DET {friend.job}/NOUN {tail} ./PUNCT"


def transitive(story: Story) -> str:
    """Yesterday, she cooked the soup in the kitchen."""
    tense, adverbial = time(story)
    who = subject(story)
    verb, lemma = deed(story, dynamic=tense == "progressive")
    where = f" {place(story)}" if story.chance(0.5) else ""
    negated = story.chance(0.12)
    clause = f"{who.text} {conjugated(verb, tense, plural=who.plural, negated=negated)}"
    return timed(story, f"{clause} {noun(story, lemma, definite=negated).text}{where}", adverbial)


def intransitive(story: Story) -> str:
    """The waiters work in the restaurant every day."""
    tense, adverbial = time(story)
    who = subject(story)
    verb = conjugated(story.pick(story.topic.activities), tense, plural=who.plural, negated=story.chance(0.1))
    return timed(story, f"{who.text} {verb} {place(story)}", adverbial)


def together(story: Story) -> str:
    """Anna and Tom talk in the kitchen."""
    tense, adverbial = time(story)
    verb = conjugated(story.joint_activity(), tense, plural=True)
    pair = f"{story.hero.name}/PROPN and/CCONJ {story.friend.name}/PROPN" if story.chance(0.6) else "they/PRON"
    story.last = None
    return timed(story, f"{pair} {verb} together/ADV {place(story)}", adverbial)


def describe(story: Story) -> str:
    """The soup was very hot."""
    lemma = story.thing()
    if not has_article(lemma):
        return f"{name(story, story.someone())} likes/VERB {lemma}/NOUN very/ADV much/ADV ./PUNCT"
    story.first_mention(lemma)
    plural = bool(PLURALS[lemma]) and story.chance(0.35)
    thing = f"the/DET {PLURALS[lemma] if plural else lemma}/NOUN"
    tense = "past" if story.past else "present"
    word = story.pick(ADJECTIVES[KINDS[lemma]].split())
    degree = story.pick(("very/ADV ", "", "too/ADV ", "not/PART ")) if COMPARATIVES.get(word) != "" else ""
    clause = f"{thing} {be(tense, plural=plural)} {degree}{word}/ADJ"
    if story.chance(0.5):
        return f"{clause} ./PUNCT"
    verb = story.pick(verbs_for(lemma))
    pronoun = "them/PRON" if plural else "it/PRON"
    reaction = conjugated(verb, tense, plural=False, negated=degree in {"too/ADV ", "not/PART "})
    link = "so/CCONJ"
    return f"{clause} ,/PUNCT {link} {protagonist(story, story.someone())} {reaction} {pronoun} ./PUNCT"


def feel(story: Story) -> str:
    """He was tired because he worked all day."""
    person = story.someone()
    tense = "past" if story.past else "present"
    who = protagonist(story, person)
    copula = be(tense, plural=False)
    feeling = story.pick(FEELINGS)
    if story.chance(0.4):
        return f"{who} {copula} {story.pick(('very/ADV', 'always/ADV', 'often/ADV'))} {feeling}/ADJ ./PUNCT"
    verb, lemma = deed(story)
    negated = story.chance(0.3)
    cause = conjugated(verb, "past", plural=False, negated=negated)
    reason = f"because/SCONJ {SUBJECT[person.gender]} {cause} {noun(story, lemma, definite=negated).text}"
    return f"{who} {copula} {feeling}/ADJ {reason} ./PUNCT"


def relative(story: Story) -> str:
    """The soup that Anna cooked in the kitchen was hot."""
    verb, lemma = deed(story)
    if not has_article(lemma):
        return together(story)
    story.first_mention(lemma)
    plural = bool(PLURALS[lemma]) and story.chance(0.4)
    head = PLURALS[lemma] if plural else lemma
    clause = f"that/PRON {name(story, story.someone())} {VERBS[verb].past}/VERB"
    where = f" {place(story)}" if story.chance(0.75) else ""
    copula = be("past" if story.past else "present", plural=plural)
    return f"the/DET {head}/NOUN {clause}{where} {copula} {adjective(story, lemma)} ./PUNCT"


def worker(story: Story) -> str:
    """The waiter who works in the restaurant is kind."""
    job = story.pick(story.topic.people)
    plural = story.chance(0.4)
    verb = story.pick(story.topic.activities)
    head = f"the/DET {PLURALS[job] if plural else job}/NOUN who/PRON {conjugated(verb, 'present', plural=plural)}"
    return f"{head} {place(story)} {be('present', plural=plural)} {adjective(story, job)} ./PUNCT"


def contrast(story: Story) -> str:
    """Anna likes apples, but Tom likes tea."""
    first, second = story.hero, story.friend
    verb = "likes" if story.chance(0.7) else "wants"
    link = story.pick((",/PUNCT but/CCONJ", "and/CCONJ"))
    left, right = many(first.likes), many(second.likes)
    before = f"{first.name}/PROPN {verb}/VERB {left}/NOUN"
    return f"{before} {link} {name(story, second)} {verb}/VERB {right}/NOUN ./PUNCT"


def question(story: Story) -> str:
    """Where did Anna buy the apple? — Does she like soup? — How many apples does she want?"""
    person = story.someone()
    verb, lemma = deed(story)
    tense = "past" if story.past else "present"
    helper = auxiliary(tense, plural=False)
    who = protagonist(story, person)
    kind = story.pick(("where", "many", "polar", "why"))
    if kind == "many" and PLURALS[lemma]:
        return f"how/ADV many/ADJ {PLURALS[lemma]}/NOUN {helper} {who} {verb}/VERB ?/PUNCT"
    opener = {"where": "where/ADV ", "why": "why/ADV "}.get(kind, "")
    tail = "" if kind == "where" else f" {place(story)}"
    return f"{opener}{helper} {who} {verb}/VERB {the(lemma)}{tail} ?/PUNCT"


def quoted(story: Story) -> str:
    """“ I like this soup, ” said Anna."""
    person = story.someone()
    lemma = story.thing()
    verb = story.pick(verbs_for(lemma, dynamic=True))
    this = f"this/DET {lemma}/NOUN" if has_article(lemma) else f"{lemma}/NOUN"
    other = story.other(person)
    speech, stop = story.pick(
        (
            (f"I/PRON like/VERB {this}", ",/PUNCT"),
            (f"I/PRON want/VERB to/PART {verb}/VERB {this}", ",/PUNCT"),
            (f"can/AUX you/PRON {verb}/VERB {the(lemma)}", "?/PUNCT"),
            (f"we/PRON must/AUX {verb}/VERB {the(lemma)}", ",/PUNCT"),
            (f"where/ADV is/AUX {other.name}/PROPN", "?/PUNCT"),
            (f"thank/VERB you/PRON ,/PUNCT {other.name}/PROPN", ",/PUNCT"),
        )
    )
    where = f" {place(story)}" if story.chance(0.4) else ""
    saying = "asked" if stop[0] == "?" else "said"
    return f"“/PUNCT {speech} {stop} ”/PUNCT {saying}/VERB {name(story, person)}{where} ./PUNCT"


def compare(story: Story) -> str:
    """The soup is hotter than the bread."""
    lemma = story.thing()
    peers = [thing for thing in story.topic.things if KINDS[thing] == KINDS[lemma] and thing != lemma]
    words = [word for word in ADJECTIVES.get(KINDS[lemma], "").split() if COMPARATIVES.get(word) != ""]
    if not peers or not words:
        return together(story)
    word = story.pick(words)
    short = COMPARATIVES.get(word) or word + ("r" if word.endswith("e") else "er")
    comparative = f"more/ADV {word}/ADJ" if word in LONG_ADJECTIVES else f"{short}/ADJ"
    return f"the/DET {lemma}/NOUN is/AUX {comparative} than/ADP the/DET {story.pick(peers)}/NOUN ./PUNCT"


def when(story: Story) -> str:
    """When Anna came to the kitchen, Tom was cooking the soup."""
    person = story.someone()
    other = story.other(person)
    where = place(story).partition(" ")[2]
    arrival = f"when/SCONJ {protagonist(story, person)} came/VERB to/ADP {where}"
    verb, lemma = deed(story, dynamic=True)
    going_on = f"{name(story, other)} was/AUX {VERBS[verb].ing}/VERB {noun(story, lemma).text}"
    if story.chance(0.75):
        return f"{arrival} ,/PUNCT {going_on} ./PUNCT"
    return f"{going_on} {arrival} ./PUNCT"


def before(story: Story) -> str:
    """After the walk, she washed the plate and read the book."""
    person = story.someone()
    opener = f"{story.pick(('after', 'before'))}/ADP the/DET {story.pick(EVENT_NOUNS)}/NOUN"
    (verb, lemma), (then, next_lemma) = deed(story), deed(story)
    clause = f"{opener} ,/PUNCT {protagonist(story, person)} {VERBS[verb].past}/VERB {noun(story, lemma).text}"
    if lemma == next_lemma:
        return f"{clause} ./PUNCT"
    return f"{clause} and/CCONJ {VERBS[then].past}/VERB {noun(story, next_lemma).text} ./PUNCT"


def event(story: Story) -> str:
    """The walk was long. — They like to walk. — She went for a walk."""
    word = story.pick(EVENT_NOUNS)
    person = story.someone()
    kind = story.pick(("noun", "verb", "infinitive"))
    if kind == "noun":
        return f"the/DET {word}/NOUN {be('past', plural=False)} {story.pick(('long', 'short', 'good'))}/ADJ ./PUNCT"
    if kind == "verb":
        intransitive_word = story.pick(("walk", "talk", "rest", "dance"))
        return f"they/PRON often/ADV {intransitive_word}/VERB {place(story)} ./PUNCT"
    return (
        f"{protagonist(story, person)} went/VERB to/ADP {place(story).partition(' ')[2]} to/PART"
        f" {story.pick(('walk', 'talk', 'rest', 'dance'))}/VERB ./PUNCT"
    )


def there_is(story: Story) -> str:
    """There are three apples on the table."""
    lemma = story.thing()
    if not has_article(lemma):
        return transitive(story)
    story.first_mention(lemma)
    where = place(story)
    tense = "past" if story.past else "present"
    several = PLURALS[lemma]
    if several and story.chance(0.65):
        return f"there/PRON {be(tense, plural=True)} {story.pick(NUMBERS)}/NUM {several}/NOUN {where} ./PUNCT"
    determiner = "a/DET" if several else "some/DET"
    return f"there/PRON {be(tense, plural=False)} {determiner} {lemma}/NOUN {where} ./PUNCT"


def gift(story: Story) -> str:
    """Tom gave her a hat, and she thanked him."""
    person = story.someone()
    other = story.other(person)
    lemma = story.thing()
    if KINDS[lemma] in NOT_GIVEN:
        return when(story)
    giver = protagonist(story, person)
    given = f"{giver} gave/VERB {OBJECT[other.gender]} {noun(story, lemma).text}"
    if story.chance(0.5):
        return f"{given} ,/PUNCT and/CCONJ {SUBJECT[other.gender]} thanked/VERB {OBJECT[person.gender]} ./PUNCT"
    return f"{given} {place(story)} on/ADP {story.pick(DAYS)}/PROPN ./PUNCT"


def modal(story: Story) -> str:
    """She wants to read the book."""
    who = subject(story)
    verb, lemma = deed(story, dynamic=True)
    want = "want/VERB to/PART" if who.plural else "wants/VERB to/PART"
    have = "have/VERB to/PART" if who.plural else "has/VERB to/PART"
    helper = story.pick(("can/AUX", want, "must/AUX", have, "should/AUX", "can/AUX not/PART"))
    return f"{who.text} {helper} {verb}/VERB {noun(story, lemma, definite=True).text} {place(story)} ./PUNCT"


def clock(story: Story) -> str:
    """The lesson begins at 7 o'clock. — Anna was born in May 1987."""
    person = story.someone()
    if story.chance(0.3):
        year = 1950 + int(story.rng.random() * 50)
        return f"{name(story, person)} was/AUX born/VERB in/ADP {story.pick(MONTHS)}/PROPN {year}/NUM ./PUNCT"
    hour = story.pick((7, 8, 9, 6, 10, 5, 11, 4))
    verb = story.pick(("comes to", "leaves", "comes to"))
    head = "leaves/VERB" if verb == "leaves" else "comes/VERB to/ADP"
    where = place(story).partition(" ")[2]
    return f"{protagonist(story, person)} {head} {where} at/ADP {hour}/NUM o'clock/ADV ./PUNCT"


def meet(story: Story) -> str:
    """Anna met the waiter in the kitchen and helped him."""
    person = story.someone()
    other = story.other(person)
    verb = story.pick(VERBS_OF["person"].split())
    meeting = f"{protagonist(story, person)} {VERBS[verb].past}/VERB"
    if story.chance(0.5):
        return f"{meeting} {other.name}/PROPN {place(story)} ./PUNCT"
    return f"{meeting} the/DET {adjective(story, 'cook')} {story.pick(story.topic.people)}/NOUN {place(story)} ./PUNCT"


RULES = (
    (16, transitive), (6, intransitive), (3, together), (8, describe), (5, feel), (6, relative), (3, worker),
    (4, contrast), (6, question), (7, quoted), (4, compare), (6, when), (4, before), (5, event), (6, there_is),
    (5, gift), (6, modal), (4, clock), (4, meet),
)  # fmt: skip
