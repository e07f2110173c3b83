"""The training verb on records that `predict` wrote: it learns, resumes exactly, and refuses what is wrong."""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from killed_run import Death, train_and_die
from small_merge import MODEL, Merge, make_merge, train_config

from mergedistill_jax import cli
from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.optimizer import AdamWConfig
from mergedistill_jax.configs.schedules import GoldWeight, LearningRate
from mergedistill_jax.configs.train import TrainConfig
from mergedistill_jax.data.batches import RecordMixture, batches, describe_mixture, evaluation_batches
from mergedistill_jax.evaluation.heldout import Heldout
from mergedistill_jax.locks import LOCK_NAME, FolderInUseError, owned
from mergedistill_jax.schema import RecordError
from mergedistill_jax.teachers.loading import load_token_counts
from mergedistill_jax.train import train
from mergedistill_jax.training import partitioning
from mergedistill_jax.training.checkpoints import CheckpointError, Checkpoints, read_run
from mergedistill_jax.training.metrics import LOG_NAME, SPEED_NAME, read_log
from mergedistill_jax.training.nonfinite import NonFiniteError
from mergedistill_jax.training.shutdown import Preempted
from mergedistill_jax.training.step import TrainState
from mergedistill_jax.vocabulary.folder import read_vocabulary
from tasks.distillation import add_students_mixture

GOLD_ONLY = GoldWeight(shape="constant", stop=1.0)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every run here compiles the same programs: kept on disk for this module and the processes it starts."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            jax.config.update(name, value)
            patch.setenv(name.upper(), str(value))
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def merge(teachers: dict[str, Path]) -> Merge:
    return make_merge(next(iter(teachers.values())).parent)


@pytest.fixture(scope="module")
def undisturbed(merge: Merge, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainState]:
    """A whole run, and the state it ended with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, train(train_config(merge, folder))


def assert_same_run(folder: Path, state: TrainState, undisturbed: tuple[Path, TrainState]) -> None:
    """Bit-equal parameters and moments, and byte-equal logs and counts of tokens."""
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(undisturbed[1]), strict=True):
        np.testing.assert_array_equal(one, two)
    for name in (LOG_NAME, "token_counts-40.bin"):
        assert (folder / name).read_bytes() == (undisturbed[0] / name).read_bytes()


@pytest.mark.slow
def test_the_student_follows_its_teachers_first_and_the_gold_labels_then(undisturbed: tuple[Path, TrainState]) -> None:
    """The teachers are random, so that what they say and the gold labels are two things to learn."""
    steps = [row for row in read_log(undisturbed[0]) if "gold_loss" in row]
    assert [row["step"] for row in steps] == [10, 20, 30, 40]
    assert steps[1]["teacher_loss"] < steps[0]["teacher_loss"] - 0.3
    assert steps[3]["gold_loss"] < steps[1]["gold_loss"] - 0.5
    weights = [np.mean(np.arange(start, start + 10)) / 39 for start in (0, 10, 20, 30)]
    np.testing.assert_allclose([row["gold_weight"] for row in steps], weights, rtol=1e-5)


def test_every_language_and_teacher_is_measured(undisturbed: tuple[Path, TrainState]) -> None:
    names = ("gold_loss", "teacher_loss", "masked_accuracy", "teacher_agreement")
    groups = {f"{name}/{kind}/{group}" for name in names for kind in ("language", "teacher") for group in ("en", "es")}
    for row in read_log(undisturbed[0]):
        if "gold_loss" in row:
            assert groups <= set(row)


def test_held_out_records_are_measured_as_they_are_asked_for(undisturbed: tuple[Path, TrainState]) -> None:
    heldout = [row for row in read_log(undisturbed[0]) if "heldout/gold_loss" in row]
    assert [row["step"] for row in heldout] == [20, 40]
    assert heldout[1]["heldout/gold_loss"] < heldout[0]["heldout/gold_loss"] - 0.1
    assert {"heldout/gold_loss/language/en", "heldout/teacher_agreement/language/es"} <= set(heldout[0])


def test_the_run_is_described_in_its_folder(merge: Merge, undisturbed: tuple[Path, TrainState]) -> None:
    run = read_run(undisturbed[0])
    vocabulary = json.loads((Path(merge.vocabulary) / "vocabulary.json").read_text())
    assert run.model["vocab_size"] == vocabulary["size"]
    assert run.model["max_length"] == 32
    assert run.vocabulary_hash == vocabulary["hash"]
    assert run.settings["k"] == 4
    assert run.settings["optimizer"]["learning_rate"]["peak"] == 3e-2


@pytest.mark.slow
def test_a_run_in_two_sittings_is_the_undisturbed_one(
    merge: Merge, tmp_path: Path, undisturbed: tuple[Path, TrainState]
) -> None:
    first = train(train_config(merge, tmp_path, stop_after=30))
    assert int(first.step) == 30
    assert_same_run(tmp_path, train(train_config(merge, tmp_path)), undisturbed)


def test_running_a_finished_run_again_changes_nothing(merge: Merge, undisturbed: tuple[Path, TrainState]) -> None:
    folder = undisturbed[0]
    before = (folder / LOG_NAME).read_text()
    assert_same_run(folder, train(train_config(merge, folder)), undisturbed)
    assert (folder / LOG_NAME).read_text() == before
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"checkpoint_30", "checkpoint_40"}


def test_tokens_are_counted_as_they_stood_in_the_batches(merge: Merge, undisturbed: tuple[Path, TrainState]) -> None:
    """Visible or hidden, one by one, over the batches that the run's seed gives again."""
    mixture = describe_mixture(train_config(merge, "unused").mixture)
    expected = np.zeros(mixture.vocabulary_size, np.int64)
    for _, batch in zip(range(40), batches(mixture, 8, seed=0), strict=False):
        for row in range(8):
            for token_id in batch["token_ids"][row, : batch["lengths"][row]].tolist():
                expected[token_id] += 1
            for token_id, weight in zip(batch["gold_ids"][row], batch["loss_weights"][row], strict=True):
                expected[token_id] += weight > 0
    found = load_token_counts(str(undisturbed[0]))
    assert found is not None
    np.testing.assert_array_equal(found, expected)
    assert found[read_vocabulary(merge.vocabulary).tokenizer().mask_id] > 0
    assert {path.name for path in undisturbed[0].glob("token_counts*")} == {
        f"token_counts-{step}.bin" for step in (20, 30, 40)
    }


@pytest.mark.slow
def test_counts_that_were_lost_are_not_made_up(merge: Merge, tmp_path: Path) -> None:
    """A run that went on without the counts of its first sitting has none, rather than wrong ones."""
    train(train_config(merge, tmp_path, steps=20, stop_after=10, heldout=None))
    (tmp_path / "token_counts-10.bin").unlink()
    train(train_config(merge, tmp_path, steps=20, heldout=None))
    assert load_token_counts(str(tmp_path)) is None
    assert not list(tmp_path.glob("token_counts*"))


@pytest.fixture(scope="module")
def processes(compiled_once: None) -> ForkServerContext:
    """Processes that start in a moment: forked from one that has imported everything and computed nothing."""
    del compiled_once  # but its settings are the environment that the first process is given
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["conftest", "killed_run"])
    return context


def die(processes: ForkServerContext, merge: Merge, folder: Path, death: Death) -> None:
    """A sitting that does not live to the end of the run."""
    process = processes.Process(target=train_and_die, args=(merge, str(folder), death))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_the_undisturbed_one(
    merge: Merge, tmp_path: Path, undisturbed: tuple[Path, TrainState], processes: ForkServerContext
) -> None:
    """SIGKILL before any checkpoint, at random steps, and at random moments of writing each of the checkpoints."""
    random = np.random.default_rng()  # another run of the tests tries other moments
    deaths = [
        Death(at_batch=int(random.integers(1, 10))),
        Death(during_save_s=0.0),
        Death(during_save_s=float(random.uniform(0.0, 0.2))),
        Death(at_batch=int(random.integers(3, 10))),
        Death(during_save_s=float(random.uniform(0.0, 0.1))),
        Death(at_batch=int(random.integers(3, 10))),
    ]
    for number, death in enumerate(deaths):
        print(number, death)
        die(processes, merge, tmp_path, death)
        assert not (tmp_path / "checkpoints" / "checkpoint_40").exists()
    assert_same_run(tmp_path, train(train_config(merge, tmp_path)), undisturbed)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint_30", "checkpoint_40"}


def asked_to_leave(config: TrainConfig, *, at: int, by: signal.Signals = signal.SIGTERM) -> int:
    """Trains while SIGTERM comes as a batch is placed; gives the step after which the run left."""
    calls = iter(range(1, 1000))

    def place_batch(*arguments: Any) -> Any:
        if next(calls) == at:
            os.kill(os.getpid(), by)
        return partitioning.place_batch(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        for module in (train.__module__, Heldout.__module__):
            patch.setattr(f"{module}.place_batch", place_batch)
        with pytest.raises(Preempted) as left:
            train(config)
    assert left.value.code == 75
    checkpoints = Checkpoints(config.output)
    step = checkpoints.latest_step
    checkpoints.close()
    assert step is not None
    return step


@pytest.mark.slow
def test_sigterm_saves_and_leaves_and_the_next_sitting_logs_what_an_undisturbed_run_logs(
    merge: Merge, tmp_path: Path, undisturbed: tuple[Path, TrainState], capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice, between two logs: the means over steps 11 to 20 are of three sittings."""
    config = train_config(merge, tmp_path)
    first = asked_to_leave(config, at=14)
    assert 10 < first < 15
    assert "stopped by a signal, and saved; the same command goes on from here" in capsys.readouterr().out
    assert [row["step"] for row in read_log(tmp_path)] == [10]
    assert first < asked_to_leave(config, at=4, by=signal.SIGINT) < 20
    assert [row["step"] for row in read_log(tmp_path)] == [10]
    assert_same_run(tmp_path, train(config), undisturbed)


@pytest.mark.slow
def test_sigterm_ends_an_evaluation_and_the_next_sitting_does_it(
    merge: Merge, tmp_path: Path, undisturbed: tuple[Path, TrainState]
) -> None:
    """Of step 20, at which nothing was to be saved: after its batch and two ahead comes the first held-out one."""
    assert asked_to_leave(train_config(merge, tmp_path, save_every=40), at=20 + 2 + 1) == 20
    assert not [row for row in read_log(tmp_path) if "heldout/gold_loss" in row]
    assert_same_run(tmp_path, train(train_config(merge, tmp_path)), undisturbed)


@pytest.mark.slow
def test_a_run_that_only_microbatches_fit_is_evaluated_in_parts_of_their_size(
    merge: Merge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And an evaluation that breaks for memory has cost no step: the next sitting goes on with it."""
    sizes = []

    def watched(mixture: RecordMixture, batch_size: int, **rows: Any) -> Any:
        sizes.append(batch_size)
        if len(sizes) == 1:
            raise MemoryError
        return evaluation_batches(mixture, batch_size, **rows)

    monkeypatch.setattr(f"{Heldout.__module__}.evaluation_batches", watched)
    every = {"steps": 2, "log_every": 1, "save_every": 1, "evaluate_every": 1}
    config = train_config(merge, tmp_path, batch_size=24, num_microbatches=2, **every)
    with pytest.raises(MemoryError):
        train(config)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint_1"]
    train(config)
    assert sizes == [16] * 3  # 12, of which eight devices cannot take equal shares
    told = [(row["step"], "heldout/gold_loss" in row) for row in read_log(tmp_path)]
    assert told == [(1, False), (1, True), (2, False), (2, True)]


def test_a_stage_that_was_asked_to_leave_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mergedistill` exits with 75, and a pipeline will not take the stage for done."""

    def leave(_config: TrainConfig) -> None:
        raise Preempted

    @dataclasses.dataclass(frozen=True)
    class Config:
        output: str = str(tmp_path)

    monkeypatch.setattr(f"{train.__module__}.train", leave)
    monkeypatch.setattr(cli, "configure", lambda *_: Config())
    monkeypatch.setattr(cli, "_used_configuration", lambda: "")
    with pytest.raises(SystemExit) as left:
        cli.main(["train", "--gin_file=unused.gin"])
    assert left.value.code == 75
    assert not list(tmp_path.iterdir())


def test_the_speed_is_logged_beside_the_metrics(undisturbed: tuple[Path, TrainState]) -> None:
    rows = read_log(undisturbed[0], SPEED_NAME)
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    for row in rows:
        assert set(row) == {"step", "steps_per_second", "tokens_per_second", "input_wait_share"}
        assert row["steps_per_second"] > 0
        assert row["tokens_per_second"] <= row["steps_per_second"] * 8 * 32  # padding is no token
        assert 0 <= row["input_wait_share"] <= 1


def test_a_checkpoint_of_other_records_is_refused(merge: Merge, tmp_path: Path) -> None:
    """As where somebody copied checkpoints into another run's folder."""
    config = train_config(merge, tmp_path, heldout=None, stop_after=10)
    state = train(config)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(11, state, position={"batches": 11, "mixture_hash": "other"}, force=True)
    checkpoints.close()
    with pytest.raises(
        CheckpointError, match=f"{tmp_path}: checkpoint 11: field mixture_hash: found 'other', expected"
    ):
        train(config)


@pytest.mark.slow
def test_a_teacher_is_trained_on_gold_labels_alone(merge: Merge, tmp_path: Path) -> None:
    vocabulary = merge.vocabulary
    mixture = add_students_mixture([merge.masked["en"]], vocabulary, name="small_masked")
    train(train_config(merge, tmp_path, mixture=mixture, heldout=None, gold_weight=GOLD_ONLY, steps=10))
    (row,) = read_log(tmp_path)
    assert row["gold_weight"] == 1.0
    assert not [name for name in row if "teacher" in name]


def refused(config: TrainConfig, error: type[Exception], message: str) -> None:
    """Training stops before work starts: with one line, and nothing written."""
    before = sorted(Path(config.output).rglob("*")) if Path(config.output).exists() else None
    with pytest.raises(error, match=message) as caught:
        train(config)
    assert "\n" not in str(caught.value)
    assert before == (sorted(Path(config.output).rglob("*")) if Path(config.output).exists() else None)


def test_records_without_predictions_are_refused_unless_gold_labels_are_all_that_counts(
    merge: Merge, tmp_path: Path
) -> None:
    mixture = add_students_mixture([merge.masked["en"]], merge.vocabulary, name="small_masked")
    config = train_config(merge, tmp_path / "run", mixture=mixture, heldout=None)
    refused(config, RecordError, "mixture small_masked: field k: found 0 predictions, expected some, or gold labels")


def test_more_predictions_than_are_stored_are_refused(merge: Merge, tmp_path: Path) -> None:
    config = train_config(merge, tmp_path / "run", k=5)
    refused(config, RecordError, r"records/\w\w/manifest.json: field k: found 4, expected at least 5")


def test_fewer_predictions_than_are_stored_are_another_run(merge: Merge, undisturbed: tuple[Path, TrainState]) -> None:
    message = r"run.json: field settings.k: found 4, expected 2; choose another output folder"
    refused(train_config(merge, undisturbed[0], k=2), CheckpointError, message)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"steps": 80}, "settings.steps: found 40, expected 80"),
        ({"seed": 1}, "settings.seed: found 0, expected 1"),
        ({"gold_weight": GOLD_ONLY}, "settings.gold_weight.shape: found 'linear', expected 'constant'"),
        (
            {"optimizer": AdamWConfig(learning_rate=LearningRate(peak=1.0, warmup_steps=2))},
            "settings.optimizer.learning_rate.peak: found 0.03, expected 1.0",
        ),
    ],
)
def test_another_runs_folder_is_refused(
    merge: Merge, undisturbed: tuple[Path, TrainState], changes: dict[str, Any], field: str
) -> None:
    refused(
        train_config(merge, undisturbed[0], **changes), CheckpointError, f"{undisturbed[0]}/run.json: field {field};"
    )


def test_other_records_are_another_run(merge: Merge, undisturbed: tuple[Path, TrainState]) -> None:
    mixture = add_students_mixture([merge.records["en"]], merge.vocabulary, name="small_english")
    refused(train_config(merge, undisturbed[0], mixture=mixture), CheckpointError, "field mixture_hash: found")


def test_a_run_that_was_begun_in_another_order_is_refused(
    merge: Merge, tmp_path: Path, undisturbed: tuple[Path, TrainState]
) -> None:
    """Older runs tell no order: their batches cannot be found again."""
    run = json.loads((undisturbed[0] / "run.json").read_text())
    assert run["settings"].pop("order") == "records-1"
    (tmp_path / "run.json").write_text(json.dumps(run))
    message = r"run.json: field settings.order: found None, expected 'records-1'; choose another output folder"
    refused(train_config(merge, tmp_path), CheckpointError, message)


def test_another_teachers_records_are_refused(merge: Merge, tmp_path: Path) -> None:
    """The vocabulary folder of one teacher alone does not know the other's records."""
    from mergedistill_jax.configs.vocab import UnionConfig, VocabConfig  # noqa: PLC0415
    from mergedistill_jax.vocab import vocab  # noqa: PLC0415

    vocab(VocabConfig(output=str(tmp_path), method=UnionConfig(teachers={"en": merge.teachers["en"]})))
    with pytest.raises(ValueError, match=r"heldout/es/manifest.json: field vocabulary_hash: found \w+, expected"):
        add_students_mixture(list(merge.heldout.values()), str(tmp_path))


def test_held_out_records_in_another_vocabulary_are_refused(merge: Merge, tmp_path: Path) -> None:
    from mergedistill_jax.configs.vocab import UnionConfig, VocabConfig  # noqa: PLC0415
    from mergedistill_jax.vocab import vocab  # noqa: PLC0415

    alone = str(tmp_path / "vocabulary")
    vocab(VocabConfig(output=alone, method=UnionConfig(teachers={"en": merge.teachers["en"]})))
    heldout = add_students_mixture([merge.heldout["en"]], alone, name="small_other")
    config = train_config(merge, tmp_path / "run", heldout=heldout)
    refused(
        config,
        RecordError,
        r"mixture small_other: field vocabulary_hash: found '\w+', expected '\w+' as in small_records",
    )


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_damaged_records_are_refused_by_the_name_of_the_shard(merge: Merge, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "records"
    shutil.copytree(merge.records["en"], folder)
    shard = folder / "shard-00001.tfrecord"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(bytes(data) if damage == "flipped" else bytes(data[:-1]))
    found = {"flipped": "field checksum: found", "truncated": "field bytes: found", "missing": "not found, expected"}
    with pytest.raises(RecordError, match=f"{shard}: {found[damage]}"):
        # What only a checksum tells is found when the batches begin: before a step is taken with the shard's records.
        train(train_config(merge, tmp_path / "run", mixture=add_students_mixture([str(folder)], merge.vocabulary)))
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_an_unfinished_folder_is_refused_by_the_shard_that_is_missing(merge: Merge, tmp_path: Path) -> None:
    folder = tmp_path / "records"
    shutil.copytree(merge.records["en"], folder)
    (folder / "shard-00001.json").unlink()
    with pytest.raises(RecordError, match=r"shard-00001.json: found 1 finished shards, expected 2; run `mergedistill"):
        add_students_mixture([str(folder)], merge.vocabulary)


def test_a_mixture_that_nobody_registered_is_refused(merge: Merge, tmp_path: Path) -> None:
    config = train_config(merge, tmp_path / "run", mixture="nowhere")
    refused(config, RecordError, "mixture: found 'nowhere', expected a registered mixture or task")


def test_a_batch_that_the_devices_do_not_divide_is_refused(merge: Merge, tmp_path: Path) -> None:
    config = train_config(merge, tmp_path / "run", batch_size=12)
    refused(config, ValueError, "batch_size: found 12, expected a multiple of the data axis times the fsdp axis, 8")


def test_an_encoder_without_a_size_is_refused(merge: Merge, tmp_path: Path) -> None:
    config = train_config(merge, tmp_path / "run", model=EncoderConfig)
    refused(config, ValueError, r"TrainConfig.model: .*num_layers")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "TrainConfig.steps: found 0, expected at least 1"),
        ({"save_every": 7}, "TrainConfig.save_every: found 7, expected a multiple of log_every=5"),
        ({"stop_after": 7}, "TrainConfig.stop_after: found 7, expected a multiple of log_every=5"),
        ({"num_microbatches": 3}, "TrainConfig.batch_size: found 8, expected a multiple of num_microbatches=3"),
        ({"dtype": "float8"}, "TrainConfig.dtype: found 'float8', expected 'float32' or 'bfloat16'"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {
        "output": "unused",
        "mixture": "unused",
        "model": MODEL,
        "optimizer": AdamWConfig(learning_rate=LearningRate(peak=1e-2, warmup_steps=2)),
        "steps": 20,
        "batch_size": 8,
        "log_every": 5,
        "save_every": 5,
    }
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{**fields, **changes})


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_by_name(merge: Merge, tmp_path: Path) -> None:
    optimizer = AdamWConfig(learning_rate=LearningRate(peak=1e30, warmup_steps=0))
    with pytest.raises(
        NonFiniteError,
        match=r"/nonfinite_step_2.npz: step 2, whose batch this is: field \S+: found nan, .*; no checkpoint was saved",
    ):
        train(train_config(merge, tmp_path, optimizer=optimizer))
    assert read_log(tmp_path) == []
    assert not list(tmp_path.glob("checkpoints/checkpoint_*"))
    stream = batches(describe_mixture(train_config(merge, "unused").mixture), 8, seed=0, start_step=1)
    with np.load(tmp_path / "nonfinite_step_2.npz") as kept:
        np.testing.assert_equal(dict(kept), {**next(stream), "row_numbers": np.arange(8)})


@pytest.mark.slow
def test_a_run_that_breaks_keeps_its_last_good_checkpoint(merge: Merge, tmp_path: Path) -> None:
    """Batch 14 gives NaN: step 10 is saved and logged, nothing after it; started again, the run breaks there again."""
    config = train_config(merge, tmp_path, heldout=None)
    place = partitioning.place_batch

    def poisoned(batch: dict[str, np.ndarray], *arguments: Any) -> Any:
        placed = place(batch, *arguments)
        if (batch["token_ids"] == marked["token_ids"]).all():
            placed["teacher_log_probs"] = placed["teacher_log_probs"] * np.float32(np.nan)
        return placed

    stream = batches(describe_mixture(config.mixture), 8, seed=0, start_step=13)
    marked = next(stream)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{train.__module__}.place_batch", poisoned)
        for _ in range(2):
            found = (
                "step 14, whose batch this is: field teacher_loss: found nan, .*; the newest checkpoint is of step 10$"
            )
            with pytest.raises(NonFiniteError, match=found):
                train(config)
            assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"checkpoint_10"}
            assert [row["step"] for row in read_log(tmp_path)] == [10]


@pytest.mark.parametrize(
    ("steps", "log_every", "expected"),
    [(400, 50, 50), (400, 10, 40), (5000, 50, 500), (100_000, 50, 500), (100_000, 300, 300), (20, 50, 50), (1, 1, 1)],
)
def test_a_short_run_saves_every_tenth_of_its_steps(steps: int, log_every: int, expected: int) -> None:
    learning_rate = LearningRate(peak=1e-2, warmup_steps=2)
    fields: dict[str, Any] = {"output": "o", "mixture": "m", "model": MODEL, "batch_size": 8, "steps": steps}
    config = TrainConfig(**fields, optimizer=AdamWConfig(learning_rate=learning_rate), log_every=log_every)
    assert config.save_interval == expected
    assert dataclasses.replace(config, save_every=2 * log_every).save_interval == 2 * log_every


def test_a_damaged_log_is_refused_before_work_starts(
    merge: Merge, tmp_path: Path, undisturbed: tuple[Path, TrainState]
) -> None:
    shutil.copytree(undisturbed[0], tmp_path / "run")
    log = tmp_path / "run" / LOG_NAME
    log.write_bytes(b"[" + log.read_bytes()[1:])
    refused(train_config(merge, tmp_path / "run"), ValueError, f"{log}: line 1: found ")


@pytest.mark.slow
def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before_and_ends_as_the_undisturbed_one(
    merge: Merge, tmp_path: Path, undisturbed: tuple[Path, TrainState]
) -> None:
    """One that is seen to be damaged when the run begins, and one that is noticed when its arrays are read."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[0], folder)
    newest = folder / "checkpoints" / "checkpoint_40"
    path = max((path for path in (newest / "state").rglob("d/*")), key=lambda path: path.stat().st_size)
    path.write_bytes(bytes(path.stat().st_size))
    (folder / "checkpoints" / "checkpoint_999999").mkdir()
    assert_same_run(folder, train(train_config(merge, folder)), undisturbed)
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"checkpoint_30", "checkpoint_40", "damaged_checkpoint_40", "damaged_checkpoint_999999"}


def test_a_second_training_in_the_folder_is_told_before_it_does_anything(merge: Merge, tmp_path: Path) -> None:
    told = []

    def second() -> None:
        try:
            train(train_config(merge, tmp_path / "run"))
        except FolderInUseError as error:
            told.append(str(error))

    with owned(str(tmp_path / "run")):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK_NAME]
    assert told == [told[0]]
    assert told[0].startswith(f"{tmp_path}/run: found in use by process {os.getpid()} on ")
