"""Bad input and settings: exit 2, one line, nothing below storage.uri.

Every case goes through the check that a run begins with; some of each sort are run as a user would, too. Without Spark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from flows.cli.options import parse
from flows.cli.table import COMMANDS
from ts4s_core.errors import InputError
from ts4s_core.pipeline.classifier_run import ClassifierRun
from ts4s_core.settings import load_settings
from ts4s_core.spark.driver.client import SparkProgram


class Result(Protocol):
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """Where a case puts its files, and what is good."""

    folder: Path
    tsv: Path
    model: Path

    def file(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def config(self, **changes: object) -> str:
        values = json.loads((self.model / "config.json").read_text("utf-8"))
        return "config:" + self.file("config.json", json.dumps({**values, **changes}))


def rows(count: int, *, label: Callable[[int], str] = lambda number: "ab"[number % 2]) -> str:
    return "".join(f"{label(number)}\tthe text of row {number}\n" for number in range(count))


Case = Callable[[Place], list[str]]

DATA: dict[str, tuple[Case, str]] = {
    "no such file": (lambda at: ["--data.source", str(at.folder / "none.tsv")], "none.tsv"),
    "an empty file": (lambda at: ["--data.source", at.file("a.tsv", "")], "a.tsv"),
    "blank lines alone": (lambda at: ["--data.source", at.file("a.tsv", "\n \n\r\n")], "a.tsv"),
    "one class": (lambda at: ["--data.source", at.file("a.tsv", rows(90, label=lambda _number: "same"))], "same"),
    "no tab": (lambda at: ["--data.source", at.file("a.tsv", rows(50) + "no tab here\n" * 5)], "tab"),
    "no text": (lambda at: ["--data.source", at.file("a.tsv", rows(50) + "a\t \n" * 5)], "text"),
    "not UTF-8": (lambda at: ["--data.source", at.file("a.tsv", rows(50).encode() + b"a\t\xff\xfe\n" * 5)], "UTF-8"),
    "a side without rows": (lambda at: ["--data.source", at.file("a.tsv", rows(3))], "side"),
    "a missing column": (lambda at: ["--data.source", at.file("a.csv", "kind,text\na,one\nb,two\n")], "label"),
    "a head line alone": (lambda at: ["--data.source", at.file("a.csv", "label,text\n")], "a.csv"),
    "broken JSON": (lambda at: ["--data.source", at.file("a.jsonl", '{"label": "a", "te\n')], "a.jsonl"),
    "no Parquet": (lambda at: ["--data.source", at.file("a.parquet", "not parquet at all")], "a.parquet"),
    "an unknown ending": (lambda at: ["--data.source", at.file("a.docx", rows(50))], "data.format"),
    "an empty folder": (lambda at: ["--data.source", str(at.folder)], "data.source"),
    "a pattern that fits nothing": (lambda at: ["--data.source", str(at.folder / "*.tsv")], "*.tsv"),
    "a library that is not there": (
        lambda at: ["--data.format", "docstrings", "--data.source", "no_such_library"],
        "no-such-library",
    ),
    "classes that are not the data's": (lambda at: ["--model.classes", "7"], "has 3 labels"),
}

MODEL: dict[str, tuple[Case, str]] = {
    "no such folder": (lambda at: ["--model.source", str(at.folder / "none")], "none"),
    "a folder without a model": (lambda at: ["--model.source", str(at.folder)], "config.json"),
    "no such configuration": (lambda at: ["--model.source", "config:none.json"], "none.json"),
    "a broken configuration": (lambda at: ["--model.source", f"config:{at.file('c.json', '{')}"], "c.json"),
    "a family that is not taken": (lambda at: ["--model.source", at.config(model_type="vit")], "vit"),
    "no such package": (lambda at: ["--model.source", "package:no_such_package"], "no_such_package"),
    "an ONNX file that is none": (lambda at: ["--model.source", at.file("m.onnx", b"\x00\x01\x02 nonsense")], "m.onnx"),
    "no such registered model": (lambda at: ["--model.source", "model:nobody@champion"], "nobody"),
    "no tokenizer": (lambda at: ["--model.source", at.config(), "--model.tokenizer", str(at.folder)], "tokenizer"),
    "longer than the model takes": (lambda at: ["--model.max_length", "65"], "65"),
    "no room for text": (lambda at: ["--model.max_length", "2"], "model.max_length 2"),
    "a model that is on no hub": (lambda at: ["--model.source", "nobody/no-such-model"], "nobody/no-such-model"),
}

SETTINGS: dict[str, tuple[Case, str]] = {
    "an unknown flag": (lambda _at: ["--train.wrokers", "2"], "--train.workers"),
    "a value out of bounds": (lambda _at: ["--train.batch_size", "0"], "train.batch_size"),
    "workers that do not divide": (lambda _at: ["--train.workers", "3"], "train.workers 3"),
    "two settings that contradict": (lambda _at: ["--model.freeze_encoder", "--model.lora_rank", "4"], "model.lora_rank 4"),
    "a secret as a flag": (lambda _at: ["--storage.secret", "hush"], "TS4S_STORAGE__SECRET"),
    "a missing config file": (lambda _at: ["--config", "none.toml"], "none.toml"),
    "a table without Spark": (lambda _at: ["--data.format", "table", "--data.source", "t"], "spark.master"),
}


@pytest.fixture
def place(tmp_path: Path, tsv: Path, tiny_model: Path) -> Place:
    folder = tmp_path / "input"
    folder.mkdir()
    return Place(folder, tsv, tiny_model)


@pytest.fixture(scope="module")
def program() -> Iterator[SparkProgram]:
    """One program for all checks: starting one for each would be most of the time."""
    with SparkProgram(load_settings({"spark": {"master": "none"}}, environ={})) as shared:
        yield shared


def good_flags(place: Place, model_flags: list[str], store: Path) -> list[str]:
    return ["--data.source", str(place.tsv), *model_flags, "--spark.master", "none", "--storage.uri", str(store)]


@pytest.mark.parametrize(("case", "names"), [pytest.param(*case, id=name) for name, case in {**DATA, **MODEL}.items()])
def test_the_check_refuses_bad_input_in_one_line_and_writes_nothing(
    program: SparkProgram,
    place: Place,
    model_flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: Case,
    names: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    store = tmp_path / "store"
    words = [*good_flags(place, model_flags, store), *case(place)]
    run = ClassifierRun(load_settings(parse(COMMANDS[0], words).settings, environ={}))
    run.program = program
    monkeypatch.setattr(program, "_settings", run.settings)
    with pytest.raises(InputError) as refusal:
        run.check()
    assert refusal.value.exit_code == 2
    assert names in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not store.exists()


AS_A_USER = {
    **SETTINGS,
    **{name: DATA[name] for name in ("no such file", "no tab", "one class", "classes that are not the data's")},
    **{name: MODEL[name] for name in ("no such configuration", "an ONNX file that is none", "longer than the model takes")},
}


#: Each of these starts the whole command; what they are refused by is tested above without it.
SLOW = (
    "no such file",
    "no tab",
    "one class",
    "classes that are not the data's",
    "no such configuration",
    "an ONNX file that is none",
    "longer than the model takes",
)


@pytest.mark.parametrize(
    ("case", "names"),
    [pytest.param(*case, id=name, marks=[pytest.mark.long] if name in SLOW else []) for name, case in AS_A_USER.items()],
)
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    ts4s: Callable[..., Result], place: Place, model_flags: list[str], tmp_path: Path, case: Case, names: str
) -> None:
    store = tmp_path / "store"
    result = ts4s("retrain", *good_flags(place, model_flags, store), *case(place), timeout_s=120)
    refused(result, names)
    assert not store.exists()
    assert {entry.name for entry in (tmp_path / "here").iterdir()} == {"flows", "tasks"}  # the user's own


def refused(result: Result, names: str) -> None:
    assert result.code == 2, result.err
    assert result.out == ""
    lines = [line for line in result.err.splitlines() if not line.startswith("note: ")]  # of flags that a step does not use
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert names in lines[0]
    assert "hush" not in result.err


@pytest.mark.long
def test_a_store_that_holds_something_is_left_as_it_was(
    ts4s: Callable[..., Result], model_flags: list[str], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    (store / "onnx" / "other").mkdir(parents=True)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.joinpath("store").rglob("*"))
    flags = [*model_flags, "--spark.master", "none", "--storage.uri", str(store), "--data.source", "none.tsv"]
    refused(ts4s("retrain", *flags, timeout_s=120), "none.tsv")
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.joinpath("store").rglob("*")) == before


def test_problems_of_model_and_data_are_one_line(ts4s: Callable[..., Result], tmp_path: Path) -> None:
    flags = ["--spark.master", "none", "--storage.uri", str(tmp_path / "store")]
    result = ts4s("retrain", *flags, "--data.source", "none.tsv", "--model.source", "config:none.json", timeout_s=120)
    refused(result, "none.tsv")
    assert "none.json" in result.err
    assert "; " in result.err


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["train", "--name", "nobody"], "run ts4s prepare first"),
        (["evaluate", "--name", "nobody"], "run ts4s train first"),
        (["import", "--from", "dataset/a/b"], "Version 'b'"),
        (["train", "--from", "report/a/20261121T041500.123456Z-1a2b3c4d"], "expected dataset or model"),
        (["export", "--to", "model.txt"], ".onnx"),
        (["models", "show", "nobody"], "nobody"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_single_steps_refuse_what_is_not_there(
    ts4s: Callable[..., Result], model_flags: list[str], tmp_path: Path, words: list[str], names: str
) -> None:
    flags = [*model_flags, "--spark.master", "none", "--storage.uri", str(tmp_path / "store")]
    refused(ts4s(*words, *flags, timeout_s=120), names)
    assert not (tmp_path / "store").exists()
