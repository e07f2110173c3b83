"""A folder's name is a name: not a pattern, not an option, not an address; and a link to a folder is that folder."""

import shutil
from pathlib import Path

import pytest
from conftest import TEXTS
from small_merge import add_corpus, make_merge, train_config

from mergedistill_jax.configs.export import ExportConfig
from mergedistill_jax.configs.predict import PredictConfig
from mergedistill_jax.configs.verify import VerifyConfig
from mergedistill_jax.data.batches import describe_mixture, seqio_dataset
from mergedistill_jax.export import export
from mergedistill_jax.manifest import read_manifest
from mergedistill_jax.predict import predict
from mergedistill_jax.teachers.loading import load_masked_model
from mergedistill_jax.train import train
from mergedistill_jax.training.checkpoints import Checkpoints
from mergedistill_jax.verify import verify
from tasks.corpora import _files_of

NAMES = ["a[b]", "[!a]", "st*r", "what?", "a b", "#1", "100%", "-v", "{language}", "a[b", "ä\u0301"]


def write(folder: Path, teachers: dict[str, Path]) -> None:
    corpus = add_corpus(folder.parent.parent, "en")
    predict(
        PredictConfig(
            output=str(folder),
            corpus=corpus,
            split="all",
            language="en",
            tokenizer=str(teachers["en"]),
            max_length=32,
            documents_per_shard=1,
        )
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_records_may_have_any_name(tmp_path: Path, teachers: dict[str, Path], name: str) -> None:
    folder = tmp_path / name / name
    for _ in range(2):
        write(folder, teachers)
    (folder / "shard-00001.json").unlink()
    (folder / "shard-00002.tfrecord").rename(folder / "shard-00009.tfrecord")
    with pytest.raises(ValueError, match=r"shard-00001\.json: found 3 finished shards"):
        verify(VerifyConfig(folder=str(folder)))
    (folder / "shard-00009.tfrecord").rename(folder / "shard-00002.tfrecord")
    write(folder, teachers)
    assert read_manifest(folder).complete
    (report,) = verify(VerifyConfig(folder=str(folder), tokenizer=str(teachers["en"])))
    assert report.sound


@pytest.mark.parametrize("name", NAMES)
def test_text_is_found_in_a_folder_of_any_name_and_the_rest_is_a_pattern(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for file in ("1.txt", "2.txt", "3.json", "[4].txt", "*"):
        (folder / file).touch()
    assert _files_of(f"{folder}/?.txt") == [f"{folder}/1.txt", f"{folder}/2.txt"]
    assert _files_of(f"{folder}/[13].*") == [f"{folder}/1.txt", f"{folder}/3.json"]
    assert _files_of(f"{folder}/[4].txt") == [f"{folder}/[4].txt"]
    assert _files_of(f"{folder}/*") == [f"{folder}/*"]
    assert _files_of(f"{folder}/no.txt") == []
    assert len(_files_of(f"{tmp_path}/*/*.txt")) == 3


def test_a_pattern_alone_is_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").touch()
    found = [[Path(name) for name in _files_of(pattern)] for pattern in ("*.txt", "a.txt", "b*")]
    assert found == [[Path("a.txt")], [Path("a.txt")], []]


@pytest.mark.parametrize("linked", [False, True])
def test_a_merge_goes_through_in_a_folder_of_any_name(tmp_path: Path, teachers: dict[str, Path], linked: bool) -> None:  # noqa: FBT001 - a test's parameter
    """Teachers, records, vocabulary and student with all the characters at once, in train, resumed, and export."""
    root = tmp_path / "-v [a]*?#1%"
    if linked:
        (tmp_path / "disk").mkdir()
        root.symlink_to(tmp_path / "disk")
    else:
        root.mkdir()
    for language in TEXTS:
        shutil.copytree(teachers[language], root / language)
    merge = make_merge(root)
    train(train_config(merge, root / "run", steps=20, stop_after=10))
    train(train_config(merge, root / "run", steps=20))
    checkpoints = Checkpoints(root / "run", alone=True)
    assert checkpoints.latest_step == 20
    checkpoints.close()
    for _ in range(2):
        export(ExportConfig(run=str(root / "run"), output=str(root / "student [2]"), languages=("en",)))
    load_masked_model(str(root / "student [2]"))
    mixture = describe_mixture(train_config(merge, root / "unused").mixture)
    assert len(list(seqio_dataset(mixture, mixture.name, seed=0, shuffle=False, num_epochs=1))) > 10
    assert not list(root.rglob(".*.tmp"))
