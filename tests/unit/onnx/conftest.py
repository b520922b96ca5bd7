"""Tiny models and tokenizers, as files: fixtures for the tests of export and import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import tiny_config, tiny_module, write_model_folder, write_tokenizer


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """``make_folder("bert", name="base")``: the path of a new folder as of :func:`write_model_folder`."""

    def make(family: str = "roberta", *, name: str = "base", **changes: Any) -> Path:
        write_model_folder(tmp_path / name, family, **changes)
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def write_folder() -> Callable[..., None]:
    """:func:`write_model_folder`."""
    return write_model_folder


@pytest.fixture(scope="session")
def tiny() -> Callable[..., torch.nn.Module]:
    """:func:`tiny_module`."""
    return tiny_module


@pytest.fixture
def config_of() -> Callable[..., dict[str, Any]]:
    """:func:`tiny_config`."""
    return tiny_config


@pytest.fixture
def make_tokenizer() -> Callable[..., None]:
    """:func:`write_tokenizer`."""
    return write_tokenizer
