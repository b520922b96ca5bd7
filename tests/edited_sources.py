"""A copy of the package's sources to edit: what a step's key makes of an edit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ts4s_core.artifacts.versions import keys
from ts4s_core.artifacts.versions.reach import Sources

ROOT = Path(__file__).resolve().parents[1]


def edit(file: Path, change: Callable[[str], str]) -> None:
    """Change a file's text, truly."""
    before = file.read_text(encoding="utf-8")
    after = change(before)
    assert after != before
    file.write_text(after, encoding="utf-8")


def add_code(source: str) -> str:
    """A statement more."""
    return f"{source}\n_ADDED = 1\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the sources."""
    copy = tmp_path / "sources" / "ts4s_core"
    shutil.copytree(ROOT / "ts4s_core", copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture
def edited(package: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Add code to a file of the package, for all keys of this test from now on."""

    def run(place: str) -> None:
        edit(package / place, add_code)
        sources = Sources(package)
        monkeypatch.setattr(keys, "installed_sources", lambda: sources)

    return run
