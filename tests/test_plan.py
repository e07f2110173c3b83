"""Plans from end to end: on CPU, on slices of TPU where their compiler is installed, and with wrong input."""

import functools
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from test_cli import refusal

from mergedistill_jax import cli
from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.masking import MaskingConfig
from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.plan import PlanConfig
from mergedistill_jax.configs.recipe import StudentRecipe, TeacherOf
from mergedistill_jax.configs.schedules import LearningRate
from mergedistill_jax.configs.train import TrainConfig
from mergedistill_jax.plan import plan
from mergedistill_jax.planning.compiling import DoesNotFitError, compile_for
from mergedistill_jax.planning.hardware import CHIPS
from mergedistill_jax.planning.students import lower_step, varied
from mergedistill_jax.planning.topology import open_topology, parse_topology
from mergedistill_jax.training.program import BatchShape

STUDENTS = ("similar", "dissimilar", "muril", "mbert", "both_all", "both_best")
MODEL = functools.partial(
    EncoderConfig, num_layers=1, dropout_rate=0.0, hidden_size=16, num_heads=2, intermediate_size=32
)
HAS_COMPILER = importlib.util.find_spec("libtpu") is not None
needs_compiler = pytest.mark.skipif(
    not HAS_COMPILER, reason="libtpu is not installed: pip install 'mergedistill_jax[plan]'"
)


def config(output: Path, **changes: Any) -> PlanConfig:
    run = TrainConfig(
        output="",
        mixture="",
        model=MODEL,
        optimizer=AdamWConfig(learning_rate=LearningRate(peak=1e-3, warmup_steps=1)),
        steps=100,
        batch_size=32,
        num_microbatches=2,
        vocabulary_chunk=128,
    )
    fields: dict[str, Any] = {
        "output": str(output),
        "topology": "cpu:8",
        "train": run,
        "max_length": 24,
        "masking": MaskingConfig(rate=0.15),
        "vocabulary_size": 300,
    }
    return PlanConfig(**{**fields, **changes})


@pytest.mark.slow
def test_a_plan_for_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = StudentRecipe(
        name="s", folder="f", teachers=(TeacherOf(name="t", source="no/where-t", languages=("en", "es")),)
    )
    outcome = plan(
        config(
            tmp_path,
            candidates=3,
            student=student,
            teacher_vocabulary_size=500,
            corpus_tokens={"en": 2e9},
            tokens_per_language=1e9,
            predict_batch_size=4,
        )
    )
    assert [one.name for one in outcome.candidates] == [
        "as configured",
        "num_microbatches=1",
        "fsdp_parallelism=8",
    ]
    assert all(one.fits for one in outcome.candidates)
    assert outcome.best in outcome.candidates
    assert outcome.training_tokens == 100 * 32 * 24
    assert outcome.training_hours is None  # no hardware, no time
    assert outcome.prediction is not None
    assert outcome.prediction.tokens == 3e9
    found = json.loads((tmp_path / "plan.json").read_text())
    first = found["candidates"][0]
    compiled = first["compiled"]
    assert compiled["memory"]["total"] > compiled["memory"]["arguments"] > 0
    assert first["step_seconds"] is None
    assert first["mfu"] is None
    # Data parallel: the gradient of every parameter is summed over all devices, with microbatches once too.
    summed = [one["compiled"]["collectives"]["all-reduce"]["bytes"] for one in found["candidates"][:2]]
    assert list(compiled["collectives"]) == ["all-reduce"]
    size = sum(first["parameters"].values()) * 4
    assert summed[1] >= size
    assert size <= summed[0] < size + 1000  # metrics and the norm are in it
    assert [one["language"] for one in found["records"]] == ["en", "es"]
    text = (tmp_path / "plan.txt").read_text()
    assert text in capsys.readouterr().out
    assert "no times, for there is no table of this CPU" in text
    assert "estimated cycles" not in text


@pytest.mark.slow
def test_variants_are_what_is_compiled(tmp_path: Path) -> None:
    outcome = plan(config(tmp_path, variants=({"num_microbatches": 4}, {"initializer_range": 0.1, "batch_size": 16})))
    assert [one.name for one in outcome.candidates] == ["num_microbatches=4", "initializer_range=0.1 batch_size=16"]
    assert [one.microbatch_per_chip for one in outcome.candidates] == [1, 1]
    assert outcome.candidates[0].useful_flops == 2 * outcome.candidates[1].useful_flops
    assert outcome.prediction is None


@pytest.mark.parametrize("name", STUDENTS)
def test_the_papers_students_can_be_planned_before_anything_of_them_is_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = cli.configure("plan", [f"gin/students/{name}.gin"], ["TOPOLOGY = 'v5e:4x4'"])
    assert isinstance(found, PlanConfig)
    assert (found.topology, found.output) == ("v5e:4x4", f"runs/paper/{name}/plan")
    assert found.train.batch_size == 4096
    assert found.student is not None
    assert found.student.name == name
    assert 30_000 < (found.teacher_vocabulary_size or 0) < (found.vocabulary_size or 0)
    assert found.train.model(vocab_size=10).num_layers == 12


@pytest.mark.slow
def test_a_student_from_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The paper's student, made small by flags; its plan and its configuration stand in its folder."""
    flags = {
        "TOPOLOGY": "'cpu:8'",
        "ROOT": repr(str(tmp_path)),
        "MAX_LENGTH": "24",
        "BATCH_SIZE": "128",
        "VOCABULARY_SIZE": "300",
        "TEACHER_VOCABULARY_SIZE": "200",
        "PREDICT_BATCH_SIZE": "1",
        "encoder.EncoderConfig.num_layers": "1",
        "encoder.EncoderConfig.hidden_size": "24",
        "encoder.EncoderConfig.intermediate_size": "48",
        "encoder.EncoderConfig.dropout_rate": "0.0",
    }
    given = [f"--gin.{name}={value}" for name, value in flags.items()]
    assert cli.main(["plan", "--gin_file=gin/students/similar.gin", *given]) == 0, capfd.readouterr().err
    folder = tmp_path / "similar" / "plan"
    assert {path.name for path in folder.iterdir()} >= {"plan.txt", "plan.json", "plan.gin"}
    assert json.loads((folder / "plan.json").read_text())["vocabulary_origin"].startswith("as configured")


# Wrong input


def test_topologies() -> None:
    assert parse_topology("v5e:4x4") == ("v5e", (4, 4))
    assert parse_topology("v4:2x2x4") == ("v4", (2, 2, 4))
    assert parse_topology("cpu") == ("cpu", (1,))
    for wrong in ("v5e", "v5e:4", "v4:4x4", "v9:4x4", "v5e:4xx4", "v5e:0x4", "cpu:2x2", "gpu:8", ""):
        with pytest.raises(ValueError, match=r"^topology: found '.*', expected v4:AxBxC, v5e:AxB, .* cpu or cpu:N$"):
            parse_topology(wrong)


def test_more_cpu_devices_than_the_process_has() -> None:
    with pytest.raises(ValueError, match=r"^topology cpu:64: found 8 CPU devices in this process, expected 64$"):
        open_topology("cpu:64")


def test_without_the_compiler_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"found no libtpu, .* from pip install 'mergedistill_jax\[plan\]'$"):
        open_topology("v5e:4x4")


def test_wrong_settings_are_refused_before_anything_is_compiled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^batch_size: found 12, expected a multiple of 8 parts"):
        plan(config(tmp_path, variants=({"batch_size": 12},)))
    with pytest.raises(ValueError, match=r"^PlanConfig.vocabulary_size: found None"):
        plan(config(tmp_path, vocabulary_size=None))
    with pytest.raises(ValueError, match="vocabulary"):
        plan(config(tmp_path, vocabulary=str(tmp_path / "none"), vocabulary_size=None))
    with pytest.raises(ValueError, match=r"^PlanConfig.candidates: found 0, expected at least 1$"):
        config(tmp_path, candidates=0)
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_topology_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--gin_file=gin/students/similar.gin", "--gin.TOPOLOGY='v5:4x4'"]
    assert refusal(arguments, tmp_path, capfd).startswith("topology: found 'v5:4x4', expected v4:AxBxC")


def test_the_table_of_chips_is_consistent() -> None:
    """A clock between 1 and 2 GHz, and more compute than the memory can feed by a hundred to a thousand times."""
    for chip in CHIPS.values():
        assert 1e9 < chip.clock < 2e9
        assert 100 < chip.peak_flops / chip.hbm_bandwidth < 1000
        assert chip.available_hbm <= chip.hbm


# With the compiler for TPU


@needs_compiler
@pytest.mark.slow
def test_a_plan_for_a_slice_of_tpu(tmp_path: Path) -> None:
    """And for one four times as large with as many sequences per chip: more time in the links, as much in the cores."""
    outcome = plan(config(tmp_path, topology="v5e:2x2", scale_to="v5e:4x4", teacher_vocabulary_size=200))
    (one,) = outcome.candidates
    assert one.compiled is not None
    assert one.compiled.cycles == sum(sums.cycles for sums in one.compiled.categories.values()) > 0
    assert not one.compiled.unknown_loops
    estimate = one.compiled.estimate
    assert estimate is not None
    assert estimate.core == one.compiled.cycles / CHIPS["v5e"].clock
    assert one.step_seconds == estimate.total
    assert 0 < (one.utilisation or 0) <= (one.core_utilisation or 0) < 1
    assert outcome.scaling is not None
    assert outcome.scaling.large.batch_size == 4 * one.batch_size
    assert outcome.scaling.large.useful_flops == one.useful_flops
    assert 0.8 < (outcome.scaling.ratio or 0) < 3
    assert outcome.prediction is not None
    assert (outcome.prediction.tokens_per_second or 0) > 0
    text = (tmp_path / "plan.txt").read_text()
    assert "These are estimates: nothing was run." in text
    # Beside the cycles those at the peak: never more, and as many in all as the products of the program need.
    peak = CHIPS["v5e"].flops_per_cycle
    products = {name: sums.flops / peak for name, sums in one.compiled.categories.items()}
    assert all(ideal <= one.compiled.categories[name].cycles for name, ideal in products.items())
    assert sum(products.values()) == pytest.approx(one.compiled.matmul_flops / peak, rel=1e-6)
    (line,) = (line for line in text.splitlines() if line.startswith("all  "))
    assert line.split()[-2] == f"{sum(products.values()) / 1e6:,.2f}"
    assert json.loads((tmp_path / "plan.json").read_text())["scaling"]["topology"] == "v5e:4x4"


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5p:2x2x1", "v6e:2x2"])
def test_every_kind_of_chip_has_a_compiler(name: str) -> None:
    """A large product in bf16 takes between 80 and 100 % of the FLOPs per cycle of the table."""
    topology = open_topology(name)
    assert len(topology.devices) == math.prod(topology.sizes) == 4
    one = jax.sharding.SingleDeviceSharding(topology.devices[0])
    matrix = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16, sharding=one)
    compiled = compile_for(jax.jit(jnp.matmul).lower(matrix, matrix), topology)
    assert compiled.matmul_flops == 2 * 4096**3
    assert topology.chip is not None
    assert 0.8 < compiled.matmul_flops / (compiled.cycles * topology.chip.flops_per_cycle) <= 1.0


@needs_compiler
@pytest.mark.slow
def test_what_does_not_fit_is_told_with_its_size(tmp_path: Path) -> None:
    run = varied(config(tmp_path).train, {"hidden_size": 1 << 14, "intermediate_size": 1 << 14})
    shape = BatchShape(length=24, predictions=4, k=2, sources=1)
    topology = open_topology("v5e:2x2")
    step = lower_step(run, shape, 100_000, topology)
    with pytest.raises(DoesNotFitError) as caught:
        compile_for(step.lowered, topology)
    assert "\n" not in str(caught.value)
    assert (caught.value.needed or 0) > 15.75 * 2**30
