"""benchmarks/annealing.py on a made-up run folder, with numbers that can be worked in one's head."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest

from mergedistill_jax.schema import RecordError
from mergedistill_jax.training.checkpoints import Run, open_run
from mergedistill_jax.training.metrics import MetricLog

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "annealing.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("annealing_tables", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


CURVES = {
    # (step, mean accuracy, mean perplexity); English is 0.02 above and at half of it, Spanish below and at twice
    "linear_seed0": ("linear", [(500, 0.08, 300.0), (1000, 0.15, 100.0)]),
    "linear_seed1": ("linear", [(500, 0.08, 300.0), (1000, 0.17, 100.0)]),
    "gold_seed0": ("constant", [(500, 0.07, 400.0), (1000, 0.10, 200.0)]),
    "gold_seed1": ("constant", [(500, 0.07, 400.0), (1000, 0.12, 200.0)]),
    "cosine_seed0": ("cosine", [(500, 0.08, 300.0), (1000, 0.16, 80.0)]),
    "gold_low_seed0": ("constant", [(500, 0.05, 500.0), (1000, 0.06, 400.0)]),  # of another learning rate
    "gold_2x_seed0": ("constant", [(1000, 0.09, 300.0), (2000, 0.13, 150.0)]),
    "gold_5x_seed0": ("constant", [(1000, 0.09, 300.0), (2500, 0.13, 250.0), (5000, 0.19, 110.0)]),
}


def of_languages(accuracy: float, perplexity: float) -> dict[str, dict[str, float]]:
    return {
        "en": {"masked_accuracy": accuracy + 0.02, "pseudo_perplexity": perplexity / 2, "teacher_agreement": 0.5},
        "es": {"masked_accuracy": accuracy - 0.02, "pseudo_perplexity": perplexity * 2, "teacher_agreement": 0.3},
    }


def made_folder(folder: Path) -> Path:
    languages = {
        one: {"teacher": dict(scores) | {"masked_accuracy": 0.3}} for one, scores in of_languages(0.3, 20.0).items()
    }
    for name, (shape, curve) in CURVES.items():
        gold_weight = {"shape": shape, "start": 0.0, "stop": 1.0}
        rate = {"peak": 1e-3 if name.startswith("gold_low") else 2e-3}
        settings = {"steps": curve[-1][0], "gold_weight": gold_weight, "optimizer": {"learning_rate": rate}}
        open_run(
            folder / name,
            Run(model={}, vocabulary_folder="v", vocabulary_hash="h", mixture_hash="m", settings=settings),
        )
        log = MetricLog(folder / name, resume_at=0)
        for step, accuracy, perplexity in curve:
            log.write(step, {"gold_loss": 1.0})  # means of training stand between the held-out ones
            row = {}
            for one, scores in of_languages(accuracy, perplexity).items():
                row[f"heldout/masked_accuracy/language/{one}"] = scores["masked_accuracy"]
                row[f"heldout/gold_loss/language/{one}"] = math.log(scores["pseudo_perplexity"])
                row[f"heldout/teacher_agreement/language/{one}"] = scores["teacher_agreement"]
            log.write(step, row)
        log.close()
        for one, scores in of_languages(*curve[-1][1:]).items():
            languages[one][name] = scores
    (folder / "report.json").write_text(json.dumps({"languages": languages}))
    return folder


@pytest.fixture
def folder(tmp_path):
    return made_folder(tmp_path)


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_steps_to_reach_is_where_the_line_crosses(script):
    points = [(1000, 0.10), (2000, 0.13), (5000, 0.19)]
    assert script.steps_to_reach(points, 0.16) == ("", 3500.0)
    assert script.steps_to_reach(points, 0.13) == ("", 2000.0)
    assert script.steps_to_reach(points, 0.10) == ("<=", 1000.0)
    assert script.steps_to_reach(points, 0.20) == (">", 5000.0)


def test_the_first_crossing_counts_where_a_curve_falls_again(script):
    assert script.steps_to_reach([(0, 0.0), (10, 1.0), (20, 0.5), (30, 1.0)], 0.75) == ("", 7.5)


def test_spreads_of_perplexities_too_go_from_the_lowest_to_the_highest(script):
    assert script._spread("pseudo_perplexity", [-math.log(200), -math.log(100)]) == "141 (100 to 200)"
    assert script._spread("masked_accuracy", [0.2, 0.1]) == "15.0 (10.0 to 20.0)"


def test_tables(script, folder, capsys):
    script.main([str(folder), "--plot", str(folder / "curves.png")])
    found = rows(capsys.readouterr().out)
    # mean over seeds, lowest to highest; the mean over languages is that of the curve
    assert ["linear", "1,000", "2", "18.0 (17.0 to 19.0)", "14.0 (13.0 to 15.0)", "16.0 (15.0 to 17.0)"] in found
    # perplexities 55 and 220: their geometric mean
    assert ["gold_5x", "5,000", "1", "55.0", "220", "110"] in found
    assert ["teacher", "", "", "30.0", "30.0", "30.0"] in found
    # seed by seed: 0.10 - 0.15 and 0.12 - 0.17; twice the perplexity is 100 % more
    assert ["gold", "-5.0, -5.0: behind", "+100.0, +100.0: behind", "+0.0, +0.0: ranges overlap"] in found
    assert ["gold_low", "-9.0: behind", "+300.0: behind", "+0.0: ranges overlap"] in found
    # one seed, between the reference's two
    assert ["cosine", "+1.0: ranges overlap", "-20.0: ahead", "+0.0: ranges overlap"] in found
    # of the same learning rate: between 0.13 at 2,000 and 0.19 at 5,000; on its way from 0.13 at 2,500
    points = "11.0 at 1,000, 13.0 at 2,000, 19.0 at 5,000"
    assert ["Masked accuracy, %", "mean", "16.0", points, "3,500 (3.5 times)", "3,750 (3.8 times)"] in found
    reached = [row[-2:] for row in found if row[:2] == ["Pseudo-perplexity", "mean"]]
    assert reached == [["> 5,000 (5.0 times)", "> 5,000 (5.0 times)"]]
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_another_reference(script, folder, capsys):
    script.main([str(folder), "--reference", "cosine"])
    assert ["linear", "-1.0: ranges overlap", "+25.0: behind", "+0.0: ranges overlap"] in rows(capsys.readouterr().out)


def test_a_missing_reference_is_named(script, folder):
    with pytest.raises(RecordError, match=r"report.json: field languages: found students .*, expected 'half'"):
        script.main([str(folder), "--reference", "half"])


def test_a_log_that_does_not_end_with_the_reports_numbers_is_refused(script, folder):
    path = folder / "report.json"
    report = json.loads(path.read_text())
    report["languages"]["es"]["gold_seed1"]["masked_accuracy"] += 0.01
    path.write_text(json.dumps(report))
    with pytest.raises(RecordError, match=r"gold_seed1/metrics.jsonl: field heldout/masked_accuracy, es: found 0.1000"):
        script.main([str(folder)])


def test_a_run_that_was_not_finished_is_refused(script, folder):
    path = folder / "gold_5x_seed0" / "metrics.jsonl"
    path.write_text("".join(line for line in path.open() if json.loads(line)["step"] < 5000))
    with pytest.raises(RecordError, match=r"at step 2500, expected .* at step 5000 as in report.json"):
        script.main([str(folder)])
