"""What `compare` found, as a text for people."""

from collections.abc import Mapping, Sequence

from mergedistill_jax.evaluation.teacher_choice import Difference, LanguageChoice, TeacherScores, settings_lines

COLUMNS = ("words", "tokens", "nats a word", "perplexity", "mass", "[UNK]", "pieces", "seq/s", "behind")
LEGEND = """\
words        % of hidden words of which every piece is right      mass     % of probability in the best {k}
tokens       % of pieces that are right                           [UNK]    % of words with [UNK] in them: all wrong
nats a word  loss of a whole word                                 pieces   per word
perplexity   exp(nats a character)                                seq/s    here: {device}
behind       the best, in nats a word, and its standard error over documents"""
FEW = 0.5
"""A smaller share of the hidden words that could be compared is pointed out."""


def table_text(
    choices: Sequence[LanguageChoice], paths: Mapping[str, str], notes: Mapping[str, str], *, k: int, device: str
) -> str:
    """Tables of all languages, the recommendation with its margins, and the lines for a gin file.

    Args:
        choices: of every language.
        paths: of every candidate.
        notes: what must be known of a candidate; of some.
        k: candidates that `mass` is of.
        device: what `seq/s` was measured on.
    """
    width = max(len(name) for choice in choices for name in choice.scores)
    lines: list[str] = []
    for choice in choices:
        lines += [*_language(choice, width), ""]
    lines += [LEGEND.format(k=k, device=device), ""]
    lines += [f"note: {name}: {note}" for name, note in notes.items()] + ([""] if notes else [])
    lines += [recommendation(choice) for choice in choices]
    lines += ["", "# for a gin file", *settings_lines(choices, paths)]
    return "\n".join(lines)


def _language(choice: LanguageChoice, width: int) -> list[str]:
    title = f"{choice.language}: {choice.words:,} hidden words of {choice.documents:,} documents"
    if choice.words < FEW * choice.hidden:
        title += f"; only {choice.words / choice.hidden:.0%} of those hidden: the others are cut differently"
    header = f"{'':{width}}" + "".join(f"{column:>{_width(column)}}" for column in COLUMNS)
    return [title, header, *(f"{name:{width}}{_row(scores)}" for name, scores in choice.scores.items())]


def _width(column: str) -> int:
    return 16 if column == "behind" else max(8, len(column) + 2)


def _row(scores: TeacherScores) -> str:
    cells = (
        f"{100 * scores.word_accuracy:.1f}",
        f"{100 * scores.token_accuracy:.1f}",
        f"{scores.nats_per_word:.2f}",
        f"{scores.pseudo_perplexity:.3g}",
        f"{100 * scores.top_mass:.1f}",
        f"{100 * scores.unknown_share:.1f}",
        f"{scores.tokens_per_word:.2f}",
        f"{scores.sequences_per_second:,.0f}",
        "best" if scores.behind is None else difference_text(scores.behind),
    )
    return "".join(f"{cell:>{_width(column)}}" for cell, column in zip(cells, COLUMNS, strict=True))


def difference_text(difference: Difference) -> str:
    """`0.53 +- 0.04`, or without the error where it is unknown."""
    error = difference.standard_error
    return f"{difference.nats:.3f}" + (f" +- {error:.3f}" if error is not None else "")


def recommendation(choice: LanguageChoice) -> str:
    """One line: who serves the language, by how much it leads, and whether that is more than chance."""
    if choice.lead is None:
        return f"{choice.language}: {choice.best}, the only candidate"
    second = list(choice.scores)[1]
    told = f"{choice.language}: {choice.best} leads {second} by {difference_text(choice.lead)} nats a word"
    error = choice.lead.standard_error
    if error is None:
        return f"{told}: not settled, one document tells no standard error; give more documents"
    times = f"{choice.lead.nats / error:.1f} standard errors" if error else "the same in every document"
    if choice.lead.settled:
        return f"{told} ({times}): settled"
    faster = max((choice.best, second), key=lambda name: choice.scores[name].sequences_per_second)
    return f"{told} ({times}): not settled; give more documents, or take {faster}, the faster one"
