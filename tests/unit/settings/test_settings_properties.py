"""Any settings, given in any of the three ways, are the same settings; any other text is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cli.options import parse
from flows.cli.table import find_command
from ts4s_core.errors import SettingsError
from ts4s_core.settings import Settings, load_settings

RATES = st.floats(0.001, 0.4)
GIVEN: dict[str, st.SearchStrategy[Any]] = {
    "model.max_length": st.integers(2, 8192),
    "model.dropout": st.floats(0, 0.99),
    "model.freeze_encoder": st.booleans(),
    "model.task": st.sampled_from(["classification", "multi-label"]),
    "data.source": st.text("abcdefg /.-_'\"$=ü", min_size=1, max_size=20).map(lambda text: f"x{text}x"),
    "data.test_fraction": RATES,
    "data.validation_fraction": RATES,
    "data.seed": st.integers(0, 2**32 - 1),
    "data.show_text": st.booleans(),
    "train.batch_size": st.integers(1, 10**6),
    "train.learning_rate": st.floats(1e-12, 10),
    "train.max_grad_norm": st.floats(0, 1e9),
    "train.strategy": st.sampled_from(["synchronous", "averaging"]),
    "evaluate.metric": st.sampled_from(["accuracy", "macro_f1", "loss"]),
    "spark.master": st.sampled_from(["none", "local[2]", "spark://h:7077"]),
    "generate.temperature": st.floats(0, 100),
}
VALUES = st.fixed_dictionaries({}, optional=GIVEN)


def nested(values: dict[str, Any]) -> dict[str, Any]:
    groups: dict[str, Any] = {}
    for name, value in values.items():
        group, _, field = name.partition(".")
        groups.setdefault(group, {})[field] = value
    return groups


def word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_flags(values: dict[str, Any]) -> Settings:
    words = [part for name, value in values.items() for part in (f"--{name}", word(value))]
    command, length = find_command(["retrain", *words])
    assert command is not None
    return load_settings(parse(command, ["retrain", *words][length:]).settings, environ={})


def as_variables(values: dict[str, Any]) -> Settings:
    return load_settings(environ={f"TS4S_{name.replace('.', '__').upper()}": word(value) for name, value in values.items()})


def as_file(values: dict[str, Any], folder: Path) -> Settings:
    tables = [
        f"[{group}]\n" + "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in fields.items())
        for group, fields in nested(values).items()
    ]
    (folder / "settings.toml").write_text("".join(tables), encoding="utf-8")
    return load_settings(config=folder / "settings.toml", environ={})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


@given(values=VALUES)
@settings(deadline=None, max_examples=5)
def test_flags_are_read_as_they_are_meant(values: dict[str, Any]) -> None:
    """Few examples: the command line's parser is made anew for each."""
    assert as_flags(values) == load_settings(nested(values), environ={})


@given(values=VALUES)
@settings(deadline=None, max_examples=30)
def test_variables_and_files_are_read_as_they_are_meant(values: dict[str, Any], folder: Path) -> None:
    plain = load_settings(nested(values), environ={})
    assert as_variables(values) == as_file(values, folder) == plain
    for name, value in values.items():
        group, _, field = name.partition(".")
        assert getattr(getattr(plain, group), field) == value


@given(name=st.sampled_from(sorted(GIVEN)), text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@settings(deadline=None, max_examples=120)
def test_any_text_is_taken_or_refused_by_the_settings_name(name: str, text: str) -> None:
    group, _, field = name.partition(".")
    said = ""
    try:
        load_settings({group: {field: text}}, environ={})
    except SettingsError as refused:
        said = str(refused)
    assert said == "" or name in said
    assert len(said) <= 2_000
