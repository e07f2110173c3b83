"""JSON objects of ours that are damaged: one line that names the file and the field, whatever is wrong."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mergedistill_jax.configs.encoder import EncoderConfig
from mergedistill_jax.json_objects import naming, object_of, read_json, read_object
from mergedistill_jax.stage_log import StageTime, read_stage_time, read_stage_times, write_stage_time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    name: str
    size: int
    rate: float = 0.5
    names: Sequence[str] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    other: str | None = None
    anything: Any = None


GOOD = {"name": "a", "size": 1, "rate": 1, "names": ["b"], "settings": {"c": []}, "other": None, "anything": [5]}


def test_an_object_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(GOOD))
    assert dataclasses.asdict(read_object(path, Example)) == GOOD
    path.write_text('{"name": "a", "size": 2}')
    assert read_object(path, Example) == Example(name="a", size=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "found no JSON"),
        ('{"name": "a"', "found no JSON"),
        ("[" * 200_000, "found no JSON"),
        ('{"a":' * 200_000, "found no JSON"),
        ("5", "found int, expected a JSON object"),
        ("null", "found NoneType, expected a JSON object"),
        ('{"size": 1}', "field name: not found, expected it"),
        ('{"name": "a", "siza": 1}', "field siza: found an unknown field, expected one of name, size,"),
        ('{"name": 5, "size": 1}', "field name: found 5, expected str"),
        ('{"name": "a", "size": 1.5}', "field size: found 1.5, expected int"),
        ('{"name": "a", "size": true}', "field size: found True, expected int"),
        ('{"name": "a", "size": null}', "field size: found None, expected int"),
        ('{"name": "a", "size": 1, "rate": NaN}', "field rate: found nan, expected float or int"),
        ('{"name": "a", "size": 1, "rate": 1e999}', "field rate: found inf, expected float or int"),
        ('{"name": "a", "size": 1, "names": "b"}', "field names: found 'b', expected list"),
        ('{"name": "a", "size": 1, "settings": []}', r"field settings: found \[\], expected dict"),
        ('{"name": "a", "size": 1, "other": 7}', "field other: found 7, expected NoneType or str"),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_field(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"^{path}: {message}") as caught:
        read_object(path, Example)
    assert "\n" not in str(caught.value)


def test_what_is_not_utf8_or_not_there_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with pytest.raises(ValueError, match=f"^{path}: not found"):
        read_json(path)
    path.write_bytes(b'{"name": "\xff"}')
    with pytest.raises(ValueError, match=f"^{path}: found no JSON"):
        read_json(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_headz": 2}, r"field model.num_headz: found an unknown field"),
        ({"num_heads": "2"}, r"field model.num_heads: found '2', expected int"),
        ({"num_heads": 0}, r"field model: found damaged values \(\w+"),
        ({"activation": "jelu"}, r"field model: found damaged values \(\w+"),
    ],
)
def test_a_model_in_a_damaged_run_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    model = {"vocab_size": 9, "num_layers": 1, "hidden_size": 4, "num_heads": 2, "intermediate_size": 8}
    assert object_of("run.json", EncoderConfig, model, within="model") == EncoderConfig(**model)
    with pytest.raises(ValueError, match=f"^run.json: {message}"):
        object_of("run.json", EncoderConfig, {**model, **changes}, within="model")


def test_what_a_computation_stumbles_over_is_named() -> None:
    content: Any = {"languages": {"en": 5}}
    with (
        pytest.raises(ValueError, match=r"^report\.json: field languages: found damaged values"),
        naming("report.json", "languages"),
    ):
        content["languages"]["en"]["student"]


NOTE = StageTime(stage="train", command="mergedistill train", configuration="abc", seconds=1.5, order=2.0)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "5", "[" * 200_000, "\udcff", '{"stage": "train"}',
     json.dumps({**dataclasses.asdict(NOTE), "secondz": 1.0}),
     json.dumps({**dataclasses.asdict(NOTE), "seconds": "1"}),
     json.dumps({**dataclasses.asdict(NOTE), "order": None}),
     json.dumps({**dataclasses.asdict(NOTE), "seconds": float("nan")})],
)  # fmt: skip
def test_a_damaged_note_of_a_stage_counts_as_none(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "student").mkdir()
    write_stage_time(tmp_path / "student", NOTE)
    path = tmp_path / "student" / "stage_export.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert read_stage_time(tmp_path / "student", "export") is None
    assert read_stage_times(tmp_path) == [NOTE]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all(line.startswith(f"mergedistill: {path}: ") and line.endswith("; left out") for line in told)


def test_a_note_that_cannot_be_read_or_written_stops_no_stage(tmp_path: Path) -> None:
    (tmp_path / "stage_train.json").mkdir()
    assert read_stage_time(tmp_path, "train") is None
    write_stage_time(tmp_path, NOTE)
