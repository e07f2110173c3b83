"""The words of the English grammar: nouns by kind, what each verb can be done to, adjectives, topics, names.

Lists stand most common first (they are sampled as Zipf's law has it). `~` marks a noun without a plural;
`one:many` gives an irregular plural.
"""

import dataclasses

from mergedistill_jax.corpus.grammars.machinery import listed, tagged, topic

NOUNS = {
    "food": "soup~ rice~ potato:potatoes egg sandwich salad meat~ onion",
    "baked": "bread~ cake pie",
    "fruit": "apple tomato:tomatoes orange",
    "spread": "honey~ cheese~ butter~",
    "fish": "salmon~ tuna~ trout~ herring~",
    "drink": "tea~ coffee~ water~ milk~ juice~ wine~ lemonade~",
    "dish": "plate pot cup knife:knives spoon bowl glass pan fork bottle",
    "text": "book letter story poem novel report message article",
    "print": "newspaper dictionary page diary",
    "task": "lesson question exam answer",
    "vehicle": "car bus truck train taxi tractor van",
    "boat": "boat ship ferry canoe",
    "baggage": "ticket suitcase map passport bag umbrella",
    "clothing": "coat shirt dress hat scarf:scarves shoe jacket skirt glove sweater",
    "plant": "tree flower rose bush tulip vine hedge",
    "animal": "horse cow dog sheep:sheep goat hen cat pig duck goose:geese",
    "instrument": "piano violin guitar drum flute trumpet cello harp",
    "music": "song waltz melody symphony hymn tune",
    "medicine": "pill vitamin syrup~ capsule tablet",
    "game": "football~ tennis~ chess~ basketball~ hockey~",
    "gear": "ball racket net whistle",
    "prize": "medal trophy cup",
    "furniture": "table chair bed shelf:shelves door cupboard window bench box",
    "tool": "hammer saw ladder brush nail axe drill rope spade",
    "person": """cook waiter baker guest chef teacher pupil student writer librarian driver passenger pilot tourist
        guide farmer gardener shepherd neighbour vet musician singer dancer pianist conductor seller customer tailor
        cashier doctor nurse patient surgeon player coach runner referee fan carpenter painter builder engineer
        sailor captain fisher diver friend woman:women man:men child:children""",
}

# Selection: what can be done to things of a kind.
VERBS_OF = {
    "food": "eat cook taste prepare order get",
    "baked": "bake eat cut buy sell",
    "fruit": "eat wash pick cut buy",
    "spread": "taste buy eat get",
    "fish": "catch cook clean sell",
    "drink": "drink pour order get",
    "dish": "wash use break dry",
    "text": "read write finish translate discuss",
    "print": "read find open close buy",
    "task": "study discuss prepare forget",
    "vehicle": "drive park repair stop wash",
    "boat": "sail paint repair hire",
    "baggage": "carry lose find pack forget",
    "clothing": "wear buy sew iron choose sell",
    "plant": "water plant cut grow",
    "animal": "feed see follow keep buy",
    "instrument": "play tune buy carry",
    "music": "sing hear play write practise",
    "medicine": "take need get buy",
    "game": "play watch teach",
    "gear": "throw lose carry find",
    "prize": "win polish show lose",
    "furniture": "paint build repair move clean",
    "tool": "use need borrow find",
    "person": "see meet help visit call thank invite",
}
# base past participle; the rest is regular
IRREGULAR = """
    eat ate eaten; buy bought bought; cut cut cut; bring brought brought; sell sold sold; catch caught caught;
    drink drank drunk; break broke broken; read read read; write wrote written; forget forgot forgotten;
    drive drove driven; see saw seen; lose lost lost; find found found; show showed shown; wear wore worn;
    sew sewed sewn; choose chose chosen; grow grew grown; feed fed fed; keep kept kept; sing sang sung;
    hear heard heard; take took taken; teach taught taught; throw threw thrown; build built built; meet met met;
    know knew known; sleep slept slept; run ran run; swim swam swum; go went gone; come came come; give gave given;
    say said said; think thought thought; sit sat sat; stand stood stood; speak spoke spoken; leave left left;
    get got got; put put put; make made made; have had had; begin began begun; tell told told; win won won"""
STATIVE = frozenset(
    listed("forget lose find see hear know need love keep show bring break take win")
)  # not "is needing"
DOUBLING = frozenset(listed("cut forget run swim sit stop get put begin win"))  # the last consonant doubles

EVENT_NOUNS = listed("walk talk rest dance run visit call drink show")  # verbs too: the tag is in the context

ADJECTIVES = {
    "food": "hot good cold fresh tasty",
    "baked": "sweet fresh good tasty",
    "fruit": "sweet red fresh big",
    "spread": "sweet good fresh expensive",
    "fish": "fresh good cold big",
    "drink": "hot cold sweet strong",
    "dish": "clean small dirty big",
    "text": "long interesting short new funny",
    "print": "old new interesting thick",
    "task": "difficult short easy long",
    "vehicle": "fast old red slow expensive",
    "boat": "white big old fast small",
    "baggage": "heavy small old big",
    "clothing": "warm blue new cheap green",
    "plant": "tall green young beautiful",
    "animal": "young hungry brown small big",
    "instrument": "old expensive good new beautiful",
    "music": "beautiful slow sad short famous",
    "medicine": "strong bitter new cheap",
    "gear": "new old light good",
    "prize": "small beautiful heavy old",
    "furniture": "wooden old big heavy white",
    "tool": "old heavy good light new",
    "person": "kind young old tall famous",
}
FEELINGS = listed("tired happy hungry sad ill busy late angry")
# "" marks what has no degrees, and goes with neither "very" nor "than"; the rest is regular.
COMPARATIVES = {
    "good": "better", "big": "bigger", "hot": "hotter", "sad": "sadder", "funny": "funnier", "heavy": "heavier",
    "tasty": "tastier", "dirty": "dirtier", "hungry": "hungrier", "red": "", "wooden": "", "white": "", "blue": "",
    "green": "", "brown": "", "new": "", "young": "younger",
    "thick": "thicker", "easy": "easier",
}  # fmt: skip
LONG_ADJECTIVES = frozenset(listed("interesting difficult expensive beautiful famous bitter"))  # compared with "more"

WOMEN = listed("Anna Mary Emma Lucy Alice Helen Julia Sarah Olivia Irene")
MEN = listed("Tom John Peter David Oscar Paul Henry Robert Andrew Simon")
CITIES = listed("London Boston Dublin Oxford Chicago York Bristol Toronto")
MONTHS = listed("May June July April March October")
DAYS = listed("Monday Sunday Friday Saturday Tuesday")
NUMBERS = listed("two three four five six seven ten twelve twenty")

# A place is "preposition noun" and takes the definite article.
TOPICS = (
    topic(
        people="cook waiter baker guest chef",
        things="""soup bread tea apple potato coffee cake plate egg rice pot cheese juice tomato pie cup knife sandwich
            salad wine water onion meat milk bowl glass spoon butter honey fork bottle pan lemonade orange""",
        places="in kitchen, in restaurant, at hotel, in bakery, in cafe",
        activities="work wait sit smile hurry",
    ),
    topic(
        people="teacher pupil student writer librarian",
        things="""book letter story lesson newspaper question exam poem answer novel report dictionary page message
            diary article""",
        places="in library, at school, in classroom, at university, in office",
        activities="work sit study talk wait",
    ),
    topic(
        people="driver passenger tourist pilot guide",
        things="car bus ticket suitcase train map taxi bag truck passport van umbrella",
        places="at station, at airport, on road, in street, at hotel",
        activities="wait stand hurry walk sleep",
    ),
    topic(
        people="farmer gardener shepherd vet",
        things="""tree horse flower cow apple dog rose sheep milk goat hen tomato bush cat pig egg tractor spade hedge
            duck goose tulip vine honey""",
        places="on farm, in garden, in field, in village, in barn",
        activities="work rest walk sleep sing",
    ),
    topic(
        people="musician singer dancer pianist conductor",
        things="song piano violin guitar melody waltz flute drum symphony trumpet cello tune hymn harp",
        places="in theatre, on stage, in hall, at opera, at festival",
        activities="sing dance smile work wait",
    ),
    topic(
        people="seller customer tailor cashier",
        things="""coat shirt dress hat shoe jacket scarf apple skirt bag bread glove cheese sweater umbrella orange""",
        places="in shop, at market, in square, in street, in town",
        activities="work wait stand talk hurry",
    ),
    topic(
        people="doctor nurse patient surgeon",
        things="pill vitamin syrup report tablet bed capsule letter tea water question",
        places="in hospital, in ward, at pharmacy, at clinic, in office",
        activities="wait sleep rest work cough",
    ),
    topic(
        people="player coach runner referee fan",
        things="football ball tennis chess medal racket basketball trophy net hockey whistle ticket",
        places="at stadium, in park, in gym, at club, on beach",
        activities="run train jump rest shout",
    ),
    topic(
        people="carpenter painter builder engineer",
        things="table chair hammer door saw ladder bed brush shelf window nail drill bench cupboard axe box rope",
        places="in workshop, in house, at factory, in yard, in garage",
        activities="work stand whistle rest talk",
    ),
    topic(
        people="sailor captain fisher diver",
        things="boat ship salmon net ferry tuna rope map herring trout canoe knife",
        places="in harbour, on beach, on island, on ship, at lake",
        activities="swim wait fish rest sing",
    ),
)

# tense -> adverbials; the adverbial tells the tense of the verb
TIMES = {
    "past": (
        *tagged("yesterday", "NOUN"),
        "last/ADJ week/NOUN",
        "last/ADJ year/NOUN",
        "two/NUM days/NOUN ago/ADV",
        "last/ADJ night/NOUN",
        "three/NUM weeks/NOUN ago/ADV",
        *(f"last/ADJ {day}/PROPN" for day in DAYS[:3]),
    ),
    "present": (
        "every/DET day/NOUN",
        "every/DET morning/NOUN",
        "in/ADP the/DET evening/NOUN",
        *(f"on/ADP {day}s/PROPN" for day in DAYS[:3]),
        "every/DET week/NOUN",
    ),
    "future": (*tagged("tomorrow", "NOUN"), "next/ADJ week/NOUN", "next/ADJ year/NOUN", "next/ADJ month/NOUN"),
    "progressive": (*tagged("now", "ADV"), "at/ADP the/DET moment/NOUN", *tagged("today", "NOUN")),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verb:
    """The forms of an English verb."""

    base: str
    third: str
    past: str
    participle: str
    ing: str


def plural(noun: str) -> str:
    """The regular plural of a noun, which is the third person of a verb too."""
    if noun.endswith(("s", "x", "ch", "sh", "z")) or noun == "go":
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def _verb(base: str, past: str = "", participle: str = "") -> Verb:
    doubled = base + base[-1] if base in DOUBLING else base
    silent_e = base.endswith("e") and not base.endswith("ee")
    if not past:
        past = base + "d" if base.endswith("e") else doubled + "ed"
        if base.endswith("y") and base[-2] not in "aeiou":
            past = base[:-1] + "ied"
    third = "has" if base == "have" else plural(base)
    ing = (base[:-1] if silent_e else doubled) + "ing"
    return Verb(base=base, third=third, past=past, participle=participle or past, ing=ing)


def _verbs() -> dict[str, Verb]:
    verbs = {entry.split()[0]: _verb(*entry.split()) for entry in IRREGULAR.split(";")}
    activities = [verb for subject in TOPICS for verb in subject.activities]
    regular = [*" ".join(VERBS_OF.values()).split(), *activities, *EVENT_NOUNS, "live", "like", "want", "ask", "play"]
    return verbs | {base: _verb(base) for base in regular if base not in verbs}


VERBS = _verbs()
PLURALS: dict[str, str] = {}  # lemma -> plural, "" where there is none
KINDS: dict[str, str] = {}
for _kind, _entries in NOUNS.items():
    for _entry in _entries.split():
        _lemma, _, _many = _entry.rstrip("~").partition(":")
        PLURALS[_lemma] = "" if _entry.endswith("~") else _many or plural(_lemma)
        KINDS.setdefault(_lemma, _kind)
