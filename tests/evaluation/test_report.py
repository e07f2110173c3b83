"""What a reader of report.json relies on, what report.html must show, and numbers that follow from the scores."""

import base64
import dataclasses
import html.parser
import json
import math
import re

import numpy as np
import pytest

from mergedistill_jax.evaluation import plots
from mergedistill_jax.evaluation.content import report_json
from mergedistill_jax.evaluation.display import METRICS, best_models, format_duration, format_rdt
from mergedistill_jax.evaluation.page import fill_text, rdt_sentence, render_page
from mergedistill_jax.evaluation.report import (
    Fill,
    Report,
    Vocabulary,
    console_table,
    relative_deviations,
    write_report,
)
from mergedistill_jax.evaluation.tables import rdt_style

LANGUAGES = ("en", "de", "tr", "ar")
VOID = {"meta", "img", "br", "hr", "link", "input"}


def learning_curve(steps, final, speed, seed):
    """Rows as a training run logs them: noisy, and evaluated by language on every fifth row only."""
    rng = np.random.default_rng(seed)
    rows = []
    for i, step in enumerate(steps):
        accuracy = final * (1 - math.exp(-speed * step / 2000)) + rng.normal(0, 0.006)
        loss = 2.6 + 6 * math.exp(-speed * step / 1500) + rng.normal(0, 0.08)
        row = {"step": int(step), "tokens": int(step) * 8192, "loss": 0.8 * loss, "gold_loss": loss}
        row["masked_accuracy"] = max(accuracy, 0.0)
        if i % 5 == 0:
            for j, language in enumerate(LANGUAGES):
                row[f"accuracy/{language}"] = max(accuracy * (1.15 - 0.1 * j), 0.0)
                row[f"loss/{language}"] = loss * (0.9 + 0.07 * j)
        rows.append(row)
    return rows


def scores(masked, perplexity, tagging=None, ner=None, agreement=None):
    named = {
        "masked_accuracy": masked,
        "pseudo_perplexity": perplexity,
        "tagging_f1": tagging,
        "ner_f1": ner,
        "teacher_agreement": agreement,
    }
    return {name: value for name, value in named.items() if value is not None}


@pytest.fixture(scope="module")
def report():
    steps = range(0, 12000, 60)
    return Report(
        title="One student from four teachers",
        summary=[
            "Four masked language models (English, German, Turkish, Arabic) were merged into one student.",
            "It saw 10 % of the tokens of its teachers. It was trained once more on gold labels alone.",
        ],
        languages={
            "en": {
                "baseline": scores(0.052, 812.0, 0.861, 0.0),
                "teacher": scores(0.462, 14.2, 0.941, 0.842),
                "student": scores(0.455, 14.9, 0.938, 0.845, 0.713),
                "student_gold": scores(0.421, 18.3, 0.931, 0.826, 0.622),
            },
            "de": {
                "baseline": scores(0.041, 934.0, 0.842, 0.0),
                "teacher": scores(0.418, 19.8, 0.952, 0.861),
                "student": scores(0.421, 19.1, 0.952, 0.866, 0.698),
                "student_gold": scores(0.377, 25.6, 0.944, 0.852, 0.601),
            },
            "tr": {
                "baseline": scores(0.066, 1207.0, 0.803),
                "teacher": scores(0.391, 24.7, 0.918),
                "student": scores(0.372, 28.8, 0.897, None, 0.664),
                "student_gold": scores(0.334, 37.4, 0.881, None, 0.553),
            },
            "ar": {
                "baseline": scores(0.058, 1106.0, 0.795),
                "teacher": scores(0.405, 22.4, 0.926),
                "student": scores(0.398, 23.5, 0.921, None, 0.681),
                "student_gold": scores(0.352, 31.9, 0.908, None, 0.574),
            },
        },
        seconds=4127.4,
        seconds_per_stage={"vocab": 3.1, "predict": 812.0, "verify": 41.7, "train": 2966.2, "evaluate": 304.4},
        curves={
            "student": learning_curve(steps, 0.41, 1.3, 0),
            "student_gold": learning_curve(steps, 0.37, 0.9, 1),
            **{f"teacher_{lang}": learning_curve(steps, 0.46 - 0.02 * i, 1, i) for i, lang in enumerate(LANGUAGES)},
        },
        vocabularies={
            "union": Vocabulary(size=29117, shared={"en": 8000, "de": 8000, "tr": 8000, "ar": 8000}),
            "en": Vocabulary(size=8000, shared={"de": 1830, "tr": 1214, "ar": 96}),
            "de": Vocabulary(size=8000, shared={"en": 1830, "tr": 1102, "ar": 88}),
            "tr": Vocabulary(size=8000, shared={"en": 1214, "de": 1102, "ar": 71}),
            "ar": Vocabulary(size=8000, shared={"en": 96, "de": 88, "tr": 71}),
        },
        fills=[
            Fill(
                language="en",
                text="She put <b>salt</b> & [MASK] on the table.",
                gold="pepper",
                teacher=["pepper", "water", "sugar"],
                student=["pepper", "sugar", "bread"],
                student_gold=["water", "it", "pepper"],
            ),
            Fill(
                language="ar",
                text="عاصمة فرنسا هي [MASK] .",
                gold="باريس",
                teacher=["باريس", "لندن", "مدينة"],
                student=["باريس", "مدينة", "روما"],
            ),
            Fill(
                language="de",
                text="Der Zug nach [MASK] hat wieder Verspätung.",
                gold="Köln",
                teacher=["Berlin", "Hamburg", "Köln"],
                student=["Berlin", "München", "Wien"],
            ),
        ],
        commands=[
            "python -m mergedistill_jax predict --gin_file=gin/teachers/en.gin",
            "python -m mergedistill_jax train --gin_file=gin/runs/similar.gin --gin.SEED=0",
        ],
        configuration={
            "student": "4 layers, 256 wide, 4 heads, 12.3 M parameters",
            "steps": 12000,
            "seed": 0,
            "operative_gin": "train.steps = 12000\ntrain.note = '</pre><script>alert(1)</script>'\n",
        },
    )


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "made" / "here"
    write_report(folder, report)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(folder):
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def minimal(**changes):
    return Report(**({"title": "t", "summary": [], "languages": {}, "seconds": 1.0} | changes))


class Reader(html.parser.HTMLParser):
    """Checks that tags nest, and collects text, tables and images."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.urls, self.tags, self.row_lengths = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.urls += [value for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.row_lengths.append(0)
        if tag in ("td", "th"):
            self.row_lengths[-1] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def visible_text(page):
    return re.sub(r"\s+", " ", " ".join(read(page).text))


# JSON


def test_json_layout(written, report):
    for language in LANGUAGES:
        for model in ("baseline", "teacher", "student", "student_gold"):
            value = written["languages"][language][model]["masked_accuracy"]
            assert value == report.languages[language][model]["masked_accuracy"]
        assert 0 < written["languages"][language]["teacher"]["tagging_f1"] <= 1
        assert 0 < written["languages"][language]["student"]["tagging_f1"] <= 1
    assert isinstance(written["seconds"], float)
    assert written["vocabularies"]["en"] == {"size": 8000, "shared": {"de": 1830, "tr": 1214, "ar": 96}}
    assert written["fills"][1]["gold"] == "باريس"
    assert written["curves"]["student"] == report.curves["student"]


def test_json_rdt_follows_from_its_own_scores(written):
    for key, model in (("rdt", "student"), ("rdt_gold", "student_gold")):
        pairs = [
            (models["teacher"]["masked_accuracy"], models[model]["masked_accuracy"])
            for models in written["languages"].values()
        ]
        expected = 100 * sum(s / t - 1 for t, s in pairs) / len(pairs)
        assert written[key]["masked_accuracy"] == pytest.approx(expected)


def test_what_was_not_measured_is_absent(tmp_path):
    languages = {
        "en": {"teacher": {"masked_accuracy": 0.5, "ner_f1": None}, "student": {"masked_accuracy": None}},
        "de": {"teacher": {"tagging_f1": 0.9}},
    }
    write_report(tmp_path, minimal(languages=languages, curves={"student": [{"step": 0, "loss": None}]}))
    text = (tmp_path / "report.json").read_text()
    found = json.loads(text)
    assert found["languages"] == {
        "en": {"teacher": {"masked_accuracy": 0.5}},
        "de": {"teacher": {"tagging_f1": 0.9}},
    }
    assert found["rdt"] == {}
    assert "rdt_gold" not in found
    assert "null" not in text
    assert METRICS["ner_f1"].label not in (tmp_path / "report.html").read_text()


def test_a_measured_zero_stays(written, page):
    assert written["languages"]["en"]["baseline"]["ner_f1"] == 0
    assert "ner_f1" not in written["languages"]["tr"]["student"]
    assert "<td>0.0</td>" in page


@pytest.mark.parametrize("value", [math.nan, math.inf, np.float64("nan")])
def test_nan_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"report field languages\.en\.student\.pseudo_perplexity: expected a finite"):
        minimal(languages={"en": {"student": {"pseudo_perplexity": value}}})
    with pytest.raises(ValueError, match=r"report field curves\.student\[1\]\.loss/en: expected a finite number"):
        minimal(curves={"student": [{"step": 0, "loss/en": 1.0}, {"step": 1, "loss/en": value}]})
    with pytest.raises(ValueError, match="report field seconds: expected a finite number"):
        minimal(seconds=value)


def test_a_percentage_is_refused_where_a_fraction_is_expected():
    with pytest.raises(
        ValueError, match=r"languages\.en\.teacher\.ner_f1: expected a fraction from 0 to 1, found 89\.5"
    ):
        minimal(languages={"en": {"teacher": {"ner_f1": 89.5}}})


def test_array_scalars_are_written_as_numbers(tmp_path):
    languages = {"en": {"teacher": {"masked_accuracy": np.float64(0.5)}}}
    curves = {"student": [{"step": np.int64(3), "loss": np.float32(0.25)}]}
    write_report(tmp_path, minimal(languages=languages, curves=curves, configuration={"path": tmp_path}))
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["languages"]["en"]["teacher"]["masked_accuracy"] == 0.5
    assert found["curves"]["student"] == [{"step": 3, "loss": 0.25}]
    assert found["configuration"]["path"] == str(tmp_path)


# RDT and words


def test_rdt_of_the_published_similar_student():
    published = {"en": (0.895, 0.898), "de": (0.930, 0.939), "it": (0.945, 0.952), "es": (0.942, 0.947)}
    languages = {lang: {"teacher": {"ner_f1": t}, "student": {"ner_f1": s}} for lang, (t, s) in published.items()}
    report = minimal(languages=languages)
    assert round(report.rdt["ner_f1"], 1) == 0.6
    assert report.rdt_gold == {}
    assert "The student is 0.6 % ahead of its teachers in named-entity F1." in visible_text(render_page(report))


def test_positive_rdt_is_better_also_where_lower_is_better():
    languages = {"en": {"teacher": {"pseudo_perplexity": 10.0}, "student": {"pseudo_perplexity": 8.0}}}
    assert relative_deviations(languages, student="student") == {"pseudo_perplexity": pytest.approx(20.0)}


def test_no_rdt_for_a_metric_of_unknown_direction_but_it_is_shown():
    report = minimal(languages={"en": {"teacher": {"tokens_per_word": 1.5}, "student": {"tokens_per_word": 1.75}}})
    assert report.rdt == {}
    assert "1.75" in visible_text(render_page(report))
    assert "<b>" not in render_page(report)


def test_rdt_in_words():
    assert rdt_sentence(-1.23, "masked_accuracy") == "the student is 1.2 % behind its teachers in masked accuracy"
    assert rdt_sentence(0.6, "ner_f1") == "the student is 0.6 % ahead of its teachers in named-entity F1"
    assert rdt_sentence(-0.04, "tagging_f1") == "the student is level with its teachers in part-of-speech F1"


def test_numbers_as_shown():
    assert [format_rdt(x) for x in (0.64, -1.25, -0.04, 0.0)] == ["+0.6", "−1.2", "0.0", "0.0"]  # noqa: RUF001
    assert METRICS["masked_accuracy"].format(0.4625) == "46.2"
    assert [METRICS["pseudo_perplexity"].format(x) for x in (1.2345, 14.25, 812.3, 1234.5)] == [
        "1.23",
        "14.2",
        "812",
        "1,234",
    ]
    assert [format_duration(x) for x in (8.26, 245, 7620, 59.99)] == ["8.3 s", "4 min 05 s", "2 h 07 min", "60.0 s"]


def test_best_follows_the_direction_and_ties_as_shown_are_both_best():
    values = {"teacher": 0.4561, "student": 0.4562, "student_gold": 0.4}
    assert best_models(METRICS["masked_accuracy"], values) == {"teacher", "student"}
    assert best_models(METRICS["pseudo_perplexity"], {"teacher": 9.0, "student": 12.0}) == {"teacher"}
    assert best_models(METRICS["masked_accuracy"], {"student": 0.5}) == set()


def test_stronger_deviation_is_stronger_colour_of_its_side():
    def strength(style):
        return float(style.rpartition(",")[2].rstrip(")"))

    assert strength(rdt_style(-0.5)) < strength(rdt_style(-3)) < strength(rdt_style(-5)) == strength(rdt_style(-50))
    assert rdt_style(2) != rdt_style(-2)
    assert rdt_style(0.01) == ""


# HTML


def test_page_nests_and_needs_nothing_from_outside(page):
    reader = read(page)
    assert reader.urls
    assert all(url.startswith("data:image/png;base64,") for url in reader.urls)
    assert "link" not in reader.tags
    assert "script" not in reader.tags
    assert "@import" not in page
    assert "url(" not in page
    for url in reader.urls:
        assert base64.b64decode(url.partition(",")[2]).startswith(b"\x89PNG")


def test_page_shows_every_language_model_metric_stage_and_command(page, report):
    text = visible_text(page)
    for name in (*LANGUAGES, "Baseline", "Teacher", "Student", "Student, gold only", *report.seconds_per_stage):
        assert name in text
    for name in ("masked_accuracy", "pseudo_perplexity", "teacher_agreement", "tagging_f1", "ner_f1"):
        assert METRICS[name].label in text
    for said in (report.title, *report.summary, *report.commands, "1 h 08 min", "29,117", "باريس"):
        assert said in text


def test_headline_says_the_rdt_of_both_students(page, report):
    text = visible_text(page)
    assert f"The student is {-report.rdt['masked_accuracy']:.1f} % behind its teachers in masked accuracy." in text
    assert f"Without teachers (gold labels only): {format_rdt(report.rdt_gold['masked_accuracy'])} %." in text
    assert "Over 2 of 4 languages." in text  # named entities exist for English and German only


def test_every_row_of_a_table_is_as_wide_as_its_heading(page):
    for table in re.findall(r"<table.*?</table>", page, flags=re.DOTALL):
        assert len(set(read(table).row_lengths)) == 1


def test_text_is_escaped(page):
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert 'She put &lt;b&gt;salt&lt;/b&gt; &amp; <mark class="gap">[MASK]</mark> on the table.' in page
    hostile = minimal(title="<i>T</i>", languages={"<e>": {"<m>": {"<x>": 1.0}}}, summary=["<u>"], commands=["a<b"])
    shown = render_page(hostile)
    assert not {"i", "e", "m", "x", "u"} & set(read(shown).tags)
    assert "<i>T</i>" in visible_text(shown)


def test_direction_of_writing_is_left_to_the_text(page):
    assert re.search(r'<p class="text" dir="auto">عاصمة', page)
    assert '<li dir="auto" class="hit">باريس</li>' in page
    assert fill_text("a & [MASK]") == 'a &amp; <mark class="gap">[MASK]</mark>'


def test_plots_are_left_out_where_there_is_nothing_to_plot():
    text = visible_text(render_page(minimal()))
    for heading in ("Training the students", "Training the teachers", "Vocabularies", "Scores by language", "Commands"):
        assert heading not in text
    only_loss = minimal(curves={"student": [{"step": 1, "loss": 2.0}]})
    text = visible_text(render_page(only_loss))
    assert "Loss over training" in text
    assert "Masked accuracy over training" not in text


def test_gold_loss_is_compared_only_where_every_run_logs_it(page, report):
    assert "Cross-entropy of gold labels" not in page  # an axis, so inside the picture
    assert "the same quantity for all runs" in page
    without = [{k: v for k, v in row.items() if k != "gold_loss"} for row in report.curves["student_gold"]]
    shown = render_page(dataclasses.replace(report, curves={**report.curves, "student_gold": without}))
    assert "the loss that is minimised" in shown
    assert "the same quantity for all runs" not in shown


def test_writing_twice_gives_the_same_bytes(folder, report, tmp_path):
    write_report(tmp_path, report)
    for name in ("report.json", "report.html"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


# Plots


def test_smoothing_keeps_straight_lines_and_the_length():
    line = np.linspace(3, 7, 50)
    np.testing.assert_allclose(plots.smooth(line, 9), line)
    spike = np.zeros(21)
    spike[10] = 5.0
    np.testing.assert_allclose(plots.smooth(spike, 5)[8:13], 1.0)
    assert plots.smooth(spike, 5).sum() == pytest.approx(5.0)


def test_curve_of_sorts_and_lets_the_last_row_of_a_step_count():
    rows = [{"step": 2, "loss": 5.0}, {"step": 0, "loss": 9.0}, {"step": 2, "loss": 4.0}, {"step": 3, "other": 1.0}]
    curve = plots.curve_of(rows, ["missing", "loss"])
    assert curve.steps.tolist() == [0, 2]
    assert curve.values.tolist() == [9, 4]
    assert plots.curve_of(rows, ["missing"]) is None


def test_many_languages_take_more_rows_not_smaller_letters():
    def size(count):
        scores = {f"l{i}": {"teacher": 0.5, "student": 0.4} for i in range(count)}
        return [int.from_bytes(plots.bars(METRICS["masked_accuracy"], scores)[at : at + 4]) for at in (16, 20)]

    (few_width, few_height), (many_width, many_height) = size(4), size(20)
    assert many_width == few_width
    assert many_height > 2 * few_height


# Terminal


def test_console_table(report):
    text = console_table(report)
    lines = text.splitlines()
    assert lines[0].split() == ["Masked", "accuracy,", "%", "baseline", "teacher", "student", "student_gold"]
    assert lines[1].split() == ["en", "5.2", "46.2", "45.5", "42.1"]
    # Student: (-1.52 + 0.72 - 4.86 - 1.73) / 4; gold only: (-8.87 - 9.81 - 14.58 - 13.09) / 4, worked by hand.
    assert lines[5].split() == ["RDT,", "%", "-1.8", "-11.6"]
    for line in lines[:5]:  # numbers end where their heading ends
        assert line[: lines[0].index("student") + len("student")].rstrip()[-1] in "0123456789t"
        assert len(line) == len(lines[0])
    assert console_table(minimal()) == ""


@pytest.mark.parametrize("names", [("t5x",), ("student", "t5x"), ("a", "b", "student_gold")])
def test_rdt_is_given_for_students_by_any_name(names):
    scores = {"teacher": {"masked_accuracy": 0.5}, "baseline": {"masked_accuracy": 0.1}}
    scores |= {name: {"masked_accuracy": 0.4} for name in names}
    found = Report(title="t", summary=["s"], languages={"en": scores}, seconds=1.0)
    assert {name: round(rdt["masked_accuracy"], 6) for name, rdt in found.rdt_of.items()} == dict.fromkeys(names, -20.0)
    assert console_table(found).splitlines()[-1].split() == ["RDT,", "%", *["-20.0"] * len(names)]
    others = {name for name in names if name not in ("student", "student_gold")}
    assert set(report_json(found)["rdt_of"]) == others
