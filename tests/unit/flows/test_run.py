from __future__ import annotations

import contextlib
import os
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.cli.commands.retrain import flow_parameters, secrets_in_environment
from flows.cli.commands.steps import inputs
from flows.lifecycle import hold_model
from tasks.current_run import current_run, joined_run, open_run
from ts4s_core.errors import DataError, InputError, LeaseHeldError, NotFoundError, SettingsError, SourceError
from ts4s_core.pipeline import checks
from ts4s_core.pipeline.checks import check_classes, check_store
from ts4s_core.pipeline.run import Run
from ts4s_core.pipeline.training_run import TrainingRun
from ts4s_core.settings import Settings, load_settings


def settings_for(folder: Path, **groups: object) -> Settings:
    return load_settings({"storage": {"uri": str(folder)}, "spark": {"master": "none"}, **groups}, environ={})


@pytest.fixture
def run(tmp_path: Path) -> Iterator[TrainingRun]:
    with open_run(settings_for(tmp_path / "store")) as opened:
        yield opened


def test_a_run_is_found_by_its_tasks_and_only_while_it_lasts(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with open_run(settings) as run:
        assert current_run(Run) is run
        with joined_run(settings) as joined:
            assert joined is run
    with pytest.raises(RuntimeError, match="inside one of its flows"):
        current_run(Run)
    with joined_run(settings) as run:
        assert current_run(Run) is run


def test_a_run_that_loses_the_model_fails_and_was_not_skipped(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold_model, "run_log", contextlib.nullcontext)
    monkeypatch.setattr(run, "check_input", lambda: None)

    def work() -> dict[str, Any]:
        run.store.storage.delete(run.store.storage.fences[0].path)  # somebody took this process for dead
        run.store.begin("trained", run.settings.name, "ab" * 32, settings={}, upstream={})
        return {"status": "done"}

    with pytest.raises(LeaseHeldError, match="was lost"):
        hold_model.with_model_held(run.settings, work)


def test_progress_reaches_everybody_who_listens(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []
    with open_run(settings_for(tmp_path), progress=lambda stage, _fields: seen.append(("display", stage))) as run:
        run.progress("train", {})
        with run.listening(lambda stage, _fields: seen.append(("task", stage))):
            run.progress("train", {})
        run.progress("evaluate", {})
    assert seen == [("display", "train"), ("display", "train"), ("task", "train"), ("display", "evaluate")]


def test_opening_a_run_writes_nothing(tmp_path: Path) -> None:
    with open_run(settings_for(tmp_path / "store")) as run:
        check_store(run.settings)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(SettingsError, match=r"storage\.uri .* expected a folder, got the file"):
            check_store(settings_for(place))


def test_a_store_without_right_to_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.os, "access", lambda *_arguments: False)
    with pytest.raises(SettingsError, match="no right to write"):
        check_store(settings_for(tmp_path / "store"))


def test_classes_must_be_those_of_the_data(tmp_path: Path) -> None:
    check_classes(settings_for(tmp_path), ("a", "b"))
    check_classes(settings_for(tmp_path, model={"classes": 2}), ("a", "b"))
    with pytest.raises(DataError, match=r"model\.classes 3 .* expected 2, .*\(a, b\)"):
        check_classes(settings_for(tmp_path, model={"classes": 3}), ("a", "b"))


def test_model_and_data_problems_are_told_together(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise SourceError("no such model")

    def refuse_data(_name: str, **_inputs: object) -> dict[str, object]:
        raise DataError("no such rows")

    monkeypatch.setattr(run, "source", refuse)
    monkeypatch.setattr(run, "_job", refuse_data)
    with pytest.raises(InputError, match="no such model; no such rows") as refused:
        run.check()
    assert refused.value.exit_code == 2


REF = "20261121T041500.123456Z-1a2b3c4d"


def test_inputs_are_named_by_kind() -> None:
    found = inputs(Namespace(**{"from": [f"onnx/a/{REF}", f"dataset/b/{REF}"]}), ("onnx", "dataset"))
    assert {kind: ref.name for kind, ref in found.items()} == {"onnx": "a", "dataset": "b"}
    assert inputs(Namespace(**{"from": None}), ("onnx",)) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([f"model/a/{REF}"], "is of kind model: expected onnx or dataset"),
        ([f"onnx/a/{REF}", f"onnx/b/{REF}"], "two artifacts of kind onnx"),
        (["onnx/a"], "expected KIND/NAME/VERSION"),
        (["onnx/../../x"], "cannot be read"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        inputs(Namespace(**{"from": given}), ("onnx", "dataset"))


def test_what_is_not_there_says_how_to_make_it(run: TrainingRun) -> None:
    with pytest.raises(NotFoundError, match=r"No dataset artifact named default .*: run ts4s prepare first"):
        run.newest("dataset", {})


def test_parameters_of_the_flow_hold_what_was_given_and_no_secrets() -> None:
    environ = {"TS4S_STORAGE__KEY": "AK", "TS4S_STORAGE__SECRET": "hush-hush", "TS4S_TRAIN__EPOCHS": "3"}
    flags = {"name": "demo", "storage": {"uri": "s3://bucket/x"}, "train": {"workers": 2}}
    settings = load_settings(flags, environ=environ, flow="retrain")
    assert flow_parameters(settings, "retrain") == {
        "name": "demo",
        "reuse": True,
        "train": {"workers": 2, "epochs": 3},
        "storage": {"uri": "s3://bucket/x"},
    }
    parameters = flow_parameters(load_settings({**flags, "train": {"seed": 2}}, environ=environ), "retrain")
    assert (parameters["train"], parameters["more_train"]) == ({"epochs": 3}, {"seed": 2})
    assert "hush" not in str(parameters)


def test_secrets_reach_the_flow_by_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS4S_STORAGE__SECRET", "before")
    settings = load_settings({"storage": {"key": "AK", "secret": "hush-hush"}}, environ={})
    with secrets_in_environment(settings):
        assert (os.environ["TS4S_STORAGE__KEY"], os.environ["TS4S_STORAGE__SECRET"]) == ("AK", "hush-hush")
    assert "TS4S_STORAGE__KEY" not in os.environ
    assert os.environ["TS4S_STORAGE__SECRET"] == "before"
