"""The export verb: what transformers reads from the folder, and which folders it leaves alone."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conftest import TEXTS
from small_merge import Merge, make_merge, train_config
from transformers import AutoModelForMaskedLM, AutoTokenizer

from mergedistill_jax import export as module
from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.configs.export import ExportConfig
from mergedistill_jax.configs.vocab import UnionConfig, VocabConfig
from mergedistill_jax.export import export
from mergedistill_jax.models.heads import MaskedLanguageModel
from mergedistill_jax.teachers.loading import load_token_counts
from mergedistill_jax.train import train
from mergedistill_jax.training.checkpoints import CheckpointError, Checkpoints, read_run
from mergedistill_jax.vocab import vocab
from mergedistill_jax.vocabulary.folder import read_vocabulary


@pytest.fixture(scope="module")
def merge(teachers: dict[str, Path]) -> Merge:
    return make_merge(next(iter(teachers.values())).parent)


@pytest.fixture(scope="module")
def run(merge: Merge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student after ten steps: biases and norms are no longer where they start."""
    folder = tmp_path_factory.mktemp("run") / "student"
    train(train_config(merge, folder, steps=10, heldout=None))
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    folder = run.parent / "export"
    export(ExportConfig(run=str(run), output=str(folder), languages=("en", "es")))
    return folder


@pytest.mark.parametrize("language", sorted(TEXTS))
def test_transformers_gives_equal_ids_and_equal_logits(run: Path, exported: Path, language: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported)
    ours = read_vocabulary(read_run(run).vocabulary_folder).tokenizer()
    lines = [line for text in TEXTS[language] for line in text.split("\n")]
    encoded = tokenizer(lines, padding=True, truncation=True, return_tensors="pt")
    for line, ids, mask in zip(lines, encoded["input_ids"], encoded["attention_mask"], strict=True):
        expected = [ours.cls_id, *ours.encode_batch([line])[0][0], ours.sep_id]
        assert ids[mask.bool()].tolist()[:-1] == expected[: int(mask.sum()) - 1]
        assert ours.unk_id not in expected
    with torch.no_grad():
        theirs = AutoModelForMaskedLM.from_pretrained(exported).eval()(**encoded).logits.numpy()

    checkpoints = Checkpoints(run)
    params = checkpoints.restore_params()
    checkpoints.close()
    token_ids, mask = (jnp.asarray(encoded[name].numpy(), jnp.int32) for name in ("input_ids", "attention_mask"))
    everywhere = jnp.broadcast_to(jnp.arange(token_ids.shape[1]), token_ids.shape)
    model = MaskedLanguageModel(EncoderConfig(**read_run(run).model))
    logits = np.asarray(jax.jit(model.apply)({"params": params}, token_ids, mask.astype(bool), everywhere))
    real = np.asarray(mask, bool)
    assert logits[real].std() > 0.1
    np.testing.assert_allclose(logits[real], theirs[real], atol=1e-4)


def test_the_vocabulary_is_the_union_and_the_mask_token_is_known(run: Path, exported: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported)
    vocabulary = read_vocabulary(read_run(run).vocabulary_folder)
    assert len(tokenizer) == vocabulary.size
    assert tokenizer.mask_token == "[MASK]"  # noqa: S105 - a token of text
    assert tokenizer.convert_tokens_to_ids("[MASK]") == vocabulary.tokenizer().mask_id
    assert tokenizer.model_max_length == 32


def test_the_card_names_teachers_languages_and_data(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert card.startswith("---\n")
    for expected in ("en", "es", "top 4", "10"):
        assert expected in card


@pytest.mark.parametrize("language", ["de", "EN", "bn"])
def test_a_language_that_the_student_never_had_is_refused(run: Path, tmp_path: Path, language: str) -> None:
    config = ExportConfig(run=str(run), output=str(tmp_path / "out"), languages=("en", language))
    with pytest.raises(ValueError, match=f"ExportConfig.languages: found '{language}', expected .*: en, es$"):
        export(config)
    assert not (tmp_path / "out").exists()


def test_the_counts_of_tokens_go_with_the_model(run: Path, exported: Path) -> None:
    """What finetune tells unseen tokens by; a folder that transformers loads may hold it."""
    data = (exported / "token_counts.bin").read_bytes()
    assert data == (run / "token_counts-10.bin").read_bytes()
    found, of_run = load_token_counts(str(exported)), load_token_counts(str(run))
    assert found is not None
    np.testing.assert_array_equal(found, of_run)
    assert len(found) == read_vocabulary(read_run(run).vocabulary_folder).size


def test_a_run_without_counts_is_exported_without_them(run: Path, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "token_counts-10.bin").unlink()
    export(ExportConfig(run=str(tmp_path / "run"), output=str(tmp_path / "export"), languages=("en", "es")))
    assert load_token_counts(str(tmp_path / "export")) is None
    missing = set(contents(exported)) - set(contents(tmp_path / "export"))
    assert missing == {"token_counts.bin"}


def test_scores_of_a_report_go_into_the_card(run: Path, exported: Path, tmp_path: Path) -> None:
    report = {
        "languages": {
            "en": {"teacher": {"masked_accuracy": 0.5}, "student": {"masked_accuracy": 0.4, "tagging_f1": 0.9}},
            "es": {"teacher": {"masked_accuracy": 0.25}},
        }
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    output = tmp_path / "export"
    export(ExportConfig(run=str(run), output=str(output), languages=("en", "es"), report=str(tmp_path)))
    card = (output / "README.md").read_text()
    assert "40.0" in card
    assert "50.0" in card
    assert "-20.0" in card.replace("\N{MINUS SIGN}", "-")
    assert "90.0" in card
    assert card != (exported / "README.md").read_text()


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_the_same_export_again_touches_nothing(run: Path, exported: Path) -> None:
    before = contents(exported)
    export(ExportConfig(run=str(run), output=str(exported), languages=("en", "es")))
    assert contents(exported) == before


def test_an_older_export_is_replaced(run: Path, exported: Path, tmp_path: Path) -> None:
    output = tmp_path / "export"
    shutil.copytree(exported, output)
    export(ExportConfig(run=str(run), output=str(output), languages=("en",)))
    assert (output / "README.md").read_text() != (exported / "README.md").read_text()
    assert (output / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["notes.txt", "config.json", "export.gin"])
def test_a_folder_of_somebody_else_is_not_overwritten(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OSError, match=f"{tmp_path}: found 1 files, expected none"):
        export(ExportConfig(run=str(run), output=str(tmp_path)))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


@pytest.mark.parametrize("stop_at", ["save_masked_lm", "write_atomically"])
def test_an_interrupted_export_is_completed_by_the_next(
    run: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: str
) -> None:
    """Killed before the folder is there, or after it and before its record."""
    output = tmp_path / "export"
    config = ExportConfig(run=str(run), output=str(output), languages=("en", "es"))
    original = getattr(module, stop_at)

    def killed(path: object, *arguments: object, **options: object) -> None:
        if stop_at == "save_masked_lm" or Path(str(path)).name == "export.json":
            raise KeyboardInterrupt
        original(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, stop_at, killed)
        with pytest.raises(KeyboardInterrupt):
            export(config)
    export(config)
    assert {name: data for name, (data, _) in contents(output).items()} == {
        name: data for name, (data, _) in contents(exported).items()
    }
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_another_vocabulary_is_refused(merge: Merge, run: Path, tmp_path: Path) -> None:
    other = str(tmp_path / "vocabulary")
    vocab(VocabConfig(output=other, method=UnionConfig(teachers={"en": merge.teachers["en"]})))
    with pytest.raises(ValueError, match=rf"{other}: field hash: found \w+, expected \w+ of {run}"):
        export(ExportConfig(run=str(run), output=str(tmp_path / "export"), vocabulary=other))
    assert not (tmp_path / "export").exists()


def test_a_run_without_a_checkpoint_or_no_run_at_all_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"run.json: not found, expected a folder written by `mergedistill train`"
    ):
        export(ExportConfig(run=str(tmp_path / "nowhere"), output=str(tmp_path / "export")))
    started = tmp_path / "started"
    started.mkdir()
    shutil.copy(run / "run.json", started)
    with pytest.raises(CheckpointError, match=r"started/checkpoints: found no checkpoint, expected at least one"):
        export(ExportConfig(run=str(started), output=str(tmp_path / "export")))
    assert not (tmp_path / "export").exists()
