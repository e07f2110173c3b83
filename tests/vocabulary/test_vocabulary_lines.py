"""Lines of a vocab.txt: numbered as transformers numbers them, or refused with the reason."""

import pytest

from mergedistill_jax.vocabulary.tokenizer import VocabularyError, load_tokenizer

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]


@pytest.mark.parametrize(("line_end", "last"), [("\r\n", "\r\n"), ("\n", ""), ("\n", "\n\n\n")])
def test_line_ends_and_blank_lines_at_the_end_change_no_id(tmp_path, line_end, last):
    (tmp_path / "vocab.txt").write_bytes((line_end.join(TOKENS) + last).encode())
    assert load_tokenizer(tmp_path).tokens == tuple(TOKENS)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([*TOKENS, "a", "c"], "found 1 doubled tokens, expected each token once"),
        ([*TOKENS, "", "c"], "token 7: found an empty token"),
        ([*TOKENS, "x\ry", "c"], "token 7: found a carriage return inside a line"),
        (["\ufeff[PAD]", *TOKENS[1:]], "found no pad token"),
        ([*TOKENS, "\x85", "c", "\u2028"], r"token 9: found '\\u2028', which transformers reads as token 7"),
        ([*TOKENS, "\t", "\xa0"], r"token 8: found '\\xa0', which transformers reads as token 7"),
        ([*TOKENS, "##", "##\u3000"], r"token 8: found '##\\u3000', which transformers reads as token 7"),
        ([*TOKENS, "a "], "token 7: found white space behind a"),
    ],
)
def test_lines_that_would_move_ids_are_refused(tmp_path, lines, reason):
    (tmp_path / "vocab.txt").write_bytes("\n".join(lines).encode())
    with pytest.raises(VocabularyError, match=reason):
        load_tokenizer(tmp_path)
