"""Watching a Delta or Iceberg table: its own version or snapshot counts, not its files. Their logs are written here by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ts4s_core.data.source_snapshot import take_snapshot
from ts4s_core.errors import SourceError
from ts4s_core.settings import DataSettings, StorageSettings


def digest(folder: Path, kind: Any, **data: Any) -> str:
    return take_snapshot(DataSettings(source=str(folder), format=kind, **data), StorageSettings()).digest


def test_a_delta_table_changes_with_its_version(tmp_path: Path) -> None:
    log = tmp_path / "_delta_log"
    log.mkdir()
    (log / f"{0:020}.json").write_text("{}")
    first = digest(tmp_path, "delta")
    (tmp_path / "part-00000.parquet").touch()
    (log / f"{0:020}.checkpoint.parquet").touch()
    (log / "_last_checkpoint").touch()
    assert digest(tmp_path, "delta") == first
    assert digest(tmp_path, "delta", options=("versionAsOf=0",)) != first
    (log / f"{1:020}.json").write_text("{}")
    assert digest(tmp_path, "delta") != first


def test_an_iceberg_table_changes_with_its_snapshot(tmp_path: Path) -> None:
    log = tmp_path / "metadata"
    log.mkdir()
    (log / "v9.metadata.json").write_text(json.dumps({"current-snapshot-id": 5}))
    first = digest(tmp_path, "iceberg")
    (log / "v10.metadata.json").write_text(json.dumps({"current-snapshot-id": 5, "properties": {"a": "b"}}))
    assert digest(tmp_path, "iceberg") == first
    (log / "00011-0a1b-2c.metadata.json").write_text(json.dumps({"current-snapshot-id": 6}))
    assert digest(tmp_path, "iceberg") != first


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_folder_without_a_log_is_no_table(tmp_path: Path, kind: str) -> None:
    with pytest.raises(SourceError, match=f"is no table of {kind}: expected its log in"):
        digest(tmp_path, kind)


@pytest.mark.parametrize(("kind", "more"), [("sql", {}), ("jdbc", {"query": "t"}), ("table", {})])
def test_what_has_no_version_cannot_be_watched(kind: Any, more: dict[str, str]) -> None:
    with pytest.raises(SourceError, match="has no files to look at"):
        take_snapshot(DataSettings(source="x", format=kind, **more), StorageSettings())
