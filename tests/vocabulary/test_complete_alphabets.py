"""Complete alphabets of every family: pieces of different text have different names, and every piece comes back."""

import itertools

import pytest
from made_tokenizers import ROBERTA, bert, byte_level, sentencepiece_bpe, unigram
from tokenizers import AddedToken

from mergedistill_jax.vocabulary.canonical import PREFIX, SPECIAL, begins_word, canonical_tokens, piece_bytes
from mergedistill_jax.vocabulary.tokenizer import wrap_tokenizer
from mergedistill_jax.vocabulary.union import unite

PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTES = [*PRINTABLE, *OTHERS]  # in the order of GPT-2's vocabulary
CHARACTER_OF = {byte: chr(byte) for byte in PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(OTHERS)}

# Characters at which some reader breaks a line, that some reader strips, or that BERT's normaliser drops.
AWKWARD = [
    *map(chr, [*range(0x20), *range(0x7F, 0xA1), 0xAD, 0x1680, *range(0x2000, 0x2010), 0x2028, 0x2029, 0x202F, 0x205F]),
    *"\u2060\u3000\ufeff\ufffd\u0301\u200d\ufe0f\U000e0001\U0010ffff",
]
TEXTS = [
    *AWKWARD,
    *(f"{character}x" for character in AWKWARD),
    *(f"x{character}" for character in AWKWARD),
    *(f"{character}{character}" for character in AWKWARD),
    *map(chr, range(0x21, 0x7F)),
    *["haus", "ä", "é", "語", "語言", "語x", "«x", "▁", "▁▁", "▁x", "x▁", "x▁y", "Ġ", "Ġx", "Ċ"],
    *["##", "##x", "#", "###", "[CLS]x", "|||IP_ADDRESS|||"],
    *["<0x0A>", "<0x41>", "x<0x41>y", "<0x3C>", "<0x3C>0x0A>", "<<0x0A>", "<0x0a>", "<0x0A", "<0xE4><0xB8>"],
    *[*SPECIAL, "x y", "x  y", "x ", "  x", "   ", "\r\n", "\n\n\n", "\0\0"],
]
TEXTS = list(dict.fromkeys(TEXTS))


def spelled(data):
    return "".join(CHARACTER_OF[byte] for byte in data)


def byte_level_pieces():
    """Every byte, every byte after a space, every two bytes of which one is a control, and the texts."""
    controls = [*range(0x20), 0x7F, 0x80, 0x85, 0xA0]
    data = [bytes([byte]) for byte in BYTES] + [bytes([32, byte]) for byte in BYTES]
    data += [bytes(pair) for pair in itertools.product(controls, range(256))]
    data += [bytes(pair) for pair in itertools.product(range(256), controls)]
    data += ["語".encode()[:2], b"\xf0\x9f\x98", b"\xe2\x80", b"\xc2", b"\xed\xa0\x80", b"\xff\xfe", "x語".encode()[:3]]
    data += [part for text in TEXTS for part in (text.encode(), f" {text}".encode())]
    return {spelled(one): one for one in data}


def sentencepiece_pieces():
    """Every byte, the texts, and the texts after a space; a space within is ▁, and so is ▁."""
    pieces = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
    for text in TEXTS:
        for piece in (text.replace(" ", "▁"), "▁" + text.replace(" ", "▁")):
            pieces.setdefault(piece, piece.replace("▁", " ").encode())
    return pieces


def wordpiece_pieces():
    words = {text: f" {text}".encode() for text in TEXTS if text not in SPECIAL and not text.startswith("##")}
    inside = {f"##{text}": text.encode() for text in TEXTS if not text.startswith(" ")}
    return words | inside | {"##": b" ##"}


def without_nul(pieces):
    """The `tokenizers` library reads these two families' pieces as they are; a NUL is refused there."""
    return {piece: data for piece, data in pieces.items() if "\0" not in piece}


FAMILIES = {
    "wordpiece": (bert, without_nul(wordpiece_pieces())),
    "unigram": (unigram, without_nul(sentencepiece_pieces())),
    "sentencepiece_bpe": (sentencepiece_bpe, without_nul(sentencepiece_pieces())),
    "byte_level": (byte_level, byte_level_pieces()),
}


@pytest.fixture(scope="module")
def teachers():
    """Their special tokens are named: the vocabularies of RoBERTa's families have a piece that reads [PAD], too."""
    roles = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), ROBERTA, strict=True))
    found = {family: make(*pieces).tokenizer for family, (make, pieces) in FAMILIES.items()}
    return {
        family: wrap_tokenizer(tokenizer, family, None if family == "wordpiece" else roles)
        for family, tokenizer in found.items()
    }


def in_place(data):
    """Text with a space before it if its first character begins a word anyway: the place that a name tells."""
    first = data.decode("utf-8", "surrogateescape")[0]
    return b" " + data if begins_word(first) else data


@pytest.mark.parametrize("family", FAMILIES)
def test_every_piece_comes_back_and_different_text_has_different_names(teachers, family):
    pieces = FAMILIES[family][1]
    texts = {}
    for piece, name in zip(teachers[family].tokens, canonical_tokens(teachers[family]), strict=True):
        if piece in pieces:
            # WordPiece and byte pieces tell their place themselves: `##.` and `<0x2E>` stand inside a word.
            data = pieces[piece]
            placed = family == "wordpiece" or (len(data) == 1 and piece == f"<0x{data[0]:02X}>")
            expected = data if placed else in_place(data)
            assert name is not None
            assert piece_bytes(name) == expected, piece
            texts.setdefault(expected, set()).add(name)
    assert len(texts) > 500
    for data, names in texts.items():
        # SentencePiece has two pieces for one text where a character stands beside its byte: <0x41> and A.
        assert len(names) == 1 or (len(data) == 1 and "byte_level" != family != "wordpiece"), names


@pytest.mark.parametrize("family", FAMILIES)
def test_a_name_is_one_line_without_white_space(teachers, family):
    for name in canonical_tokens(teachers[family]):
        assert name is not None
        assert name.split() == name.splitlines() == [name]
        assert not any("\0" <= character < " " or "\x7f" <= character < "\xa0" for character in name)


@pytest.mark.parametrize("pair", itertools.combinations(FAMILIES, 2), ids=" and ".join)
def test_the_same_text_has_the_same_name_in_every_family(teachers, pair):
    union = unite({family: teachers[family] for family in pair})
    found = []
    for family in pair:
        pieces, ids = FAMILIES[family][1], union.id_maps[family].tolist()
        names = {}
        for piece, index in zip(teachers[family].tokens, ids, strict=True):
            if piece in pieces and not piece.startswith("<0x"):
                assert piece_bytes(union.tokens[index]).lstrip(b" ") == pieces[piece].lstrip(b" ")
                names[pieces[piece]] = union.tokens[index]
        found.append(names)
    shared = found[0].keys() & found[1].keys()
    assert len(shared) > 300
    differing = [data for data in shared if found[0][data] != found[1][data]]
    # WordPiece has a place of its own for a mark inside a word, see above.
    assert all("wordpiece" in pair and in_place(data) != data for data in differing)


def test_text_that_reads_like_a_byte_is_a_byte_only_where_the_model_falls_back_to_bytes():
    with_bytes, without = sentencepiece_bpe("<0x41>"), unigram("▁<0x41>", "x")
    assert canonical_tokens(with_bytes)[5] == "##<0x41>"
    assert canonical_tokens(without)[5] == "<0x3C>0x41>"


def test_tokens_that_are_added_to_a_model_are_text_as_it_stands():
    """As of ModernBERT: runs of spaces, |||IP_ADDRESS|||; é is no byte there."""
    tokenizer = byte_level(*map(spelled, [b"x", b"\xe9"])).tokenizer
    added = ["   ", "|||IP_ADDRESS|||", "café", "\n\n", " x", "##x", "Ġx", "<0x0A>", "\u2028"]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    found = canonical_tokens(wrap_tokenizer(tokenizer, "test"))[7:]
    assert found == [
        "▁▁▁",
        "|||IP_ADDRESS|||",
        "##café",
        "##<0x0A><0x0A>",
        "x",
        "▁##x",
        "##Ġx",
        "<0x3C>0x0A>",
        "##<0xE2><0x80><0xA8>",
    ]
    words = bert("x", "##y").tokenizer
    words.add_tokens(["##z", "##y"])
    assert canonical_tokens(wrap_tokenizer(words, "test"))[5:] == ["x", "##y", "▁##z"]


@pytest.mark.parametrize("token", SPECIAL)
def test_a_special_token_stands_for_no_text(token):
    with pytest.raises(ValueError, match="expected one that stands for text"):
        piece_bytes(token)


def test_completions_are_names_of_text_too(teachers):
    union = unite(teachers)
    assert set(SPECIAL) == set(union.tokens[:5])
    assert not set(ROBERTA) & set(union.tokens)
    for token in union.tokens[5:]:
        assert piece_bytes(token).startswith(b" ") or token.startswith(PREFIX)
