"""A command whose input turns out to be unfit while it has the store marked as in use: exit 2, and the mark is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_specs import small_spec

from flows.cli.commands import generate
from flows.cli.main import main
from ts4s_core.artifacts.store import ArtifactStore
from ts4s_core.language.generate import Generator
from ts4s_core.settings import StorageSettings


def test_the_mark_goes_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ArtifactStore.open(StorageSettings(uri=str(tmp_path / "store")))
    with store.begin("trained", "demo", "a" * 64, settings={}, upstream={}) as writer:
        writer.add_json("model.json", small_spec().to_json())
        writer.seal()
    before = sorted((tmp_path / "store").rglob("*"))
    marked: list[int] = []
    really = generate._opened

    def opened(folder: Path, name: str) -> Generator:
        marked.append(len(store.storage.list("leases/_in-use")))
        return really(folder, name)

    monkeypatch.setattr(generate, "_opened", opened)
    flags = [f"--storage.uri={tmp_path / 'store'}", f"--storage.cache_dir={tmp_path / 'cache'}", "--generate.prompt=Once"]
    assert main(["generate", f"--model=demo@{writer.ref.version}", *flags]) == 2
    assert marked[0] >= 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert sorted((tmp_path / "store").rglob("*")) == before
