"""One spelling for the pieces of every family: worked tables, and that nothing is confused with anything else."""

import numpy as np
import pytest
from made_tokenizers import BERT, ROBERTA, bert, byte_level, sentencepiece_bpe, unigram, wordpiece
from tokenizers import Tokenizer, models, pre_tokenizers

from mergedistill_jax.vocabulary.canonical import (
    PREFIX,
    SPACE,
    SPECIAL,
    atoms,
    begins_word,
    canonical_tokens,
    family,
    surface,
)
from mergedistill_jax.vocabulary.tokenizer import VocabularyError, wrap_tokenizer

# Of every family: its own piece, and the canonical one.
WORDPIECE = {
    "haus": "haus",
    "##haus": "##haus",
    "Ä": "Ä",
    ".": ".",
    "##.": "##.",  # BERT never cuts this, but a vocabulary may hold it
    "語": "語",
    "##語": "##語",
    "##": "▁##",  # two marks, not an empty continuation
    "###": "###",  # the mark # inside a word
    "▁": "<0xE2><0x96><0x81>",  # the character itself, not a space
    "▁x": "<0xE2><0x96><0x81>x",
    "##x▁": "##x<0xE2><0x96><0x81>",
    "<0x0A>": "<0x3C>0x0A>",  # text, not a line feed
    "##<0x41>": "##<0x3C>0x41>",
    "<0x0a>": "<0x0a>",
    "\u2028": "<0xE2><0x80><0xA8>",  # bert-base-chinese has both
    "##\u2028": "##<0xE2><0x80><0xA8>",
    "a\u3000": "a<0xE3><0x80><0x80>",
    "a\u200db": "a\u200db",  # neither white space nor control: as it is
    "[x]": "[x]",
    "madeupwords": "madeupwords",
}
SENTENCEPIECE = {
    "▁haus": "haus",
    "haus": "##haus",
    "▁": "▁",  # a space alone
    "▁▁": "▁▁",
    "▁▁x": "▁▁x",
    ".": ".",
    "▁.": ".",
    "...": "...",
    "▁«": "«",
    ".x": ".x",
    "x.": "##x.",
    "語": "語",
    "▁語": "語",
    "語言": "語言",
    "<0xE4>": "##<0xE4>",
    "▁##x": "▁##x",
    "##x": "▁##x",
    "#": "#",
    "▁[MASK]": "▁[MASK]",
    "\n": "##<0x0A>",
    "▁\r\n": "<0x0D><0x0A>",
}
BYTE_LEVEL = {
    b" haus": "haus",
    b"haus": "##haus",
    b" ": "▁",
    b"  ": "▁▁",
    b"  x": "▁▁x",
    b".": ".",
    b" .": ".",
    b'."': '."',
    "ä".encode(): "##ä",
    " ä".encode(): "ä",
    "語".encode(): "語",
    " 語".encode(): "語",
    b"\n": "##<0x0A>",
    b"\n\n": "##<0x0A><0x0A>",
    b" \n": "<0x0A>",
    b"\xe8": "##<0xE8>",
    b" \xe8": "<0xE8>",
    b"\xaa\x9e": "##<0xAA><0x9E>",
    b"a\xcc": "##a<0xCC>",
    b" a\xcc": "a<0xCC>",
    "語".encode() + b"\xe8": "語<0xE8>",
    b" ##x": "▁##x",
    b" [PAD]": "▁[PAD]",
}


def spelled(data):
    """GPT-2's spelling of bytes, by the rule of its authors: a printable Latin-1 character is itself."""
    others = [byte for byte in range(256) if not (33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174)]
    return "".join(chr(256 + others.index(byte)) if byte in others else chr(byte) for byte in data)


def canonical(teacher):
    """{own piece: canonical piece} of the ordinary pieces."""
    return dict(list(zip(teacher.tokens, canonical_tokens(teacher), strict=True))[5:])


def named(teacher):
    """The same, of a vocabulary in which every piece has a name."""
    found = canonical(teacher)
    assert None not in found.values()
    return {piece: name for piece, name in found.items() if name is not None}


def test_wordpiece_is_the_canonical_spelling():
    assert canonical(bert(*WORDPIECE)) == WORDPIECE


@pytest.mark.parametrize("make", [unigram, sentencepiece_bpe])
def test_sentencepiece(make):
    assert canonical(make(*SENTENCEPIECE)) == SENTENCEPIECE


def test_byte_level():
    pieces = {spelled(data): expected for data, expected in BYTE_LEVEL.items()}
    assert {"Ġhaus", "Ċ", "Ã¤"} <= set(pieces)
    assert canonical(byte_level(*pieces)) == pieces


def test_bytes_are_spelled_as_the_tokenizers_library_spells_them():
    """Every byte that occurs in UTF-8, so that the table above is not its own witness."""
    cutter = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    seen = set()
    for character in map(chr, [*range(0x800), 0x8A9E, *range(0x1000, 0x10000, 0x1000), 0x1F600, 0xFFFFF, 0x10FFFF]):
        if "\ud800" <= character <= "\udfff":
            continue
        ((piece, _),) = cutter.pre_tokenize_str(character)
        assert piece == spelled(character.encode())
        seen |= set(character.encode())
    assert len(seen) > 230


def test_a_prefix_of_another_name():
    vocabulary = {token: index for index, token in enumerate([*BERT, "haus", "@@haus", "##x", "@@"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, continuing_subword_prefix="@@"))
    assert canonical(wrap_tokenizer(tokenizer, "x")) == {
        "haus": "haus",
        "@@haus": "##haus",
        "##x": "▁##x",  # a word that reads like a continuation
        "@@": "@@",
    }


@pytest.mark.parametrize(
    "teacher", [bert("x"), wordpiece(*reversed(BERT), "x"), unigram("▁x"), sentencepiece_bpe("▁x"), byte_level("Ġx")]
)
def test_special_tokens_go_by_their_role(teacher):
    tokens = canonical_tokens(teacher)
    assert SPECIAL == BERT
    assert tuple(tokens[index] for index in teacher.special_ids) == SPECIAL
    assert tokens[5] == "x"


@pytest.mark.parametrize(
    ("make", "token"),
    [
        (bert, "[unused0]"),
        (bert, "[unused99]"),
        (bert, "[EOS]"),
        (unigram, "</s>NOTUSED"),
        (unigram, "<unused_3>"),
        (unigram, "<unused12>"),
        (byte_level, "madeupword0002"),
    ],
)
def test_what_never_stands_in_a_text_has_no_name(make, token):
    assert canonical(make(token, "x" * 3))[token] is None
    assert canonical_tokens(make(token, "x" * 3))[6] is not None


@pytest.mark.parametrize("make", [bert, unigram, byte_level])
def test_special_tokens_without_a_role_have_no_name(make):
    """By what the tokenizer declares special, whatever it is called."""
    tokenizer = make("xyz", "<odd>").tokenizer
    assert canonical_tokens(wrap_tokenizer(tokenizer, "plain"))[6] is not None
    tokenizer.add_special_tokens(["<odd>"])
    named = canonical_tokens(wrap_tokenizer(tokenizer, "declared"))
    assert named[6] is None
    assert named[5] is not None


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (models.WordLevel({token: index for index, token in enumerate(BERT)}, "[UNK]"), "WordLevel"),
        (models.BPE({token: index for index, token in enumerate(BERT)}, []), "BPE"),
        (models.Unigram([(token, 0.0) for token in BERT], unk_id=1), "Unigram"),
    ],
)
def test_an_unknown_family_is_refused(model, name):
    """BPE without bytes and Unigram without ▁ do not tell where a word begins."""
    teacher = wrap_tokenizer(Tokenizer(model), "folder/tokenizer.json")
    with pytest.raises(
        VocabularyError, match=rf"^folder/tokenizer\.json: field model: found {name}, expected"
    ) as error:
        canonical_tokens(teacher)
    assert "\n" not in str(error.value)


def test_families_are_told_apart():
    teachers = [bert("x"), unigram("▁x"), sentencepiece_bpe("▁x"), byte_level("Ġx")]
    assert [family(one) for one in teachers] == ["wordpiece", "sentencepiece", "sentencepiece", "byte_level"]


def test_a_word_begins_where_berts_pre_tokenizer_begins_one():
    """Asked of the tokenizers library: `a`, the character, and `a` are three words, or one."""
    own = bert("a").tokenizer
    pre_tokenizer, normalizer = own.pre_tokenizer, own.normalizer
    alone = set()
    for character in map(
        chr, [*range(0x21, 0x7F), *range(0xA1, 0x250), *range(0x2010, 0x2100), 0x3002, 0x4E00, 0xAC00]
    ):
        normalized = normalizer.normalize_str(f"a{character}a")
        if not normalized.isprintable() or len(normalized.replace(" ", "")) != 3:
            continue  # spaces, and what the normaliser removes
        pieces = [piece for piece, _ in pre_tokenizer.pre_tokenize_str(normalized)]
        assert (len(pieces) == 3) == begins_word(character), hex(ord(character))
        alone |= {character} if len(pieces) == 3 else set()
    assert {".", "$", "|", "«", "—", "。", "一"} <= alone


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("haus", ["h", "a", "u", "s"]),
        ("##ä語", ["ä", "語"]),
        ("##<0xE8><0xAA>x", ["<0xE8>", "<0xAA>", "x"]),
        ("<0x0A>", ["<0x0A>"]),
        ("<0x0a>", list("<0x0a>")),
        ("▁##x", ["▁", "#", "#", "x"]),
    ],
)
def test_atoms_are_characters_and_spelled_bytes(token, expected):
    assert atoms(token) == expected
    assert "".join(atoms(token)) == surface(token)


ALPHABET = ["a", "b", "ä", "#", ".", "語", "<", "[", "]", "é", "0", "\U0001f600"]


def texts(seed, count, alphabet):
    generator = np.random.default_rng(seed)
    return sorted(
        {"".join(generator.choice(alphabet, generator.integers(1, 5))) for _ in range(count)},
        key=lambda text: text[::-1],
    )


@pytest.mark.parametrize("seed", range(3))
def test_different_pieces_of_a_wordpiece_vocabulary_have_different_names(seed):
    pieces = texts(seed, 500, [*ALPHABET, "▁", "##"])
    found = canonical(bert(*pieces))
    assert len(set(found.values())) == len(pieces) > 300
    assert None not in found.values()


@pytest.mark.parametrize("seed", range(3))
def test_different_pieces_of_a_byte_level_vocabulary_have_different_names(seed):
    """But for a space before what begins a word anyway: a mark, a Chinese character."""
    generator = np.random.default_rng(seed)
    parts = [*(character.encode() for character in ALPHABET), b" ", b"\n", b"\r", b"\xe8", b"\xaa", b"\xf0\x9f"]
    datas = {b"".join(parts[i] for i in generator.integers(len(parts), size=1 + n % 4)) for n in range(600)}
    found = canonical(byte_level(*map(spelled, sorted(datas))))
    by_name = {}
    for data in datas:
        by_name.setdefault(found[spelled(data)], []).append(data)
    shared = [sorted(group) for group in by_name.values() if len(group) > 1]
    assert shared
    assert len(by_name) > 300
    for group in shared:
        spaced, plain = group  # two at most
        assert spaced == b" " + plain
        assert begins_word(plain.decode("utf-8", "surrogateescape")[0])


@pytest.mark.parametrize("seed", range(3))
def test_what_begins_a_word_and_what_stands_inside_never_collide(seed):
    """By the families' own marks, the canonical prefix says where a piece stands, whatever the text."""
    pieces = texts(seed, 400, [*ALPHABET, "▁"])
    for piece, name in named(bert(*dict.fromkeys([*pieces, *(PREFIX + piece for piece in pieces)]))).items():
        assert name.startswith(PREFIX) == (piece.startswith(PREFIX) and piece != PREFIX), piece
    plain = texts(seed, 400, ALPHABET)
    spaced = [SPACE + text for text in plain]
    for piece, name in named(unigram(*plain, *spaced)).items():
        assert name.startswith(PREFIX) != (piece.startswith(SPACE) or begins_word(piece[0])), piece
    encoded = {spelled(data): data for text in plain for data in (text.encode(), b" " + text.encode())}
    for piece, name in named(byte_level(*encoded)).items():
        text = encoded[piece].decode()
        assert name.startswith(PREFIX) != (text.startswith(" ") or begins_word(text[0])), piece


def test_the_same_word_has_the_same_name_in_every_family():
    words = ["haus", "Ä", "x1", "語", "."]
    expected = {*words, "##aus", "##ä"}
    teachers = [
        bert(*words, "##aus", "##ä"),
        unigram(*(SPACE + word for word in words), "aus", "ä"),
        sentencepiece_bpe(*(SPACE + word for word in words), "aus", "ä"),
        byte_level(*(spelled(b" " + word.encode()) for word in words), "aus", spelled("ä".encode())),
    ]
    for teacher in teachers:
        assert set(canonical_tokens(teacher)) - set(SPECIAL) == expected, family(teacher)
    assert not set(ROBERTA) & expected
