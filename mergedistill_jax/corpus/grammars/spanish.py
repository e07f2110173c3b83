"""Spanish: gender and number through the noun phrase, ser and estar, clitics that agree with what they stand for."""

import dataclasses
import itertools
import random

from mergedistill_jax.corpus.grammars.machinery import NOT_GIVEN, Person, Story, TaggedSentence, tell
from mergedistill_jax.corpus.grammars.spanish_lexicon import (
    ABSOLUTE,
    ADJECTIVES,
    CITIES,
    FEELINGS,
    GENDERS,
    KINDS,
    MEN,
    MONTHS,
    NOUNS,
    NUMBERS,
    PLURALS,
    STATES,
    STATIVE,
    STRESSED_A,
    TIMES,
    TOPICS,
    VERBS,
    VERBS_OF,
    WOMEN,
    feminine,
    plural,
)

# (gender, is plural) -> form
ARTICLE = {("m", False): "el", ("f", False): "la", ("m", True): "los", ("f", True): "las"}
INDEFINITE = {("m", False): "un", ("f", False): "una", ("m", True): "unos", ("f", True): "unas"}
DEMONSTRATIVE = {("m", False): "este", ("f", False): "esta", ("m", True): "estos", ("f", True): "estas"}
CLITIC = {("m", False): "lo", ("f", False): "la", ("m", True): "los", ("f", True): "las"}
SUBJECT = {"f": "ella/PRON", "m": "él/PRON"}
COPULA = {  # (is a state, tense) -> third persons
    (False, "present"): ("es", "son"),
    (False, "past"): ("era", "eran"),
    (True, "present"): ("está", "están"),
    (True, "past"): ("estaba", "estaban"),
}
EVENTS = NOUNS["event"].replace(".m", "").split()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noun:
    """A noun phrase as annotated text, with the gender and number that others agree with."""

    text: str
    gender: str
    plural: bool = False


def finish(text: str) -> str:
    """Contracts a + el and de + el, and writes `e` for `y` before the sound i."""
    text = f" {text} ".replace(" a/ADP el/DET ", " al/ADP ").replace(" de/ADP el/DET ", " del/ADP ")
    tokens = text.split()
    for position, (word, following) in enumerate(itertools.pairwise(tokens)):
        if word == "y/CCONJ" and following.lower().startswith(("i", "í", "hi")):
            tokens[position] = "e/CCONJ"
    return " ".join(tokens)


def document(rng: random.Random) -> tuple[TaggedSentence, ...]:
    """One document."""
    story = Story(
        rng,
        topics=TOPICS,
        women=WOMEN,
        men=MEN,
        cities=CITIES,
        job_of=lambda job, gender: feminine(job) if gender == "f" else job,
    )
    return tell(story, opening=(introduce_hero, introduce_friend), rules=RULES, finish=finish)


# --- phrases --------------------------------------------------------------------------------------------------------


def inflected(adjective: str, gender: str, *, is_plural: bool) -> str:
    """The adjective in the gender and number of its noun."""
    word = feminine(adjective) if gender == "f" else adjective
    return f"{plural(word) if is_plural else word}/ADJ"


def determined(forms: dict[tuple[str, bool], str], lemma: str, *, is_plural: bool = False) -> str:
    """Determiner and noun; a feminine noun with a stressed initial a takes the masculine article: el agua."""
    gender = GENDERS[lemma]
    disguised = lemma in STRESSED_A and not is_plural and forms is not DEMONSTRATIVE
    determiner = forms["m" if disguised else gender, is_plural]
    return f"{determiner}/DET {PLURALS[lemma] if is_plural else lemma}/NOUN"


def the(lemma: str, *, is_plural: bool = False) -> str:
    """The noun with the definite article."""
    return determined(ARTICLE, lemma, is_plural=is_plural)


def name(story: Story, person: Person) -> str:
    """The name of a protagonist, who is then the one a pronoun refers to."""
    story.last = person
    return f"{person.name}/PROPN"


def protagonist(story: Story, person: Person) -> str:
    """Name; or pronoun, or nothing at all, when the person was the last one spoken of."""
    if story.last is person and story.chance(0.75):
        return SUBJECT[person.gender] if story.chance(0.6) else ""
    return name(story, person)


def subject(story: Story) -> Noun:
    """A protagonist most of the time, else people of the topic."""
    if story.chance(0.8):
        person = story.someone()
        return Noun(text=protagonist(story, person), gender=person.gender)
    story.last = None
    gender = "m" if story.chance(0.6) else "f"
    is_plural = story.chance(0.5)
    return Noun(text=people(story, gender, is_plural=is_plural), gender=gender, plural=is_plural)


def people(story: Story, gender: str, *, is_plural: bool) -> str:
    """People of the topic by their profession: las enfermeras."""
    job = story.pick(story.topic.people)
    word = feminine(job) if gender == "f" else job
    return f"{ARTICLE[gender, is_plural]}/DET {plural(word) if is_plural else word}/NOUN"


def noun(story: Story, lemma: str, *, definite: bool = False) -> Noun:
    """The noun with its article: indefinite at its first mention in the document, definite afterwards."""
    gender = GENDERS[lemma]
    is_known = not story.first_mention(lemma) or definite
    countable = bool(PLURALS[lemma])
    is_plural = countable and story.chance(0.25)
    if is_known:
        text = the(lemma, is_plural=is_plural)
    elif not countable:
        text = f"{lemma}/NOUN"
    elif is_plural and story.chance(0.6):
        text = f"{story.pick(NUMBERS)}/NUM {PLURALS[lemma]}/NOUN"
    else:
        text = determined(INDEFINITE, lemma, is_plural=is_plural)
    if story.chance(0.3):
        text += " " + inflected(story.pick(ADJECTIVES[KINDS[lemma]].split()), gender, is_plural=is_plural)
    return Noun(text=text, gender=gender, plural=is_plural)


def place(story: Story, preposition: str = "en") -> str:
    """Where the document takes place, most of the time."""
    return f"{preposition}/ADP {the(story.place if story.chance(0.65) else story.other_place)}"


def deed(story: Story, *, dynamic: bool = False) -> tuple[str, str]:
    """A verb and what it is done to; with `dynamic`, something one does on purpose and for a while."""
    lemma = story.thing()
    return story.pick(verbs_for(lemma, dynamic=dynamic)), lemma


def verbs_for(lemma: str, *, dynamic: bool = False) -> list[str]:
    """The verbs that take the noun as their object."""
    return [verb for verb in VERBS_OF[KINDS[lemma]].split() if not (dynamic and verb in STATIVE)]


def is_game(lemma: str) -> bool:
    """Games are played "a": jugar al fútbol."""
    return KINDS[lemma] == "game"


def complement(story: Story, lemma: str, *, definite: bool = False) -> str:
    """The object of a verb that was chosen for it."""
    return f"a/ADP {the(lemma)}" if is_game(lemma) else noun(story, lemma, definite=definite).text


def time(story: Story) -> tuple[str, str]:
    """A tense and the adverbial that tells it; with no adverbial, the tense of the document."""
    main = "past" if story.past else "present"
    if story.chance(0.2):
        return main, ""
    tense = main if story.chance(0.6) else story.pick(("future", "progressive", "perfect", "past", "present"))
    return tense, story.pick(TIMES[tense])


def conjugated(infinitive: str, tense: str, *, is_plural: bool) -> str:
    """The verb in a tense, agreeing with a third-person subject."""
    verb, index = VERBS[infinitive], int(is_plural)
    if tense == "progressive":
        return f"{('está', 'están')[index]}/AUX {verb.gerund}/VERB"
    if tense == "perfect":
        return f"{('ha', 'han')[index]}/AUX {verb.participle}/VERB"
    forms = {"present": verb.present, "past": verb.past, "future": verb.future, "imperfect": verb.imperfect}
    return f"{forms[tense][index]}/VERB"


def predicate(story: Story, noun: Noun, kind: str, tense: str) -> tuple[str, str]:
    """Copula (ser or estar, as the adjective wants) and an adjective for the kind; also the degree word chosen."""
    word = story.pick(ADJECTIVES[kind].split())
    degree = "" if word in ABSOLUTE else story.pick(("muy/ADV ", "", "demasiado/ADV "))
    copula = COPULA[word in STATES, tense][noun.plural]
    return f"{copula}/AUX {degree}{inflected(word, noun.gender, is_plural=noun.plural)}", degree


def timed(story: Story, clause: str, adverbial: str) -> str:
    """The clause as a sentence with its adverbial in front or at the end."""
    if not adverbial:
        return f"{clause} ./PUNCT"
    if story.chance(0.35):
        return f"{adverbial} {clause} ./PUNCT" if story.chance(0.3) else f"{adverbial} ,/PUNCT {clause} ./PUNCT"
    return f"{clause} {adverbial} ./PUNCT"


def tense_of(story: Story) -> str:
    """The tense that the document is told in."""
    return "past" if story.past else "present"


# --- sentences ------------------------------------------------------------------------------------------------------


def introduce_hero(story: Story) -> str:
    """Ana es cocinera en Madrid y a menudo está en la cocina."""
    hero, city = story.hero, f"en/ADP {story.city}/PROPN"
    tail = story.pick((f"{city} y/CCONJ a/ADP menudo/NOUN está/AUX {place(story)}", f"y/CCONJ vive/VERB {city}", city))
    return f"{name(story, hero)} es/AUX {hero.job}/NOUN {tail} ./PUNCT"


def introduce_friend(story: Story) -> str:
    """Su hermano Luis es camarero y a menudo trabajan juntos."""
    friend = story.friend
    relation = story.pick(("amigo", "hermano", "vecino"))
    relation = feminine(relation) if friend.gender == "f" else relation
    activity = conjugated(story.joint_activity(), "present", is_plural=True)
    tail = f"y/CCONJ a/ADP menudo/NOUN {activity} juntos/ADJ"
    if story.chance(0.3):
        tail = f"y/CCONJ vive/VERB en/ADP {story.pick(CITIES)}/PROPN"
    elif story.chance(0.5):
        tail = f"y/CCONJ le/PRON {liking(friend.likes)}"
    return f"su/DET {relation}/NOUN {name(story, friend)} es/AUX {friend.job}/NOUN {tail} ./PUNCT"


def liking(lemma: str) -> str:
    """Gustar agrees with what is liked: le gusta el pan, le gustan las manzanas."""
    return f"gustan/VERB {the(lemma, is_plural=True)}" if PLURALS[lemma] else f"gusta/VERB {the(lemma)}"


def transitive(story: Story) -> str:
    """Ayer, Ana compró una manzana roja en el mercado."""
    tense, adverbial = time(story)
    who = subject(story)
    verb, lemma = deed(story, dynamic=tense == "progressive")
    where = f" {place(story)}" if story.chance(0.4) else ""
    negated = story.chance(0.12)
    clause = f"{who.text} {'no/ADV ' if negated else ''}{conjugated(verb, tense, is_plural=who.plural)}"
    return timed(story, f"{clause} {complement(story, lemma, definite=negated)}{where}", adverbial)


def intransitive(story: Story) -> str:
    """Los camareros trabajan en el restaurante todos los días."""
    tense, adverbial = time(story)
    who = subject(story)
    negation = "no/ADV " if story.chance(0.1) else ""
    verb = conjugated(story.pick(story.topic.activities), tense, is_plural=who.plural)
    return timed(story, f"{who.text} {negation}{verb} {place(story)}", adverbial)


def together(story: Story) -> str:
    """Ana y Luis hablan juntos en la cocina."""
    tense, adverbial = time(story)
    verb = conjugated(story.joint_activity(), tense, is_plural=True)
    pair = f"{story.hero.name}/PROPN y/CCONJ {story.friend.name}/PROPN" if story.chance(0.6) else "ellos/PRON"
    story.last = None
    return timed(story, f"{pair} {verb} juntos/ADJ {place(story)}", adverbial)


def describe(story: Story) -> str:
    """La sopa estaba muy caliente, y por eso Ana no la comió."""
    lemma, tense = story.thing(), tense_of(story)
    if is_game(lemma):
        return f"a/ADP {name(story, story.someone())} le/PRON gusta/VERB mucho/ADV {the(lemma)} ./PUNCT"
    story.first_mention(lemma)
    is_plural = bool(PLURALS[lemma]) and story.chance(0.35)
    thing = Noun(text=the(lemma, is_plural=is_plural), gender=GENDERS[lemma], plural=is_plural)
    quality, degree = predicate(story, thing, KINDS[lemma], tense)
    if story.chance(0.4):
        return f"{thing.text} {quality} ./PUNCT"
    verb = story.pick(verbs_for(lemma))
    negation = "no/ADV " if degree == "demasiado/ADV " else ""
    who = protagonist(story, story.someone())
    reaction = f"{negation}{CLITIC[thing.gender, is_plural]}/PRON {conjugated(verb, tense, is_plural=False)}"
    return f"{thing.text} {quality} ,/PUNCT y/CCONJ por/ADP eso/PRON {who} {reaction} ./PUNCT"


def feel(story: Story) -> str:
    """Él está cansado porque trabajó todo el día."""
    person = story.someone()
    who = protagonist(story, person)
    copula = COPULA[True, tense_of(story)][0]
    feeling = inflected(story.pick(FEELINGS), person.gender, is_plural=False)
    if story.chance(0.35):
        return f"{who} {copula}/AUX {story.pick(('muy/ADV', 'siempre/ADV', 'un/DET poco/NOUN'))} {feeling} ./PUNCT"
    verb, lemma = deed(story)
    negated = story.chance(0.3)
    cause = f"{'no/ADV ' if negated else ''}{conjugated(verb, 'past', is_plural=False)}"
    return f"{who} {copula}/AUX {feeling} porque/SCONJ {cause} {complement(story, lemma, definite=negated)} ./PUNCT"


def relative(story: Story) -> str:
    """La sopa que Ana cocinó en la cocina estaba caliente."""
    verb, lemma = deed(story)
    if is_game(lemma):
        return together(story)
    story.first_mention(lemma)
    is_plural = bool(PLURALS[lemma]) and story.chance(0.4)
    head = Noun(text=the(lemma, is_plural=is_plural), gender=GENDERS[lemma], plural=is_plural)
    clause = f"que/PRON {name(story, story.someone())} {conjugated(verb, 'past', is_plural=False)}"
    where = f" {place(story)}" if story.chance(0.75) else ""
    return f"{head.text} {clause}{where} {predicate(story, head, KINDS[lemma], tense_of(story))[0]} ./PUNCT"


def worker(story: Story) -> str:
    """Las camareras que trabajan en el restaurante son amables."""
    gender = "m" if story.chance(0.6) else "f"
    is_plural = story.chance(0.45)
    head = Noun(text=people(story, gender, is_plural=is_plural), gender=gender, plural=is_plural)
    verb = conjugated(story.pick(story.topic.activities), "present", is_plural=is_plural)
    return f"{head.text} que/PRON {verb} {place(story)} {predicate(story, head, 'person', 'present')[0]} ./PUNCT"


def contrast(story: Story) -> str:
    """A Ana le gusta el pan, pero a Luis le gustan las manzanas."""
    first, second = story.hero, story.friend
    left = f"a/ADP {first.name}/PROPN le/PRON {liking(first.likes)}"
    link = story.pick((",/PUNCT pero/CCONJ", "y/CCONJ"))
    return f"{left} {link} a/ADP {name(story, second)} le/PRON {liking(second.likes)} ./PUNCT"


def question(story: Story) -> str:
    """¿Dónde compró Ana la manzana? — ¿Cuántas manzanas comió Luis?"""
    person = story.someone()
    verb, lemma = deed(story)
    action = conjugated(verb, tense_of(story), is_plural=False)
    who = name(story, person) if story.chance(0.6) else protagonist(story, person)
    kind = story.pick(("where", "many", "polar", "why"))
    what = f"a/ADP {the(lemma)}" if is_game(lemma) else the(lemma)
    if kind == "many" and PLURALS[lemma]:
        amount = "cuántas" if GENDERS[lemma] == "f" else "cuántos"
        return f"¿/PUNCT {amount}/DET {PLURALS[lemma]}/NOUN {action} {who} {place(story)} ?/PUNCT"
    if kind == "where":
        return f"¿/PUNCT dónde/ADV {action} {who} {what} ?/PUNCT"
    if kind == "why":
        return f"¿/PUNCT por/ADP qué/PRON {action} {who} {what} {place(story)} ?/PUNCT"
    return f"¿/PUNCT {who} {action} {what} {place(story)} ?/PUNCT"


def quoted(story: Story) -> str:
    """«Quiero leer este libro», dijo Ana."""
    person = story.someone()
    lemma = story.thing()
    if is_game(lemma):
        return modal(story)
    infinitive = story.pick(verbs_for(lemma, dynamic=True))
    verb = VERBS[infinitive]
    other = story.other(person)
    this = determined(DEMONSTRATIVE, lemma)
    speech = story.pick(
        (
            f"quiero/VERB {infinitive}/VERB {this}",
            f"{'siempre' if story.chance(0.5) else 'nunca'}/ADV {verb.yo}/VERB {the(lemma)}",
            f"me/PRON gusta/VERB mucho/ADV {this}",
            f"¿/PUNCT dónde/ADV está/AUX {other.name}/PROPN ?/PUNCT",
            f"tenemos/VERB que/SCONJ {infinitive}/VERB {the(lemma)}",
            f"hoy/ADV {verb.nosotros}/VERB {the(lemma)}",
            f"gracias/NOUN ,/PUNCT {other.name}/PROPN",
        )
    )
    saying = "preguntó" if speech[0] == "¿" else "dijo"
    where = f" {place(story)}" if story.chance(0.4) else ""
    return f"«/PUNCT {speech} »/PUNCT ,/PUNCT {saying}/VERB {name(story, person)}{where} ./PUNCT"


def compare(story: Story) -> str:
    """La mesa es más pesada que la silla. — El tren es tan rápido como el coche."""
    lemma = story.thing()
    words = [word for word in ADJECTIVES.get(KINDS[lemma], "").split() if word not in ABSOLUTE | STATES]
    peers = [thing for thing in story.topic.things if KINDS[thing] == KINDS[lemma] and thing != lemma]
    if not peers or not words:
        return together(story)
    word, peer = story.pick(words), the(story.pick(peers))
    if word == "bueno":
        return f"{the(lemma)} es/AUX mejor/ADJ que/SCONJ {peer} ./PUNCT"
    agreed = inflected(word, GENDERS[lemma], is_plural=False)
    if story.chance(0.4):
        return f"{the(lemma)} es/AUX tan/ADV {agreed} como/SCONJ {peer} ./PUNCT"
    return f"{the(lemma)} es/AUX más/ADV {agreed} que/SCONJ {peer} ./PUNCT"


def when(story: Story) -> str:
    """Cuando Ana vino a la cocina, Luis estaba cocinando la sopa."""
    person = story.someone()
    other = story.other(person)
    arrival = f"cuando/SCONJ {protagonist(story, person)} {story.pick(('vino', 'llegó'))}/VERB {place(story, 'a')}"
    verb, lemma = deed(story, dynamic=True)
    going_on = f"estaba/AUX {VERBS[verb].gerund}/VERB" if story.chance(0.6) else f"{VERBS[verb].imperfect[0]}/VERB"
    clause = f"{name(story, other)} {going_on} {complement(story, lemma)}"
    return f"{arrival} ,/PUNCT {clause} ./PUNCT" if story.chance(0.75) else f"{clause} {arrival} ./PUNCT"


def before(story: Story) -> str:
    """Después del paseo, ella lavó el plato y leyó el libro."""
    opener = f"{story.pick(('después', 'antes'))}/ADV de/ADP {the(story.pick(EVENTS))}"
    (verb, lemma), (then, next_lemma) = deed(story), deed(story)
    who = protagonist(story, story.someone())
    clause = f"{opener} ,/PUNCT {who} {conjugated(verb, 'past', is_plural=False)} {complement(story, lemma)}"
    if lemma == next_lemma:
        return f"{clause} ./PUNCT"
    then_clause = f"{conjugated(then, 'past', is_plural=False)} {complement(story, next_lemma)}"
    return f"{clause} y/CCONJ {then_clause} ./PUNCT"


def event(story: Story) -> str:
    """El paseo fue largo. — A menudo hablan en la cocina. — Ella fue al parque para descansar."""
    kind = story.pick(("noun", "infinitive", "verb"))
    if kind == "noun":
        word = inflected(story.pick(ADJECTIVES["event"].split()), "m", is_plural=False)
        return f"{the(story.pick(EVENTS))} {place(story)} fue/AUX {word} ./PUNCT"
    if kind == "verb":
        verb = conjugated(story.pick(("hablar", "descansar", "bailar", "caminar")), "present", is_plural=True)
        return f"a/ADP menudo/NOUN {verb} {place(story)} ./PUNCT"
    purpose = story.pick(("descansar", "hablar", *story.topic.activities[:2]))
    return f"{protagonist(story, story.someone())} fue/VERB {place(story, 'a')} para/ADP {purpose}/VERB ./PUNCT"


def there_is(story: Story) -> str:
    """Hay tres manzanas en la cocina."""
    lemma = story.thing()
    if is_game(lemma):
        return transitive(story)
    story.first_mention(lemma)
    verb = "había" if story.past else "hay"
    if PLURALS[lemma] and story.chance(0.6):
        amount = f"{story.pick(NUMBERS)}/NUM"
        if story.chance(0.3):
            amount = "muchas/DET" if GENDERS[lemma] == "f" else "muchos/DET"
        return f"{verb}/VERB {amount} {PLURALS[lemma]}/NOUN {place(story)} ./PUNCT"
    what = determined(INDEFINITE, lemma) if PLURALS[lemma] else f"{lemma}/NOUN"
    return f"{place(story)} {verb}/VERB {what} ./PUNCT"


def gift(story: Story) -> str:
    """Luis le dio un sombrero, y ella le dio las gracias."""
    person = story.someone()
    lemma = story.thing()
    if KINDS[lemma] in NOT_GIVEN:
        return when(story)
    other = story.other(person)
    given = f"{protagonist(story, person)} le/PRON dio/VERB {noun(story, lemma).text} a/ADP {other.name}/PROPN"
    story.last = other
    if story.chance(0.5):
        return f"{given} ,/PUNCT y/CCONJ {SUBJECT[other.gender]} le/PRON dio/VERB las/DET gracias/NOUN ./PUNCT"
    return f"{given} {place(story)} ./PUNCT"


def modal(story: Story) -> str:
    """Ella quiere leer el libro en la biblioteca."""
    who = subject(story)
    infinitive, lemma = deed(story, dynamic=True)
    singular, several = story.pick(
        (
            ("puede/AUX", "pueden/AUX"),
            ("quiere/VERB", "quieren/VERB"),
            ("tiene/VERB que/SCONJ", "tienen/VERB que/SCONJ"),
            ("debe/AUX", "deben/AUX"),
        )
    )
    helper = several if who.plural else singular
    return f"{who.text} {helper} {infinitive}/VERB {complement(story, lemma, definite=True)} {place(story)} ./PUNCT"


def clock(story: Story) -> str:
    """Ella sale de la cocina a las 7. — Ana nació en mayo de 1987."""
    person = story.someone()
    if story.chance(0.3):
        date = f"{story.pick(MONTHS)}/NOUN de/ADP {1950 + int(story.rng.random() * 50)}/NUM"
        return f"{name(story, person)} nació/VERB en/ADP {date} ./PUNCT"
    motion = f"sale/VERB {place(story, 'de')}" if story.chance(0.4) else f"viene/VERB {place(story, 'a')}"
    hour = f"a/ADP las/DET {story.pick((7, 8, 9, 6, 10, 5, 11, 4))}/NUM"
    return f"{protagonist(story, person)} {motion} {hour} {story.pick(TIMES['present'])} ./PUNCT"


def meet(story: Story) -> str:
    """Ana vio a Luis en la cocina y lo saludó."""
    person = story.someone()
    verb = conjugated(story.pick(("ver", "visitar", "llamar")), "past", is_plural=False)
    who = protagonist(story, person)
    if story.chance(0.5):
        whom, gender = f"{story.other(person).name}/PROPN", story.other(person).gender
    else:
        gender = "m" if story.chance(0.5) else "f"
        whom = people(story, gender, is_plural=False)
    greeting = f"y/CCONJ {CLITIC[gender, False]}/PRON {story.pick(('saludó', 'ayudó', 'invitó'))}/VERB"
    return f"{who} {verb} a/ADP {whom} {place(story)} {greeting if story.chance(0.5) else ''} ./PUNCT"


RULES = (
    (16, transitive), (6, intransitive), (3, together), (9, describe), (5, feel), (6, relative), (4, worker),
    (3, contrast), (6, question), (7, quoted), (4, compare), (6, when), (4, before), (4, event), (6, there_is),
    (5, gift), (6, modal), (4, clock), (5, meet),
)  # fmt: skip
