"""The error of every vocabulary and tokenizer, and what no list of tokens may hold."""

import contextlib
from collections.abc import Iterable, Iterator

LONGEST_TOKEN = 1_000
"""Characters. Published vocabularies have tokens of a few hundred; searching for far longer ones may take hours."""


class VocabularyError(ValueError):
    """A vocabulary or tokenizer that is missing or not what was asked for; the message is one line."""

    def __init__(self, message: str) -> None:
        """Values quoted from a file may hold line ends: they become spaces."""
        super().__init__(" ".join(message.splitlines()))


@contextlib.contextmanager
def refusing(path: object, expected: str) -> Iterator[None]:
    """Turns whatever the tokenizer libraries raise over a file into one line.

    They raise bare Exceptions, and a panic of Rust code is not even an Exception.

    Raises:
        VocabularyError: the body raised.
    """
    try:
        yield
    except VocabularyError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise VocabularyError(f"{path}: found no tokenizer ({one_line(error)}), expected {expected}") from error


def one_line(value: object) -> str:
    """The text of an error or a token, short and on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 160 else text[:160] + "..."


def check_tokens(path: object, tokens: Iterable[object], field: str) -> None:
    """Refuses tokens that no text can hold, or that would keep the libraries busy forever; `field` counts them.

    An empty token stands for nothing. transformers keeps one as it is, but no published vocabulary has any: it is the
    trace of a lost or doubled line, and then every id behind it is wrong. NUL ends a string in C.

    Raises:
        VocabularyError: a token is no text, empty, has a NUL character, or is longer than LONGEST_TOKEN.
    """
    for index, token in enumerate(tokens):
        if not isinstance(token, str):
            found = type(token).__name__
        elif not token:
            found = "an empty token"
        elif "\0" in token:
            found = "a NUL character"
        elif len(token) > LONGEST_TOKEN:
            found = f"{len(token)} characters"
        else:
            continue
        raise VocabularyError(f"{path}: {field} {index}: found {found}, expected 1 to {LONGEST_TOKEN} characters")
