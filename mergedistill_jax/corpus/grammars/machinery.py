"""What the three grammars share: tagged sentences, peaked sampling, and the memory of one document.

A rule of a grammar is a function from a `Story` to annotated text, words and tags in one string, e.g.

    "the/DET cook/NOUN eats/VERB soup/NOUN ./PUNCT"

which keeps the rules readable; `annotated` turns it into a `TaggedSentence`.
"""

import bisect
import dataclasses
import functools
import itertools
import random
from collections.abc import Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def listed(text: str) -> tuple[str, ...]:
    """The blank-separated words: how the lexicons write their lists."""
    return tuple(text.split())


UPOS = frozenset(listed("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X"))

_NO_SPACE_BEFORE = frozenset(listed(". , ? ! : ; » ”"))
_NO_SPACE_AFTER = frozenset(listed("« “ ¿ ¡"))
_CLITICS = frozenset({"'s", "n't"})  # English endings that are words of their own, written onto the word before
# Kinds of things that nobody hands to somebody.
NOT_GIVEN = frozenset(listed("task music vehicle boat game furniture stove"))
_ALONE = frozenset(listed("sleep cough dormir toser спать"))
_SPEECH_OPENERS = frozenset(listed("« “"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaggedSentence:
    """A sentence as words, and one universal part-of-speech tag (UPOS, Universal Dependencies v2) for each word."""

    words: tuple[str, ...]
    tags: tuple[str, ...]

    @property
    def text(self) -> str:
        """The sentence as it is printed: no space before a full stop, none after an opening quotation mark."""
        pieces: list[str] = []
        glued = True
        for word in self.words:
            if not (glued or word in _NO_SPACE_BEFORE or word in _CLITICS):
                pieces.append(" ")
            pieces.append(word)
            glued = word in _NO_SPACE_AFTER
        return "".join(pieces)


def annotated(text: str) -> TaggedSentence:
    """The sentence written as "word/TAG word/TAG ...", with a capital at its start and at that of direct speech."""
    words: list[str] = []
    tags: list[str] = []
    wants_capital = True
    for token in text.split():
        word, _, tag = token.rpartition("/")
        if wants_capital and word[0].isalnum():
            word = word[0].upper() + word[1:]
            wants_capital = False
        wants_capital = wants_capital or word in _SPEECH_OPENERS
        words.append(word)
        tags.append(tag)
    return TaggedSentence(words=tuple(words), tags=tuple(tags))


def tagged(words: str, tag: str) -> tuple[str, ...]:
    """Each of the blank-separated words as "word/TAG"; an underscore inside an entry parts the words of a phrase."""
    return tuple(" ".join(f"{word}/{tag}" for word in entry.split("_")) for entry in words.split())


@functools.cache
def _cumulative_zipf(size: int) -> tuple[float, ...]:
    return tuple(itertools.accumulate(1.0 / (rank + 3.0) for rank in range(size)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topic:
    """What a document can be about: nouns and intransitive verbs by their lemma, places as the lexicon writes them."""

    people: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]
    activities: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Person:
    """A protagonist; `gender` is "m" or "f", `job` the lemma of a noun, `likes` that of the thing they come back to."""

    name: str
    gender: str
    job: str
    likes: str


class Story:
    """The memory of one document: topic, protagonists, recurring things, who was named last, what was mentioned.

    Everything is drawn through `rng.random()` alone, whose sequence Python promises to keep between versions
    (that of `choice`, `sample` and `shuffle` may change).
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        topics: Sequence[Topic],
        women: Sequence[str],
        men: Sequence[str],
        cities: Sequence[str],
        job_of: Callable[[str, str], str] = lambda job, _gender: job,
    ) -> None:
        """Draws the plan of a document; `job_of(job, gender)` gives the form of a profession for a man or a woman."""
        self.rng = rng
        self.topic = self.pick(topics, peaked=False)
        self.things = self.sample(self.topic.things, 6)
        self.place, self.other_place = self.sample(self.topic.places, 2)
        self.city = self.pick(cities)
        jobs = self.sample(self.topic.people, 2)
        # One woman and one man, so that a pronoun has one reading, and a reader can find it.
        cast = [
            Person(name=self.pick(names), gender=gender, job=job_of(job, gender), likes=thing)
            for names, gender, job, thing in zip((women, men), "fm", jobs, self.things, strict=False)
        ]
        self.hero, self.friend = cast if self.chance(0.5) else cast[::-1]
        self.past = self.chance(0.6)
        self.last: Person | None = None
        self.mentioned: set[str] = set()

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def pick(self, items: Sequence[_T], *, peaked: bool = True) -> _T:
        """One item; with `peaked`, earlier ones more often, as in Zipf's law: a list is written most common first."""
        if not peaked:
            return items[int(self.rng.random() * len(items))]
        cumulative = _cumulative_zipf(len(items))
        return items[bisect.bisect(cumulative, self.rng.random() * cumulative[-1])]

    def sample(self, items: Sequence[_T], count: int) -> list[_T]:
        """`count` different items, peaked as in `pick`."""
        pool = list(items)
        return [pool.pop(pool.index(self.pick(pool))) for _ in range(min(count, len(pool)))]

    def thing(self) -> str:
        """A thing of this document, the first ones most often."""
        return self.pick(self.things)

    def first_mention(self, lemma: str) -> bool:
        """True when the document has not mentioned the lemma yet; it has, from now on."""
        is_new = lemma not in self.mentioned
        self.mentioned.add(lemma)
        return is_new

    def joint_activity(self) -> str:
        """An intransitive verb of the topic for what two people do together."""
        return self.pick([verb for verb in self.topic.activities if verb not in _ALONE])

    def someone(self) -> Person:
        """A protagonist, more often the one just spoken of."""
        if self.last is not None and self.chance(0.6):
            return self.last
        return self.hero if self.chance(0.65) else self.friend

    def other(self, person: Person) -> Person:
        """The other protagonist."""
        return self.friend if person is self.hero else self.hero


def topic(*, people: str, things: str, places: str, activities: str) -> Topic:
    """A topic written as blank-separated lemmas; the places are parted by commas, for they are phrases."""
    return Topic(
        people=listed(people),
        things=listed(things),
        places=tuple(place.strip() for place in places.split(",")),
        activities=listed(activities),
    )


Rule = Callable[[Story], str]


def tell(
    story: Story, *, opening: Sequence[Rule], rules: Sequence[tuple[float, Rule]], finish: Callable[[str], str]
) -> tuple[TaggedSentence, ...]:
    """A document of 5 to 12 sentences: the opening rules in order, then rules drawn by weight.

    `finish` is the last pass over annotated text, for what depends on the neighbouring word (a/an, al, del).
    No sentence is said twice in a document.
    """
    cumulative = list(itertools.accumulate(weight for weight, _ in rules))
    length = 5 + int(story.rng.random() * 8)
    sentences: list[TaggedSentence] = []
    while len(sentences) < length:
        if len(sentences) < len(opening):
            rule = opening[len(sentences)]
        else:
            rule = rules[bisect.bisect(cumulative, story.rng.random() * cumulative[-1])][1]
        sentence = annotated(finish(rule(story)))
        if sentence not in sentences:
            sentences.append(sentence)
    return tuple(sentences)
