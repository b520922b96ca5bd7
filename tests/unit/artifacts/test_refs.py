"""Names: what is taken, what is refused, and that different sources never share one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4s_core.artifacts.versions.keys import canonical_json, code_version, step_key
from ts4s_core.artifacts.versions.refs import ArtifactRef, check_name, slug
from ts4s_core.errors import InputError

VERSION = "20261121T041500.123456Z-1a2b3c4d"


def test_reference_survives_its_text() -> None:
    ref = ArtifactRef("onnx", "sentence-transformers--all-MiniLM-L6-v2", VERSION)
    assert ArtifactRef.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model",
        "model/a",
        f"model/../{VERSION}",
        f"model/a/b/{VERSION}",
        f"pickle/a/{VERSION}",
        "model/a/..",
        f"model/a/{VERSION}\n",
        f"model/a\n/{VERSION}",
    ],
)
def test_foreign_references_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        ArtifactRef.parse(text)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "a..b", "a/b", "a\\b", "a\x00", "a\n", "é", "a" * 129, "-a"])
def test_hostile_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="Name"):
        check_name(name)


@pytest.mark.parametrize(
    ("source", "expected"),
    [("roberta-base", "roberta-base"), ("FacebookAI/roberta-base", "FacebookAI--roberta-base"), ("gt_all", "gt_all")],
)
def test_slug_of_ordinary_sources(source: str, expected: str) -> None:
    assert slug(source) == expected


@given(st.text(max_size=300), st.text(max_size=300))
def test_slug_is_a_name_and_tells_sources_apart(first: str, second: str) -> None:
    assert check_name(slug(first)) == slug(first)
    assert (slug(first) == slug(second)) == (first == second)


ENTRIES = ("ts4s_core.errors",)


def test_key_hangs_on_inputs_settings_kind_and_code_only() -> None:
    key = step_key("model", entries=ENTRIES, inputs={"onnx": "1", "dataset": "2"}, settings={"a": 1, "b": 0.5})
    assert key == step_key("model", entries=ENTRIES, inputs={"dataset": "2", "onnx": "1"}, settings={"b": 0.5, "a": 1})
    assert len(key) == 64
    others = [
        step_key("trained", entries=ENTRIES, inputs={"onnx": "1", "dataset": "2"}, settings={"a": 1, "b": 0.5}),
        step_key("model", entries=ENTRIES, inputs={"onnx": "2", "dataset": "1"}, settings={"a": 1, "b": 0.5}),
        step_key("model", entries=ENTRIES, inputs={"onnx": "1", "dataset": "2"}, settings={"a": 1, "b": 0.25}),
        step_key("model", entries=["ts4s_core.progress"], inputs={"onnx": "1", "dataset": "2"}, settings={"a": 1, "b": 0.5}),
    ]
    assert len({key, *others}) == 5


def test_key_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError):
        canonical_json(float("nan"))
    with pytest.raises(TypeError):
        canonical_json(object())


def test_code_version_names_version_and_sources() -> None:
    version, _, sources = code_version().partition("+")
    assert version.count(".") == 2
    assert len(sources) == 16
