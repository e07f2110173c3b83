"""The words of the Spanish grammar, and their inflection.

Lists stand most common first. A noun is `lemma`, with `.m` or `.f` where the ending (-a, -ión: feminine; else
masculine) does not tell its gender, and with `~` where it has no plural. Adjectives are given in the masculine.
"""

import dataclasses

from mergedistill_jax.corpus.grammars.machinery import listed, tagged, topic

NOUNS = {
    "food": "sopa arroz.m~ patata huevo bocadillo ensalada carne.f~ cebolla",
    "baked": "pan~ pastel tarta galleta",
    "fruit": "manzana tomate.m naranja pera",
    "spread": "miel.f~ queso~ mantequilla~",
    "fish": "trucha salmón~ sardina atún~",
    "drink": "té.m~ café.m~ agua.f~ leche.f~ zumo~ vino~ limonada~",
    "dish": "plato olla taza cuchillo cuchara vaso sartén.f tenedor botella",
    "text": "libro carta cuento poema.m novela informe.m mensaje.m artículo",
    "print": "periódico revista diccionario página diario",
    "task": "lección pregunta examen respuesta ejercicio",
    "vehicle": "coche.m autobús camión tren taxi.m tractor furgoneta bicicleta",
    "boat": "barco velero lancha canoa",
    "baggage": "maleta billete.m mapa.m pasaporte.m bolsa mochila",
    "clothing": "abrigo camisa vestido sombrero zapato bufanda chaqueta falda guante.m suéter",
    "plant": "árbol flor.f rosa arbusto tulipán clavel",
    "animal": "caballo vaca perro oveja cabra gallina gato cerdo pato",
    "instrument": "piano guitarra violín tambor flauta trompeta violonchelo arpa",
    "music": "canción melodía sinfonía himno balada",
    "medicine": "pastilla vitamina jarabe.m cápsula tableta",
    "game": "fútbol~ tenis~ ajedrez.m~ baloncesto~",
    "gear": "pelota raqueta red.f silbato balón",
    "prize": "medalla trofeo copa",
    "furniture": "mesa silla puerta cama armario ventana estante.m banco caja",
    "tool": "martillo sierra escalera pincel clavo taladro cuerda hacha pala",
    "place": """cocina restaurante.m hotel panadería cafetería biblioteca escuela universidad.f aula oficina estación
        aeropuerto calle.f carretera granja jardín campo pueblo establo teatro escenario sala ópera festival tienda
        mercado plaza centro hospital clínica farmacia consulta estadio parque.m gimnasio club playa taller casa
        fábrica patio garaje.m puerto isla río lago""",
    "event": "paseo descanso baile.m trabajo juego canto",
}
STATIVE = frozenset(listed("perder olvidar necesitar romper ver encontrar mostrar ganar"))  # not "está necesitando"
STRESSED_A = frozenset(listed("agua aula arpa hacha"))  # feminine, but el agua and un hacha

# Selection: what can be done to things of a kind.
VERBS_OF = {
    "food": "comer cocinar probar preparar pedir",
    "baked": "comer comprar cortar vender preparar",
    "fruit": "comer lavar cortar comprar",
    "spread": "probar comprar comer encontrar",
    "fish": "pescar cocinar limpiar vender",
    "drink": "beber pedir servir encontrar",
    "dish": "lavar romper usar secar",
    "text": "leer escribir terminar traducir comentar",
    "print": "leer abrir comprar buscar",
    "task": "estudiar preparar comentar olvidar",
    "vehicle": "conducir aparcar parar reparar lavar",
    "boat": "pintar reparar alquilar ver",
    "baggage": "llevar perder buscar olvidar",
    "clothing": "llevar comprar coser planchar elegir",
    "plant": "regar plantar cortar cuidar",
    "animal": "cuidar ver seguir buscar",
    "instrument": "tocar afinar comprar llevar",
    "music": "cantar escuchar tocar escribir",
    "medicine": "tomar necesitar encontrar comprar",
    "game": "jugar",
    "gear": "lanzar perder llevar buscar",
    "prize": "ganar limpiar mostrar perder",
    "furniture": "pintar reparar construir mover limpiar",
    "tool": "usar necesitar buscar encontrar",
    "person": "ver saludar ayudar visitar llamar",
}
# Stem of the stressed present forms, and stem of the third person of the preterite and of the gerund.
STEMS = {
    "probar": ("prueb", ""), "pedir": ("pid", "pid"), "servir": ("sirv", "sirv"), "perder": ("pierd", ""),
    "encontrar": ("encuentr", ""), "regar": ("rieg", ""), "seguir": ("sigu", "sigu"), "jugar": ("jueg", ""),
    "mostrar": ("muestr", ""),
    "mover": ("muev", ""), "construir": ("construy", ""), "elegir": ("elig", "elig"), "dormir": ("duerm", "durm"),
}  # fmt: skip
# first person singular of the present, third persons of the preterite; "" where regular
IRREGULAR = {
    "traer": ("traigo", "trajo trajeron"), "conducir": ("conduzco", "condujo condujeron"),
    "traducir": ("traduzco", "tradujo tradujeron"), "ver": ("veo", "vio vieron"), "elegir": ("elijo", ""),
    "seguir": ("sigo", ""), "venir": ("vengo", "vino vinieron"), "dar": ("doy", "dio dieron"),
    "proteger": ("protejo", ""),
}  # fmt: skip
PARTICIPLES = {
    "escribir": "escrito", "romper": "roto", "abrir": "abierto", "ver": "visto", "leer": "leído", "traer": "traído",
}  # fmt: skip

ADJECTIVES = {
    "food": "caliente bueno frío fresco delicioso",
    "baked": "dulce fresco bueno delicioso",
    "fruit": "maduro rojo dulce grande",
    "spread": "dulce bueno caro fresco",
    "fish": "fresco bueno frío pequeño",
    "drink": "caliente frío dulce fuerte",
    "dish": "limpio pequeño sucio grande",
    "text": "largo interesante corto nuevo divertido",
    "print": "viejo nuevo interesante aburrido",
    "task": "difícil corto fácil largo",
    "vehicle": "rápido viejo rojo lento caro",
    "boat": "blanco grande viejo rápido pequeño",
    "baggage": "pesado pequeño viejo grande",
    "clothing": "negro azul nuevo barato verde elegante",
    "plant": "alto verde hermoso joven",
    "animal": "joven hambriento pequeño blanco",
    "instrument": "viejo caro bueno nuevo",
    "music": "hermoso lento triste famoso corto",
    "medicine": "fuerte amargo nuevo barato",
    "gear": "nuevo viejo ligero bueno",
    "prize": "pequeño hermoso pesado viejo",
    "furniture": "viejo grande pesado blanco nuevo",
    "tool": "viejo pesado bueno ligero",
    "person": "amable joven viejo alto famoso simpático",
    "event": "largo corto bueno",
}
STATES = frozenset(listed("caliente frío fresco limpio sucio maduro hambriento"))  # said with estar; others with ser
ABSOLUTE = frozenset(listed("blanco negro azul verde rojo delicioso"))  # neither "muy" nor "más ... que"
FEELINGS = listed("cansado contento enfermo triste ocupado enfadado nervioso")

WOMEN = listed("Ana María Lucía Carmen Elena Marta Julia Sara Rosa Irene")
MEN = listed("Luis Juan Pedro Carlos Pablo Antonio Miguel Jorge Andrés Diego")
CITIES = listed("Madrid Sevilla Barcelona Valencia Granada Toledo Bilbao Lima")
MONTHS = listed("mayo junio abril julio marzo octubre")
NUMBERS = listed("dos tres cuatro cinco seis siete diez doce veinte")
INVARIABLE_PEOPLE = frozenset(listed("cliente estudiante turista guía cantante pianista paciente piloto submarinista"))

TOPICS = (
    topic(
        people="cocinero camarero panadero cliente",
        things="""sopa pan té manzana café patata plato huevo arroz queso olla taza zumo tomate tarta cuchillo vaso
            ensalada vino agua cebolla carne leche cuchara bocadillo mantequilla tenedor botella sartén limonada
            pastel galleta naranja""",
        places="cocina, restaurante, hotel, panadería, cafetería",
        activities="trabajar cocinar esperar descansar correr",
    ),
    topic(
        people="maestro alumno estudiante escritor bibliotecario",
        things="""libro carta cuento lección periódico pregunta examen poema respuesta novela revista informe
            diccionario página mensaje diario artículo ejercicio""",
        places="biblioteca, escuela, aula, universidad, oficina",
        activities="trabajar leer estudiar hablar esperar",
    ),
    topic(
        people="conductor pasajero turista piloto guía",
        things="coche maleta autobús billete tren mapa taxi bolsa camión pasaporte furgoneta mochila bicicleta",
        places="estación, aeropuerto, calle, carretera, hotel",
        activities="esperar caminar correr dormir hablar",
    ),
    topic(
        people="granjero jardinero pastor veterinario",
        things="""árbol caballo flor vaca manzana perro rosa oveja leche cabra gallina tomate arbusto gato cerdo huevo
            tractor pala pato tulipán clavel miel pera""",
        places="granja, jardín, campo, pueblo, establo",
        activities="trabajar descansar caminar dormir cantar",
    ),
    topic(
        people="músico cantante bailarín pianista",
        things="""canción piano guitarra violín melodía flauta tambor sinfonía trompeta violonchelo himno balada
            arpa""",
        places="teatro, escenario, sala, ópera, festival",
        activities="cantar bailar trabajar esperar descansar",
    ),
    topic(
        people="vendedor cliente sastre cajero",
        things="""abrigo camisa vestido sombrero zapato bufanda chaqueta manzana falda bolsa guante pan suéter queso
            naranja""",
        places="tienda, mercado, plaza, calle, centro",
        activities="trabajar esperar hablar caminar correr",
    ),
    topic(
        people="médico enfermero paciente cirujano",
        things="pastilla vitamina jarabe informe tableta cama cápsula carta té agua pregunta",
        places="hospital, clínica, farmacia, consulta, oficina",
        activities="esperar dormir descansar toser",
    ),
    topic(
        people="jugador entrenador corredor árbitro",
        things="fútbol pelota tenis medalla ajedrez raqueta baloncesto trofeo red balón silbato copa",
        places="estadio, parque, gimnasio, club, playa",
        activities="correr entrenar saltar descansar gritar",
    ),
    topic(
        people="carpintero pintor obrero ingeniero",
        things="mesa silla martillo puerta sierra escalera cama pincel armario ventana clavo taladro banco hacha caja",
        places="taller, casa, fábrica, patio, garaje",
        activities="trabajar hablar descansar silbar cantar",
    ),
    topic(
        people="marinero capitán pescador submarinista",
        things="barco red trucha velero cuerda lancha salmón mapa sardina canoa atún cuchillo",
        places="puerto, playa, isla, barco, lago",
        activities="pescar nadar esperar descansar cantar",
    ),
)

# tense -> adverbials; the adverbial tells the tense of the verb
TIMES = {
    "past": (
        *tagged("ayer anoche", "ADV"),
        "la/DET semana/NOUN pasada/ADJ",
        "el/DET año/NOUN pasado/ADJ",
        "hace/VERB dos/NUM días/NOUN",
        "el/DET lunes/NOUN pasado/ADJ",
        "hace/VERB tres/NUM semanas/NOUN",
    ),
    "present": (
        "todos/DET los/DET días/NOUN",
        "por/ADP la/DET mañana/NOUN",
        "los/DET lunes/NOUN",
        "por/ADP la/DET tarde/NOUN",
        "todas/DET las/DET semanas/NOUN",
        "los/DET domingos/NOUN",
    ),
    "future": (
        "mañana/ADV",
        "la/DET próxima/ADJ semana/NOUN",
        "el/DET próximo/ADJ año/NOUN",
        "el/DET próximo/ADJ mes/NOUN",
    ),
    "progressive": ("ahora/ADV", "en/ADP este/DET momento/NOUN"),
    "perfect": ("hoy/ADV", "esta/DET semana/NOUN", "este/DET año/NOUN"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verb:
    """The forms of a Spanish verb; pairs are the third persons, singular and plural."""

    infinitive: str
    yo: str
    nosotros: str
    present: tuple[str, str]
    past: tuple[str, str]
    imperfect: tuple[str, str]
    future: tuple[str, str]
    gerund: str
    participle: str


def verb(infinitive: str) -> Verb:
    """Conjugates by the rules of the three conjugations, the stems and the exceptions above."""
    stem, ending = infinitive[:-2], infinitive[-2:]
    stressed, weak = (other or stem for other in STEMS.get(infinitive, ("", "")))
    yo, irregular_past = IRREGULAR.get(infinitive, ("", ""))
    future = (infinitive + "á", infinitive + "án")
    if ending == "ar":
        present, nosotros = (stressed + "a", stressed + "an"), stem + "amos"
        past, imperfect = (stem + "ó", stem + "aron"), (stem + "aba", stem + "aban")
        gerund, participle = stem + "ando", stem + "ado"
    else:
        glide = "y" if stem[-1] in "aeou" and not stem.endswith(("gu", "qu")) else "i"  # leyó, construyendo
        present, nosotros = (stressed + "e", stressed + "en"), stem + ("emos" if ending == "er" else "imos")
        past, imperfect = (weak + glide + "ó", weak + glide + "eron"), (stem + "ía", stem + "ían")
        gerund, participle = weak + glide + "endo", stem + "ido"
    return Verb(
        infinitive=infinitive,
        yo=yo or stressed + "o",
        nosotros=nosotros,
        present=present,
        past=(irregular_past.split()[0], irregular_past.split()[1]) if irregular_past else past,
        imperfect=("veía", "veían") if infinitive == "ver" else imperfect,
        future=future,
        gerund=gerund,
        participle=PARTICIPLES.get(infinitive, participle),
    )


def plural(word: str) -> str:
    """The plural of a noun or adjective: lección, lecciones; joven, jóvenes; luz, luces."""
    irregular = {"joven": "jóvenes", "examen": "exámenes"}
    if word in irregular:
        return irregular[word]
    if word[-1] in "aeiouéó":
        return word + "s"
    if word.endswith("z"):
        return word[:-1] + "ces"
    if word[-1] in "nsl" and word[-2] in "áéíóú":
        return word[:-2] + "aeiou"["áéíóú".index(word[-2])] + word[-1] + "es"
    return word + "es"


def feminine(word: str) -> str:
    """The feminine of an adjective or profession: rojo, roja; pintor, pintora; bailarín, bailarina."""
    if word in INVARIABLE_PEOPLE:
        return word
    if word.endswith("o"):
        return word[:-1] + "a"
    if word.endswith("ín"):
        return word[:-2] + "ina"
    if word.endswith("án"):
        return word[:-2] + "ana"
    if word.endswith(("tor", "dor", "sor")):
        return word + "a"
    return {"sastre": "sastra"}.get(word, word)


KINDS: dict[str, str] = {}
GENDERS: dict[str, str] = {}
PLURALS: dict[str, str] = {}  # lemma -> plural, "" where there is none
for _kind, _entries in NOUNS.items():
    for _entry in _entries.split():
        _lemma, _, _gender = _entry.rstrip("~").partition(".")
        KINDS.setdefault(_lemma, _kind)
        GENDERS[_lemma] = _gender or ("f" if _lemma.endswith(("a", "ión")) and _lemma != "camión" else "m")
        PLURALS[_lemma] = "" if _entry.endswith("~") else plural(_lemma)
for _subject in TOPICS:
    for _lemma in _subject.people:
        for _person, _gender in ((_lemma, "m"), (feminine(_lemma), "f")):
            if _person not in GENDERS or _gender == "f" != GENDERS[_person]:
                KINDS[_person], GENDERS[_person], PLURALS[_person] = "person", _gender, plural(_person)
VERBS = {
    infinitive: verb(infinitive)
    for infinitive in sorted(
        {
            *" ".join(VERBS_OF.values()).split(),
            *(activity for subject in TOPICS for activity in subject.activities),
            *listed("vivir trabajar hablar descansar venir salir dar caminar bailar cantar"),
        }
    )
}
