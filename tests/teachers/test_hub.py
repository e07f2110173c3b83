"""Names of the hub without the hub: a cache laid out as its library lays it out, and stand-ins for the library."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_cache import NEW, OLD, add_snapshot, use_cache
from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

from mergedistill_jax.teachers import hub
from mergedistill_jax.teachers.hub import HubName, Source, TeacherNotFoundError, find_teacher, hub_name, local_teacher
from mergedistill_jax.teachers.loading import load_masked_model, load_teacher, model_hash, tokenizer_folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory and an empty cache; nothing is remembered from another test."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    use_cache(tmp_path / "cache", monkeypatch)


@pytest.fixture
def cache(tmp_path: Path, teachers: dict[str, Path]) -> Path:
    """Two commits of one repository, and a legacy one without an owner."""
    add_snapshot(tmp_path / "cache", "some/bert", teachers["en"], OLD, "refs/pr/1")
    add_snapshot(tmp_path / "cache", "some/bert", teachers["es"], NEW, "main")
    add_snapshot(tmp_path / "cache", "bert-base-cased", teachers["en"], NEW, "main")
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        ("deepset/gbert-base", ("deepset/gbert-base", "main")),
        ("dbmdz/bert-base-turkish-cased@0123abc", ("dbmdz/bert-base-turkish-cased", "0123abc")),
        ("google/muril-base-cased@refs/pr/3", ("google/muril-base-cased", "refs/pr/3")),
        ("bert-base-cased", ("bert-base-cased", "main")),
        ("TurkuNLP/bert.v1_x", ("TurkuNLP/bert.v1_x", "main")),
        # Paths, whether or not anything is there.
        ("runs/x", None),
        ("models/bert-base-cased", None),
        ("./gbert-base", None),
        ("../x/y", None),
        ("x-y@a/../../../b", None),
        ("deepset/gbert-base@..", None),
        ("deepset/gbert..base", None),
        ("/x/gbert-base", None),
        ("runs/x/exports/teacher-en", None),
        ("gs://bucket/gbert-base", None),
        ("nowhere", None),
        ("a folder/x-y", None),
        ("a--b/c", None),
        ("a/b.git", None),
        ("x/y@", None),
        ("", None),
    ],
)
def test_what_is_a_name_and_what_a_path(teacher: str, expected: tuple[str, str] | None) -> None:
    name = None if expected is None else HubName(repository=expected[0], revision=expected[1])
    assert hub_name(teacher) == name


def test_a_local_folder_wins_and_so_does_a_local_owner() -> None:
    assert hub_name("some/bert") is not None
    Path("some").mkdir()
    assert hub_name("some/bert") is None  # a folder that is not there yet
    Path("some/bert").mkdir()
    Path("bert-base-cased").mkdir()
    for teacher in ("some/bert", "bert-base-cased"):
        assert hub_name(teacher) is None
        assert find_teacher(teacher) == Source(folder=teacher)


def forbidden(*_arguments: Any, **_keywords: Any) -> Any:
    raise AssertionError("the hub was asked")


@pytest.mark.parametrize("teacher", ["runs/x", "./x", "/x/y", "nowhere", "runs/x/y-z"])
def test_a_path_is_never_asked_for_on_the_hub(teacher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", forbidden)
    with pytest.raises(TeacherNotFoundError, match=f"^{teacher}: not found, expected a folder, or a name of the hub"):
        find_teacher(teacher)
    assert local_teacher(teacher) is None


def test_a_name_stands_for_the_commit_of_its_revision(cache: Path, teachers: dict[str, Path]) -> None:
    snapshots = cache / "models--some--bert" / "snapshots"
    for asked, commit in (("", NEW), ("@main", NEW), ("@refs/pr/1", OLD), (f"@{OLD}", OLD)):
        found = find_teacher(f"some/bert{asked}")
        assert found == Source(folder=str(snapshots / commit), repository="some/bert", revision=commit)
        assert (found.name, str(found)) == ("bert", f"some/bert@{commit}")
        assert local_teacher(f"some/bert{asked}") == found
    assert model_hash("some/bert") == model_hash(str(teachers["es"]))
    assert model_hash("some/bert@refs/pr/1") == model_hash(str(teachers["en"]))
    assert find_teacher("bert-base-cased").name == "bert-base-cased"


def test_a_name_is_loaded_wherever_a_folder_is(cache: Path, teachers: dict[str, Path]) -> None:
    named = load_teacher("some/bert", max_length=32, k=4)
    assert named.config == load_teacher(str(teachers["es"]), max_length=32, k=4).config
    snapshot = str(cache / "models--some--bert" / "snapshots" / NEW)
    assert load_masked_model("some/bert")[2] == tokenizer_folder("some/bert") == snapshot


def test_one_process_sees_one_commit(cache: Path) -> None:
    """A branch that moves while a command runs does not give it tokenizer and weights of two commits."""
    before = find_teacher("some/bert")
    (cache / "models--some--bert" / "refs" / "main").write_text(OLD)
    assert find_teacher("some/bert") == before
    hub._download.cache_clear()
    assert find_teacher("some/bert").revision == OLD


def refusal(teacher: str, **needs: bool) -> str:
    with pytest.raises(TeacherNotFoundError) as error:
        find_teacher(teacher, **needs)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("revision", ["main", "v2", "0" * 40])
def test_offline_it_says_what_it_needed(cache: Path, revision: str) -> None:
    message = refusal(f"other/bert@{revision}")
    assert message.startswith(f"other/bert: revision {revision}: not found on the hub or in its cache {cache} (Local")
    assert message.endswith(
        "expected config.json, the tokenizer's files and *.safetensors: connect once, set HF_HOME to where they are,"
        " or give a folder"
    )
    assert local_teacher(f"other/bert@{revision}") is None
    assert "safetensors" not in refusal("other/bert", weights=False)


def test_a_snapshot_that_lacks_what_is_needed_is_refused(tmp_path: Path, teachers: dict[str, Path]) -> None:
    """As `vocab` alone leaves it: enough for a vocabulary, not for a prediction."""
    add_snapshot(tmp_path / "cache", "some/tokens", teachers["en"], NEW, "main", without="*.safetensors")
    assert find_teacher("some/tokens", weights=False).revision == NEW
    assert f"(its commit {NEW} brings no *.safetensors), expected" in refusal("some/tokens")
    add_snapshot(tmp_path / "cache", "some/nothing", teachers["en"], NEW, "main", without="config.json")
    assert "brings no config.json)" in refusal("some/nothing", weights=False)


def test_pickled_weights_alone_are_told_and_not_downloaded(
    tmp_path: Path, teachers: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_snapshot(tmp_path / "cache", "some/pickle", teachers["en"], NEW, "main", without="*.safetensors")
    asked = []

    def file_exists(repository: str, file: str, *, revision: str) -> bool:
        asked.append((repository, file, revision))
        return True

    monkeypatch.setattr(huggingface_hub, "file_exists", file_exists)
    assert "but pytorch_model.bin, which is not read: name a revision with safetensors" in refusal("some/pickle")
    assert asked == [("some/pickle", "pytorch_model.bin", NEW)]


@pytest.mark.parametrize("weights", [True, False])
def test_no_program_and_no_pickle_is_ever_downloaded(weights: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 - a table
    """What the library would take of a repository that has everything, by its own filter."""
    published = {
        "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json",
        "merges.txt", "sentencepiece.bpe.model", "added_tokens.json",
    }  # fmt: skip
    heavy = {"model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"}
    others = {
        "modeling_bert.py",
        "pytorch_model.bin",
        "tf_model.h5",
        "onnx/model.onnx",
        "onnx/config.json",
        "a/b.model",
    }
    taken: set[str] = set()

    def snapshot_download(_repository: str, **keywords: Any) -> str:
        assert not keywords["local_files_only"]
        patterns = {name: keywords[name] for name in ("allow_patterns", "ignore_patterns")}
        taken.update(huggingface_hub.utils.filter_repo_objects(published | heavy | others, **patterns))
        raise LocalEntryNotFoundError("enough seen")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    refusal("some/bert", weights=weights)
    assert taken == published | (heavy if weights else set())


class ProxyError(Exception):
    """The transport's own errors are of no class that is known here."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ProxyError("no way\nthrough"), "(ProxyError: no way), expected"),
        (OSError(), "(OSError: ), expected"),
        (huggingface_hub.errors.HFValidationError("Repo id must be"), "(HFValidationError: Repo id must be), expected"),
    ],
)
def test_any_failure_of_the_download_is_one_line(error: Exception, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_arguments: Any, **_keywords: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing)
    message = refusal("some/bert")
    assert message.startswith("some/bert: revision main: not found")
    assert told in message


def test_a_revision_that_the_hub_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_arguments: Any, **_keywords: Any) -> str:
        raise RevisionNotFoundError.__new__(RevisionNotFoundError, "404 Client Error.\n\nRevision Not Found")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing)
    assert refusal("some/bert@v9").startswith("some/bert: revision v9: not found on the hub")
