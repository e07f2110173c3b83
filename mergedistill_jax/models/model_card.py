"""The model card (README.md) of an exported model, in the form that the Hugging Face Hub shows and indexes."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

_SNIPPETS = {
    "fill-mask": """\
from transformers import pipeline

fill = pipeline("fill-mask", model={model})""",
    "token-classification": """\
from transformers import pipeline

classify = pipeline("token-classification", model={model})""",
}
_SENTENCES = {
    "ar": "باريس هي عاصمة {mask}.",
    "bn": "ঢাকা {mask} রাজধানী।",
    "de": "Paris ist die Hauptstadt von {mask}.",
    "en": "Paris is the capital of {mask}.",
    "es": "París es la capital de {mask}.",
    "fi": "Pariisi on {mask} pääkaupunki.",
    "fr": "Paris est la capitale de la {mask}.",
    "hi": "पेरिस {mask} की राजधानी है।",
    "id": "Jakarta adalah ibu kota {mask}.",
    "it": "Parigi è la capitale della {mask}.",
    "nl": "Parijs is de hoofdstad van {mask}.",
    "pt": "Paris é a capital da {mask}.",
    "ru": "Париж — столица {mask}.",
    "sw": "Nairobi ni mji mkuu wa {mask}.",
    "tr": "Ankara {mask} başkentidir.",
    "ur": "پیرس {mask} کا دارالحکومت ہے۔",  # noqa: RUF001 - its full stop
    "zh": "巴黎是法{mask}的首都。",
}
"""A sentence to try a model of the language on; a model of none of these has no example."""

KINDS = ("distilled", "gold_student", "teacher")
"""What a model is: a student of teachers' predictions, one of gold labels alone, or a teacher trained from scratch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """One row of the teachers' table."""

    name: str
    languages: Sequence[str]
    vocab_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One row of the evaluation table: scores in percent, None where one was not measured.

    Attributes:
        rdt: relative deviation from the teacher (Khanuja et al. 2021), in percent:
            100 (student - teacher) / teacher, so positive where the student scores higher.
    """

    task: str
    language: str
    metric: str
    student: float
    teacher: float | None = None
    rdt: float | None = None


def model_card(
    *,
    name: str,
    languages: Sequence[str],
    teachers: Sequence[Teacher],
    training: Mapping[str, str | float],
    evaluations: Sequence[Evaluation],
    max_length: int,
    kind: str = "distilled",
    pipeline: str = "fill-mask",
    license_id: str | None = None,
) -> str:
    """Markdown with YAML front matter.

    Args:
        name: the model's name on the Hub or its folder, as `from_pretrained` takes it.
        languages: codes as the Hub knows them (ISO 639), all that the model was trained on.
        teachers: rows of the teachers' table.
        training: what to tell about data and training, in order: {"Corpus": "...", "Steps": 500_000}.
        evaluations: rows of the evaluation table; may be empty.
        max_length: longest input, in tokens.
        kind: one of KINDS.
        pipeline: "fill-mask" or "token-classification".
        license_id: the Hub's identifier; left out where nobody has decided.

    Raises:
        ValueError: the pipeline or the kind is another one.
    """
    if pipeline not in _SNIPPETS:
        raise ValueError(f"pipeline: found {pipeline!r}, expected one of {sorted(_SNIPPETS)}")
    if kind not in KINDS:
        raise ValueError(f"kind: found {kind!r}, expected one of {KINDS}")
    sections = [
        _front_matter(languages, pipeline, license_id, kind),
        f"# {name}",
        _summary(languages, teachers, kind),
        "## Vocabulary" if kind == "teacher" else "## Teachers and languages",
        _table(
            ("Name" if kind == "teacher" else "Teacher", "Languages", "Vocabulary"),
            [(t.name, ", ".join(t.languages), f"{t.vocab_size:,}") for t in teachers],
        ),
        "## Training",
        _table(("", ""), [(key, _number(value)) for key, value in training.items()]),
        "## Evaluation",
        _evaluation(evaluations),
        "## How to use",
        f"```python\n{_snippet(name, languages, pipeline)}\n```",
        "## Limits",
        _limits(languages, max_length, kind),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(languages: Sequence[str], pipeline: str, license_id: str | None, kind: str) -> str:
    fields: dict[str, str | list[str]] = {
        "language": list(languages),
        "library_name": "transformers",
        "pipeline_tag": pipeline,
        "tags": [
            "bert",
            *(["distillation"] if kind == "distilled" else []),
            *(["multilingual"] if len(languages) > 1 else []),
            "mergedistill-jax",
        ],
    }
    if license_id is not None:
        fields["license"] = license_id
    # JSON values are YAML, and quoted: the bare word no (Norwegian) would be read as false.
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _summary(languages: Sequence[str], teachers: Sequence[Teacher], kind: str) -> str:
    encoder = f"A BERT encoder for {', '.join(languages)}" if languages else "A BERT encoder"
    paper = "MergeDistill, [Khanuja et al. 2021](https://aclanthology.org/2021.findings-acl.254/)"
    several = len(teachers) != 1
    models = f"{len(teachers)} teachers" if several else "1 teacher"
    over = "each with its own vocabulary, over the union of their vocabularies" if several else "over its vocabulary"
    what = {
        "distilled": f"distilled from the masked-language-model predictions of {models}, {over} ({paper}).",
        "gold_student": (
            f"trained as a masked language model on the text itself, over the vocabulary of {models}, without their"
            f" predictions: the control of a distilled student ({paper})."
        ),
        "teacher": "trained from scratch as a masked language model, on the text itself and with its own vocabulary.",
    }
    return f"{encoder}, {what[kind]} It was trained with mergedistill_jax."


def _snippet(name: str, languages: Sequence[str], pipeline: str) -> str:
    """Code that loads the model, and tries it where there is a sentence in one of its languages."""
    lines = [_SNIPPETS[pipeline].format(model=json.dumps(name, ensure_ascii=False))]
    known = [language for language in languages if language in _SENTENCES]
    if known and pipeline == "fill-mask":
        sentence = _SENTENCES[known[0]].replace("{mask}", "{fill.tokenizer.mask_token}")
        lines.append(f'print(fill(f"{sentence}"))')
    elif "en" in languages:
        lines.append('print(classify("Ada Lovelace lived in London."))')
    return "\n".join(lines)


def _evaluation(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return "No evaluation was run on this model."
    header = ("Task", "Language", "Metric", "Teacher", "Student", "RDT (%)")
    rows = [
        (e.task, e.language, e.metric, _score(e.teacher), _score(e.student), _score(e.rdt, signed=True))
        for e in evaluations
    ]
    note = "RDT (relative deviation from the teacher) is 100 (student - teacher) / teacher: above 0, the student leads."
    return f"{_table(header, rows)}\n\n{note}"


def _limits(languages: Sequence[str], max_length: int, kind: str) -> str:
    return "\n".join(
        [
            f"- Inputs are at most {max_length} tokens long, with one segment: the second one was not trained.",
            *([f"- Languages other than {', '.join(languages)} were not in the training data."] if languages else []),
            "- It was trained to predict like its teachers, so their errors and biases are likely to be in it."
            if kind == "distilled"
            else "- What its training text holds, errors and biases included, is likely to be in it.",
            "- What the evaluation table does not list was not measured.",
        ]
    )


def _score(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "not measured"
    return f"{value:+.2f}" if signed else f"{value:.2f}"


def _number(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
